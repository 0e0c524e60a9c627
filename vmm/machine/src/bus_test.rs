use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Bus;
use crate::console::{Console, Tail};
use crate::events::EventReceiver;
use crate::pci::root::PciRoot;
use crate::pci::test_function::TestFunction;
use crate::serial::SerialPort;

fn bus() -> (Bus, Tail, EventReceiver) {
    let tail = Tail::default();
    let console = Console::new(None, tail.clone()).unwrap();
    let serial = SerialPort::new(EventFd::new(EFD_NONBLOCK).unwrap(), console);
    let mut pci = PciRoot::new();
    pci.put(0, Box::new(TestFunction::new()));
    let (sender, events) = crate::events::channel().unwrap();
    (Bus::new(pci, serial, sender), tail, events)
}

fn read<const N: usize>(bus: &Bus, port: u16) -> [u8; N] {
    let mut data = [0xee; N];
    bus.port_read(port, &mut data);
    data
}

#[test]
fn what_is_written_to_the_serial_port_is_on_the_console() {
    let (bus, tail, _) = bus();
    for byte in b"hello" {
        bus.port_write(0x3f8, &[*byte]);
    }
    bus.port_write(0x3f8, b" again");
    assert_eq!(tail.text(), "hello again");
    let [line_status] = read(&bus, 0x3fd);
    assert_eq!(line_status & 0x60, 0x60, "always ready for more");
}

#[test]
fn the_first_byte_on_the_phase_port_starts_the_agent() {
    let (bus, _, events) = bus();
    bus.port_write(0x3f1, &[1]);
    assert!(events.agent_started().is_none());
    bus.port_write(0x3f0, &[0]);
    assert!(events.agent_started().is_some());
}

#[test]
fn the_cmos_never_updates_and_what_is_absent_reads_as_ones() {
    let (bus, _, _) = bus();
    bus.port_write(0x70, &[10]);
    assert_eq!(read(&bus, 0x71), [0]);
    for port in [0x60, 0x64, 0x61, 0x40, 0x2f8, 0xcf7, 0xd00, 0xffff] {
        assert_eq!(read(&bus, port), [0xff; 4]);
        bus.port_write(port, &[0; 4]);
    }
}

#[test]
fn the_pci_ports_lead_to_the_bus() {
    let (bus, _, _) = bus();
    bus.port_write(0xcf8, &0x8000_0000u32.to_le_bytes());
    assert_eq!(read(&bus, 0xcfc), [0x36, 0x1b, 0x08, 0x00]);
}

#[test]
fn accesses_of_any_length_to_any_port_are_harmless() {
    let (bus, _, _) = bus();
    for port in (0..=u16::MAX).filter(|port| *port < 0x1000 || *port > 0xfff0) {
        for length in [0, 1, 2, 4, 7, 4096] {
            let mut data = vec![0xff; length];
            bus.port_write(port, &data);
            bus.port_read(port, &mut data);
        }
    }
}
