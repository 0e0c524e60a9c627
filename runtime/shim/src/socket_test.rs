use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Claim, DEFAULT_DIR, MAX_PATH, address, claim, is_live, path, path_of, remove};

#[test]
fn the_name_follows_containerds_scheme() {
    // printf '/run/containerd/containerd.sock/default/c1' | sha256sum
    let path = path(
        Path::new(DEFAULT_DIR),
        "/run/containerd/containerd.sock",
        "default",
        "c1",
    );
    assert_eq!(
        path.to_str().unwrap(),
        "/run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
    );
}

#[test]
fn an_empty_address_leaves_no_slash() {
    let dir = Path::new("/s");
    assert_eq!(
        path(dir, "", "default", "c1"),
        path(dir, "default", "", "c1")
    );
    assert_ne!(
        path(dir, "", "default", "c1"),
        path(dir, "/", "default", "c1")
    );
}

#[test]
fn the_longest_names_fit() {
    let path = path(
        Path::new(DEFAULT_DIR),
        "/run/containerd/containerd.sock",
        &"n".repeat(76),
        &"i".repeat(64),
    );
    assert!(path.as_os_str().len() <= MAX_PATH, "{path:?}");
}

#[test]
fn an_address_is_read_back_in_both_spellings() {
    let path = Path::new("/run/containerd/s/abc");
    assert_eq!(path_of(&address(path)), path);
    assert_eq!(path_of("/run/containerd/s/abc\n"), path);
}

#[test]
fn a_socket_is_private_and_a_live_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").join("socket");
    let Claim::Bound(_listener) = claim(&path).unwrap() else {
        panic!("nobody else is there");
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert!(is_live(&path));
    assert!(matches!(claim(&path).unwrap(), Claim::Taken));
}

#[test]
fn a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && !is_live(&path));
    assert!(matches!(claim(&path).unwrap(), Claim::Bound(_)));
}

#[test]
fn removing_twice_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let claimed = claim(&path).unwrap();
    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(!path.exists());
    drop(claimed);
}

#[test]
fn a_path_that_is_too_long_is_named() {
    let path = Path::new("/").join("x".repeat(MAX_PATH));
    let error = claim(&path).unwrap_err().to_string();
    assert!(error.contains("longer than 106 bytes"), "{error}");
}
