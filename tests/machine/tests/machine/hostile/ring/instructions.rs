//! Instructions that a hypervisor may have to play itself, and those that only few kernels use.

use caisson_machine_tests::ring::{Act, Width};

use super::survivor::{self, Survivor};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn every_leaf_of_cpuid_has_an_answer() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for index in [0, 1, 2, 63, u32::MAX] {
        for leaves in [
            0..0x40,
            0x4000_0000..0x4000_0110,
            0x8000_0000..0x8000_0040,
            0xc000_0000..0xc000_0008,
            0xffff_fff0..0xffff_ffff,
        ] {
            acts.push(Act::identify(leaves, index));
        }
    }
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
    assert!(went.iter().all(|act| act.exceptions == 0), "{went:x?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn every_hypercall_may_be_made() {
    if survivor::skipped() {
        return;
    }
    let mut acts = Vec::new();
    for numbers in [0..0x20, 0xffff_fff0..0xffff_ffff] {
        for value in [0, 0x31, u64::MAX] {
            acts.extend(Act::call_host(numbers.clone(), value));
        }
    }
    // One after the other: of the two instructions for it, one is not the processor's own, and some
    // hosts never get past it.
    for act in acts {
        let survivor = Survivor::start(&[Act::read_ports(0x80..0x81, Width::W1), act]);
        survivor.begin();
        survivor.survive();
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn instructions_of_the_system_may_be_used_in_any_way() {
    if survivor::skipped() {
        return;
    }
    // In each, rdi is the number of the time.
    let odd: [&[u8]; 42] = [
        &[0x0f, 0x0b],                                           // ud2
        &[0xcc],                                                 // int3
        &[0xf1],                                                 // int1
        &[0xcd, 0x80],                                           // int 0x80
        &[0xcd, 0x02],                                           // int 2
        &[0x0f, 0xa2],                                           // cpuid
        &[0x0f, 0x31],                                           // rdtsc
        &[0x0f, 0x01, 0xf9],                                     // rdtscp
        &[0x89, 0xf9, 0x0f, 0x33],                               // rdpmc
        &[0x0f, 0xc7, 0xf0],                                     // rdrand eax
        &[0x0f, 0x08],                                           // invd
        &[0x0f, 0x09],                                           // wbinvd
        &[0x0f, 0x01, 0x3f],                                     // invlpg [rdi]
        &[0x0f, 0xae, 0x3f],                                     // clflush [rdi]
        &[0x0f, 0x01, 0xc8],                                     // monitor
        &[0x0f, 0x01, 0xca],                                     // clac
        &[0x0f, 0x01, 0xcb],                                     // stac
        &[0x0f, 0x01, 0xf8, 0x0f, 0x01, 0xf8],                   // swapgs, twice
        &[0x0f, 0x06],                                           // clts
        &[0x0f, 0xaa],                                           // rsm
        &[0x0f, 0x37],                                           // getsec
        &[0x89, 0xf8, 0x0f, 0x01, 0xcf],                         // encls
        &[0x89, 0xf8, 0x0f, 0x01, 0xd7],                         // enclu
        &[0x89, 0xf8, 0x0f, 0x01, 0xc0],                         // enclv
        &[0x89, 0xf8, 0x0f, 0x01, 0xd4],                         // vmfunc
        &[0x89, 0xf8, 0x0f, 0x01, 0xc5],                         // pconfig
        &[0x66, 0x0f, 0x01, 0xcc],                               // tdcall
        &[0x66, 0x0f, 0x01, 0xcf],                               // seamcall
        &[0xf3, 0x0f, 0x01, 0xd9],                               // vmgexit
        &[0x0f, 0x01, 0xe8],                                     // serialize
        &[0x31, 0xc9, 0x89, 0xf8, 0x31, 0xd2, 0x0f, 0x01, 0xd1], // xsetbv of 0
        &[0x89, 0xf9, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x01, 0xd1], // xsetbv of each
        &[0x89, 0xf9, 0x0f, 0x01, 0xd0],                         // xgetbv
        &[0x89, 0xf8, 0x31, 0xc9, 0x31, 0xd2, 0x0f, 0x01, 0xef], // wrpkru
        &[0x66, 0x0f, 0x38, 0x82, 0x3c, 0x24],                   // invpcid rdi, [rsp]
        &[0x66, 0x0f, 0x38, 0x80, 0x3c, 0x24],                   // invept rdi, [rsp]
        &[0x66, 0x0f, 0x38, 0x81, 0x3c, 0x24],                   // invvpid rdi, [rsp]
        &[0x44, 0x0f, 0x22, 0xc7],                               // mov cr8, rdi
        &[0x0f, 0x22, 0xd7, 0x90],                               // mov cr2, rdi
        &[0x0f, 0x23, 0xf7],                                     // mov dr6, rdi
        &[0x66, 0x0f, 0xae, 0xf7],                               // tpause edi
        &[0x0f, 0x01, 0xf7],                                     // lmsw di
    ];
    let mut acts: Vec<Act> = odd.map(|code| Act::run(code, 40)).into();
    // Every bit of the control and the debug registers alone, and with those that are set.
    // mov ecx, edi; mov eax, 1; shl rax, cl
    let bit = [0x89, 0xf9, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x48, 0xd3, 0xe0];
    for register in [0xc0, 0xd8, 0xe0] {
        // mov rdx, crN; mov rbx, rdx; xor rdx, rax; mov crN, rdx; mov crN, rbx
        let (get, set, restore) = (register + 2, register + 2, register + 3);
        let flip = [
            0x0f, 0x20, get, 0x48, 0x89, 0xd3, 0x48, 0x31, 0xc2, 0x0f, 0x22, set, 0x0f, 0x22,
            restore,
        ];
        // Paging off, or other page tables, is a way to end.
        let times = match register {
            0xc0 => 31,
            0xd8 => 12,
            _ => 64,
        };
        acts.push(Act::run(&[&bit[..], &flip].concat(), times));
        let alone = [
            0x0f, 0x20, restore, 0x0f, 0x22, register, 0x0f, 0x22, restore,
        ];
        if register == 0xe0 {
            acts.push(Act::run(&[&bit[..], &alone].concat(), 64));
        }
    }
    for register in [0xc0, 0xc8, 0xd0, 0xd8, 0xf0, 0xf8] {
        acts.push(Act::run(&[&bit[..], &[0x0f, 0x23, register]].concat(), 64));
    }
    // pushf; or byte [rsp+1], 1; popf; nop: a step at a time
    let step = [0x9c, 0x80, 0x4c, 0x24, 0x01, 0x01, 0x9d, 0x90];
    acts.push(Act::run(&step, 1000));
    let went = Survivor::start(&acts).finish();
    assert_eq!(went.len(), acts.len());
    assert_eq!((went[0].exceptions, went[0].vector), (40, Some(6)));
    let stepped = went.last().unwrap();
    assert_eq!(
        (stepped.exceptions, stepped.vector),
        (1000, Some(1)),
        "{went:x?}"
    );
}
