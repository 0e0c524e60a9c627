use super::{HostMemory, HostProcess};

#[test]
fn guest_memory_is_told_from_the_rest_by_its_mapping() {
    let maps = "\
7f0000000000-7f0010000000 rw-s 00000000 00:01 12 /memfd:guest (deleted)
Size:             262144 kB
Rss:                4096 kB
Pss:                2048 kB
Pss_Dirty:          2048 kB
VmFlags: rd wr sh mr mw me ms sd
7f0020000000-7f0020001000 rw-p 00000000 00:00 0
Rss:                   4 kB
Pss:                   4 kB
7f0030000000-7f0030001000 r--s 00000000 00:01 13 /run-structure
Rss:                   8 kB
Pss:                   2 kB
";
    let memory = HostMemory {
        guest_rss: 4096,
        guest_pss: 2048,
        own_rss: 12,
        own_pss: 6,
    };
    assert_eq!(HostMemory::of(maps), memory);
}

#[test]
fn this_process_has_memory_and_threads() {
    let this = HostProcess {
        pid: std::process::id(),
    };
    assert!(this.memory().own_rss > 0);
    assert!(!this.threads().is_empty());
}
