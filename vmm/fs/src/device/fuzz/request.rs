//! FUSE requests by a driver that knows what it does, and at times does it wrong.
//!
//! Layouts and numbers are those of linux/fuse.h.

use virtiofsd::filesystem::ROOT_ID;

use crate::private_roots::NUMBER_BITS;

use super::Random;

/// What the guest got to know.
pub(super) struct Known {
    nodes: Vec<u64>,
    /// What is open: the node and its handle.
    open: Vec<(u64, u64)>,
    unique: u64,
}

/// A request without its header.
pub(super) struct Request {
    pub(super) operation: u32,
    pub(super) node: u64,
    pub(super) body: Vec<u8>,
}

/// Names that there are, and that come to be.
const NAMES: [&[u8]; 14] = [
    b"file",
    b"directory",
    b"inner",
    b"link",
    b"pod",
    b"rootfs",
    b"private",
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b".volumes",
];

/// Attributes by those names are kept, by others refused, or they mean something to the kernel.
const ATTRIBUTES: [&[u8]; 8] = [
    b"user.a",
    b"user.a",
    b"user.b",
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.a",
    b"",
];

/// Every operation that FUSE has, the usual ones more than once.
const OPERATIONS: [u32; 77] = [
    1, 1, 1, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 6, 6, 8, 8, 9, 9, 9, 10, 10, 11, 12, 12, 13, 13, 14, 14,
    14, 14, 15, 15, 15, 16, 16, 16, 16, 17, 18, 18, 20, 21, 21, 22, 22, 23, 24, 25, 26, 27, 27, 28,
    28, 29, 30, 31, 33, 34, 35, 35, 35, 35, 36, 39, 40, 41, 42, 43, 43, 43, 44, 45, 46, 47, 48, 50,
];
/// Those that are rare, because the guest has little left afterwards, or that are none.
const RARE: [u32; 10] = [38, 51, 0, 7, 19, 32, 37, 49, 4096, u32::MAX];

/// The operations of which some are carried out when a driver knows what it does.
pub(super) const CARRIED_OUT: [u32; 34] = [
    1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 34, 35, 43, 44, 45, 46, 47,
];

/// The operations without names and lengths in them: where all of the request is there, and room for
/// an answer, they are answered, whatever their fields say.
pub(super) const ANSWERED: [u32; 19] = [
    3, 4, 5, 14, 15, 17, 18, 20, 25, 27, 28, 29, 30, 34, 43, 44, 46, 47, 50,
];

/// What the flags of open(2) are made of.
const OPEN_FLAGS: [i32; 10] = [
    libc::O_WRONLY,
    libc::O_RDWR,
    libc::O_APPEND,
    libc::O_TRUNC,
    libc::O_EXCL,
    libc::O_CREAT,
    libc::O_DIRECT,
    libc::O_PATH,
    libc::O_NOFOLLOW,
    libc::O_TMPFILE,
];

