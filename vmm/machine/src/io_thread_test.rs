use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::IoThread;
use crate::events::{EventReceiver, Happening};
use crate::memory::{Backing, GuestRam};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, Running,
    Stopped, Watch,
};
use crate::virtio::interrupt::QueueInterrupt;
use crate::virtio::queue::{DeviceQueue, QueueSettings};
use crate::virtio::runner::{DeviceFlags, DeviceRunner, DriverLine, Job};

/// What a test device did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Did {
    Queue(usize),
    Ready(u32),
    Stopped,
}

/// Notes what it is told; a queue notification is a fault if it is said to be.
struct TestDevice {
    did: Arc<Mutex<Vec<Did>>>,
    /// Told of every call, so that a test can wait for it.
    called: Arc<EventFd>,
    watched: Arc<EventFd>,
    faulty: bool,
    refuses: bool,
}

impl Device for TestDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }
    fn features(&self) -> u64 {
        0
    }
    fn config(&self) -> SharedConfig {
        SharedConfig::new(Vec::new())
    }
    fn activate(self: Box<Self>, _: Activation) -> ActivateResult {
        if self.refuses {
            return Err((self, DeviceFault::QueueMissing(7)));
        }
        Ok(Box::new(RunningTestDevice(*self)))
    }
}

struct RunningTestDevice(TestDevice);

impl RunningTestDevice {
    fn note(&self, did: Did) {
        self.0.did.lock().unwrap().push(did);
        self.0.called.write(1).unwrap();
    }
}

impl Running for RunningTestDevice {
    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            fd: self.0.watched.as_raw_fd(),
            token: 77,
            readable: true,
            writable: false,
        }]
    }
    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        self.note(Did::Queue(index));
        if self.0.faulty {
            return Err(DeviceFault::QueueMissing(index));
        }
        Ok(Interest::Changed)
    }
    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault> {
        self.0.watched.read().unwrap();
        self.note(Did::Ready(token));
        Ok(Interest::Same)
    }
    fn stop(self: Box<Self>) -> Stopped {
        self.note(Did::Stopped);
        Stopped {
            device: Box::new(self.0),
            positions: Vec::new(),
        }
    }
    fn counters(&self) -> Counters {
        Counters {
            requests: self.0.did.lock().unwrap().len() as u64,
            ..Counters::default()
        }
    }
}

struct Bench {
    io: IoThread,
    events: EventReceiver,
    did: Arc<Mutex<Vec<Did>>>,
    called: Arc<EventFd>,
    watched: Arc<EventFd>,
    kick: Arc<EventFd>,
    flags: Arc<DeviceFlags>,
}

impl Bench {
    fn new() -> Self {
        let (sender, events) = crate::events::channel().unwrap();
        Self {
            io: IoThread::new(sender),
            events,
            did: Arc::default(),
            called: Arc::new(EventFd::new(0).unwrap()),
            watched: Arc::new(EventFd::new(0).unwrap()),
            kick: Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
            flags: Arc::default(),
        }
    }

    fn device(&self) -> TestDevice {
        TestDevice {
            did: Arc::clone(&self.did),
            called: Arc::clone(&self.called),
            watched: Arc::clone(&self.watched),
            faulty: false,
            refuses: false,
        }
    }

    fn start(&self, device: Box<dyn Device>) {
        let memory = Arc::new(GuestRam::new(64, Backing::Private).unwrap());
        memory.write_obj(0u64, GuestAddress(0)).unwrap();
        let settings = QueueSettings {
            size: 8,
            desc: 0x1000,
            driver: 0x2000,
            device: 0x3000,
            event_idx: false,
        };
        let interrupt = QueueInterrupt::new().unwrap();
        let queue = DeviceQueue::new(
            0,
            settings,
            &memory,
            Arc::clone(&self.kick),
            interrupt.clone(),
        )
        .unwrap();
        self.io.start(Job {
            place: 0,
            device,
            activation: Activation {
                features: 0,
                memory,
                queues: vec![Some(queue), None],
                driver: DriverLine {
                    flags: Arc::clone(&self.flags),
                    interrupt,
                },
            },
        });
    }

