use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use super::NetworkNamespace;
use crate::ErrorKind;

/// The namespace's own name, `net:[number]`.
fn name(namespace: &NetworkNamespace) -> PathBuf {
    let link = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
    fs::read_link(link).unwrap()
}

fn own() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[tokio::test]
async fn without_a_path_a_new_one_is_made_and_ours_is_kept() {
    let before = own();
    let opening = NetworkNamespace::open(None).unwrap();
    match opening.opened().await {
        Ok(made) => assert_ne!(name(&made), before),
        Err(error) => eprintln!("skipped: {error}, needs root"),
    }
    assert_eq!(own(), before);
}

#[tokio::test]
async fn a_path_is_joined() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let opening = NetworkNamespace::open(Some("/proc/self/ns/net".into())).unwrap();
    assert_eq!(name(&opening.opened().await.unwrap()), own());
}

#[tokio::test]
async fn what_is_no_network_namespace_is_named() {
    for path in ["/no/such/netns", "/proc/self/ns/uts", "/dev/null"] {
        let opening = NetworkNamespace::open(Some(path.into())).unwrap();
        let error = opening.opened().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains(path), "{error}");
    }
}
