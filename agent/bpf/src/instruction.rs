//! The instruction set (kernel documentation, bpf/standardization/instruction-set.rst), as far as
//! it is used here. Jumps are relative to the instruction after them.

/// Loads a word from the address in a register and an offset.
pub const LOAD_WORD: u8 = 0x61;
/// Stores a constant word there.
pub const STORE_WORD: u8 = 0x62;
/// Loads a map, named by its descriptor if the source register is [`MAP_DESCRIPTOR`]. Takes two
/// places; the second is zero.
pub const LOAD_MAP: u8 = 0x18;
/// Sets a register to a constant.
pub const MOVE: u8 = 0xb7;
/// Sets a register to another.
pub const MOVE_REGISTER: u8 = 0xbf;
/// Adds a constant.
pub const ADD: u8 = 0x07;
/// Keeps the bits of a constant.
pub const AND: u8 = 0x57;
/// Shifts to the right by a constant.
pub const SHIFT_RIGHT: u8 = 0x77;
/// Jumps.
pub const JUMP: u8 = 0x05;
/// Jumps if a register is a constant.
pub const JUMP_IF: u8 = 0x15;
/// Jumps if a register is not a constant.
pub const JUMP_UNLESS: u8 = 0x55;
/// Calls a function of the kernel, whose number is the constant.
pub const CALL: u8 = 0x85;
/// Ends the program; register 0 is its answer.
pub const EXIT: u8 = 0x95;

/// In the source register of [`LOAD_MAP`]: the value is the descriptor of a map.
pub const MAP_DESCRIPTOR: u8 = 1;

/// One instruction as the kernel's `struct bpf_insn` on a little-endian machine: what to do, the
/// registers it changes and reads (0 to 10), an offset and a constant.
#[must_use]
pub const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}
