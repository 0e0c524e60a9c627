//! Steers what is dialled on the loopback addresses of a network namespace to one listening socket,
//! whatever the port (Documentation/bpf/prog_sk_lookup.rst). No packet is changed and no rule of a
//! firewall is needed: the kernel asks the program which socket is to have a new connection. It goes
//! with its descriptor, so a dead shim leaves nothing behind.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// Commands and types of `bpf(2)`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

/// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`; what follows is zero.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

/// The same for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

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
        let map = MapCreate {
            kind: BPF_MAP_TYPE_SOCKMAP,
            key_size: 4,
            value_size: 8,
            entries: 1,
        };
        let map = made(bpf(BPF_MAP_CREATE, &map)?)?;
        let (key, value) = (0_u32, u64::from(number(&listener)?));
        let update = MapUpdate {
            map: number(&map)?.into(),
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update)?;
        let program = program(map.as_raw_fd());
        // Nothing in the program is only for the GPL.
        let license = c"Apache-2.0";
        let load = ProgramLoad {
            kind: BPF_PROG_TYPE_SK_LOOKUP,
            count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            attach_type: BPF_SK_LOOKUP,
            ..ProgramLoad::default()
        };
        let program = made(bpf(BPF_PROG_LOAD, &load)?)?;
        let link = LinkCreate {
            program: number(&program)?,
            target: number(&netns)?,
            attach_type: BPF_SK_LOOKUP,
            flags: 0,
        };
        Ok(Self {
            _link: made(bpf(BPF_LINK_CREATE, &link)?)?,
        })
    }
}

fn number(fd: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `attributes`, whose type belongs to the command, and what it points
    // to, all of which live in the caller until this returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// The descriptor that a call has made.
fn made(fd: i32) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::other("the standard streams are closed"));
    }
    // SAFETY: the call made this descriptor, which is closed on exec, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// The instruction set: kernel documentation, bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// In the source register of [`LOAD_MAP`]: the value is the descriptor of a map.
const MAP_DESCRIPTOR: u8 = 1;
const MAP_LOOKUP: i32 = 1;
const RELEASE_SOCKET: i32 = 86;
const ASSIGN_SOCKET: i32 = 124;
const PASS: i32 = 1;
// Fields of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

/// One instruction as the kernel's `struct bpf_insn` on a little-endian machine.
fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
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
