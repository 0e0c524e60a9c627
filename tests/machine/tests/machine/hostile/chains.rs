//! Chains of descriptors and available rings that break the rules of virtio 1.3 §2.7.

use caisson_machine_tests::Step;

use super::driver::{BUFFERS, Descriptor, Driver, NEXT, SIZE, TABLE, WRITE};

/// Where indirect tables are in the arena.
const TABLES: u32 = BUFFERS + 0x8_0000;
/// Where there is no memory: the hole for devices, in which their BARs are.
const HOLE: u64 = 0xc000_0000;

/// What a driver writes, and the words with which the device refuses it.
pub(super) struct Malformed {
    pub(super) refusal: &'static str,
    descriptors: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    /// The available index, and the head behind it.
    index: u16,
    head: u16,
}

impl Malformed {
    fn chain(refusal: &'static str, descriptors: Vec<Descriptor>) -> Self {
        Self {
            refusal,
            descriptors,
            indirect: Vec::new(),
            index: 1,
            head: 0,
        }
    }

    fn table(refusal: &'static str, first: Descriptor, indirect: Vec<Descriptor>) -> Self {
        Self {
            indirect,
            ..Self::chain(refusal, vec![first])
        }
    }

    /// Starts the device, lets it see this in a queue, and waits until it has stopped.
    pub(super) fn steps(&self, driver: &Driver, queue: u16) -> Vec<Step> {
        let mut steps = driver.start();
        steps.push(Step::Put {
            at: TABLES,
            bytes: self.indirect.iter().flat_map(|one| one.bytes()).collect(),
        });
        steps.push(Driver::describe(queue, &self.descriptors));
        steps.push(Driver::offer(
            queue,
            self.index,
            &[self.head; SIZE as usize],
        ));
        steps.extend(driver.notify(queue));
        steps.push(driver.until_it_stops());
        steps
    }
}

/// Everything that is wrong in any queue, for a guest with so many bytes of memory.
pub(super) fn all(driver: &Driver, memory: u64) -> Vec<Malformed> {
    let good = driver.address(BUFFERS);
    let table = driver.address(TABLES);
    let one = Descriptor::new;
    let outside = "is outside guest memory";
    let buffer = |address, length| Malformed::chain(outside, vec![one(address, length, 0, 0)]);
    // 128 MiB each, all of them the same memory.
    let large: Vec<_> = (1..)
        .map(|next| one(0, 128 << 20, NEXT, next))
        .take(40)
        .collect();
    vec![
        Malformed {
            index: SIZE + 1,
            ..Malformed::chain("is more than 16 ahead of 0", vec![one(good, 64, 0, 0)])
        },
        Malformed {
            index: u16::MAX,
            ..Malformed::chain("available index 65535", vec![one(good, 64, 0, 0)])
        },
        Malformed {
            head: SIZE,
            ..Malformed::chain("head 16 is outside a queue of 16", vec![])
        },
        Malformed {
            head: u16::MAX,
            ..Malformed::chain("head 65535 is outside", vec![])
        },
        Malformed::chain("has more than 16 descriptors", vec![one(good, 64, NEXT, 0)]),
        Malformed::chain(
            "has more than 16 descriptors",
            vec![one(good, 64, NEXT, 1), one(good, 64, NEXT, 0)],
        ),
        Malformed::chain("descriptor 0 links to 16", vec![one(good, 64, NEXT, SIZE)]),
        Malformed::chain("links to 65535", vec![one(good, 64, NEXT, u16::MAX)]),
        buffer(memory - 16, 32),
        buffer(memory, 1),
        buffer(HOLE, 64),
        buffer(1 << 40, 64),
        buffer(u64::MAX - 7, 16),
        buffer(0, u32::MAX),
        Malformed::chain(
            "descriptor 1 is readable after a writable one",
            vec![one(good, 64, WRITE | NEXT, 1), one(good, 64, 0, 0)],
        ),
        Malformed::table("longer than 4 GiB", one(table, 40 * 16, TABLE, 0), large),
        Malformed::table(
            "descriptor 0 of an indirect table is itself indirect",
            one(table, 16, TABLE, 0),
            vec![one(table, 16, TABLE, 0)],
        ),
        Malformed::table(
            "descriptor 0 is both indirect and linked",
            one(table, 16, TABLE | NEXT, 1),
            vec![one(good, 64, 0, 0)],
        ),
        Malformed::table("indirect table of 0 bytes", one(table, 0, TABLE, 0), vec![]),
        Malformed::table(
            "indirect table of 17 bytes",
            one(table, 17, TABLE, 0),
            vec![],
        ),
        Malformed::table(
            "indirect table of 4294967280 bytes",
            one(table, u32::MAX - 15, TABLE, 0),
            vec![],
        ),
        Malformed::table(outside, one(memory - 8, 16, TABLE, 0), vec![]),
        Malformed::table(outside, one(HOLE, 16, TABLE, 0), vec![]),
        Malformed::table(
            "links to 7 in a table of 1",
            one(table, 16, TABLE, 0),
            vec![one(good, 64, NEXT, 7)],
        ),
    ]
}
