//! Steers what is dialled on the loopback addresses of a network namespace to one listening socket,
//! whatever the port (Documentation/bpf/prog_sk_lookup.rst). No packet is changed and no rule of a
//! firewall is needed: the kernel asks the program which socket is to have a new connection. It goes
//! with its descriptor, so a dead shim leaves nothing behind.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use caisson_bpf::instruction::{
    ADD, AND, CALL, EXIT, JUMP, JUMP_IF, JUMP_UNLESS, LOAD_MAP, LOAD_WORD, MAP_DESCRIPTOR, MOVE,
    MOVE_REGISTER, STORE_WORD, instruction,
};
use caisson_bpf::{Kind, link_to_network, load, socket_map};

// Functions of the kernel and what the program answers.
const MAP_LOOKUP: i32 = 1;
const RELEASE_SOCKET: i32 = 86;
const ASSIGN_SOCKET: i32 = 124;
const PASS: i32 = 1;
// Fields of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

/// Connections are steered as long as this lives.
#[derive(Debug)]
pub(super) struct Steering {
    _link: OwnedFd,
}

impl Steering {
    /// Steers TCP connections to 127.0.0.0/8 and ::1 in `netns` to `listener`.
    ///
    /// # Errors
    /// What `bpf(2)` answers; `EINVAL` from a kernel before 5.9 or without sockmaps.
    pub(super) fn new(netns: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<Self> {
        let map = socket_map(listener)?;
        let program = load(Kind::SocketLookup, &program(map.as_raw_fd()))?;
        Ok(Self {
            _link: link_to_network(&program, netns)?,
        })
    }
}

/// `if protocol is TCP and the address is a loopback one: give it to the socket in the map`.
fn program(map: i32) -> Vec<u64> {
    const CONTEXT: u8 = 6;
    const SOCKET: u8 = 7;
    const STACK: u8 = 10;
    let load = |offset| instruction(LOAD_WORD, 2, CONTEXT, offset, 0);
    let mut program = vec![
        instruction(MOVE_REGISTER, CONTEXT, 1, 0, 0),
        load(PROTOCOL),
        instruction(JUMP_UNLESS, 2, 0, END, libc::IPPROTO_TCP),
        load(FAMILY),
        // To the first word of the IPv6 address.
        instruction(JUMP_IF, 2, 0, 5, libc::AF_INET6),
        instruction(JUMP_UNLESS, 2, 0, END, libc::AF_INET),
        load(LOCAL_IP4),
        instruction(AND, 2, 0, 0, 0xff),
        instruction(JUMP_UNLESS, 2, 0, END, 127),
        // Over the four words of the IPv6 address.
        instruction(JUMP, 0, 0, 8, 0),
    ];
    for (word, value) in (0..).zip([0, 0, 0, 1_i32.to_be()]) {
        program.push(load(LOCAL_IP6 + 4 * word));
        program.push(instruction(JUMP_UNLESS, 2, 0, END, value));
    }
    program.extend([
        instruction(STORE_WORD, STACK, 0, -4, 0),
        instruction(MOVE_REGISTER, 2, STACK, 0, 0),
        instruction(ADD, 2, 0, 0, -4),
        instruction(LOAD_MAP, 1, MAP_DESCRIPTOR, 0, map),
        0,
        instruction(CALL, 0, 0, 0, MAP_LOOKUP),
        instruction(JUMP_IF, 0, 0, END, 0),
        instruction(MOVE_REGISTER, SOCKET, 0, 0, 0),
        instruction(MOVE_REGISTER, 1, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, 2, SOCKET, 0, 0),
        instruction(MOVE, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, ASSIGN_SOCKET),
        instruction(MOVE_REGISTER, 1, SOCKET, 0, 0),
        instruction(CALL, 0, 0, 0, RELEASE_SOCKET),
        instruction(MOVE, 0, 0, 0, PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    let end = program.len() - 2;
    for (at, instruction) in program.iter_mut().enumerate() {
        let [code, registers, low, high, value @ ..] = instruction.to_le_bytes();
        let is_jump = matches!(code, JUMP_IF | JUMP_UNLESS);
        if is_jump && i16::from_le_bytes([low, high]) == END {
            // Relative to the next instruction; there are a few dozen.
            let distance = i16::try_from(end - at - 1).unwrap_or(END);
            let [low, high] = distance.to_le_bytes();
            let [a, b, c, d] = value;
            *instruction = u64::from_le_bytes([code, registers, low, high, a, b, c, d]);
        }
    }
    program
}

/// Stands for the distance to the last two instructions.
const END: i16 = i16::MAX;
