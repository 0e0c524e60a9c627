//! A guest in miniature: memory, two queues, a vhost-user frontend, and FUSE requests by hand.
#![allow(
    unsafe_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

mod shared;

pub use shared::{Shared, mount_tmpfs};

const MEMORY: usize = 4 << 20;
const QUEUE_SIZE: u16 = 8;
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
/// VERSION_1, EVENT_IDX, INDIRECT_DESC and the vhost-user protocol features.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 30;
/// No answer of the server takes as long as this.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// The server's process.
pub struct Server(pub Child);

impl Server {
    /// Starts it with these as descriptors 3 and 4.
    pub fn start(descriptors: &[Option<OwnedFd>; 2]) -> Self {
        Self(command(descriptors).spawn().unwrap())
    }

    /// The same with a limit of open files, which it has not the privilege to raise.
    pub fn start_limited(descriptors: &[Option<OwnedFd>; 2], files: u64) -> Self {
        let limit = rustix::process::Rlimit {
            current: Some(files),
            maximum: Some(files),
        };
        let mut command = command(descriptors);
        // SAFETY: two system calls between fork and exec, which allocate nothing.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
                let raise = rustix::thread::CapabilitySet::SYS_RESOURCE;
                Ok(rustix::thread::remove_capability_from_bounding_set(raise)?)
            })
        };
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end; gives its status and what it said.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap(), said)
    }
}

/// The program with these as descriptors 3 and 4.
fn command(descriptors: &[Option<OwnedFd>; 2]) -> Command {
    let high: Vec<_> = descriptors
        .iter()
        .map(|fd| {
            fd.as_ref()
                .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 10).unwrap())
        })
        .collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_caisson-fs"));
    command.stderr(Stdio::piped()).stdin(Stdio::null());
    // SAFETY: `place` only calls dup2 and close between fork and exec.
    unsafe { command.pre_exec(move || place(&high)) };
    command
}

/// Makes the descriptors 3 and 4, or sees to it that they are closed.
fn place(descriptors: &[Option<OwnedFd>]) -> std::io::Result<()> {
    for (number, fd) in (3..).zip(descriptors) {
        match fd {
            // SAFETY: the child has no other use for this number.
            Some(fd) => unsafe { libc::dup2(fd.as_raw_fd(), number) },
            // SAFETY: as above.
            None => unsafe { libc::close(number) },
        };
    }
    Ok(())
}

/// An answer: the error number, 0 for none, and what follows the header.
pub struct Answer {
    pub error: i32,
    pub data: Vec<u8>,
}

impl Answer {
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.data[at..at + 4].try_into().unwrap())
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.data[at..at + 8].try_into().unwrap())
    }
}

/// What LOOKUP and its like tell of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub inode: u64,
    pub mode: u32,
    pub uid: u32,
    pub submount: bool,
    /// Whether it can be used without being opened.
    pub no_open: bool,
    /// For how many seconds the name may be believed.
    pub valid: u64,
}

struct Queue {
    base: u64,
    kick: EventFd,
    call: EventFd,
    next: u16,
}

impl Queue {
    fn new(base: u64) -> Self {
        Self {
            base,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            next: 0,
        }
    }

    fn driver(&self) -> u64 {
        self.base + 0x100
    }

    fn device(&self) -> u64 {
        self.base + 0x200
    }
}

/// The VMM and the guest in one.
pub struct Guest {
    memory: GuestMemoryMmap<()>,
    frontend: Frontend,
    queues: [Queue; 2],
    unique: u64,
    /// Bytes that it leaves for an answer.
    pub room: u32,
    /// User and group of the process in the guest that asks.
    pub user: u32,
}

