use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{CONTROL_ENABLE, CONTROL_FUNCTION_MASK, ENTRY_SIZE, Message, MessageRouter, Msix};

/// Delivers like KVM: to a connected descriptor at once, to others when they are connected.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<(u32, Option<Message>)>>,
    pending_at_connect: Mutex<u32>,
}

impl MessageRouter for Recorder {
    fn connect(&self, gsi: u32, event: &EventFd, message: Message) {
        if event.read().is_ok() {
            *self.pending_at_connect.lock().unwrap() += 1;
        }
        self.calls.lock().unwrap().push((gsi, Some(message)));
    }
    fn disconnect(&self, gsi: u32, _event: &EventFd) {
        self.calls.lock().unwrap().push((gsi, None));
    }
}

impl Recorder {
    fn take(&self) -> Vec<(u32, Option<Message>)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

const FIRST_GSI: u32 = 24;
const MESSAGE: Message = Message {
    address: 0x1_fee0_1000,
    data: 0x4031,
};

fn msix() -> (Msix, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let router: Arc<dyn MessageRouter> = Arc::clone(&recorder) as _;
    (Msix::new(3, FIRST_GSI, router).unwrap(), recorder)
}

fn write_message(msix: &mut Msix, vector: usize) {
    let at = vector * ENTRY_SIZE;
    msix.write_table(at, &(MESSAGE.address as u32).to_le_bytes());
    msix.write_table(at + 4, &((MESSAGE.address >> 32) as u32).to_le_bytes());
    msix.write_table(at + 8, &MESSAGE.data.to_le_bytes());
}

fn mask(msix: &mut Msix, vector: usize, masked: bool) {
    msix.write_table(vector * ENTRY_SIZE + 12, &u32::from(masked).to_le_bytes());
}

fn pending(msix: &Msix) -> u64 {
    let mut bytes = [0; 8];
    msix.read_pending(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[test]
fn every_vector_is_masked_after_a_reset() {
    let (msix, _) = msix();
    for vector in 0..3 {
        let mut entry = [0xff; ENTRY_SIZE];
        msix.read_table(vector * ENTRY_SIZE, &mut entry);
        assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}

#[test]
fn nothing_is_connected_until_enabled_and_unmasked() {
    let (mut msix, recorder) = msix();
    write_message(&mut msix, 1);
    mask(&mut msix, 1, false);
    assert_eq!(recorder.take(), []);
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    assert_eq!(recorder.take(), []);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(recorder.take(), [(FIRST_GSI + 1, Some(MESSAGE))]);
}

#[test]
fn the_usual_set_up_connects_each_vector_once() {
    let (mut msix, recorder) = msix();
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    for vector in 0..3 {
        mask(&mut msix, vector, true);
    }
    msix.set_control(CONTROL_ENABLE);
    for vector in 0..3 {
        write_message(&mut msix, vector);
        write_message(&mut msix, vector);
        mask(&mut msix, vector, false);
    }
    assert_eq!(recorder.take().len(), 3);
}

#[test]
fn a_masked_vector_is_disconnected_and_keeps_its_signal() {
    let (mut msix, recorder) = msix();
    msix.set_control(CONTROL_ENABLE);
    write_message(&mut msix, 2);
    mask(&mut msix, 2, false);
    mask(&mut msix, 2, true);
    assert_eq!(
        recorder.take(),
        [(FIRST_GSI + 2, Some(MESSAGE)), (FIRST_GSI + 2, None)]
    );

    assert_eq!(pending(&msix), 0);
    msix.interrupt(2).unwrap().signal().unwrap();
    assert_eq!(pending(&msix), 1 << 2);
    assert_eq!(pending(&msix), 1 << 2, "looking does not consume it");

    mask(&mut msix, 2, false);
    assert_eq!(*recorder.pending_at_connect.lock().unwrap(), 1);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn the_function_mask_covers_all_vectors() {
    let (mut msix, recorder) = msix();
    msix.set_control(CONTROL_ENABLE);
    for vector in 0..3 {
        write_message(&mut msix, vector);
        mask(&mut msix, vector, false);
    }
    recorder.take();
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    assert_eq!(recorder.take().len(), 3);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(recorder.take().len(), 3);
    msix.set_control(0);
    assert!(recorder.take().iter().all(|(_, message)| message.is_none()));
}

#[test]
fn a_message_changed_while_unmasked_is_routed_anew() {
    let (mut msix, recorder) = msix();
    msix.set_control(CONTROL_ENABLE);
    write_message(&mut msix, 0);
    mask(&mut msix, 0, false);
    recorder.take();
    msix.write_table(8, &0x55u32.to_le_bytes());
    let changed = Message {
        data: 0x55,
        ..MESSAGE
    };
    assert_eq!(recorder.take(), [(FIRST_GSI, Some(changed))]);
}

#[test]
fn accesses_of_any_size_and_place_stay_inside_the_table() {
    let (mut msix, _) = msix();
    for offset in 0..80 {
        for length in 0..=16 {
            let mut data = vec![0xaa; length];
            msix.read_table(offset, &mut data);
            msix.write_table(offset, &data);
            msix.read_pending(offset, &mut data);
        }
    }
    let mut beyond = [0xff; 8];
    msix.read_table(3 * ENTRY_SIZE, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

#[test]
fn there_is_no_fourth_vector() {
    let (msix, _) = msix();
    assert!(msix.interrupt(2).is_some());
    assert!(msix.interrupt(3).is_none());
    assert!(msix.interrupt(0xffff).is_none());
}

#[test]
fn the_capability_names_size_and_places() {
    let (msix, _) = msix();
    assert_eq!(
        msix.capability(0x4000, 0x5000),
        [2, 0, 0, 0x40, 0, 0, 0, 0x50, 0, 0]
    );
}

#[test]
fn what_is_written_behind_the_table_connects_nothing() {
    let (mut msix, recorder) = msix();
    msix.set_control(CONTROL_ENABLE);
    for vector in 3..256 {
        write_message(&mut msix, vector);
        mask(&mut msix, vector, false);
    }
    // Across the end of the table: the last vector stays masked.
    msix.write_table(3 * ENTRY_SIZE - 4, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(recorder.take(), []);
}
