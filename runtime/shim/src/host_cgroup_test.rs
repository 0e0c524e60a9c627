use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::XattrFlags;

use super::{
    GroupPath, Hierarchy, MADE, PathError, make, parse_hierarchies, remove_group, remove_outer,
};

fn group(text: &str) -> Result<PathBuf, PathError> {
    GroupPath::parse(Path::new(text)).map(|path| path.0)
}

#[test]
fn both_spellings_name_a_group() {
    let cases = [
        (
            "/kubepods/burstable/pod1/abc",
            "kubepods/burstable/pod1/abc",
        ),
        ("k8s.io/abc", "k8s.io/abc"),
        (
            "kubepods-burstable-pod1.slice:cri-containerd:abc",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/\
             cri-containerd-abc.scope",
        ),
        ("system.slice::abc", "system.slice/abc.scope"),
        (":docker:abc", "system.slice/docker-abc.scope"),
        ("-.slice:cri:abc", "cri-abc.scope"),
    ];
    for (text, expected) in cases {
        assert_eq!(group(text), Ok(PathBuf::from(expected)), "{text}");
    }
}

#[test]
fn a_pods_group_lies_below_the_one_that_kubernetes_made() {
    let of_pod = |parent: &str| GroupPath::of_pod(parent, "abc").map(|path| path.0);
    let cases = [
        ("/kubepods/burstable/pod1", "kubepods/burstable/pod1/abc"),
        (
            "/kubepods.slice/kubepods-pod1.slice",
            "kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope",
        ),
    ];
    for (parent, expected) in cases {
        assert_eq!(of_pod(parent), Ok(PathBuf::from(expected)), "{parent}");
    }
    assert!(of_pod("/kubepods/..").is_err());
}

#[test]
fn no_spelling_leads_out_of_the_hierarchy() {
    for text in [
        "",
        "/",
        "/../etc",
        "a/../../b",
        "../x.slice:a:b",
        "a.slice:..:/x",
        "a.slice:a:..",
        "a--b.slice:a:b",
        "nothing:a:b",
    ] {
        let error = group(text).unwrap_err();
        assert!(error.to_string().contains("cgroupsPath"), "{text}: {error}");
    }
}

#[test]
fn the_second_generation_is_one_hierarchy() {
    let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    let found = parse_hierarchies("0::/system.slice/containerd.service\n", mounts);
    let expected = Hierarchy {
        mount: "/sys/fs/cgroup".into(),
        own: "system.slice/containerd.service".into(),
    };
    assert_eq!(found, [expected]);
}

#[test]
fn the_first_generation_is_one_for_each_set_of_controllers() {
    let own = "5:cpu,cpuacct:/a\n4:memory:/b\n2:pids:/not-mounted\n1:name=systemd:/c\n0::/d\n";
    let mounts = "\
25 24 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
26 24 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
27 24 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
28 24 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
29 24 0:25 / /elsewhere/memory rw - cgroup cgroup rw,memory
30 24 0:26 / /proc rw - proc proc rw";
    let found: Vec<_> = parse_hierarchies(own, mounts)
        .into_iter()
        .map(|hierarchy| (hierarchy.mount, hierarchy.own))
        .collect();
    let expected = [
        ("/sys/fs/cgroup/cpu,cpuacct", "a"),
        ("/sys/fs/cgroup/memory", "b"),
        ("/sys/fs/cgroup/systemd", "c"),
        ("/sys/fs/cgroup/unified", "d"),
    ]
    .map(|(mount, own)| (PathBuf::from(mount), PathBuf::from(own)));
    assert_eq!(found, expected);
}

/// A directory that can have the mark, in place of a hierarchy; needs root.
fn marked_hierarchy() -> Option<(tempfile::TempDir, Hierarchy)> {
    let root = tempfile::tempdir().unwrap();
    if let Err(error) = rustix::fs::setxattr(root.path(), MADE, b"1", XattrFlags::empty()) {
        println!("skipped: {}: {error}", root.path().display());
        return None;
    }
    let mount = root.path().join("mount");
    fs::create_dir_all(mount.join("of-kubernetes")).unwrap();
    let own = PathBuf::new();
    Some((root, Hierarchy { mount, own }))
}

#[test]
fn the_last_pod_takes_along_what_any_pod_has_made_and_nothing_else() {
    let Some((_root, hierarchy)) = marked_hierarchy() else {
        return;
    };
    let groups = ["of-kubernetes/made/one", "of-kubernetes/made/two"].map(Path::new);
    for group in groups {
        make(&hierarchy, group, &mut Vec::new()).unwrap();
    }
    for (group, left) in groups.into_iter().zip([true, false]) {
        remove_group(&hierarchy, group).unwrap();
        remove_outer(&hierarchy, group);
        assert_eq!(hierarchy.mount.join("of-kubernetes/made").exists(), left);
    }
    assert!(hierarchy.mount.join("of-kubernetes").exists());
}

#[test]
fn pods_that_come_and_go_at_once_are_not_in_each_others_way() {
    let Some((_root, hierarchy)) = marked_hierarchy() else {
        return;
    };
    thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            let hierarchy = &hierarchy;
            scope.spawn(move || {
                let group = Path::new("made/deep").join(name);
                for _ in 0..200 {
                    make(hierarchy, &group, &mut Vec::new()).unwrap();
                    remove_group(hierarchy, &group).unwrap();
                    remove_outer(hierarchy, &group);
                }
            });
        }
    });
    let outer = hierarchy.mount.join("made");
    assert!(!outer.exists(), "{}", outer.display());
}
