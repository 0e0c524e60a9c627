use caisson_control::ExitReason;

use super::super::Function;
use super::Pvpanic;

#[test]
fn a_panic_is_the_end_and_other_events_are_not() {
    let (events, receiver) = crate::events::channel().unwrap();
    let mut device = Pvpanic::new(0xc000_0000, events);
    let mut supported = [0];
    device.bar_read(0, &mut supported);
    assert_eq!(supported, [1]);

    device.bar_write(0, &[0x02]);
    device.bar_write(1, &[0x01]);
    device.bar_write(0, &[]);
    assert_eq!(receiver.exit_reason(), None);
    device.bar_write(0, &[0x01]);
    assert_eq!(receiver.exit_reason(), Some(&ExitReason::Panic));
}
