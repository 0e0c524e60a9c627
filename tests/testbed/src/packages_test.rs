use super::missing;

#[test]
fn packages_that_are_not_fully_installed_are_missing() {
    let listing = "zstd ii \nkmod rc \nflex iU \nbc un \n";
    let found: Vec<_> = missing(&["zstd", "kmod", "flex", "bc", "never-heard-of"], listing)
        .into_iter()
        .collect();
    assert_eq!(found, ["bc", "flex", "kmod", "never-heard-of"]);
}

#[test]
fn nothing_is_missing_when_all_are_installed() {
    assert!(missing(&["zstd"], "zstd ii \n").is_empty());
    assert_eq!(missing(&["zstd", "zstd"], "").len(), 1);
}
