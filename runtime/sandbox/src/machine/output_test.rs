use std::fs;
use std::io::Write;

use super::{HelperOutput, KEPT_LINES, MAX_CONSOLE_FILE, MAX_LINE, console_pipe};

#[tokio::test]
async fn the_last_lines_are_kept_and_long_ones_are_split() {
    let (writer, mut output) = HelperOutput::pipe("test").unwrap();
    let mut text = (0..KEPT_LINES)
        .map(|n| format!("line {n}\n"))
        .collect::<String>();
    text.push('\n');
    text.push_str(&"x".repeat(MAX_LINE + 5));
    text.push_str("\n\x1b[2Jno newline at the end");
    fs::File::from(writer).write_all(text.as_bytes()).unwrap();
    let kept = output.finish().await;
    let lines: Vec<_> = kept.lines().collect();
    assert_eq!(lines.len(), KEPT_LINES);
    assert_eq!(lines[KEPT_LINES - 4], "line 9");
    assert_eq!(lines[KEPT_LINES - 3].len(), MAX_LINE);
    assert_eq!(lines[KEPT_LINES - 2], "xxxxx");
    assert_eq!(lines[KEPT_LINES - 1], " [2Jno newline at the end");
}

#[tokio::test]
async fn an_output_without_end_is_read_and_not_kept() {
    let (writer, mut output) = HelperOutput::pipe("test").unwrap();
    let lots = tokio::task::spawn_blocking(move || {
        let mut writer = fs::File::from(writer);
        let line = [&[b'y'; 999][..], b"\n"].concat();
        for _ in 0..2000 {
            writer.write_all(&line).unwrap();
        }
    });
    lots.await.unwrap();
    assert_eq!(output.finish().await.lines().count(), KEPT_LINES);
}

#[tokio::test]
async fn a_console_file_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let writer = console_pipe(fs::File::create(&path).unwrap()).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut writer = fs::File::from(writer);
        let chunk = vec![b'z'; 1024 * 1024];
        for _ in 0..20 {
            writer.write_all(&chunk).unwrap();
        }
    })
    .await
    .unwrap();
    // The pipe holds at most 64 KiB, so at least 19 MiB were read by now.
    let length = fs::metadata(&path).unwrap().len();
    assert!(
        length <= MAX_CONSOLE_FILE && length > MAX_CONSOLE_FILE - 8192,
        "{length}"
    );
}
