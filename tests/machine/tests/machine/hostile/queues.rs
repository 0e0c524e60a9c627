//! Registers of queues, and a status, that cannot be (virtio 1.3 §2.1, §3.1.1, §4.1.4.3).

use caisson_machine_tests::Step;

use super::attacker::Attacker;
use super::driver::{
    BUFFERS, Driver, FEATURES_OK, QUEUE_SELECT, Registers, SIZE, STATUS, VERSION_1,
};

/// Features that nobody offers: bit 63, and those of the packed ring and of an IOMMU.
const NOT_OFFERED: [u64; 3] = [1 << 63, 1 << 34, 1 << 33];

/// Every queue that cannot be stops the device at once, with a reason.
pub(super) fn that_cannot_be(attacker: &Attacker, driver: &Driver, name: &str, memory: u64) {
    let good = driver.registers(0);
    let hole = 0xc000_0000;
    let wrong: Vec<(&str, Registers)> = vec![
        ("queue size 0 is not", Registers { size: 0, ..good }),
        ("queue size 3 is not", Registers { size: 3, ..good }),
        (
            "descriptor table at 0xc0000000",
            Registers { desc: hole, ..good },
        ),
        (
            "is not aligned to 16",
            Registers {
                desc: good.desc + 8,
                ..good
            },
        ),
        (
            "is not aligned to 2",
            Registers {
                driver: good.driver + 1,
                ..good
            },
        ),
        (
            "is not aligned to 4",
            Registers {
                device: good.device + 2,
                ..good
            },
        ),
        (
            "descriptor table at 0xfffffffffffffff0",
            Registers {
                desc: u64::MAX - 15,
                ..good
            },
        ),
        (
            "available ring at",
            Registers {
                driver: memory - 2,
                ..good
            },
        ),
        (
            "used ring at",
            Registers {
                device: memory - 4,
                ..good
            },
        ),
        (
            "used ring at 0x10000000000",
            Registers {
                device: 1 << 40,
                ..good
            },
        ),
        (
            "queue 0",
            Registers {
                enabled: false,
                ..good
            },
        ),
    ];
    let before = attacker.faults(driver.slot);
    let mut steps = vec![driver.seize()];
    for (_, registers) in &wrong {
        steps.extend(driver.negotiate(VERSION_1));
        for queue in 1..driver.queues {
            steps.extend(driver.set(queue, driver.registers(queue)));
        }
        steps.extend(driver.set(0, *registers));
        steps.extend(driver.ready());
        steps.push(driver.until_it_stops());
        // What is asked of it now, it does not hear.
        for queue in 0..driver.queues + 3 {
            steps.extend(driver.notify(queue));
        }
    }
    steps.push(driver.release());
    attacker.play(steps);
    for (words, registers) in &wrong {
        let refusal = attacker.fault(name);
        assert!(refusal.contains(words), "{registers:?}: {refusal}");
    }
    let counted = attacker.faults(driver.slot) - before;
    assert_eq!(counted, wrong.len() as u64, "each is counted");
}

/// A device does not take what it must not, and works afterwards.
pub(super) fn with_a_status_that_cannot_be(attacker: &Attacker, driver: &Driver) {
    let status = Step::Read {
        slot: driver.slot,
        offset: STATUS,
        width: 1,
    };
    let mut steps = vec![driver.seize()];
    for features in NOT_OFFERED
        .map(|bit| VERSION_1 | bit)
        .into_iter()
        .chain([0])
    {
        steps.extend(driver.negotiate(features));
        steps.push(status.clone());
        // It is said all the same that the driver is ready.
        steps.extend(driver.ready());
        steps.push(status.clone());
    }
    let refused = steps.len();
    // Everything at once, everything but zero, and what only a device may say.
    steps.extend(driver.status(0));
    for bits in [0xff, 0x0f, 0x04, 0x40] {
        steps.extend(driver.status(bits));
    }
    // Queues that do not exist.
    for queue in [driver.queues, 0x7fff, u16::MAX] {
        steps.extend(driver.set(queue, driver.registers(0)));
        steps.extend(driver.notify(queue & 0x1ff));
    }
    // All rings in one place: then the device writes into its own table.
    let place = driver.address(BUFFERS);
    steps.extend(driver.negotiate(VERSION_1));
    for queue in 0..driver.queues {
        let one = Registers {
            desc: place,
            driver: place,
            device: place,
            ..driver.registers(queue)
        };
        steps.extend(driver.set(queue, one));
    }
    steps.extend(driver.ready());
    for index in 0..64_u16 {
        let noise = (index..index + 64).flat_map(|word| (word % (SIZE + 1)).to_le_bytes());
        steps.push(Step::Put {
            at: BUFFERS,
            bytes: noise.collect(),
        });
        for queue in 0..driver.queues {
            steps.extend(driver.notify(queue));
        }
    }
    // A hundred resets, in the middle of requests.
    for _ in 0..100 {
        steps.extend(driver.start());
        steps.extend(driver.request(0, &[], &[4096]));
        steps.extend(driver.write(QUEUE_SELECT, 2, 0));
    }
    steps.push(driver.release());
    assert!(steps.len() > refused);
    let read = attacker.play(steps);
    for pair in read.chunks(2) {
        assert_eq!(pair[0] & u64::from(FEATURES_OK), 0, "{read:?}");
        assert_eq!(pair[1] & u64::from(FEATURES_OK | 4), 0, "{read:?}");
    }
    assert_eq!(read.len(), 8);
}
