use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{BAR_LENGTH, MSIX_PENDING, MSIX_TABLE, VirtioFunction};
use crate::devices::rng::Rng;
use crate::memory::{Backing, GuestRam};
use crate::pci::Function;
use crate::pci::msix::{Message, MessageRouter};
use crate::virtio::device::Stopped;
use crate::virtio::pci::transport::{Environment, Transport};
use crate::virtio::runner::{DeviceRunner, Doorbells, Job};

#[path = "function_test/running.rs"]
mod running;

struct Nobody;

impl DeviceRunner for Nobody {
    fn start(&self, _: Job) {}
    fn stop(&self, _: usize) -> Option<Stopped> {
        None
    }
}

impl Doorbells for Nobody {
    fn attach(&self, _: u64, _: &EventFd) {}
    fn detach(&self, _: u64, _: &EventFd) {}
}

#[derive(Default)]
struct Router(Mutex<Vec<(u32, bool)>>);

impl MessageRouter for Router {
    fn connect(&self, gsi: u32, _: &EventFd, _: Message) {
        self.0.lock().unwrap().push((gsi, true));
    }
    fn disconnect(&self, gsi: u32, _: &EventFd) {
        self.0.lock().unwrap().push((gsi, false));
    }
}

const BAR: u32 = 0xc000_8000;

fn function() -> (VirtioFunction, Arc<Router>) {
    let (events, _) = crate::events::channel().unwrap();
    let environment = Environment {
        memory: Arc::new(GuestRam::new(64, Backing::Private).unwrap()),
        runner: Arc::new(Nobody),
        doorbells: Arc::new(Nobody),
        events,
    };
    let transport = Transport::new(Box::new(Rng::new()), 0, environment);
    let router = Arc::new(Router::default());
    let function = VirtioFunction::new(transport, BAR, 30, Arc::clone(&router) as _).unwrap();
    (function, router)
}

fn config<const N: usize>(function: &mut VirtioFunction, offset: u8) -> [u8; N] {
    let mut data = [0; N];
    function.config_read(offset, &mut data);
    data
}

/// Offset, id and bytes of every capability, found as a driver finds them.
fn capabilities(function: &mut VirtioFunction) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    let [mut at] = config(function, 0x34);
    while at != 0 {
        let [id, next] = config(function, at);
        found.push((at, id));
        assert!(found.len() < 48, "the list ends");
        at = next;
    }
    found
}

/// The virtio structure of this kind: capability offset, BAR offset, length.
fn structure(function: &mut VirtioFunction, kind: u8) -> Option<(u8, u32, u32)> {
    capabilities(function).into_iter().find_map(|(at, id)| {
        let [found] = config(function, at + 3);
        let offset = u32::from_le_bytes(config(function, at + 8));
        let length = u32::from_le_bytes(config(function, at + 12));
        (id == 9 && found == kind).then_some((at, offset, length))
    })
}

#[test]
fn a_modern_driver_recognises_the_device() {
    let (mut function, _) = function();
    assert_eq!(config(&mut function, 0), [0xf4, 0x1a, 0x44, 0x10]);
    let [revision] = config(&mut function, 8);
    assert_eq!(revision, 1);
}

#[test]
fn all_structures_lie_in_the_bar_and_do_not_overlap() {
    let (mut function, _) = function();
    let mut areas = Vec::new();
    for kind in [1, 2, 3] {
        let (_, offset, length) = structure(&mut function, kind).unwrap();
        assert!(length > 0);
        areas.push((offset, offset + length));
    }
    assert!(
        structure(&mut function, 4).is_none(),
        "rng has no configuration"
    );
    areas.push((MSIX_TABLE, MSIX_TABLE + 2 * 16));
    areas.push((MSIX_PENDING, MSIX_PENDING + 8));
    areas.sort_unstable();
    for pair in areas.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{areas:x?}");
    }
    assert!(areas.last().unwrap().1 <= BAR_LENGTH);
}