    /// Waits for one call of the device.
    fn wait(&self) {
        self.called.read().unwrap();
    }

    fn did(&self) -> Vec<Did> {
        self.did.lock().unwrap().clone()
    }
}

#[test]
fn notifications_and_watched_descriptors_reach_the_device() {
    let bench = Bench::new();
    bench.start(Box::new(bench.device()));
    bench.kick.write(1).unwrap();
    bench.wait();
    bench.watched.write(1).unwrap();
    bench.wait();
    assert_eq!(bench.did(), [Did::Queue(0), Did::Ready(77)]);
    let (counters, faults) = bench.io.statistics()[&0];
    assert_eq!((counters.requests, faults), (2, 0));
}

#[test]
fn a_stop_gives_the_device_back_after_what_was_asked_for() {
    let bench = Bench::new();
    for round in 1..=50 {
        bench.start(Box::new(bench.device()));
        bench.kick.write(1).unwrap();
        assert!(bench.io.stop(0).is_some());
        let did = bench.did();
        assert_eq!(did.len(), 2 * round);
        assert_eq!(did[2 * round - 2..], [Did::Queue(0), Did::Stopped]);
    }
}

#[test]
fn nothing_reaches_a_stopped_device() {
    let bench = Bench::new();
    bench.start(Box::new(bench.device()));
    assert!(bench.io.stop(0).is_some());
    bench.kick.write(1).unwrap();
    bench.watched.write(1).unwrap();
    assert!(bench.io.stop(0).is_none(), "also lets the thread go round");
    assert_eq!(bench.did(), [Did::Stopped]);
}

#[test]
fn a_fault_stops_the_device_tells_everybody_and_can_be_reset() {
    let bench = Bench::new();
    let faulty = TestDevice {
        faulty: true,
        ..bench.device()
    };
    bench.start(Box::new(faulty));
    bench.kick.write(1).unwrap();
    let device = bench.io.stop(0);
    assert!(bench.flags.needs_reset());
    assert_eq!(bench.did(), [Did::Queue(0), Did::Stopped]);
    let reports = bench.events.take();
    assert_eq!(reports.len(), 1, "one report for one stop");
    assert!(matches!(
        reports.front(),
        Some(Happening::DeviceFault { device: "rng", .. })
    ));
    assert_eq!(bench.io.statistics()[&0].1, 1);

    bench.start(device.unwrap().device);
    bench.kick.write(1).unwrap();
    bench.io.stop(0).unwrap();
    assert_eq!(bench.io.statistics()[&0].1, 2);

    // Another device in its place begins anew.
    bench.io.forget(0);
    assert!(bench.io.statistics().is_empty());
}

#[test]
fn a_device_that_cannot_start_waits_for_a_reset() {
    let bench = Bench::new();
    let refusing = TestDevice {
        refuses: true,
        ..bench.device()
    };
    bench.start(Box::new(refusing));
    assert!(bench.io.stop(0).is_some());
    assert!(bench.flags.needs_reset());
    assert_eq!(bench.events.take().len(), 1);
}

#[test]
fn without_a_device_there_is_no_thread_and_nothing_to_stop() {
    let bench = Bench::new();
    assert!(bench.io.stop(0).is_none());
    assert!(bench.io.statistics().is_empty());
    assert!(bench.io.commands.lock().unwrap().is_none());
}

#[test]
fn a_device_that_panics_ends_the_machine() {
    let bench = Bench::new();
    bench.start(Box::new(bench.device()));
    let poisoned = Arc::clone(&bench.did);
    let _ = std::thread::spawn(move || {
        let _guard = poisoned.lock().unwrap();
        panic!("so that the device's own lock() fails");
    })
    .join();
    bench.kick.write(1).unwrap();
    assert!(bench.io.stop(0).is_none());
    assert!(matches!(
        bench.events.exit_reason(),
        Some(caisson_control::ExitReason::Failed { message }) if message.contains("devices")
    ));
}
