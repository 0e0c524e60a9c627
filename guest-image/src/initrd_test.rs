use super::*;

#[test]
fn the_same_agent_gives_the_same_bytes_and_another_gives_others() {
    let one = initrd_from_agent(b"agent".to_vec()).unwrap();
    assert_eq!(one, initrd_from_agent(b"agent".to_vec()).unwrap());
    assert_ne!(one, initrd_from_agent(b"Agent".to_vec()).unwrap());
}

/// So that the kernel keeps the pages instead of copying them.
#[test]
fn the_agents_content_begins_at_a_page() {
    let agent = [b"agent", [b'x'; 10_000].as_slice()].concat();
    let bytes = initrd_from_agent(agent).unwrap();
    let at = bytes.windows(6).position(|window| window == b"agentx");
    assert_eq!(at.unwrap() % 4096, 0);
}

#[test]
fn the_root_holds_the_agent_and_nothing_to_live_off() {
    let bytes = initrd_from_agent(b"agent".to_vec()).unwrap();
    let names: Vec<_> = bytes
        .windows(6)
        .enumerate()
        .filter(|(_, window)| window == b"070701")
        .map(|(at, _)| {
            let name = &bytes[at + 110..];
            let end = name.iter().position(|&byte| byte == 0).unwrap();
            String::from_utf8(name[..end].to_vec()).unwrap()
        })
        .collect();
    assert_eq!(
        names,
        [
            "dev",
            "dev/console",
            "init",
            "proc",
            "run",
            "sys",
            "tmp",
            "TRAILER!!!"
        ]
    );
}

#[test]
fn no_path_of_this_machine_goes_into_the_agent() {
    let workspace = Path::new("/some where/checkout");
    // rustc is asked for its own place from a folder that exists.
    let flags = rust_flags(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let flags = flags.into_string().unwrap();
    let flags: Vec<_> = flags.split('\x1f').collect();
    assert_eq!(flags[0], "-Ctarget-feature=+crt-static");
    let last = format!(
        "--remap-path-prefix={}=/caisson",
        env!("CARGO_MANIFEST_DIR")
    );
    assert_eq!(flags.last(), Some(&last.as_str()));
    assert!(rust_flags(workspace).is_err(), "a folder that is not there");
}

#[test]
fn a_program_with_a_loader_is_not_static() {
    let this_test = fs::read(env::current_exe().unwrap()).unwrap();
    assert!(!is_static(&this_test));
    let mut header = vec![0; 64];
    header[..4].copy_from_slice(b"\x7fELF");
    assert!(is_static(&header), "no segments, so no loader");
    assert!(!is_static(b"#!/bin/sh"));
    header[56] = 1;
    header[32] = 0xff;
    assert!(!is_static(&header), "a table outside the file");
}
