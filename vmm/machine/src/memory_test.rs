use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{Backing, GuestRam, HIGH_RAM_START, HOLE_START, HUGE_PAGE, MemoryError, layout};

const MIB: u64 = 1 << 20;

#[test]
fn ram_below_the_hole_is_one_region() {
    assert_eq!(layout(64 * MIB), [(0, 64 * MIB)]);
    assert_eq!(layout(HOLE_START), [(0, HOLE_START)]);
}

#[test]
fn ram_that_does_not_fit_below_the_hole_goes_on_above_4_gib() {
    assert_eq!(
        layout(HOLE_START + MIB),
        [(0, HOLE_START), (HIGH_RAM_START, MIB)]
    );
    assert_eq!(
        layout(5 << 30),
        [(0, HOLE_START), (HIGH_RAM_START, 2 << 30)]
    );
}

#[test]
fn both_ends_of_5_gib_are_usable_and_the_hole_is_not() {
    let ram = GuestRam::new(5 << 10, Backing::Private).unwrap();
    let last = GuestAddress(HIGH_RAM_START + (2 << 30) - 8);
    ram.write_obj(7u64, last).unwrap();
    assert_eq!(ram.read_obj::<u64>(last).unwrap(), 7);
    assert!(ram.write_obj(7u64, GuestAddress(last.0 + 1)).is_err());
    assert!(ram.write_obj(7u64, GuestAddress(HOLE_START)).is_err());
    assert!(ram.write_obj(7u64, GuestAddress(HOLE_START - 4)).is_err());
    assert_eq!(ram.bytes(), 5 << 30);
    assert_eq!(ram.low_bytes(), HOLE_START);
}

#[test]
fn shared_regions_follow_one_another_in_one_sealed_file() {
    let ram = GuestRam::new(3073, Backing::Shared).unwrap();
    let offsets: Vec<u64> = ram
        .iter()
        .map(|region| region.file_offset().unwrap().start())
        .collect();
    assert_eq!(offsets, [0, HOLE_START]);

    let address = GuestAddress(HIGH_RAM_START + 123);
    ram.write_slice(b"seen by the server", address).unwrap();
    let file = ram.iter().next().unwrap().file_offset().unwrap().file();
    let mut seen = [0; 18];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut seen, HOLE_START + 123).unwrap();
    assert_eq!(&seen, b"seen by the server");
    assert!(file.set_len(MIB).is_err());
    assert!(file.set_len(4 << 30).is_err());
}

#[test]
fn private_memory_has_no_file() {
    let ram = GuestRam::new(64, Backing::Private).unwrap();
    assert!(ram.iter().all(|region| region.file_offset().is_none()));
}

#[test]
fn every_region_is_aligned_to_huge_pages() {
    for backing in [Backing::Private, Backing::Shared] {
        let ram = GuestRam::new(3073, backing).unwrap();
        for region in ram.iter() {
            assert_eq!(region.as_ptr().align_offset(HUGE_PAGE), 0);
        }
    }
}

#[test]
fn a_size_beyond_all_addresses_is_refused() {
    let mib = u64::from(u32::MAX) * 1024;
    assert!(matches!(
        GuestRam::new(mib, Backing::Private),
        Err(MemoryError::Size(found)) if found == mib
    ));
}

#[test]
fn dropping_it_gives_the_pages_back_and_leaves_no_dangling_address() {
    for backing in [Backing::Private, Backing::Shared] {
        let ram = GuestRam::new(64, backing).unwrap();
        let clone = vm_memory::GuestMemoryMmap::clone(&ram);
        ram.write_obj(7u64, GuestAddress(0x1000)).unwrap();
        drop(ram);
        assert_eq!(clone.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
    }
}

#[test]
fn a_file_from_outside_becomes_the_ram() {
    let file = std::fs::File::from(
        rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
    );
    let ram = GuestRam::new(64, Backing::File(file.try_clone().unwrap())).unwrap();
    ram.write_slice(b"seen outside", GuestAddress(0x1000))
        .unwrap();
    let mut seen = [0; 12];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 0x1000).unwrap();
    assert_eq!(&seen, b"seen outside");
    assert_eq!(file.metadata().unwrap().len(), 64 * MIB);

    let used = GuestRam::new(64, Backing::File(file));
    assert!(matches!(used, Err(MemoryError::BadFile(_))), "not empty");
}

#[test]
fn a_file_that_is_not_in_memory_is_refused() {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let (pipe, _) = std::io::pipe().unwrap();
    for file in [null, std::os::fd::OwnedFd::from(pipe).into()] {
        assert!(matches!(
            GuestRam::new(64, Backing::File(file)),
            Err(MemoryError::BadFile(_))
        ));
    }
}
