use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryBackend;

use super::{
    ACTUAL_WRITTEN, Balloon, BalloonControl, BalloonEvents, DEFLATE, INFLATE, MAX_PAGES, REPORTING,
    TARGET_CHANGED, joined,
};
use crate::memory::{Backing, GuestRam, PAGE};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{Activation, Device, DeviceFault, Running, Stopped};
use crate::virtio::mock_driver::{MockDriver, activation};
use crate::virtio::queue::QueueError;

const MIB: u64 = 1 << 20;
/// Where the tests put page numbers.
const LIST: u64 = 0x10_0000;
/// Where the tests put data in pages that they give to the balloon.
const DATA: u64 = 0x40_0000;

/// Hears what the device tells the host.
#[derive(Default)]
struct Ear(Mutex<Vec<u32>>);

impl BalloonEvents for Ear {
    fn memory_pressure(&self, balloon_mib: u32) {
        self.0.lock().unwrap().push(balloon_mib);
    }
}

/// A device at work, its driver and its host.
struct Bench {
    drivers: [MockDriver; 3],
    device: Box<dyn Running>,
    config: SharedConfig,
    host: BalloonControl,
    ear: Arc<Ear>,
}

impl Bench {
    fn new(backing: Backing) -> Self {
        let memory = Arc::new(GuestRam::with_hotplug(16, 128, backing).unwrap());
        let drivers = [0x1000, 0x2000, 0x3000].map(|base| MockDriver::new(&memory, base, 32));
        let ear = Arc::new(Ear::default());
        let (device, host) = Balloon::new(Arc::clone(&ear) as _).unwrap();
        let config = device.config();
        let device = start(Box::new(device), activation_of(&drivers));
        Self {
            drivers,
            device,
            config,
            host,
            ear,
        }
    }

    /// Writes page numbers where a request to inflate will have them.
    fn list(&self, pages: &[u32]) -> (u64, u32, bool) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.write(LIST, &bytes);
        (LIST, u32::try_from(bytes.len()).unwrap(), false)
    }

    /// Sends one request and expects that it is completed.
    fn send(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        let head = self.drivers[queue].add(buffers);
        self.device.on_queue(queue).unwrap();
        assert_eq!(self.drivers[queue].take_used(), Some((head, 0)));
    }

    fn inflate(&mut self, pages: &[u32]) {
        let list = self.list(pages);
        self.send(INFLATE, &[list]);
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.drivers[0].write(address, bytes);
    }

    fn byte(&self, address: u64) -> u8 {
        self.drivers[0].read::<1>(address)[0]
    }

    /// Makes `count` pages from [`DATA`] on known.
    fn fill(&self, count: u64) {
        self.write(DATA, &vec![7; usize::try_from(count * PAGE).unwrap()]);
    }

    /// Which of the pages from [`DATA`] on are still there, from their first to their last byte.
    fn left(&self, count: u64) -> Vec<u64> {
        let is_left = |page: &u64| {
            let ends = [DATA + page * PAGE, DATA + (page + 1) * PAGE - 1];
            let [first, last] = ends.map(|address| self.byte(address));
            assert_eq!(first, last);
            first == 7
        };
        (0..count).filter(is_left).collect()
    }

    /// The driver writes what the balloon holds.
    fn set_actual(&mut self, pages: u32) {
        self.config.write(4, &pages.to_le_bytes());
        self.device.on_ready(ACTUAL_WRITTEN).unwrap();
    }

    fn heard(&self) -> Vec<u32> {
        self.ear.0.lock().unwrap().clone()
    }
}

/// The number of the page `offset` pages behind [`DATA`].
fn page(offset: u64) -> u32 {
    u32::try_from(DATA / PAGE + offset).unwrap()
}

fn activation_of(drivers: &[MockDriver; 3]) -> Activation {
    let queues = [0, 1, 2].map(|index| Some(drivers[index].queue(index).unwrap()));
    activation(1 << 2 | 1 << 5, &drivers[0].memory, queues.into())
}

fn start(device: Box<dyn Device>, activation: Activation) -> Box<dyn Running> {
    device
        .activate(activation)
        .map_err(|(_, fault)| fault)
        .unwrap()
}

