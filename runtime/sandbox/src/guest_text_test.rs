use super::{MAX_CONSOLE, MAX_MESSAGE, console, line};

#[test]
fn a_line_cannot_move_the_cursor_or_go_on_for_ever() {
    assert_eq!(line("all is well: \"ä\""), "all is well: \"ä\"");
    assert_eq!(line("a\nb\x1b[2Jc\u{202e}d"), "a b [2Jc d");
    let long = line(&"ä".repeat(100_000));
    assert_eq!(long.chars().count(), MAX_MESSAGE + 1);
    assert!(long.ends_with('…'));
    assert!(!line(&"x".repeat(MAX_MESSAGE)).ends_with('…'));
}

#[test]
fn of_a_console_the_last_lines_are_kept() {
    assert_eq!(console("one\r\n\r\n\x1b[1mtwo\n"), "one\n [1mtwo");
    let long = format!("{}\nKernel panic", "x".repeat(2 * MAX_CONSOLE));
    let shown = console(&long);
    assert!(shown.ends_with("x\nKernel panic"));
    assert_eq!(shown.chars().count(), MAX_CONSOLE);
}
