//! A driver in user space that does what it is told, however wrong: see [`Step`].

mod arena;
mod bar;
mod port;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use caisson_machine_tests::{HELLO_PORT, Step, vsock};

use self::arena::Arena;
use self::bar::Bar;

/// What a device does at once on hardware may take seconds in emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// There is one arena, for good: a device may still write to what it was once told of.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// What the last play answered.
static PLAYED: Mutex<Option<Result<Vec<u8>, String>>> = Mutex::new(None);

struct Driver {
    arena: Arena,
    /// BARs by slot.
    bars: BTreeMap<u8, Bar>,
}

/// Where the arena is, as JSON.
///
/// # Errors
/// Says why there is none.
pub(crate) fn arena() -> io::Result<Vec<u8>> {
    let address = with_driver(|driver| Ok(driver.arena.address()))?;
    Ok(serde_json::to_vec(&address)?)
}

/// Does what the steps say and answers what they read, as JSON.
///
/// # Errors
/// Says which step could not be done.
pub(crate) fn play(steps: &[Step]) -> io::Result<Vec<u8>> {
    *played_before() = None;
    let mut read = Vec::new();
    let result = with_driver(|driver| driver.play(steps, &mut read))
        .and_then(|()| Ok(serde_json::to_vec(&read)?));
    *played_before() = Some(match &result {
        Ok(json) => Ok(json.clone()),
        Err(error) => Err(error.to_string()),
    });
    if result.is_err() {
        give_back(steps);
    }
    // Who waits for this asks for the answer next.
    if steps.contains(&Step::Hello) {
        let mut hello = None;
        // Behind a flood of ours the host may have no room for one more.
        wait(|| {
            hello = vsock::connect(vsock::HOST, HELLO_PORT).ok();
            Ok(hello.is_some())
        })?;
        if let Some(hello) = hello {
            thread::spawn(move || crate::service::drain(&hello));
        }
    }
    result
}

/// Gives all devices back that a play would have given back in the end, lest nobody hear that it
/// went wrong.
fn give_back(steps: &[Step]) {
    for step in steps {
        if let Step::Bind { slot, bound: true } = *step {
            // It may have one already.
            let _ = bind(slot, true);
        }
    }
}

/// What the last play answered.
///
/// # Errors
/// Its error; there was none.
pub(crate) fn played() -> io::Result<Vec<u8>> {
    let played = played_before().clone();
    let none = || Err("nothing was played to its end".to_owned());
    played.unwrap_or_else(none).map_err(io::Error::other)
}

fn played_before() -> MutexGuard<'static, Option<Result<Vec<u8>, String>>> {
    PLAYED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_driver<T>(act: impl FnOnce(&mut Driver) -> io::Result<T>) -> io::Result<T> {
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = match &mut *driver {
        Some(driver) => driver,
        none => none.insert(Driver {
            arena: Arena::new()?,
            bars: BTreeMap::new(),
        }),
    };
    act(driver)
}

impl Driver {
    fn play(&mut self, steps: &[Step], read: &mut Vec<u64>) -> io::Result<()> {
        for (number, step) in steps.iter().enumerate() {
            let done = self.act(step, read);
            done.map_err(|error| io::Error::other(format!("step {number}, {step:?}: {error}")))?;
        }
        Ok(())
    }

    fn act(&mut self, step: &Step, read: &mut Vec<u64>) -> io::Result<()> {
        match *step {
            Step::Bind { slot, bound } => {
                // Another function may be in the slot by now.
                self.bars.remove(&slot);
                return bind(slot, bound);
            }
            Step::Configure {
                slot,
                offset,
                width,
                value,
            } => {
                let bytes = value.to_le_bytes();
                let bytes = bytes.get(..width.into()).ok_or_else(no_such_width)?;
                config(slot)?.write_all_at(bytes, offset.into())?;
            }
            Step::Inspect {
                slot,
                offset,
                width,
            } => {
                let mut bytes = [0; 8];
                let part = bytes.get_mut(..width.into()).ok_or_else(no_such_width)?;
                config(slot)?.read_exact_at(part, offset.into())?;
                read.push(u64::from_le_bytes(bytes));
            }
            Step::Write {
                slot,
                offset,
                width,
                value,
            } => self.bar(slot)?.write(offset, width, value)?,
            Step::Read {
                slot,
                offset,
                width,
            } => read.push(self.bar(slot)?.read(offset, width)?),
            Step::Until { slot, offset, mask } => {
                let bar = self.bar(slot)?;
                wait(|| {
                    let value = bar.read(offset, 1)?;
                    Ok(match mask {
                        0 => value == 0,
                        mask => value & u64::from(mask) != 0,
                    })
                })?;
            }
            Step::Put { at, ref bytes } => self.arena.write(at, bytes)?,
            Step::Get { at, width } => read.push(self.arena.number(at, width)?),
            Step::Add { at, width, by } => {
                let sum = self.arena.number(at, width)?.wrapping_add(by).to_le_bytes();
                let sum = sum.get(..width.into()).ok_or_else(no_such_width)?;
                self.arena.write(at, sum)?;
            }
            Step::Equal { at, other } => {
                let arena = &self.arena;
                wait(|| Ok(arena.number(at, 2)? == arena.number(other, 2)?))?;
            }
            Step::Out { port, width, value } => port::write(port, width, value)?,
            Step::In { port, width } => read.push(port::read(port, width)?.into()),
            Step::Repeat { times, ref steps } => {
                for _ in 0..times {
                    self.play(steps, read)?;
                }
            }
            // When all is done.
            Step::Hello => {}
        }
        Ok(())
    }

    fn bar(&mut self, slot: u8) -> io::Result<&Bar> {
        match self.bars.entry(slot) {
            std::collections::btree_map::Entry::Occupied(bar) => Ok(bar.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                Ok(place.insert(Bar::open(&format!("{}/resource0", folder(slot)))?))
            }
        }
    }
}

fn folder(slot: u8) -> String {
    format!("/sys/bus/pci/devices/0000:00:{slot:02x}.0")
}

fn config(slot: u8) -> io::Result<File> {
    let path = format!("{}/config", folder(slot));
    File::options().read(true).write(true).open(path)
}

fn bind(slot: u8, bound: bool) -> io::Result<()> {
    let path = if bound {
        "/sys/bus/pci/drivers/virtio-pci/bind".to_owned()
    } else {
        format!("{}/driver/unbind", folder(slot))
    };
    fs::write(path, format!("0000:00:{slot:02x}.0"))
}

/// Waits until something holds of which nobody is told.
fn wait(mut holds: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(io::Error::other("it does not come about"));
        }
        thread::yield_now();
    }
    Ok(())
}

fn no_such_width() -> io::Error {
    io::Error::other("there is no access of this width")
}