impl Known {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![ROOT_ID],
            open: Vec::new(),
            unique: 0,
        }
    }

    /// FUSE_INIT as a recent Linux sends it, with all there is but FUSE_SECURITY_CTX.
    pub(super) fn init() -> Request {
        let body = Body::default().u32s(&[7, 38, 1 << 20, !0, !0, 0, 0, 0]);
        Request {
            operation: 26,
            node: 0,
            body: body.zeros(32),
        }
    }

    /// LOOKUP of a file that there was at the beginning.
    pub(super) fn plain() -> Request {
        Request {
            operation: 1,
            node: ROOT_ID,
            body: b"file\0".to_vec(),
        }
    }

    /// The bytes of a request with a header that fits, and its number.
    pub(super) fn bytes(&mut self, user: [u32; 2], request: &Request) -> (Vec<u8>, u64) {
        self.unique += 1;
        let length = 40 + u32::try_from(request.body.len()).unwrap();
        let bytes = Body::default()
            .u32s(&[length, request.operation])
            .u64s(&[self.unique, request.node])
            .u32s(&user)
            .u32s(&[1, 0])
            .bytes(&request.body);
        (bytes, self.unique)
    }

    /// Some request.
    pub(super) fn request(&self, random: &mut Random) -> Request {
        let operation = match random.below(80) {
            0 => random.pick(&RARE),
            1 => random.number() as u32,
            _ => random.pick(&OPERATIONS),
        };
        let (node, body) = self.body(random, operation);
        Request {
            operation,
            node,
            body,
        }
    }

    fn body(&self, random: &mut Random, operation: u32) -> (u64, Vec<u8>) {
        let node = self.node(random);
        let (opened, handle) = self.opened(random);
        let body = Body::default();
        match operation {
            1 | 10 | 11 => (node, body.bytes(&name(random))),
            2 => (self.forgotten(random), body.u64s(&[small(random)])),
            3 => (opened, body.u32s(&[flag(random), 0]).u64s(&[handle])),
            4 => (opened, attributes(random, handle)),
            6 => {
                let to = random.pick(&[&b"file\0"[..], b"../outside\0", b"/etc/passwd\0", b"\0"]);
                (
                    node,
                    body.bytes(&name(random)).bytes(to).bytes(&groups(random)),
                )
            }
            8 => {
                let kind = random.pick(&[0o100_000, 0o10_000, 0o20_000, 0o60_000, 0o140_000, 0]);
                let mode = kind | (random.next() as u32 & 0o7777);
                let made = body.u32s(&[mode, random.number() as u32, 0, 0]);
                (node, made.bytes(&name(random)).bytes(&groups(random)))
            }
            9 => {
                let made = body.u32s(&[random.next() as u32 & 0o7777, 0]);
                (node, made.bytes(&name(random)).bytes(&groups(random)))
            }
            12 => {
                let renamed = body.u64s(&[self.node(random)]).bytes(&name(random));
                (node, renamed.bytes(&name(random)))
            }
            13 => (node, body.u64s(&[self.node(random)]).bytes(&name(random))),
            14 | 27 => (node, body.u32s(&[open_flags(random), flag(random)])),
            15 | 28 | 44 => {
                let size = random.pick(&[0, 16, 24, 152, 4096, 65536, u32::MAX]);
                let read = body
                    .u64s(&[handle, place(random)])
                    .u32s(&[size, flag(random)]);
                (
                    opened,
                    read.u64s(&[random.number()]).u32s(&[open_flags(random), 0]),
                )
            }
            16 => {
                let length = random.pick(&[0, 1, 7, 4096, 5000, 40_000]);
                let length = random.index(length + 1);
                let told = if random.one_in(8) {
                    random.number() as u32
                } else {
                    length as u32
                };
                let write = body
                    .u64s(&[handle, place(random)])
                    .u32s(&[told, flag(random)]);
                let write = write
                    .u64s(&[random.number()])
                    .u32s(&[open_flags(random), 0]);
                (opened, write.zeros(length))
            }
            18 | 29 => {
                let release = body
                    .u64s(&[handle])
                    .u32s(&[open_flags(random), flag(random)]);
                (opened, release.u64s(&[random.number()]))
            }
            20 | 30 => (opened, body.u64s(&[handle]).u32s(&[flag(random), 0])),
            21 => {
                let length = random.pick(&[0, 1, 20, 44, 4096, 65536, 65537]);
                let told = if random.one_in(8) {
                    random.number() as u32
                } else {
                    length
                };
                let set = body.u32s(&[told, flag(random), flag(random), 0]);
                let value = random.bytes((length as usize).min(64));
                let set = set.bytes(&attribute(random)).bytes(&value);
                (node, set.zeros((length as usize) - value.len()))
            }
            22 => {
                let size = random.pick(&[0, 1, 100, 65536, u32::MAX]);
                (node, body.u32s(&[size, 0]).bytes(&attribute(random)))
            }
            23 => (
                node,
                body.u32s(&[random.pick(&[0, 1, 100, 65536, u32::MAX]), 0]),
            ),
            24 => (node, body.bytes(&attribute(random))),
            25 => (opened, body.u64s(&[handle, 0, random.number()])),
            26 => {
                let versions = [
                    random.pick(&[7, 7, 7, 6, 8, u32::MAX]),
                    random.pick(&[38, 38, 26, 0]),
                ];
                let mut offered = random.next() as u32;
                if !random.one_in(50) {
                    // FUSE_SUBMOUNTS, without which the library grumbles.
                    offered |= 1 << 27;
                }
                let body = body
                    .u32s(&versions)
                    .u32s(&[random.number() as u32, offered]);
                (0, body.u32s(&[random.next() as u32]).zeros(44))
            }
            34 => (
                node,
                body.u32s(&[random.pick(&[0, 1, 2, 4, 7, u32::MAX]), 0]),
            ),
            35 => {
                let made = body.u32s(&[open_flags(random), random.next() as u32 & 0o7777]);
                let made = made.u32s(&[0, flag(random)]);
                (node, made.bytes(&name(random)).bytes(&groups(random)))
            }
            42 => {
                let forgotten: Vec<u64> = (0..random.below(5))
                    .flat_map(|_| [self.forgotten(random), small(random)])
                    .collect();
                let count = forgotten.len() as u32 / 2;
                let count = if random.one_in(8) {
                    random.number() as u32
                } else {
                    count
                };
                (0, body.u32s(&[count, 0]).u64s(&forgotten))
            }
            43 => {
                let mode = random.pick(&[0, 0, 1, 3, 8, 16, 32, 64, u32::MAX]);
                let range = [handle, place(random), place(random)];
                (opened, body.u64s(&range).u32s(&[mode, 0]))
            }
            45 => {
                let flags = random.pick(&[0, 1, 2, 3, 4, u32::MAX]);
                let renamed = body.u64s(&[self.node(random)]).u32s(&[flags, 0]);
                (node, renamed.bytes(&name(random)).bytes(&name(random)))
            }
            46 => {
                let whence = random.pick(&[0, 1, 2, 3, 4, 5, u32::MAX]);
                (
                    opened,
                    body.u64s(&[handle, place(random)]).u32s(&[whence, 0]),
                )
            }
            47 => {
                let (to, other) = self.opened(random);
                let copy = [handle, place(random), to, other, place(random)];
                let flags = if random.one_in(8) { random.number() } else { 0 };
                (opened, body.u64s(&copy).u64s(&[place(random), flags]))
            }
            // Those without a body, or of which it is not read.
            _ => {
                let length = random.index(65);
                (node, body.bytes(&random.bytes(length)))
            }
        }
    }

    /// Takes note of what an answer without an error tells.
    pub(super) fn learn(&mut self, request: &Request, answer: &[u8]) {
        let word = |at: usize| {
            let bytes = answer.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        match request.operation {
            1 | 6 | 8 | 9 | 13 | 35 => self.nodes.extend(word(0).filter(|node| *node != 0)),
            14 | 27 => self
                .open
                .extend(word(0).map(|handle| (request.node, handle))),
            _ => {}
        }
        if request.operation == 35
            && let (Some(node), Some(handle)) = (word(0), word(128))
        {
            self.open.push((node, handle));
        }
    }

    fn node(&self, random: &mut Random) -> u64 {
        match random.below(24) {
            0 => random.number(),
            1 => random.pick(&self.nodes) ^ random.pick(&NUMBER_BITS),
            2..8 => ROOT_ID,
            _ => random.pick(&self.nodes),
        }
    }

    /// As [`Known::node`], and rarely the root, without which there is little left to do.
    fn forgotten(&self, random: &mut Random) -> u64 {
        match random.pick(&self.nodes) {
            ROOT_ID if !random.one_in(16) => 0,
            node => node,
        }
    }

    /// A node and a handle, which mostly belong together.
    fn opened(&self, random: &mut Random) -> (u64, u64) {
        if self.open.is_empty() || random.one_in(12) {
            return (self.node(random), random.number());
        }
        let (node, handle) = random.pick(&self.open);
        if random.one_in(12) {
            (self.node(random), handle)
        } else {
            (node, handle)
        }
    }
}

