use std::sync::{Arc, Mutex};

use super::super::Function;
use super::super::test_function::TestFunction;
use super::{ADDRESS_PORT, DATA_PORT, MAX_FUNCTIONS, PciRoot, SLOTS, WINDOW};

/// Notes what reaches it.
struct Probe {
    bar: Option<(u64, u64)>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Function for Probe {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.note(format!("config read {offset:#x} {}", data.len()));
        data.fill(0x11);
    }
    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.note(format!("config write {offset:#x} {data:x?}"));
    }
    fn bar(&self) -> Option<(u64, u64)> {
        self.bar
    }
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.note(format!("read {offset:#x} {}", data.len()));
        data.fill(0x22);
    }
    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        self.note(format!("write {offset:#x} {data:x?}"));
    }
}

impl Probe {
    fn note(&self, what: String) {
        self.seen.lock().unwrap().push(what);
    }
}

/// A bus with a function in slot 0, where a machine has none, and a probe in slot 1.
fn bus() -> (PciRoot, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut root = PciRoot::new();
    root.put(0, Box::new(TestFunction::new()));
    let probe = Probe {
        bar: Some((0xc000_1000, 0x1000)),
        seen: Arc::clone(&seen),
    };
    root.put(1, Box::new(probe));
    (root, seen)
}

fn select(root: &mut PciRoot, address: u32) {
    root.port_write(ADDRESS_PORT, &address.to_le_bytes());
}

#[test]
fn a_function_answers_in_its_slot() {
    let (mut root, _) = bus();
    select(&mut root, 0x8000_0008);
    let mut class = [0; 2];
    root.port_read(DATA_PORT + 2, &mut class);
    assert_eq!(class, [0x00, 0x06]);
}

#[test]
fn reads_of_any_size_and_place_inside_the_data_register_arrive() {
    let (mut root, seen) = bus();
    select(&mut root, 0x8000_0840);
    for (byte, length) in [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (0, 2),
        (1, 2),
        (2, 2),
        (0, 4),
    ] {
        let mut data = vec![0; length];
        root.port_read(DATA_PORT + byte, &mut data);
        assert_eq!(data, vec![0x11; length]);
        assert_eq!(
            seen.lock().unwrap().pop().unwrap(),
            format!("config read {:#x} {length}", 0x40 + byte)
        );
    }
}

#[test]
fn accesses_that_leave_the_data_register_do_not_arrive() {
    let (mut root, seen) = bus();
    select(&mut root, 0x8000_0840);
    for (byte, length) in [(3, 2), (1, 4), (2, 4), (0, 8), (0, 4096)] {
        let mut data = vec![0; length];
        root.port_read(DATA_PORT + byte, &mut data);
        assert!(data.iter().all(|byte| *byte == 0xff));
        root.port_write(DATA_PORT + byte, &data);
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn what_does_not_exist_reads_as_all_ones() {
    let (mut root, seen) = bus();
    let nowhere = [
        0x0000_0800, // not enabled
        0x8000_1000, // slot 2
        0x8000_0900, // function 1 of slot 1
        0x8001_0800, // bus 1
        0x8000_f800, // slot 31
    ];
    for address in nowhere {
        select(&mut root, address);
        let mut data = [0; 4];
        root.port_read(DATA_PORT, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
        root.port_write(DATA_PORT, &data);
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn the_address_register_takes_32_bits_only() {
    let (mut root, _) = bus();
    select(&mut root, 0x8000_0840);
    root.port_write(ADDRESS_PORT, &[0]);
    root.port_write(ADDRESS_PORT + 1, &[6]); // the reset control register of some chipsets
    root.port_write(ADDRESS_PORT, &[0; 8]);
    let mut data = [0; 4];
    root.port_read(ADDRESS_PORT, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0840);
}

#[test]
fn memory_goes_to_the_bar_that_holds_the_whole_access() {
    let (mut root, seen) = bus();
    let mut data = [0; 4];
    root.memory_read(0xc000_1ffc, &mut data);
    assert_eq!(data, [0x22; 4]);
    root.memory_write(0xc000_1000, &[1, 2]);
    assert_eq!(*seen.lock().unwrap(), ["read 0xffc 4", "write 0x0 [1, 2]"]);
    seen.lock().unwrap().clear();

    for address in [0xc000_0ffe, 0xc000_1ffe, 0xc000_2000, 0, u64::MAX - 1] {
        root.memory_read(address, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
        root.memory_write(address, &data);
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn every_slot_has_addresses_of_its_own_below_the_interrupt_controllers() {
    let bars = (0..SLOTS as u8).map(PciRoot::first_bar);
    let bars: Vec<u32> = bars.collect();
    assert!(bars.iter().all(|bar| bar.is_multiple_of(0x8000)));
    assert!(bars.windows(2).all(|pair| pair[1] - pair[0] >= 0x8000));
    assert!(bars[0] >= WINDOW && bars[31] + 0x8000 <= 0xfec0_0000);
}

#[test]
fn the_thirty_second_function_does_not_fit() {
    let mut root = PciRoot::new();
    for slot in 1..=MAX_FUNCTIONS as u8 {
        assert_eq!(root.free_slot().unwrap(), slot);
        assert!(root.put(slot, Box::new(TestFunction::new())).is_none());
    }
    assert!(root.free_slot().is_err());
    assert!(root.put(32, Box::new(TestFunction::new())).is_none());
    assert!(root.take(32).is_none());
}

#[test]
fn a_function_that_was_taken_off_the_bus_is_gone_and_its_slot_free() {
    let (mut root, seen) = bus();
    assert!(root.take(1).is_some());
    assert!(root.take(1).is_none());
    select(&mut root, 0x8000_0840);
    let mut data = [0; 4];
    root.port_read(DATA_PORT, &mut data);
    assert_eq!(data, [0xff; 4]);
    root.memory_read(0xc000_1000, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(root.free_slot().unwrap(), 1);
}

#[test]
fn what_is_hidden_looks_like_an_empty_slot_that_is_not_free_until_it_is_revealed() {
    let (mut root, seen) = bus();
    let probe = root.take(1).unwrap();
    root.put_hidden(1, probe);
    assert_eq!(root.free_slot().unwrap(), 2);
    select(&mut root, 0x8000_0840);
    let mut data = [0; 4];
    root.port_read(DATA_PORT, &mut data);
    root.port_write(DATA_PORT, &[0; 4]);
    assert_eq!(data, [0xff; 4]);
    assert!(seen.lock().unwrap().is_empty());
    root.reveal();
    root.port_read(DATA_PORT, &mut data);
    assert_eq!(data, [0x11; 4]);
}
