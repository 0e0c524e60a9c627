//! All ports there could be.

use caisson_machine_tests::ring::{Act, Width};

use super::survivor::{self, MEMORY, Survivor};

const PORTS: u32 = 0x1_0000;
/// Where ports that do anything are.
const FEW: u32 = 0x1000;
const BUFFER: u64 = 0x20_0000;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn every_port_may_be_read_and_written_to() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for width in Width::OF_PORTS {
        acts.push(Act::read_ports(0..FEW, width));
        acts.push(Act::write_ports(0..FEW, width, 0));
        acts.push(Act::write_ports(0..FEW, width, 0x5a5a_3332));
        // The whole range, and its end.
        let stride = 61;
        acts.push(Act::read_ports(FEW..PORTS, width).step_by(stride));
        acts.push(Act::write_ports(FEW..PORTS, width, 0).step_by(stride));
        acts.push(Act::read_ports(PORTS - 4..PORTS, width));
        acts.push(Act::write_ports(PORTS - 4..PORTS, width, 0xffff_fffe));
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
    let exceptions: u64 = went.iter().map(|act| act.exceptions).sum();
    assert_eq!(exceptions, 0, "{went:x?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn one_instruction_may_move_any_number_of_bytes_between_ports_and_memory() {
    if survivor::skipped() {
        return;
    }
    // Across pages, at the end of RAM and beyond it, in devices, in the local APIC, and where the
    // guest has no memory of its own.
    let places = [
        BUFFER + 0xfff,
        MEMORY - 100,
        0xb000_0000,
        0xc001_fff0,
        0xc002_0000,
        0xfee0_0000,
        1 << 33,
        1 << 47,
    ];
    let mut acts = Vec::new();
    for ports in [
        0x20..0x21,
        0x71..0x72,
        0x3f9..0x3fa,
        0xcf8..0xcfd,
        0xffff..PORTS,
    ] {
        for place in places {
            for width in [Width::W1, Width::W4] {
                let count = if place == BUFFER + 0xfff { 5000 } else { 150 };
                acts.push(Act::read_ports_often(ports.clone(), width, count, place));
                acts.push(Act::write_ports_often(ports.clone(), width, count, place));
            }
        }
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
}
