//! The smallest kernel that can be loaded, for tests.

/// Where it is, in memory and for its 64-bit entry.
const START: u64 = 0x100_0000;
/// Sizes of an ELF header and of a program header.
const HEADERS: u64 = 64 + 56;

/// A kernel with one segment, which is `program` and starts at its first byte.
pub(crate) fn test_kernel(program: &[u8]) -> Vec<u8> {
    let length = program.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend(START.to_le_bytes());
    bytes.extend(64u64.to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend([64, 0, 56, 0, 1, 0]);
    bytes.resize(64, 0);
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [HEADERS, 0, START, length, length, 4096] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(program);
    bytes
}
