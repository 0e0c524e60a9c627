//! What a driver can bring about in KVM. Without a usable /dev/kvm the tests say so and pass.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Vm;
use crate::events::EventReceiver;
use crate::memory::{Backing, GuestRam};
use crate::pci::msix::{Message, MessageRouter};
use crate::test_kvm;
use crate::virtio::runner::Doorbells;

#[path = "vm_test/hotplug.rs"]
mod hotplug;

const ADDRESS: u64 = 0xc000_3000;

fn vm() -> Option<(Vm, EventReceiver)> {
    let kvm = test_kvm::open()?;
    let (sender, receiver) = crate::events::channel().unwrap();
    let memory = Arc::new(GuestRam::new(64, Backing::Private).unwrap());
    let vm = test_kvm::made(Vm::new(kvm, 1, memory, sender))?;
    Some((vm.unwrap(), receiver))
}

#[test]
fn two_doorbells_in_one_place_do_not_end_the_machine() {
    let Some((vm, events)) = vm() else {
        return;
    };
    let kicks = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    for order in [[0, 1], [1, 0]] {
        for kick in &kicks {
            vm.attach(ADDRESS, kick);
        }
        for which in order {
            vm.detach(ADDRESS, &kicks[which]);
        }
    }
    assert_eq!(events.exit_reason(), None);
}

#[test]
fn no_message_of_an_interrupt_ends_the_machine() {
    let Some((vm, events)) = vm() else {
        return;
    };
    let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
    for (address, data) in [
        (0xfee0_0000, 0x30),
        (0, 0),
        (u64::MAX, u32::MAX),
        (u64::MAX << 32, 0xff),
    ] {
        vm.connect(100, &interrupt, Message { address, data });
        interrupt.write(1).unwrap();
    }
    vm.disconnect(100, &interrupt);
    assert_eq!(events.exit_reason(), None);
}