/// A name with its end.
fn name(random: &mut Random) -> Vec<u8> {
    let mut name = match random.below(24) {
        0 => Vec::new(),
        1 => b".".to_vec(),
        2 => b"..".to_vec(),
        3 => {
            let ways = [
                &b"../outside"[..],
                b"/etc/passwd",
                b"link/a",
                b"directory/../../a",
                b"a/",
            ];
            random.pick(&ways).to_vec()
        }
        4 => vec![b'x'; random.pick(&[254, 255, 256, 4095, 4096, 20_000])],
        5 => {
            let length = random.index(12);
            random.bytes(length)
        }
        _ => random.pick(&NAMES).to_vec(),
    };
    if !random.one_in(64) {
        name.push(0);
    }
    name
}

/// The name of an extended attribute with its end.
fn attribute(random: &mut Random) -> Vec<u8> {
    if random.one_in(12) {
        return name(random);
    }
    [random.pick(&ATTRIBUTES), b"\0"].concat()
}

/// An extension (`fuse_ext_header`) with the groups of the process that asks, or none.
fn groups(random: &mut Random) -> Vec<u8> {
    if !random.one_in(6) {
        return Vec::new();
    }
    let count = random.below(6) as u32;
    let mut extension = Body::default().u32s(&[0, 32, count]);
    for _ in 0..count {
        extension.extend(random.pick(&[0u32, 5, 1234, u32::MAX]).to_le_bytes());
    }
    extension.resize(extension.len().next_multiple_of(8), 0);
    let length = match random.below(6) {
        0 => random.number() as u32,
        _ => extension.len() as u32,
    };
    extension[..4].copy_from_slice(&length.to_le_bytes());
    if random.one_in(6) {
        extension[4..8].copy_from_slice(&(random.number() as u32).to_le_bytes());
    }
    extension
}

