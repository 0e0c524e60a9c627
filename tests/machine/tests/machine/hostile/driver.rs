//! What a driver of virtio over PCI does (virtio 1.3 §3.1, §4.1), as steps, of which a test changes
//! those that it wants to be wrong.

use caisson_machine_tests::Step;

/// Descriptors of a queue, unless a test is about that.
pub(super) const SIZE: u16 = 16;
/// Where buffers are in the arena; the queues are below.
pub(super) const BUFFERS: u32 = 0x10_0000;

/// Registers of the common configuration, at the beginning of the BAR.
const DRIVER_FEATURE_SELECT: u16 = 8;
const DRIVER_FEATURES: u16 = 12;
pub(super) const NUM_QUEUES: u16 = 18;
pub(super) const STATUS: u16 = 20;
pub(super) const QUEUE_SELECT: u16 = 22;
const QUEUE_SIZE: u16 = 24;
const QUEUE_VECTOR: u16 = 26;
const QUEUE_ENABLE: u16 = 28;
const QUEUE_DESC: u16 = 32;
const QUEUE_DRIVER: u16 = 40;
const QUEUE_DEVICE: u16 = 48;
/// Where queues are notified, four bytes for each.
const NOTIFY: u16 = 0x3000;

/// Bits of the status.
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FEATURES_OK: u8 = 8;
/// Everything a driver sets before the features, with them, and at last.
const KNOWN: u8 = 1 | 2;
const READY: u8 = KNOWN | FEATURES_OK | 4;

/// The features without which no device works, and those of rings that ours have.
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const INDIRECT: u64 = 1 << 28;

/// Flags of a descriptor.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const TABLE: u16 = 4;

/// A descriptor (virtio 1.3 §2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    pub(super) fn new(address: u64, length: u32, flags: u16, next: u16) -> Self {
        Self {
            address,
            length,
            flags,
            next,
        }
    }

    pub(super) fn bytes(self) -> impl Iterator<Item = u8> {
        let Self {
            address,
            length,
            flags,
            next,
        } = self;
        let rest = [flags.to_le_bytes(), next.to_le_bytes()].concat();
        let first = [
            address.to_le_bytes().to_vec(),
            length.to_le_bytes().to_vec(),
        ]
        .concat();
        first.into_iter().chain(rest)
    }
}

/// What the registers of a queue say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) desc: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) enabled: bool,
}

/// Makes the steps of a driver of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driver {
    pub(super) slot: u8,
    pub(super) queues: u16,
    arena: u64,
    /// Where the capability is through whose data register the BAR can be reached, if that is the
    /// way to take.
    window: Option<u8>,
}

impl Driver {
    pub(super) fn new(slot: u8, queues: u16, arena: u64) -> Self {
        Self {
            slot,
            queues,
            arena,
            window: None,
        }
    }

    /// The same through the capability at this offset (virtio 1.3 §4.1.4.9), wherever the BAR is.
    pub(super) fn through(self, window: u8) -> Self {
        Self {
            window: Some(window),
            ..self
        }
    }

    /// Where the parts of a queue are in the arena: descriptors, available ring and used ring.
    pub(super) fn places(queue: u16) -> [u32; 3] {
        let start = u32::from(queue) * 0x4000;
        [start, start + 0x1000, start + 0x2000]
    }

    /// Guest physical address of a place in the arena.
    pub(super) fn address(&self, at: u32) -> u64 {
        self.arena + u64::from(at)
    }

    /// Takes the device from the kernel.
    pub(super) fn seize(&self) -> Step {
        self.bind(false)
    }

    /// Gives it back.
    pub(super) fn release(&self) -> Step {
        self.bind(true)
    }

    fn bind(&self, bound: bool) -> Step {
        let slot = self.slot;
        Step::Bind { slot, bound }
    }

    /// Writes a register of the BAR.
    pub(super) fn write(&self, offset: u16, width: u8, value: u64) -> Vec<Step> {
        let slot = self.slot;
        let Some(window) = self.window else {
            return vec![Step::Write {
                slot,
                offset,
                width,
                value,
            }];
        };
        let configure = |at: u8, width, value| Step::Configure {
            slot,
            offset: window + at,
            width,
            value,
        };
        vec![
            configure(8, 4, offset.into()),
            configure(12, 4, width.into()),
            configure(16, 4, value),
        ]
    }

    pub(super) fn status(&self, bits: u8) -> Vec<Step> {
        self.write(STATUS, 1, bits.into())
    }

    /// Waits until the device says that it cannot go on.
    pub(super) fn until_it_stops(&self) -> Step {
        Step::Until {
            slot: self.slot,
            offset: STATUS,
            mask: NEEDS_RESET,
        }
    }

