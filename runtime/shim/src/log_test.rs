use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags};
use tracing::Level;
use tracing::subscriber::with_default;

use super::{FifoLog, MAX_LINE, rfc3339};

fn fifo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("log");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

fn reader(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .unwrap()
}

fn read(file: &mut std::fs::File) -> String {
    let mut buffer = vec![0; 1 << 20];
    let length = file.read(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn a_line_says_when_how_grave_and_what() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let log = FifoLog::open(&path, Level::INFO).unwrap();
    with_default(log, || {
        tracing::info!(container = "c1", pid = 7, "says \"hello\"\nand more");
        tracing::debug!("not wanted");
    });
    // The writer is gone, so a reader that comes now finds the pipe gone as well.
    let log = FifoLog::open(&path, Level::DEBUG).unwrap();
    let mut reader = reader(&path);
    with_default(log, || {
        tracing::info!(container = "c1", pid = 7, "says \"hello\"\nand more");
        tracing::debug!("wanted");
        let text = read(&mut reader);
        let (first, second) = text.split_once('\n').unwrap();
        assert!(first.starts_with("time=\"20"), "{first}");
        assert!(
            first.ends_with(
                r#"level=info msg="says \"hello\"\nand more" container="c1" pid="7" runtime=caisson"#
            ),
            "{first}"
        );
        assert!(second.contains("level=debug msg=\"wanted\""), "{second}");
    });
}

#[test]
fn a_full_fifo_drops_lines_instead_of_blocking() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let log = FifoLog::open(&path, Level::INFO).unwrap();
    let mut reader = reader(&path);
    with_default(log, || {
        let long = "x".repeat(1000);
        for _ in 0..200 {
            tracing::info!("{long}");
        }
        let text = read(&mut reader);
        assert!(text.len() <= 65_536);
        assert!(text.ends_with("runtime=caisson\n"), "no line is cut in two");
        tracing::info!("room again");
        assert!(read(&mut reader).contains("room again"));
    });
}

#[test]
fn a_line_fits_into_the_pipes_atomic_unit() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let log = FifoLog::open(&path, Level::INFO).unwrap();
    let mut reader = reader(&path);
    with_default(log, || tracing_long(&mut reader));
}

fn tracing_long(reader: &mut std::fs::File) {
    tracing::info!("{}", "ä".repeat(MAX_LINE));
    let text = read(reader);
    assert!(text.len() <= MAX_LINE, "{}", text.len());
    assert!(text.ends_with('\n'));
}

#[test]
fn what_is_no_fifo_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "precious").unwrap();
    assert!(FifoLog::open(&path, Level::INFO).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn dates_are_right_around_leap_days() {
    // Computed by date(1).
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_799, "2000-02-29T23:59:59.000000Z"),
        (1_709_251_200, "2024-03-01T00:00:00.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        (1_798_761_599, "2026-12-31T23:59:59.000000Z"),
    ] {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
}
