use super::{HostMemory, HostProcess, is_kernel_worker};

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
    assert_eq!(HostMemory::of(maps, u64::MAX), memory);
}

#[test]
fn a_mapping_as_large_as_the_ram_is_guest_memory_although_it_is_private() {
    let maps = "\
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Rss:                4096 kB
Pss:                4096 kB
7f0020000000-7f0027fff000 rw-p 00000000 00:00 0
Rss:                   4 kB
Pss:                   4 kB
";
    let memory = HostMemory::of(maps, 128 << 20);
    assert_eq!((memory.guest_rss, memory.own_rss), (4096, 4));
}

#[test]
fn a_thread_that_the_kernel_made_is_told_by_its_flags() {
    let state = |flags: u32| format!("12 (kvm (x) y) S 1 12 12 0 -1 {flags} 0 0 0");
    assert!(is_kernel_worker(&state(0x4040)));
    assert!(!is_kernel_worker(&state(0x0040)));
    assert!(!is_kernel_worker("no such thing"));
}

#[test]
fn this_process_has_memory_and_threads() {
    let this = HostProcess {
        pid: std::process::id(),
    };
    assert!(this.memory().own_rss > 0);
    assert!(!this.threads().is_empty());
    assert!(this.own_threads() > 0);
}
