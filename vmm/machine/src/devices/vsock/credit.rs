//! Flow control of a connection (virtio 1.3 §5.10.6.3): how much each side may send.

use std::num::Wrapping;

use super::packet::Header;

/// Bytes of a connection that the device holds at most on their way to the host, and therefore the
/// window it grants to the guest. Linux sends packets of up to 64 KiB: with four of them in the
/// window it seldom has to wait, and needs to be told only once for three.
pub(super) const WINDOW: u32 = 256 * 1024;
/// The window of further connections when there are many, so that a guest that opens all it can
/// makes the host hold little more than this for each.
pub(super) const NARROW_WINDOW: u32 = 128 * 1024;
/// Bytes of the largest packets of Linux, `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
pub(super) const PACKET: u32 = 64 * 1024;

/// The counters of both directions. They count bytes since the start modulo 2³².
///
/// What the guest says only ever limits what is sent to it; no memory is reserved by it.
#[derive(Debug)]
pub(super) struct Credit {
    window: u32,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// The value of `forwarded` that the guest knows.
    advertised: Wrapping<u32>,
    sent: Wrapping<u32>,
    peer_forwarded: Wrapping<u32>,
    peer_window: u32,
}

impl Credit {
    /// Nothing sent and nothing received, and a window of so many bytes.
    pub(super) fn new(window: u32) -> Self {
        let none = Wrapping(0);
        Self {
            window,
            received: none,
            forwarded: none,
            advertised: none,
            sent: none,
            peer_forwarded: none,
            peer_window: 0,
        }
    }

    /// The window granted to the guest, the `buf_alloc` of every packet.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Takes over what the guest tells in every packet.
    pub(super) fn learn(&mut self, header: &Header) {
        self.peer_window = header.buf_alloc.get();
        self.peer_forwarded = Wrapping(header.fwd_cnt.get());
    }

    /// Bytes that may be sent to the guest now. A guest that shrinks its buffer below what is
    /// under way, or claims to have taken what it never got, gets nothing.
    pub(super) fn room(&self) -> u32 {
        let under_way = (self.sent - self.peer_forwarded).0;
        self.peer_window.saturating_sub(under_way)
    }

    /// `count` bytes were sent to the guest.
    pub(super) fn send(&mut self, count: u32) {
        self.sent += Wrapping(count);
    }

    /// `count` bytes came from the guest; false, and not counted, when it had no right to send
    /// them.
    pub(super) fn receive(&mut self, count: u32) -> bool {
        let held = (self.received - self.forwarded).0;
        if count > self.window.saturating_sub(held) {
            return false;
        }
        self.received += Wrapping(count);
        true
    }

    /// `count` bytes from the guest were passed on to the host.
    pub(super) fn forward(&mut self, count: usize) {
        // Never more than the window: only what was received is forwarded.
        self.forwarded += Wrapping(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Whether the guest believes that no more than one packet fits in the window while there is
    /// more room, so that it should be told before it has to wait.
    pub(super) fn wants_update(&self) -> bool {
        let believed_held = (self.received - self.advertised).0;
        let believed_room = self.window.saturating_sub(believed_held);
        self.forwarded != self.advertised && believed_room <= PACKET
    }

    /// The `fwd_cnt` for the next packet, which the guest knows from then on.
    pub(super) fn advertise(&mut self) -> u32 {
        self.advertised = self.forwarded;
        self.advertised.0
    }
}

#[cfg(test)]
#[path = "credit_test.rs"]
mod tests;