/// The body of SETATTR.
fn attributes(random: &mut Random, handle: u64) -> Vec<u8> {
    let valid = match random.below(4) {
        0 => random.next() as u32,
        _ => 1 << random.below(13),
    };
    let size = place(random);
    let times = [random.number(), random.number(), random.number()];
    Body::default()
        .u32s(&[valid, 0])
        .u64s(&[handle, size, random.number()])
        .u64s(&times)
        .u32s(&[random.number() as u32, random.number() as u32, 0])
        .u32s(&[random.next() as u32, 0])
        .u32s(&[random.pick(&[0, 1234, u32::MAX]), random.number() as u32, 0])
}

fn open_flags(random: &mut Random) -> u32 {
    let mut flags = random.pick(&[libc::O_RDONLY, libc::O_RDWR]) as u32;
    while random.one_in(4) {
        flags |= random.pick(&OPEN_FLAGS) as u32;
    }
    match random.below(40) {
        0 => random.next() as u32,
        _ => flags,
    }
}

/// One bit, mostly a low one, or none.
fn flag(random: &mut Random) -> u32 {
    match random.below(16) {
        0 => random.next() as u32,
        1..8 => 1 << random.below(4),
        _ => 0,
    }
}

/// A place in a file or the length of a part.
fn place(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.number(),
        1 => 0,
        2 => (random.number() >> 1) & !0xfff,
        _ => random.below(100_000),
    }
}

fn small(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.number(),
        _ => 1,
    }
}

/// Bytes in the order of the guest.
trait Fields: Sized {
    fn u32s(self, values: &[u32]) -> Self;
    fn u64s(self, values: &[u64]) -> Self;
    fn bytes(self, bytes: &[u8]) -> Self;
    fn zeros(self, count: usize) -> Self;
}

type Body = Vec<u8>;

impl Fields for Body {
    fn u32s(mut self, values: &[u32]) -> Self {
        self.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn u64s(mut self, values: &[u64]) -> Self {
        self.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.extend(bytes);
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.resize(self.len() + count, 0);
        self
    }
}
