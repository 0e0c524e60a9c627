//! Requests in well-formed chains that make no sense to the device they are for.

use caisson_machine_tests::Step;

use super::attacker::Attacker;
use super::driver::{BUFFERS, Driver, VERSION_1};

/// Where the first writable buffer of [`Driver::request`] is, and how far apart they are.
const ANSWERS: u32 = BUFFERS + 0x1_0000;
const NEXT_ANSWER: u32 = 0x1000;

/// Asks for each of these on a queue of a device that is started anew each time; the chain has to
/// come back.
fn ask(attacker: &Attacker, driver: &Driver, queue: u16, requests: &[(Vec<u8>, Vec<u32>)]) {
    let mut steps = vec![driver.seize()];
    for (content, writable) in requests {
        steps.extend(driver.start());
        steps.extend(driver.request(queue, content, writable));
        steps.push(Driver::until_served(queue));
    }
    steps.push(driver.release());
    attacker.play(steps);
}

/// A request to a disk: type, sector, and what follows.
fn block(kind: u32, sector: u64, rest: &[u8]) -> Vec<u8> {
    let header = [kind.to_le_bytes(), [0; 4]].concat();
    [&header, &sector.to_le_bytes()[..], rest].concat()
}

/// A range to discard.
fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// Each is answered with an error, and the disk is not touched.
pub(super) fn of_a_disk(attacker: &Attacker, driver: &Driver) {
    const IO_ERROR: u64 = 1;
    const UNSUPPORTED: u64 = 2;
    // What is asked, the writable buffers, and the status, which is the last byte of the last.
    let requests: Vec<(Vec<u8>, Vec<u32>, u64)> = vec![
        (block(0xffff_ffff, 0, &[]), vec![1], UNSUPPORTED),
        (block(2, 0, &[]), vec![512, 1], UNSUPPORTED),
        (vec![0; 15], vec![1], IO_ERROR),
        (vec![], vec![1], IO_ERROR),
        // Beyond the end, and where sectors become bytes that are more than 64 bits.
        (block(0, u64::MAX, &[]), vec![512, 1], IO_ERROR),
        (block(0, u64::MAX >> 9, &[]), vec![512, 1], IO_ERROR),
        (block(0, 1 << 40, &[]), vec![512, 1], IO_ERROR),
        (block(1, 1 << 40, &[0x5a; 512]), vec![1], IO_ERROR),
        // No whole sectors.
        (block(0, 0, &[]), vec![511, 1], IO_ERROR),
        (block(1, 0, &[0x5a; 513]), vec![1], IO_ERROR),
        // Buffers of the wrong direction.
        (block(0, 0, &[0x5a; 512]), vec![512, 1], IO_ERROR),
        (block(1, 0, &[0x5a; 512]), vec![512, 1], IO_ERROR),
        (block(8, 0, &[]), vec![19, 1], IO_ERROR),
        // Ranges beyond the end, too long, half a range, none, and with flags.
        (block(11, 0, &range(u64::MAX, 1, 0)), vec![1], IO_ERROR),
        (block(11, 0, &range(0, u32::MAX, 0)), vec![1], IO_ERROR),
        (block(11, 0, &range(0, 1, 0)[..15]), vec![1], IO_ERROR),
        (block(11, 0, &[]), vec![1], IO_ERROR),
        (block(11, 0, &range(0, 1, 1)), vec![1], UNSUPPORTED),
        (block(11, 0, &range(0, 1, 0).repeat(17)), vec![1], IO_ERROR),
        (block(13, 0, &range(1 << 40, 8, 0)), vec![1], IO_ERROR),
        (block(13, 0, &range(0, u32::MAX, 0)), vec![1], IO_ERROR),
        (
            block(13, 0, &range(0, 8, 0xffff_fffe)),
            vec![1],
            UNSUPPORTED,
        ),
        (block(13, 0, &range(0, 8, 0).repeat(2)), vec![1], IO_ERROR),
    ];
    let mut steps = vec![driver.seize()];
    for (content, writable, _) in &requests {
        let last = u32::try_from(writable.len() - 1).unwrap();
        let at = ANSWERS + last * NEXT_ANSWER;
        steps.extend(driver.start());
        steps.push(Step::Put {
            at,
            bytes: vec![0x77],
        });
        steps.extend(driver.request(0, content, writable));
        steps.push(Driver::until_served(0));
        steps.push(Step::Get { at, width: 1 });
    }
    steps.push(driver.release());
    let statuses = attacker.play(steps);
    for ((content, writable, expected), status) in requests.iter().zip(&statuses) {
        let shown = &content[..content.len().min(32)];
        assert_eq!(status, expected, "{shown:?} with {writable:?}");
    }
    assert_eq!(statuses.len(), requests.len());
}

