//! Headers, packets and chains of all shapes, drawn from a stream of numbers: a seeded generator
//! here, whatever a fuzzer thinks of elsewhere.

use super::{BUFFERS, COMMANDS, CTRL_VQ, MQ, MRG_RXBUF, PACKETS, Rig, config};
use crate::virtio::device::DeviceFault;
use crate::virtio::mock_driver::Buffer;

/// A stream of numbers; each is below the number asked for.
trait Choices {
    fn below(&mut self, limit: u64) -> u64;
}

/// splitmix64.
struct Seeded(u64);

impl Choices for Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}

/// A chain of up to six buffers between `base` and 1 MiB behind it; now and then one of them is
/// out of order or out of memory.
fn chain(choices: &mut impl Choices, base: u64, writable: bool) -> Vec<Buffer> {
    let count = 1 + choices.below(6);
    let mut buffers = Vec::new();
    for _ in 0..count {
        let length = match choices.below(6) {
            0 => choices.below(3),
            1 => choices.below(16),
            2 => 1500 + choices.below(100),
            3 => 65_000 + choices.below(1000),
            _ => choices.below(300),
        };
        let odd = choices.below(400) == 0;
        let address = if choices.below(400) == 0 {
            0u64.wrapping_sub(choices.below(1000))
        } else {
            base + choices.below(1 << 19)
        };
        buffers.push((address, length as u32, writable != odd));
    }
    buffers
}

/// Whatever the driver does, the device serves it or stops with a fault; it neither panics nor
/// spins, completes no chain twice and writes no more than fits.
fn drive(choices: &mut impl Choices, steps: usize) -> Result<u64, DeviceFault> {
    let features = [0, MRG_RXBUF, CTRL_VQ | MQ, CTRL_VQ | MQ | MRG_RXBUF];
    let features = features[choices.below(4) as usize];
    let mut rig = Rig::with(&config(2), features);
    for _ in 0..steps {
        let pair = choices.below(2) as usize;
        match choices.below(7) {
            0 | 1 => {
                let buffers = chain(choices, BUFFERS, true);
                rig.receive[pair].try_add(&buffers);
                rig.notify_receive(pair)?;
            }
            2 | 3 => {
                let buffers = chain(choices, PACKETS, false);
                rig.transmit[pair].try_add(&buffers);
                rig.notify_transmit(pair)?;
            }
            4 => {
                let length = 1 + choices.below(70_000) as usize;
                // A full socket loses the packet, as a network may.
                let _ = rig.hosts[pair].send(&vec![choices.below(256) as u8; length]);
            }
            5 => {
                let bytes = [4, 0, choices.below(4) as u8, 0];
                rig.control.write(COMMANDS, &bytes);
                let length = choices.below(6) as u32;
                let command = [(COMMANDS, length, false), (COMMANDS + 16, 1, true)];
                rig.control.try_add(&command);
                rig.device().on_queue(4)?;
            }
            _ => {
                for host in &rig.hosts {
                    let mut bytes = [0; 100];
                    while host.recv(&mut bytes).is_ok() {}
                }
                for token in [0, 1] {
                    rig.device().on_ready(token)?;
                }
            }
        }
        for driver in rig.receive.iter_mut().chain(&mut rig.transmit) {
            while driver.take_used().is_some() {}
        }
        while rig.control.take_used().is_some() {}
    }
    let requests = rig.counters().requests;
    let stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    Ok(requests)
}

#[test]
fn no_shape_of_packets_and_chains_breaks_the_device() {
    let (mut served, mut faults) = (0, 0);
    for seed in 0..300 {
        match drive(&mut Seeded(seed), 200) {
            Ok(requests) => served += requests,
            Err(DeviceFault::Queue { .. }) => faults += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    // The generator must reach both.
    assert!(
        served > 1000 && faults > 10,
        "{served} served, {faults} faults"
    );
}