/// Bytes of the memory file that take up memory of the host.
fn in_file(memory: &GuestRam) -> u64 {
    let region = memory.iter().next().unwrap();
    let file = region.file_offset().unwrap().file();
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host_and_their_neighbours_stay() {
    for backing in [Backing::Private, Backing::Shared] {
        let shared = matches!(backing, Backing::Shared);
        let mut bench = Bench::new(backing);
        bench.fill(8);
        // Touches the pages that the request itself will need.
        bench.inflate(&[]);
        bench.list(&[0; 4]);
        let memory = Arc::clone(&bench.drivers[0].memory);
        let before = shared.then(|| in_file(&memory));
        // Out of order, twice, and with gaps.
        bench.inflate(&[page(6), page(1), page(2), page(1)]);
        if let Some(before) = before {
            assert_eq!(before - in_file(&memory), 3 * PAGE);
        }
        assert_eq!(bench.left(8), [0, 3, 4, 5, 7]);
        bench.send(DEFLATE, &[(LIST, 16, false)]);
        bench.write(DATA + PAGE, &[9]);
        assert_eq!(bench.byte(DATA + PAGE), 9, "the guest has it again");
    }
}

#[test]
fn pages_that_are_not_memory_have_no_effect() {
    let mut bench = Bench::new(Backing::Private);
    bench.fill(4);
    let mib = |mib: u64| u32::try_from(mib * MIB / PAGE).unwrap();
    bench.inflate(&[
        u32::MAX,
        page(1),
        mib(16),      // right behind the RAM
        mib(3 << 10), // the hole
        mib(4 << 10), // the hot-plug region, of which nothing is plugged
        mib((4 << 10) + 128),
        mib(1 << 20),
    ]);
    assert_eq!(bench.left(4), [0, 2, 3]);
    // The last page before the end of the RAM, together with the first behind it.
    bench.write(16 * MIB - 1, &[7]);
    bench.inflate(&[mib(16) - 1, mib(16)]);
    assert_eq!(bench.byte(16 * MIB - 1), 0);
}

#[test]
fn a_list_may_be_spread_over_buffers_and_end_in_half_a_number() {
    let mut bench = Bench::new(Backing::Private);
    bench.fill(4);
    bench.list(&[page(0), page(1), page(2)]);
    bench.send(
        INFLATE,
        &[(LIST, 3, false), (LIST + 3, 5, false), (LIST + 8, 3, false)],
    );
    assert_eq!(bench.left(4), [2, 3]);
    bench.send(INFLATE, &[(LIST, 0, false)]);
    bench.send(INFLATE, &[(DATA + 3 * PAGE, PAGE as u32, true)]);
    assert_eq!(bench.left(4), [2, 3], "an empty list is no page");
}

#[test]
fn of_a_list_without_end_only_the_beginning_is_served() {
    let mut bench = Bench::new(Backing::Private);
    bench.fill(2);
    let mut pages = vec![page(0); MAX_PAGES];
    pages.push(page(1));
    bench.inflate(&pages);
    assert_eq!(bench.left(2), [1]);
    bench.send(INFLATE, &[(0x80_0000, 8 << 20, false)]);
}

#[test]
fn adjacent_pages_become_one_range() {
    assert_eq!(joined(Vec::new()), []);
    let pages = [9, 3, 8, 4, 8, 11, 10].map(|page| page * PAGE);
    assert_eq!(
        joined(pages.to_vec()),
        [3 * PAGE..5 * PAGE, 8 * PAGE..12 * PAGE]
    );
}

#[test]
fn reported_memory_goes_back_to_the_host() {
    for backing in [Backing::Private, Backing::Shared] {
        let mut bench = Bench::new(backing);
        bench.fill(16);
        let at = |page: u64| DATA + page * PAGE;
        bench.send(
            REPORTING,
            &[
                (at(1), 2 * PAGE as u32, true),
                (at(9), PAGE as u32, true),
                (at(12) + 1, 3 * PAGE as u32, true), // whole pages: 13 and 14
                (at(15), PAGE as u32 - 1, true),
            ],
        );
        assert_eq!(bench.left(16), [0, 3, 4, 5, 6, 7, 8, 10, 11, 12, 15]);
        bench.send(REPORTING, &[(at(3), PAGE as u32, false)]);
        bench.send(REPORTING, &[(at(4) + 5, 0, true)]);
        assert_eq!(
            bench.left(5),
            [0, 3, 4],
            "only buffers for the device count"
        );
    }
}

#[test]
fn a_malformed_chain_stops_the_device() {
    for queue in [INFLATE, DEFLATE, REPORTING] {
        for buffer in [
            (u64::MAX - 4095, 8192, false),
            (16 * MIB - PAGE, 2 * PAGE as u32, true),
            (3 << 30, PAGE as u32, true),
        ] {
            let mut bench = Bench::new(Backing::Private);
            bench.drivers[queue].add(&[buffer]);
            assert!(matches!(
                bench.device.on_queue(queue),
                Err(DeviceFault::Queue {
                    index,
                    source: QueueError::BufferOutsideMemory { .. }
                }) if index == queue
            ));
        }
    }
}

#[test]
fn a_driver_that_gives_its_rings_away_hurts_only_itself() {
    let mut bench = Bench::new(Backing::Private);
    bench.fill(1);
    let list = bench.list(&[1, 2, 3]);
    bench.drivers[INFLATE].add(&[list]);
    // Whether the ring that reads as zeros now is a fault is of no matter.
    let _ = bench.device.on_queue(INFLATE);
    let _ = bench.device.on_queue(REPORTING);
    assert_eq!(bench.left(1), [0]);
    let mut device = bench.device.stop().device;
    device.reset();
    let memory = Arc::clone(&bench.drivers[0].memory);
    bench.drivers = [0x1000, 0x2000, 0x3000].map(|base| MockDriver::new(&memory, base, 32));
    bench.device = start(device, activation_of(&bench.drivers));
    bench.inflate(&[page(0)]);
    assert_eq!(bench.left(1), [0; 0]);
}

#[test]
fn what_the_host_asks_for_is_shown_and_the_driver_is_told() {
    let mut bench = Bench::new(Backing::Private);
    let activation = activation_of(&bench.drivers);
    let line = activation.driver.clone();
    bench.device = start(bench.device.stop().device, activation);
    bench.host.set_target(3);
    let mut shown = [0; 4];
    bench.config.read(0, &mut shown);
    assert_eq!(u32::from_le_bytes(shown), 3 * 256);
    bench.device.on_ready(TARGET_CHANGED).unwrap();
    assert_eq!(line.interrupt.event_fd().read().unwrap(), 1);
    assert_eq!(line.flags.take_isr(), 2);
    assert_eq!(bench.device.watches().len(), 2);
    bench.host.set_target(u32::MAX);
    bench.config.read(0, &mut shown);
    assert_eq!(u32::from_le_bytes(shown), u32::MAX);
}

#[test]
fn the_driver_says_what_the_balloon_holds_and_nothing_else() {
    let mut bench = Bench::new(Backing::Private);
    assert_eq!(bench.config.length(), 8);
    bench.host.set_target(5);
    bench.config.write(0, &[0xff; 16]);
    assert_eq!(bench.host.held(), u32::MAX / 256);
    let mut shown = [0; 4];
    bench.config.read(0, &mut shown);
    assert_eq!(
        u32::from_le_bytes(shown),
        5 * 256,
        "the target is the host's"
    );
    bench.set_actual(3 * 256 + 255);
    assert_eq!(bench.host.held(), 3);
}

#[test]
fn a_guest_that_takes_memory_back_is_under_pressure() {
    let mut bench = Bench::new(Backing::Private);
    bench.set_actual(100);
    bench.host.set_target(8);
    for mib in [0, 4, 2, 7] {
        bench.set_actual(mib * 256);
    }
    assert_eq!(bench.heard(), [0; 0], "it never held so much");
    bench.set_actual(8 * 256);
    bench.set_actual(7 * 256);
    assert_eq!(bench.heard(), [7]);
    bench.set_actual(3 * 256);
    assert_eq!(bench.heard(), [7], "once for each time it was full");
    bench.set_actual(9 * 256);
    bench.set_actual(256);
    assert_eq!(bench.heard(), [7, 1]);
}

#[test]
fn a_balloon_that_shrinks_as_it_should_is_no_pressure() {
    let mut bench = Bench::new(Backing::Private);
    bench.host.set_target(8);
    bench.set_actual(8 * 256);
    bench.host.set_target(2);
    for mib in [6, 3, 2] {
        bench.set_actual(mib * 256);
    }
    assert_eq!(bench.heard(), [0; 0]);
    bench.set_actual(256);
    assert_eq!(bench.heard(), [1], "but beyond that it is");
    bench.host.set_target(4);
    bench.set_actual(0);
    assert_eq!(bench.heard(), [1], "the new target was not reached yet");
}

#[test]
fn a_reset_empties_the_balloon_and_keeps_the_target() {
    let mut bench = Bench::new(Backing::Private);
    bench.host.set_target(8);
    bench.set_actual(8 * 256);
    let mut device = bench.device.stop().device;
    device.reset();
    assert_eq!(bench.host.held(), 0);
    let mut shown = [0; 4];
    bench.config.read(0, &mut shown);
    assert_eq!(u32::from_le_bytes(shown), 8 * 256);
    bench.device = start(device, activation_of(&bench.drivers));
    bench.set_actual(256);
    assert_eq!(bench.heard(), [0; 0], "the next driver begins from nothing");
}

#[test]
fn it_goes_on_after_a_stop_with_what_it_holds() {
    let mut bench = Bench::new(Backing::Private);
    bench.fill(2);
    bench.host.set_target(8);
    bench.set_actual(8 * 256);
    bench.inflate(&[page(0)]);
    let Stopped { device, positions } = bench.device.stop();
    assert_eq!(positions.len(), 3);
    let mut activation = activation_of(&bench.drivers);
    for (queue, position) in activation.queues.iter_mut().zip(positions) {
        queue.as_mut().unwrap().set_position(position);
    }
    bench.device = start(device, activation);
    bench.inflate(&[page(1)]);
    assert_eq!(bench.left(2), [0; 0]);
    assert_eq!(bench.device.counters().requests, 2);
    bench.set_actual(256);
    assert_eq!(bench.heard(), [1]);
}

#[test]
fn a_driver_need_not_report_but_must_have_the_other_queues() {
    let bench = Bench::new(Backing::Private);
    let mut device = bench.device.stop().device;
    for missing in [INFLATE, DEFLATE] {
        let mut activation = activation_of(&bench.drivers);
        activation.queues[missing] = None;
        device = match device.activate(activation) {
            Err((device, DeviceFault::QueueMissing(index))) if index == missing => device,
            _ => panic!("queue {missing} is needed"),
        };
    }
    let mut activation = activation_of(&bench.drivers);
    activation.queues[REPORTING] = None;
    let mut running = start(device, activation);
    running.on_queue(REPORTING).unwrap();
    running.on_queue(7).unwrap();
    assert_eq!(running.stop().positions.len(), 2);
}
