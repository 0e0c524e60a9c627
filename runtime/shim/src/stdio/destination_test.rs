use super::Destination;

fn parse(name: &str) -> Destination {
    Destination::parse(name).unwrap()
}

#[test]
fn every_form_that_containerd_uses_is_understood() {
    assert_eq!(parse(""), Destination::Discard);
    assert_eq!(parse("/dev/null"), Destination::Discard);
    assert_eq!(
        parse("/run/f/c1-stdout"),
        Destination::Fifo("/run/f/c1-stdout".into())
    );
    assert_eq!(parse("fifo:///run/f"), Destination::Fifo("/run/f".into()));
    assert_eq!(
        parse("file:///var/log/a%20b"),
        Destination::File("/var/log/a b".into())
    );
}

#[test]
fn a_query_becomes_the_arguments_of_a_logging_program() {
    // As nerdctl writes it.
    assert_eq!(
        parse("binary:///usr/local/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib&flag"),
        Destination::Program {
            path: "/usr/local/bin/nerdctl".into(),
            arguments: vec![
                "_NERDCTL_INTERNAL_LOGGING".into(),
                "/var/lib".into(),
                "flag".into()
            ],
        }
    );
}

#[test]
fn what_cannot_be_used_is_said() {
    for (name, reason) in [
        ("streaming://x", "scheme \"streaming\""),
        ("relative/path", "not absolute"),
        ("file://host", "not absolute"),
        ("file:///a%2", "two hexadecimal digits"),
        ("file:///%+1", "two hexadecimal digits"),
        ("file:///%ff", "UTF-8"),
    ] {
        let error = Destination::parse(name).unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
    }
}
