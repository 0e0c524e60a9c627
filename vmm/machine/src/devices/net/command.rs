//! What the driver asks for on the control queue (virtio 1.3 §5.1.6.5).

use super::features::{self, CTRL_GUEST_OFFLOADS, MQ};
use crate::virtio::chain::{Chain, Reader};
use crate::virtio::queue::QueueError;

/// Classes and their commands.
const CLASS_MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const CLASS_GUEST_OFFLOADS: u8 = 5;
const GUEST_OFFLOADS_SET: u8 = 0;

/// The answers.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// A command that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Use so many queue pairs.
    QueuePairs(u16),
    /// Of the `GUEST_` features, use these alone.
    GuestOffloads(u64),
}

impl Command {
    /// Reads a command from a driver that accepted `negotiated`; `None` if it makes no sense.
    fn read(reader: &mut Reader<'_>, negotiated: u64) -> Option<Self> {
        let command = match reader.read_object::<[u8; 2]>().ok()? {
            [CLASS_MQ, MQ_VQ_PAIRS_SET] if negotiated & MQ != 0 => {
                Self::QueuePairs(u16::from_le_bytes(reader.read_object().ok()?))
            }
            [CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET] if negotiated & CTRL_GUEST_OFFLOADS != 0 => {
                let offloads = u64::from_le_bytes(reader.read_object().ok()?);
                // The driver may only switch off what it accepted, and on again.
                if offloads & !features::guest_offloads(negotiated) != 0 {
                    return None;
                }
                Self::GuestOffloads(offloads)
            }
            _ => return None,
        };
        (reader.left() == 0).then_some(command)
    }
}

/// Serves one request: `obey` says whether the command was carried out. Returns the number of bytes
/// written.
///
/// # Errors
/// Fails when there is no room for the answer.
pub(super) fn serve(
    chain: &Chain,
    negotiated: u64,
    obey: impl FnOnce(Command) -> bool,
) -> Result<u32, QueueError> {
    let mut answer = chain.writer();
    if answer.left() == 0 {
        return Err(QueueError::TooShort { needed: 1, left: 0 });
    }
    let done = Command::read(&mut chain.reader(), negotiated).is_some_and(obey);
    answer.write_all(&[if done { OK } else { ERROR }])?;
    Ok(1)
}