impl Guest {
    /// Sets everything up over `socket`.
    pub fn connect(socket: UnixStream) -> Self {
        let memfd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, MEMORY as u64).unwrap();
        let file = FileOffset::new(File::from(memfd), 0);
        let region = GuestRegionMmap::from_range(GuestAddress(0), MEMORY, Some(file)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let mut frontend = Frontend::from_stream(socket, 2);
        assert_eq!(frontend.get_features().unwrap() & FEATURES, FEATURES);
        let protocol = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        assert!(frontend.get_protocol_features().unwrap().contains(protocol));
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(frontend.get_queue_num().unwrap(), 2);
        frontend.set_owner().unwrap();
        frontend.set_features(FEATURES).unwrap();
        let regions: Vec<_> = memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        frontend.set_mem_table(&regions).unwrap();
        let mut guest = Self {
            memory,
            frontend,
            queues: [Queue::new(0x1000), Queue::new(0x2000)],
            unique: 0,
            room: 1 << 20,
            user: 0,
        };
        guest.start_queue(0);
        guest.start_queue(1);
        guest
    }

    /// Hands one queue over.
    pub fn start_queue(&mut self, index: usize) {
        let queue = &self.queues[index];
        let here = |address| {
            let pointer = self.memory.get_host_address(GuestAddress(address)).unwrap();
            pointer as u64
        };
        let addresses = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: here(queue.base),
            avail_ring_addr: here(queue.driver()),
            used_ring_addr: here(queue.device()),
            log_addr: None,
        };
        let frontend = &mut self.frontend;
        frontend.set_vring_num(index, QUEUE_SIZE).unwrap();
        frontend.set_vring_addr(index, &addresses).unwrap();
        frontend.set_vring_base(index, queue.next).unwrap();
        frontend.set_vring_call(index, &queue.call).unwrap();
        frontend.set_vring_kick(index, &queue.kick).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }

    /// Takes one queue back; gives the index of its next request.
    pub fn stop_queue(&mut self, index: usize) -> u32 {
        self.frontend.get_vring_base(index).unwrap()
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let address = GuestAddress(address);
        self.memory.write_slice(bytes, address).unwrap();
    }

    /// Sends a FUSE request and waits for its answer.
    pub fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        self.try_ask(opcode, node, body)
            .expect("the server answers")
    }

    /// As `ask`; `None` when the server ends instead.
    pub fn try_ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<Answer> {
        let written = self.send(opcode, node, body)?;
        let mut reply = vec![0; written as usize];
        self.memory
            .read_slice(&mut reply, GuestAddress(REPLY))
            .unwrap();
        assert_eq!(reply[..4], written.to_le_bytes());
        assert_eq!(reply[8..16], self.unique.to_le_bytes());
        Some(Answer {
            error: -i32::from_le_bytes(reply[4..8].try_into().unwrap()),
            data: reply.split_off(16),
        })
    }

    /// Takes back so many lookups of a node, which is not answered.
    pub fn forget(&mut self, node: u64, lookups: u64) {
        let written = self.send(2, node, &lookups.to_le_bytes());
        assert_eq!(written, Some(0));
    }

    /// Sends a request; gives the length of the reply, `None` when the server ends instead.
    pub fn send(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<u32> {
        self.unique += 1;
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend(opcode.to_le_bytes());
        request.extend(self.unique.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend(self.user.to_le_bytes());
        request.extend(self.user.to_le_bytes());
        request.extend([0; 8]);
        request.extend(body);
        self.send_bytes(&request)
    }

    /// Sends whatever this is; gives the length of the reply, `None` when the server ends instead.
    pub fn send_bytes(&mut self, request: &[u8]) -> Option<u32> {
        self.write(REQUEST, request);
        self.exchange(request.len() as u32)
    }

    /// Puts the request of this length into the queue; gives the length of the reply.
    pub fn exchange(&mut self, request: u32) -> Option<u32> {
        let queue = &self.queues[1];
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            bytes
        };
        self.write(queue.base, &descriptor(REQUEST, request, 1, 1));
        self.write(queue.base + 16, &descriptor(REPLY, self.room, 2, 0));
        let slot = u64::from(queue.next % QUEUE_SIZE);
        self.write(queue.driver() + 4 + 2 * slot, &0u16.to_le_bytes());
        // Interrupt when this one is used.
        let used_event = queue.driver() + 4 + 2 * u64::from(QUEUE_SIZE);
        self.write(used_event, &queue.next.to_le_bytes());
        let next = queue.next.wrapping_add(1);
        let index = GuestAddress(queue.driver() + 2);
        self.memory.store(next, index, Ordering::Release).unwrap();
        queue.kick.write(1).unwrap();
        self.queues[1].next = next;

        let queue = &self.queues[1];
        let call = queue.call.as_raw_fd();
        // SAFETY: the descriptor belongs to `queue`, which outlives the borrow.
        let call = unsafe { std::os::fd::BorrowedFd::borrow_raw(call) };
        let socket = self.frontend.as_raw_fd();
        // SAFETY: as above, of the frontend.
        let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket) };
        let mut fds = [
            PollFd::new(&call, PollFlags::IN),
            PollFd::new(&socket, PollFlags::RDHUP),
        ];
        let ready = rustix::event::poll(&mut fds, Some(&PATIENCE)).unwrap();
        assert_ne!(ready, 0, "no answer and no end");
        if fds[0].revents().is_empty() {
            return None;
        }
        queue.call.read().unwrap();
        let used = GuestAddress(queue.device() + 2);
        let index: u16 = self.memory.load(used, Ordering::Acquire).unwrap();
        assert_eq!(index, queue.next);
        let entry = queue.device() + 4 + 8 * slot;
        let written: u32 = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        Some(written)
    }

    /// FUSE_INIT with the features of a recent Linux.
    pub fn init(&mut self) -> Answer {
        let mut body = Vec::new();
        for value in [7u32, 38, 1 << 20, !(1 << 30)] {
            body.extend(value.to_le_bytes());
        }
        body.resize(64, 0);
        let answer = self.ask(26, 0, &body);
        assert_eq!(answer.error, 0);
        answer
    }

    /// LOOKUP of a name in a directory.
    pub fn lookup(&mut self, directory: u64, name: &str) -> Result<Entry, i32> {
        let answer = self.ask(1, directory, &terminated(name));
        entry(&answer)
    }

    /// OPEN; gives the handle.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let mut body = (flags as u32).to_le_bytes().to_vec();
        body.extend([0; 4]);
        let answer = self.ask(14, node, &body);
        if answer.error != 0 {
            return Err(answer.error);
        }
        Ok(answer.u64(0))
    }

    /// READ of up to 64 KiB from the start.
    pub fn read(&mut self, node: u64, handle: u64) -> Vec<u8> {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend(0u64.to_le_bytes());
        body.extend(65536u32.to_le_bytes());
        body.extend([0; 20]);
        let answer = self.ask(15, node, &body);
        assert_eq!(answer.error, 0);
        answer.data
    }

    /// CREATE for writing; gives entry and handle.
    pub fn create(&mut self, directory: u64, name: &str, mode: u32) -> Result<(Entry, u64), i32> {
        let mut body = Vec::new();
        for value in [(libc::O_RDWR | libc::O_CREAT) as u32, mode, 0, 0] {
            body.extend(value.to_le_bytes());
        }
        body.extend(terminated(name));
        let answer = self.ask(35, directory, &body);
        Ok((entry(&answer)?, answer.u64(128)))
    }

    /// WRITE at the start; `kill` asks for the removal of set-user-id bits.
    pub fn write_file(&mut self, node: u64, handle: u64, data: &[u8], kill: bool) -> Answer {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend(0u64.to_le_bytes());
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(if kill { 4u32 } else { 0 }.to_le_bytes());
        body.extend([0; 16]);
        body.extend(data);
        self.ask(16, node, &body)
    }
}

/// A name as FUSE wants it.
pub fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn entry(answer: &Answer) -> Result<Entry, i32> {
    if answer.error != 0 {
        return Err(answer.error);
    }
    // The attributes begin after node, generation and validities.
    Ok(Entry {
        node: answer.u64(0),
        inode: answer.u64(40),
        mode: answer.u32(40 + 60),
        uid: answer.u32(40 + 68),
        submount: answer.u32(40 + 84) & 1 != 0,
        no_open: answer.u32(40 + 84) & 1 << 31 != 0,
        valid: answer.u64(16),
    })
}

/// A server for the directory, and the guest that it serves.
pub fn serve(shared: &Shared) -> (Server, Guest) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::start(&[Some(theirs.into()), Some(shared.open())]);
    let mut guest = Guest::connect(ours);
    guest.init();
    (server, guest)
}