/// Pages that are not memory and pages that are lent twice; the arena's own are lost with them,
/// which is the guest's business.
pub(super) fn of_the_balloon(attacker: &Attacker, driver: &Driver, memory: u64) {
    let pages = |numbers: &[u32]| numbers.iter().flat_map(|page| page.to_le_bytes()).collect();
    let last = u32::try_from(memory >> 12).unwrap();
    let mine = u32::try_from(driver.address(BUFFERS + 0xf_0000) >> 12).unwrap();
    let nowhere: Vec<u32> = (0..4096).map(|n| last + n).collect();
    let numbers: Vec<(Vec<u8>, Vec<u32>)> = vec![
        (
            pages(&[last, u32::MAX, 0xc_0000, 0x10_0000, 0x7fff_ffff]),
            vec![],
        ),
        (pages(&nowhere), vec![]),
        (pages(&[mine; 2000]), vec![]),
        // Not a whole number, none at all, and where the device reads nothing.
        (vec![0xff; 7], vec![]),
        (vec![0xff], vec![]),
        (vec![], vec![4096]),
    ];
    ask(attacker, driver, 0, &numbers);
    ask(attacker, driver, 1, &numbers);
    // Reports are of buffers, which have to be memory; these are readable, empty, or less than a
    // page.
    let reports = vec![
        (vec![0xff; 4096], vec![]),
        (vec![], vec![0]),
        (vec![], vec![1, 4095, 1]),
        (vec![], vec![4096; 8]),
    ];
    ask(attacker, driver, 2, &reports);
    // And it says that it holds more than there is, for which only the guest is to blame.
    let mut steps = vec![driver.seize()];
    steps.extend(driver.start());
    steps.extend(driver.write(0x2004, 4, u64::from(u32::MAX)));
    steps.extend(driver.write(0x2000, 4, u64::from(u32::MAX)));
    attacker.play(steps);
    let metrics = attacker.machine.metrics();
    assert!(metrics.memory.balloon_mib <= metrics.memory.boot_mib + metrics.memory.plugged_mib);
    attacker.play(vec![driver.release()]);
}

/// Blocks outside the region, where it is not the device's turn, and half of a block.
pub(super) fn of_hotplug_memory(attacker: &Attacker, driver: &Driver) {
    const ERROR: u64 = 3;
    let request = |kind: u16, address: u64, blocks: u16| {
        let kind = [kind.to_le_bytes().to_vec(), vec![0; 6]].concat();
        let rest = [blocks.to_le_bytes().to_vec(), vec![0; 6]].concat();
        [kind, address.to_le_bytes().to_vec(), rest].concat()
    };
    let region = attacker.play(vec![Step::Read {
        slot: driver.slot,
        offset: 0x2010,
        width: 8,
    }])[0];
    let mut steps = vec![driver.seize()];
    let mut count = 0;
    for kind in [0, 1, 3, 4, u16::MAX] {
        for (address, blocks) in [
            (0, 1),
            (region - (2 << 20), 1),
            (region + 4096, 1),
            (region, 0),
            (region, u16::MAX),
            (region + (1 << 40), 1),
            (u64::MAX - (2 << 20) + 1, 2),
            (u64::MAX, u16::MAX),
        ] {
            steps.extend(driver.start());
            steps.extend(driver.request(0, &request(kind, address, blocks), &[10]));
            steps.push(Driver::until_served(0));
            steps.push(Step::Get {
                at: ANSWERS,
                width: 2,
            });
            count += 1;
        }
    }
    steps.push(driver.release());
    let answers = attacker.play(steps);
    assert_eq!(answers, vec![ERROR; count]);
    assert_eq!(attacker.machine.metrics().memory.plugged_mib, 0);
}

