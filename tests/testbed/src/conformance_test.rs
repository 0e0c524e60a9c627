use super::{SKIPPED, pattern, profile};

#[test]
fn each_part_of_a_tests_name_is_matched_as_a_whole() {
    assert_eq!(
        pattern("caisson/Stress/Exec"),
        "^TestShim$/^caisson$/^Stress$/^Exec$"
    );
}

#[test]
fn the_profile_names_the_shim_and_what_is_left_out() {
    let profile: serde_json::Value = serde_json::from_str(&profile(true)).unwrap();
    assert_eq!(
        profile.pointer("/shim_binary").unwrap(),
        "/usr/local/bin/containerd-shim-caisson-v2"
    );
    assert_eq!(profile.pointer("/format_mounts").unwrap(), true);
    let skipped = profile.pointer("/skip").unwrap().as_array().unwrap();
    assert_eq!(skipped.len(), SKIPPED.len());
    assert!(skipped.contains(&"net".into()));
}
