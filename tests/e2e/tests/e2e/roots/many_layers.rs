//! Roots of more layers than a machine has disks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use containerd_shim_protos::types::mount::Mount;

use super::erofs::{Node, image};
use super::host::{Disk, Host, Pod, layered_root, mount, opened, output};

/// Of the first container, with the base.
const LAYERS: usize = 60;
/// How many of them the second has, too, and how many of its own.
const SHARED: usize = 30;
const OWN: usize = 25;

/// The layer of this number: a file of its own, one that each layer changes, and one that the next deletes.
fn layer(host: &Host, name: &str, number: usize) -> Disk {
    let file = |text: String| Node::File(text.into_bytes(), 0o644);
    let mut added = BTreeMap::from([
        (name.to_owned(), file(format!("{name}\n"))),
        (format!("not-in-{}", number + 1), file(String::new())),
    ]);
    added.insert(format!("not-in-{number}"), Node::Whiteout);
    let root = BTreeMap::from([
        ("layers".to_owned(), Node::Directory(added)),
        ("top".to_owned(), file(name.to_owned())),
    ]);
    let mut bytes = image(&Node::Directory(root));
    // Not every file of layers ends with a page.
    bytes.resize(bytes.len() + number % 8 * 512, 0);
    host.bytes(&format!("{name}.layer"), &bytes)
}

pub(super) fn are_few_disks(host: &Host, pod: &Pod) {
    let base = host.bytes("base.layer", &image(&Node::of(&host.tree())));
    let first: Vec<Disk> = (1..LAYERS)
        .map(|number| layer(host, &format!("layer-{number:02}"), number))
        .collect();
    let second: Vec<Disk> = (SHARED..SHARED + OWN)
        .map(|number| layer(host, &format!("other-{number:02}"), number))
        .collect();
    let (one, two) = (
        host.ext4("one-rw", 16, false),
        host.ext4("two-rw", 16, false),
    );
    let vmm = pod.holder.vmm_pid();

    let layers: Vec<&Disk> = [&base].into_iter().chain(&first).collect();
    let script = "echo new >/new; sleep 9999";
    let began = Instant::now();
    pod.create("one", &layered_root(&one, &layers), script)
        .unwrap();
    println!("a root of {LAYERS} layers: {:?}", began.elapsed());
    assert_eq!(pod.disks(), 2);
    pod.of("one").start("").unwrap();
    let read =
        "cat /top; echo; cat /layers/layer-*; ls -d /layers/not-in-*; sha256sum </bin/busybox";
    let said = pod.exec("one", read);
    let lines: Vec<&str> = said.lines().collect();
    let names: Vec<String> = (1..LAYERS)
        .map(|number| format!("layer-{number:02}"))
        .collect();
    assert_eq!(lines[0], names[names.len() - 1], "{said}");
    assert_eq!(lines[1..LAYERS], names);
    assert_eq!(lines[LAYERS..][..1], [format!("/layers/not-in-{LAYERS}")]);
    let busybox = output(
        "sha256sum",
        &[host.tree().join("bin/busybox").to_str().unwrap()],
    );
    assert_eq!(
        lines[LAYERS + 1].split(' ').next(),
        busybox.split(' ').next()
    );

    // Half of the image is there; the rest comes on one disk.
    let layers: Vec<&Disk> = layers[..SHARED].iter().copied().chain(&second).collect();
    pod.create("two", &layered_root(&two, &layers), "sleep 9999")
        .unwrap();
    assert_eq!(pod.disks(), 4);
    pod.of("two").start("").unwrap();
    let read =
        "cat /top; echo; cat /layers/layer-* /layers/other-* | wc -l; sha256sum </bin/busybox";
    let said = pod.exec("two", read);
    let lines: Vec<&str> = said.lines().collect();
    let top = format!("other-{}", SHARED + OWN - 1);
    assert_eq!(lines[..2], [top, format!("{}", SHARED - 1 + OWN)], "{said}");
    let open = opened(vmm, &host.path(""));
    assert_eq!(open.len(), 2 + LAYERS + OWN, "{open:?}");

    // Its disk stays for the layers that the second has of it.
    pod.of("one").kill("", 9).unwrap();
    assert_eq!(pod.end("one").1, 137);
    assert_eq!(pod.disks(), 3);
    one.assert_whole();
    let said = pod.exec("two", "cat /layers/layer-01; sha256sum </bin/busybox");
    assert!(said.starts_with("layer-01\n"), "{said}");
    assert_eq!(said.lines().nth(1), lines.get(2).copied());
    pod.of("two").kill("", 9).unwrap();
    assert_eq!(pod.end("two").1, 137);
    assert_eq!(pod.disks(), 0);
    assert_eq!(opened(vmm, &host.path("")), Vec::<PathBuf>::new());
    two.assert_whole();
    for disk in [&base].into_iter().chain(&first).chain(&second) {
        disk.assert_free();
    }
}

pub(super) fn refusals(host: &Host, pod: &Pod) {
    let written = host.ext4("refused-rw", 16, false);
    let layers: Vec<Disk> = (0..3)
        .map(|number| layer(host, &format!("good-{number}"), number))
        .collect();
    let odd = host.bytes("cut-off.layer", &[0; 4096 + 1000]);
    let absent = mount("erofs", "/var/tmp/absent.layer", &["ro", "loop"]);
    let vmm = pod.holder.vmm_pid();
    let good: Vec<&Disk> = layers.iter().collect();
    let with = |position: usize, mount: Mount| {
        let mut mounts = layered_root(&written, &good);
        mounts[position] = mount;
        mounts
    };
    let many: Vec<&Disk> = (0..129).map(|_| &layers[0]).collect();
    for (mounts, expected) in [
        (
            with(2, odd.mount("erofs", &["ro", "loop"])),
            ["cut-off.layer", "5096 bytes"],
        ),
        (with(3, absent), ["absent.layer", "not there"]),
        (
            layered_root(&written, &many),
            ["131 mounts", "130 are possible"],
        ),
    ] {
        let refused = pod.create("bad", &mounts, "true").unwrap_err();
        for word in expected {
            assert!(refused.contains(word), "{word}: {refused}");
        }
        assert_eq!(refused.lines().count(), 1, "{refused}");
        assert_eq!(pod.disks(), 0, "{refused}");
        assert_eq!(opened(vmm, &host.path("")), Vec::<PathBuf>::new());
        written.assert_whole();
        for layer in &layers {
            layer.assert_free();
        }
    }
}
