use super::*;
use serde_json::json;

#[test]
fn capability_names_become_bits() {
    let sets: LinuxCapabilities =
        serde_json::from_value(json!({"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_BPF"]}))
            .unwrap();
    assert_eq!(
        set_of(sets.bounding().as_ref()),
        CapabilitySet::CHOWN | CapabilitySet::SYS_ADMIN | CapabilitySet::BPF
    );
    assert_eq!(set_of(None), CapabilitySet::empty());
}

#[test]
fn every_limit_has_its_own_resource() {
    let names = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let mut seen = Vec::new();
    for name in names {
        let limit: PosixRlimit =
            serde_json::from_value(json!({"type": format!("RLIMIT_{name}"), "soft": 1, "hard": 2}))
                .unwrap();
        let resource = resource(limit.typ()) as u32;
        assert!(!seen.contains(&resource), "{name}");
        seen.push(resource);
    }
}
