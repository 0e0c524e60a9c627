use super::*;

#[test]
fn options_are_read_and_prose_is_not() {
    let config = Config::parse(
        "# Linux 6.12\nCONFIG_PVH=y\nCONFIG_NR_CPUS=32\n# CONFIG_ACPI is not set\n\
         CONFIG_LOCALVERSION=\"-caisson=1\"\n# CONFIG_ is not set\nCONFIG_FUSE_FS=m\nnoise=1\n",
    );
    assert_eq!(config.iter().count(), 5);
    assert!(config.is_built_in("CONFIG_PVH"));
    assert!(!config.is_built_in("CONFIG_FUSE_FS"));
    assert_eq!(config.value("CONFIG_NR_CPUS"), Some("32"));
    assert_eq!(config.value("CONFIG_LOCALVERSION"), Some("\"-caisson=1\""));
    assert_eq!(config.value("CONFIG_ACPI"), None);
}

#[test]
fn an_option_that_was_not_taken_is_named_with_both_values() {
    let asked = Config::parse(
        "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D=32\n# CONFIG_E is not set\n",
    );
    let result = Config::parse("CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=64\n");
    let unmet: Vec<String> = asked
        .unmet_in(&result)
        .iter()
        .map(Unmet::to_string)
        .collect();
    assert_eq!(
        unmet,
        [
            "CONFIG_B was asked to be y and is off",
            "CONFIG_C was asked to be off and is y",
            "CONFIG_D was asked to be 32 and is 64",
        ]
    );
}
