use super::*;

#[test]
fn ordinary_names_are_accepted() {
    let longest = "a".repeat(MAX_IDENTIFIER);
    for id in ["a", "0", "web-1_x.y", "-", "_", longest.as_str()] {
        assert_eq!(check(id), Ok(()), "{id:?}");
    }
}

#[test]
fn names_that_are_no_safe_file_names_are_refused() {
    let too_long = "a".repeat(MAX_IDENTIFIER + 1);
    for id in [
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "a\0",
        "a b",
        "ä",
        "a\n",
        too_long.as_str(),
    ] {
        assert!(
            matches!(check(id), Err(AgentError::InvalidArgument(_))),
            "{id:?}"
        );
    }
}