#[test]
fn the_bar_answers_where_it_was_moved_to() {
    let (mut function, _) = function();
    function.config_write(4, &[2, 0]);
    assert_eq!(function.bar(), Some((BAR.into(), BAR_LENGTH.into())));
    function.config_write(0x10, &0xd000_0000u32.to_le_bytes());
    assert_eq!(function.bar(), Some((0xd000_0000, BAR_LENGTH.into())));
}

#[test]
fn msix_is_switched_by_its_control_register() {
    let (mut function, router) = function();
    let (at, _) = capabilities(&mut function)
        .into_iter()
        .find(|(_, id)| *id == 0x11)
        .unwrap();
    let control = u16::from_le_bytes(config(&mut function, at + 2));
    assert_eq!(control, 1, "two vectors");
    function.bar_write(u64::from(MSIX_TABLE) + 16 + 12, &0u32.to_le_bytes());
    function.config_write(at + 2, &0xc000u16.to_le_bytes());
    assert!(router.0.lock().unwrap().is_empty(), "masked as a whole");
    function.config_write(at, &[0xff, 0xff, 0x00, 0x80]);
    assert_eq!(*router.0.lock().unwrap(), [(31, true)]);
    function.config_write(at + 3, &[0x00]);
    assert_eq!(*router.0.lock().unwrap(), [(31, true), (31, false)]);
    let control = u16::from_le_bytes(config(&mut function, at + 2));
    assert_eq!(control, 1);
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let (mut function, _) = function();
    let (at, _, _) = structure(&mut function, 5).unwrap();
    let aim = |function: &mut VirtioFunction, offset: u32, length: u32| {
        function.config_write(at + 4, &[0]);
        function.config_write(at + 8, &offset.to_le_bytes());
        function.config_write(at + 12, &length.to_le_bytes());
    };
    aim(&mut function, 20, 1);
    function.config_write(at + 16, &[1, 0, 0, 0]);
    assert_eq!(config(&mut function, at + 16), [1, 0, 0, 0], "the status");
    let mut status = [0];
    function.bar_read(20, &mut status);
    assert_eq!(status, [1]);

    aim(&mut function, 18, 2);
    assert_eq!(config(&mut function, at + 16), [1, 0, 0, 0], "the queues");
}

#[test]
fn a_window_that_points_nowhere_does_nothing() {
    let (mut function, _) = function();
    let (at, _, _) = structure(&mut function, 5).unwrap();
    let wrong = [
        (0, 0, 0),
        (0, 0, 3),
        (0, 0, u32::MAX),
        (0, 1, 4),
        (0, BAR_LENGTH, 4),
        (0, u32::MAX - 3, 4),
        (1, 0, 4),
        (0xff, 0, 4),
    ];
    for (bar, offset, length) in wrong {
        function.config_write(at + 4, &[bar]);
        function.config_write(at + 8, &u32::to_le_bytes(offset));
        function.config_write(at + 12, &u32::to_le_bytes(length));
        function.config_write(at + 16, &[0x55; 4]);
        assert_eq!(config(&mut function, at + 16), [0x55; 4]);
    }
    let mut select = [0xff; 4];
    function.bar_read(0, &mut select);
    assert_eq!(select, [0; 4], "nothing was written");
}

#[test]
fn accesses_of_any_size_at_any_place_of_the_bar_are_harmless() {
    let (mut function, _) = function();
    for offset in (0..u64::from(BAR_LENGTH)).step_by(3) {
        for length in [1, 2, 4, 8] {
            if offset + length <= u64::from(BAR_LENGTH) {
                let mut data = vec![0xff; length as usize];
                function.bar_write(offset, &data);
                function.bar_read(offset, &mut data);
            }
        }
    }
}

#[test]
fn accesses_of_any_size_at_any_place_of_the_configuration_are_harmless() {
    let (mut function, _) = function();
    for value in [0xff, 0x00, 0x01] {
        for offset in 0..=255u8 {
            for length in 1..=4 - usize::from(offset & 3) {
                let mut data = vec![value; length];
                function.config_write(offset, &data);
                function.config_read(offset, &mut data);
            }
        }
    }
    assert_eq!(config(&mut function, 0), [0xf4, 0x1a, 0x44, 0x10]);
}