/// Buffers that the device of random numbers does not write to, or only in part.
pub(super) fn of_random_numbers(attacker: &Attacker, driver: &Driver) {
    let requests = vec![
        (vec![0xff; 64], vec![]),
        (vec![], vec![0]),
        (vec![], vec![1, 0, 1, 0, 4096]),
        (vec![0xff; 4096], vec![16]),
    ];
    ask(attacker, driver, 0, &requests);
}

/// A console that is written to without end, and without anything.
pub(super) fn of_the_console(attacker: &Attacker, driver: &Driver) {
    let requests = vec![
        (vec![], vec![4096]),
        (vec![0x1b; 4096], vec![]),
        (vec![b'x'; 4096], vec![4096]),
    ];
    ask(attacker, driver, 1, &requests);
    let mut steps = vec![driver.seize()];
    steps.extend(driver.start());
    // A megabyte, sixteen chains at a time.
    steps.extend(driver.request(1, &[0xff; 4096], &[]));
    steps.push(Driver::until_served(1));
    let [_, available, _] = Driver::places(1);
    let mut again = vec![Step::Add {
        at: available + 2,
        width: 2,
        by: 16,
    }];
    again.extend(driver.notify(1));
    again.push(Driver::until_served(1));
    steps.push(Driver::offer(1, 1, &[0; 16]));
    steps.push(Step::Repeat {
        times: 16,
        steps: again,
    });
    steps.push(driver.release());
    attacker.play(steps);
}

/// Packets that are none, offloads that cannot be, and commands that nobody knows.
pub(super) fn of_the_network(attacker: &Attacker, driver: &Driver) {
    /// Flags, type of segmentation, length of the headers, of a segment, where the checksum is.
    fn packet(flags: u8, gso: u8, words: [u16; 4], rest: usize) -> Vec<u8> {
        let words = words.into_iter().chain([0]).flat_map(u16::to_le_bytes);
        let header = [flags, gso].into_iter().chain(words);
        header.chain(std::iter::repeat_n(0x5a, rest)).collect()
    }
    let packets = vec![
        (vec![], vec![4096]),
        (vec![0xff; 1], vec![]),
        (vec![0xff; 11], vec![]),
        (packet(0, 0, [0; 4], 0), vec![]),
        (packet(0, 0, [0; 4], 13), vec![]),
        (packet(0xff, 0xff, [u16::MAX; 4], 60), vec![]),
        (packet(1, 1, [u16::MAX, 0, u16::MAX, u16::MAX], 60), vec![]),
        (packet(1, 1, [14, 0, 14, 16], 60), vec![]),
        (packet(1, 0, [0, 0, 59, 2], 60), vec![]),
        (packet(0, 3, [1, 1, 0, 0], 60), vec![]),
        (packet(0, 0, [0; 4], 60_000), vec![]),
        (packet(0, 0, [0; 4], 60), vec![4096]),
    ];
    ask(attacker, driver, 1, &packets);
    commands(attacker, driver);
}

fn commands(attacker: &Attacker, driver: &Driver) {
    /// `VIRTIO_NET_F_CTRL_VQ` and `VIRTIO_NET_F_CTRL_GUEST_OFFLOADS`: without the first nobody reads
    /// the queue.
    const CONTROL: u64 = 1 << 17 | 1 << 2;
    const REFUSED: u64 = 1;
    let commands: [&[u8]; 9] = [
        &[],
        &[0xff],
        &[0xff, 0xff],
        &[4, 0, 0xff, 0xff],
        &[4, 0, 0, 0],
        &[4, 0, 1],
        &[5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[5, 0, 0],
        &[0xff; 4096],
    ];
    let mut steps = vec![driver.seize()];
    for command in commands {
        steps.extend(driver.start_with(VERSION_1 | CONTROL));
        steps.extend(driver.request(2, command, &[1]));
        steps.push(Driver::until_served(2));
        steps.push(Step::Get {
            at: ANSWERS,
            width: 1,
        });
    }
    // Without room for an answer there is none.
    for room in [&[][..], &[0]] {
        steps.extend(driver.start_with(VERSION_1 | CONTROL));
        steps.extend(driver.request(2, &[1, 0], room));
        steps.push(driver.until_it_stops());
    }
    steps.push(driver.release());
    assert_eq!(attacker.play(steps), [REFUSED; 9]);
}
