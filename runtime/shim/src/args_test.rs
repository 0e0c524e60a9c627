use super::{Action, Args, ArgsError, is_identifier};

fn parse(line: &str) -> Result<Args, ArgsError> {
    Args::parse(line.split_whitespace().map(str::to_owned))
}

#[test]
fn what_containerd_passes_to_start_is_understood() {
    let args = parse(
        "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary \
         /usr/bin/containerd -id c1 -debug start",
    )
    .unwrap();
    assert_eq!(args.action, Action::Start);
    assert_eq!(args.namespace, "k8s.io");
    assert_eq!(args.address, "/run/containerd/containerd.sock");
    assert_eq!(args.id, "c1");
    assert!(args.debug);
}

#[test]
fn every_spelling_of_a_flag_is_the_same() {
    let spelled = [
        "-namespace default -id c1 -bundle /b delete",
        "--namespace default --id c1 --bundle /b delete",
        "-namespace=default -id=c1 -bundle=/b delete",
        "--namespace=default --id=c1 --bundle=/b -debug=false -- delete",
    ];
    for line in spelled {
        let args = parse(line).unwrap();
        assert_eq!(args.action, Action::Delete, "{line}");
        assert_eq!(args.bundle.to_str(), Some("/b"), "{line}");
        assert!(!args.debug, "{line}");
    }
}

#[test]
fn flags_of_the_contract_that_have_no_use_here_are_accepted() {
    let args =
        parse("-namespace n -id i -socket /s -debug-socket /d -publish-binary= start").unwrap();
    assert_eq!(args.action, Action::Start);
}

#[test]
fn an_empty_address_is_a_value() {
    let words = [
        "-namespace",
        "default",
        "-address",
        "",
        "-id",
        "c1",
        "start",
    ];
    let args = Args::parse(words.map(str::to_owned)).unwrap();
    assert_eq!(args.address, "");
    assert_eq!(args.action, Action::Start);
}

#[test]
fn information_needs_no_identifiers() {
    assert_eq!(parse("-info").unwrap().action, Action::Info);
    assert_eq!(parse("-v").unwrap().action, Action::Version);
    assert_eq!(parse("-version").unwrap().action, Action::Version);
}

#[test]
fn without_an_action_it_is_the_shim_itself() {
    assert_eq!(parse("-namespace n -id i").unwrap().action, Action::Serve);
}

#[test]
fn mistakes_are_named() {
    let unknown = ArgsError::UnknownFlag("bogus".into());
    assert_eq!(parse("-bogus start"), Err(unknown));
    assert_eq!(parse("-id"), Err(ArgsError::MissingValue("id".into())));
    assert_eq!(
        parse("-namespace n -id i restart"),
        Err(ArgsError::UnknownAction("restart".into()))
    );
    assert_eq!(
        parse("-namespace n -id i start now"),
        Err(ArgsError::Surplus("now".into()))
    );
    assert!(matches!(
        parse("-debug=maybe start"),
        Err(ArgsError::NotBoolean { .. })
    ));
}

#[test]
fn an_identifier_cannot_leave_its_directory() {
    for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\0b"] {
        assert!(!is_identifier(bad), "{bad:?}");
    }
    assert!(!is_identifier(&"x".repeat(256)));
    assert!(is_identifier("k8s.io"));
    assert!(matches!(
        parse("-namespace n -id ../../etc delete"),
        Err(ArgsError::NotIdentifier { flag: "-id", .. })
    ));
}