    /// Resets it, and says which features the driver takes.
    pub(super) fn negotiate(&self, features: u64) -> Vec<Step> {
        let mut steps = self.status(0);
        steps.extend(self.status(1));
        steps.extend(self.status(KNOWN));
        for (select, word) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            steps.extend(self.write(DRIVER_FEATURE_SELECT, 4, select));
            steps.extend(self.write(DRIVER_FEATURES, 4, word));
        }
        steps.extend(self.status(KNOWN | FEATURES_OK));
        steps
    }

    /// Registers as they should be.
    pub(super) fn registers(&self, queue: u16) -> Registers {
        let [desc, driver, device] = Self::places(queue).map(|place| self.address(place));
        Registers {
            size: SIZE,
            vector: u16::MAX,
            desc,
            driver,
            device,
            enabled: true,
        }
    }

    /// Sets the registers of a queue.
    pub(super) fn set(&self, queue: u16, registers: Registers) -> Vec<Step> {
        let mut steps = self.write(QUEUE_SELECT, 2, queue.into());
        steps.extend(self.write(QUEUE_SIZE, 2, registers.size.into()));
        steps.extend(self.write(QUEUE_VECTOR, 2, registers.vector.into()));
        for (register, address) in [
            (QUEUE_DESC, registers.desc),
            (QUEUE_DRIVER, registers.driver),
            (QUEUE_DEVICE, registers.device),
        ] {
            steps.extend(self.write(register, 4, address & 0xffff_ffff));
            steps.extend(self.write(register + 4, 4, address >> 32));
        }
        steps.extend(self.write(QUEUE_ENABLE, 2, registers.enabled.into()));
        steps
    }

    /// Says that everything is set.
    pub(super) fn ready(&self) -> Vec<Step> {
        self.status(READY)
    }

    /// Empties the rings of a queue.
    pub(super) fn clear(queue: u16) -> Vec<Step> {
        let [_, available, used] = Self::places(queue);
        let bytes = vec![0; 8];
        let put = |at| Step::Put {
            at,
            bytes: bytes.clone(),
        };
        vec![put(available), put(used)]
    }

    /// Resets the device and starts it with empty queues.
    pub(super) fn start(&self) -> Vec<Step> {
        self.start_with(VERSION_1 | INDIRECT)
    }

    /// The same with these features.
    pub(super) fn start_with(&self, features: u64) -> Vec<Step> {
        let mut steps = self.negotiate(features);
        for queue in 0..self.queues {
            steps.extend(Self::clear(queue));
            steps.extend(self.set(queue, self.registers(queue)));
        }
        steps.extend(self.ready());
        steps
    }

    /// Writes descriptors from the first on.
    pub(super) fn describe(queue: u16, descriptors: &[Descriptor]) -> Step {
        let [at, _, _] = Self::places(queue);
        let bytes = descriptors.iter().flat_map(|one| one.bytes()).collect();
        Step::Put { at, bytes }
    }

    /// Makes these heads available, with the index that says so.
    pub(super) fn offer(queue: u16, index: u16, heads: &[u16]) -> Step {
        let [_, at, _] = Self::places(queue);
        let words = [0, index].into_iter().chain(heads.iter().copied());
        let bytes = words.flat_map(u16::to_le_bytes).collect();
        Step::Put { at, bytes }
    }

    /// Notifies a queue.
    pub(super) fn notify(&self, queue: u16) -> Vec<Step> {
        self.write(NOTIFY + 4 * queue, 2, queue.into())
    }

    /// Waits until a queue has given back whatever was made available.
    pub(super) fn until_served(queue: u16) -> Step {
        let [_, available, used] = Self::places(queue);
        Step::Equal {
            at: available + 2,
            other: used + 2,
        }
    }

    /// One request on a queue that was just started: buffers one after another from
    /// [`BUFFERS`] on, the first ones with this content, and then so many to write to.
    pub(super) fn request(&self, queue: u16, content: &[u8], writable: &[u32]) -> Vec<Step> {
        let mut descriptors = Vec::new();
        if !content.is_empty() {
            let length = u32::try_from(content.len()).unwrap();
            descriptors.push(Descriptor::new(self.address(BUFFERS), length, NEXT, 1));
        }
        let mut at = self.address(BUFFERS) + 0x1_0000;
        for length in writable {
            let next = u16::try_from(descriptors.len() + 1).unwrap();
            descriptors.push(Descriptor::new(at, *length, WRITE | NEXT, next));
            at += 0x1000;
        }
        if let Some(last) = descriptors.last_mut() {
            last.flags &= !NEXT;
        }
        let content = Step::Put {
            at: BUFFERS,
            bytes: content.to_vec(),
        };
        let mut steps = vec![
            content,
            Self::describe(queue, &descriptors),
            Self::offer(queue, 1, &[0]),
        ];
        steps.extend(self.notify(queue));
        steps
    }
}
