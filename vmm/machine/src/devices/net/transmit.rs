//! From the driver to the tap (virtio 1.3 §5.1.6.2): one transmit queue.

use std::io;

use super::direction::Direction;
use super::tap::Link;
use super::{ETHERNET_HEADER, HEADER_SIZE, MAX_PACKET, PACKETS_PER_CALL};
use crate::virtio::chain::Chain;
use crate::virtio::device::QueuePosition;
use crate::virtio::iovec;
use crate::virtio::queue::{DeviceQueue, QueueError};

/// One transmit queue.
pub(super) struct Transmitter {
    queue: DeviceQueue,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What the driver sends is passed on.
    Open,
    /// The tap is full: wait until it can be written.
    Blocked,
    /// The limit is reached: wait for its timer.
    Throttled,
}

impl Transmitter {
    /// Takes a queue over.
    pub(super) fn new(queue: DeviceQueue) -> Self {
        Self {
            queue,
            state: State::Open,
        }
    }

    /// Whether to wait until the tap takes packets.
    pub(super) fn is_blocked(&self) -> bool {
        self.state == State::Blocked
    }

    /// Whether it waits for the timer of its limit.
    pub(super) fn is_throttled(&self) -> bool {
        self.state == State::Throttled
    }

    /// The driver notified the queue. While the device waits for something else, that is no news.
    pub(super) fn on_notification(
        &mut self,
        link: &dyn Link,
        direction: &mut Direction,
    ) -> Result<(), QueueError> {
        if self.state == State::Open {
            return self.run(link, direction);
        }
        Ok(())
    }

    /// Passes on what the driver sends, as much as there is and may be passed on in one call.
    pub(super) fn run(
        &mut self,
        link: &dyn Link,
        direction: &mut Direction,
    ) -> Result<(), QueueError> {
        self.queue.disable_notification()?;
        self.state = self.pass_on(link, direction)?;
        self.queue.signal_used()
    }

    fn pass_on(&mut self, link: &dyn Link, direction: &mut Direction) -> Result<State, QueueError> {
        for _ in 0..PACKETS_PER_CALL {
            let Some(chain) = self.queue.pop()? else {
                if self.queue.rest()? {
                    continue;
                }
                return Ok(State::Open);
            };
            if !direction.may_pass() {
                self.queue.put_back(chain)?;
                return Ok(State::Throttled);
            }
            match send(&chain, link)? {
                Ok(bytes) => direction.passed(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.queue.put_back(chain)?;
                    return Ok(State::Blocked);
                }
                // The link is down or gone (EIO, EBADFD), or the kernel does not accept the header
                // (EINVAL). A network may lose packets.
                Err(_) => direction.dropped(),
            }
            self.queue.complete(chain, 0)?;
        }
        self.queue.notify_itself();
        Ok(State::Open)
    }

    /// Chains completed.
    pub(super) fn requests(&self) -> u64 {
        self.queue.requests()
    }

    /// Where the queue stands. Nothing is in flight between two calls.
    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }
}

/// Writes the packet in `chain`; the number of its bytes without the header. The kernel copies the
/// header once and checks the copy, so it is not looked at here.
fn send(chain: &Chain, link: &dyn Link) -> Result<io::Result<usize>, QueueError> {
    let mut reader = chain.reader();
    let length = reader.left();
    if !(HEADER_SIZE + ETHERNET_HEADER..=MAX_PACKET).contains(&length) {
        return Ok(Err(io::ErrorKind::InvalidInput.into()));
    }
    let slices = reader.slices(length)?;
    Ok(iovec::write(link.fd(), &slices).map(|_| length - HEADER_SIZE))
}
