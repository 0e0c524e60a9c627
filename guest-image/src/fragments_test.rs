use super::*;
use crate::required::REQUIRED;

fn merge(files: &[(&str, &str)]) -> Result<Fragments, FragmentError> {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    Fragments::merge(&files)
}

fn ours() -> Fragments {
    Fragments::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kernel"))).unwrap()
}

#[test]
fn our_fragments_keep_the_rules() {
    assert!(ours().config.iter().count() > 100);
}

#[test]
fn our_fragments_ask_for_everything_the_runtime_requires() {
    let config = ours().config;
    let missing: Vec<_> = REQUIRED
        .iter()
        .filter(|option| !config.is_built_in(option.name))
        .map(|option| option.name)
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn an_option_without_a_reason_is_refused() {
    for text in ["CONFIG_A=y\n", "# Why.\nCONFIG_A=y\n\nCONFIG_B=y\n"] {
        let error = merge(&[("a.config", text)]).unwrap_err();
        assert!(matches!(error, FragmentError::NoComment { .. }), "{error}");
    }
    // That something is off is an option as well, not a reason.
    let error = merge(&[("a.config", "# CONFIG_A is not set\nCONFIG_B=y\n")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.config:1: CONFIG_A begins a group without a comment that says why it is there"
    );
}

#[test]
fn an_option_set_twice_is_refused_even_across_files() {
    let error = merge(&[
        ("a.config", "# Why.\nCONFIG_A=y\n"),
        ("b.config", "# Why.\n\n# Why not.\n# CONFIG_A is not set\n"),
    ])
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "b.config:4: CONFIG_A is set here and at a.config:2: keep one of the two"
    );
}

#[test]
fn a_line_that_sets_nothing_is_refused() {
    let error = merge(&[("a.config", "# Why.\nPVH=y\n")]).unwrap_err();
    assert!(matches!(error, FragmentError::Line { .. }), "{error}");
}

#[test]
fn our_fragments_leave_out_by_what_a_kernel_is_changed_from_within() {
    let config = ours().config;
    for name in [
        "CONFIG_MODULES",
        "CONFIG_KEXEC",
        "CONFIG_DEVMEM",
        "CONFIG_DEVPORT",
        "CONFIG_LEGACY_TIOCSTI",
    ] {
        let off = config.iter().any(|option| option == (name, None));
        assert!(off, "{name}");
    }
    for name in [
        "CONFIG_SECURITY_DMESG_RESTRICT",
        "CONFIG_BPF_UNPRIV_DEFAULT_OFF",
    ] {
        assert!(config.is_built_in(name), "{name}");
    }
}
