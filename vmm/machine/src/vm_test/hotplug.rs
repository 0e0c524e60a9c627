//! The slots of the hot-plug region. Without a usable /dev/kvm the tests say so and pass.

use std::sync::Arc;

use caisson_control::ExitReason;

use crate::devices::memory::HotplugSlots;
use crate::events::{EventReceiver, channel};
use crate::memory::{Backing, GuestRam};
use crate::test_kvm;
use crate::vm::{Vm, VmError};

/// A machine with this much memory to plug; `None` without KVM.
fn machine(hotplug_mib: u64) -> Option<(Result<Vm, VmError>, EventReceiver)> {
    let kvm = test_kvm::open()?;
    let (sender, receiver) = channel().unwrap();
    let memory = GuestRam::with_hotplug(64, hotplug_mib, Backing::Private).unwrap();
    let vm = test_kvm::made(Vm::new(kvm, 1, Arc::new(memory), sender))?;
    Some((vm, receiver))
}

#[test]
fn slots_of_the_hot_plug_region_come_and_go() {
    let Some((vm, events)) = machine(256) else {
        return;
    };
    let vm = vm.unwrap();
    for _ in 0..3 {
        vm.insert(1).unwrap();
        vm.insert(0).unwrap();
        vm.remove(1);
        vm.remove(0);
    }
    assert!(vm.insert(2).is_err(), "behind the region");
    assert!(vm.insert(u32::MAX).is_err());
    assert_eq!(events.exit_reason(), None);
    vm.remove(2);
    assert!(matches!(
        events.exit_reason(),
        Some(ExitReason::Failed { message }) if message.contains("memory")
    ));
}

#[test]
fn more_memory_than_kvm_has_slots_for_is_refused_before_it_is_used() {
    let Some((vm, _)) = machine(32 << 20) else {
        return;
    };
    match vm {
        Err(VmError::HotplugMemory { wanted, most }) => {
            assert_eq!(wanted, 32 << 20);
            assert!(most < wanted);
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("KVM has too many slots"),
    }
}
