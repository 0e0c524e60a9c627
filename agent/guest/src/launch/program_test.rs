use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn file(path: &Path, mode: u32) {
    fs::write(path, "#!/bin/true\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn message(name: &str, env: &[String]) -> String {
    match resolve(name, env) {
        Err(AgentError::InvalidArgument(message)) => message,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn names_without_a_slash_are_looked_for_in_path() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    fs::create_dir_all(first.join("dir")).unwrap();
    fs::create_dir(&second).unwrap();
    file(&first.join("plain"), 0o644);
    file(&second.join("plain"), 0o755);
    file(&second.join("dir"), 0o755);
    file(&first.join("data"), 0o644);
    symlink("/nonexistent", first.join("dangling")).unwrap();
    let env = [
        "X=1".to_owned(),
        format!("PATH={}:/nonexistent:{}", first.display(), second.display()),
    ];

    assert_eq!(
        resolve("plain", &env).unwrap(),
        second.join("plain"),
        "the first one that can be run"
    );
    assert_eq!(
        resolve("dir", &env).unwrap(),
        second.join("dir"),
        "a directory is no program"
    );
    let missing = r#"exec: "missing": executable file not found in $PATH"#;
    assert_eq!(message("missing", &env), missing);
    assert_eq!(
        message("dangling", &env),
        r#"exec: "dangling": executable file not found in $PATH"#
    );
    assert_eq!(message("data", &env), r#"exec: "data": permission denied"#);
    assert_eq!(
        message("", &env),
        r#"exec: "": executable file not found in $PATH"#
    );
    assert_eq!(message("missing", &[]), missing);
    assert!(
        resolve("sh", &[]).is_ok(),
        "without PATH there is a default"
    );
    let empty = ["PATH=".to_owned()];
    assert_eq!(
        message("sh", &empty),
        r#"exec: "sh": executable file not found in $PATH"#
    );
    let two = [env[1].clone(), "PATH=/bin".to_owned()];
    assert_eq!(
        resolve("sh", &two).unwrap(),
        Path::new("/bin/sh"),
        "the last PATH counts"
    );
}

#[test]
fn names_with_a_slash_are_paths() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    file(&run, 0o700);
    symlink("run", root.path().join("link")).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    file(&root.path().join("data"), 0o600);
    let name = |file: &str| root.path().join(file).display().to_string();

    assert!(resolve(&name("run"), &[]).is_ok());
    assert!(resolve(&name("link"), &[]).is_ok());
    assert_eq!(
        message("/no/such/file", &[]),
        r#"exec: "/no/such/file": stat /no/such/file: no such file or directory"#
    );
    let below = name("data/x");
    assert_eq!(
        message(&below, &[]),
        format!("exec: {below:?}: stat {below}: not a directory")
    );
    let data = name("data");
    assert_eq!(
        message(&data, &[]),
        format!("exec: {data:?}: permission denied")
    );
    assert_eq!(message("/", &[]), r#"exec: "/": is a directory"#);
    assert_eq!(
        message("/dev/null", &[]),
        r#"exec: "/dev/null": permission denied"#
    );
    assert!(message(&name("loop"), &[]).ends_with("too many levels of symbolic links"));
}

#[test]
fn a_failed_execve_says_what_is_missing() {
    use rustix::io::Errno;
    let text = |error| exec_failure(Path::new("/run"), error).to_string();
    assert!(text(Errno::NOEXEC).starts_with("exec /run: exec format error"));
    assert!(text(Errno::NOENT).starts_with("exec /run: no such file or directory"));
    assert_eq!(text(Errno::ACCESS), "exec /run: permission denied");
}
