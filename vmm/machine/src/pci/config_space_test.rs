use super::{ConfigSpace, Identity};

const BAR: u8 = 0x10;

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1053,
        revision: 1,
        class: [0x07, 0x80, 0x00],
        subsystem: (0x1af4, 0x40),
    });
    space.add_bar(0xc000_0000, 0x8000);
    space
}

#[test]
fn the_header_says_who_the_function_is() {
    let space = space();
    assert_eq!(space.u32(0), 0x1053_1af4);
    assert_eq!(space.u32(8), 0x0780_0001);
    assert_eq!(space.u32(0x2c), 0x0040_1af4);
    assert_eq!(space.u8(0x0e), 0, "header type 0, one function");
    assert_eq!(space.u8(0x3d), 0, "no interrupt pin");
}

#[test]
fn what_the_guest_writes_to_the_identity_is_lost() {
    let mut space = space();
    space.write(0, &[0; 4]);
    space.write(8, &[0; 4]);
    assert_eq!(space.u32(0), 0x1053_1af4);
    assert_eq!(space.u32(8), 0x0780_0001);
}

#[test]
fn all_ones_in_a_bar_read_back_as_its_size() {
    let mut space = space();
    space.write(BAR, &[0xff; 4]);
    assert_eq!(space.u32(BAR), 0xffff_8000);
    for other in 1..6 {
        space.write(BAR + 4 * other, &[0xff; 4]);
        assert_eq!(space.u32(BAR + 4 * other), 0, "BAR {other} does not exist");
    }
    space.write(0x30, &[0xff; 4]);
    assert_eq!(space.u32(0x30), 0, "there is no expansion ROM");
}

#[test]
fn the_bar_is_decoded_only_while_memory_space_is_on() {
    let mut space = space();
    assert_eq!(space.decoded_bar(), None);
    space.write(4, &[2]);
    assert_eq!(space.decoded_bar(), Some((0xc000_0000, 0x8000)));
    space.write(BAR, &0xd123_4567u32.to_le_bytes());
    assert_eq!(space.decoded_bar(), Some((0xd123_0000, 0x8000)));
    space.write(4, &[0]);
    assert_eq!(space.decoded_bar(), None);
}

#[test]
fn only_known_command_bits_stick() {
    let mut space = space();
    space.write(4, &[0xff, 0xff]);
    assert_eq!(space.u16(4), 1 << 1 | 1 << 2 | 1 << 10);
    space.write(6, &[0xff, 0xff]);
    assert_eq!(space.u16(6), 0, "status has nothing to clear");
}

#[test]
fn capabilities_form_a_list() {
    let mut space = space();
    assert_eq!(space.u16(6) & 0x10, 0);
    let first = space.add_capability(9, &[0; 3]);
    let second = space.add_capability(0x11, &[0; 10]);
    assert_eq!(space.u16(6) & 0x10, 0x10);
    assert_eq!(space.u8(0x34), first);
    assert_eq!(space.u8(first), 9);
    assert_eq!(space.u8(first + 1), second);
    assert_eq!(second % 4, 0);
    assert_eq!(space.u8(second), 0x11);
    assert_eq!(space.u8(second + 1), 0);
}

#[test]
fn a_write_of_one_byte_changes_one_byte() {
    let mut space = space();
    space.write(BAR + 3, &[0xd0]);
    assert_eq!(space.u32(BAR), 0xd000_0000);
    space.write(BAR + 1, &[0xff]);
    assert_eq!(space.u32(BAR), 0xd000_8000);
}
