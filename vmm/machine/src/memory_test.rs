use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::mapping::HUGE_PAGE;
use super::{Backing, DiscardError, GuestRam, HIGH_RAM_START, HOLE_START, MemoryError, PAGE};

const MIB: u64 = 1 << 20;

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

#[test]
fn a_tmpfs_without_room_for_all_memory_is_refused() {
    // Every test machine has one, if with different limits.
    let file = match tempfile::tempfile_in("/dev/shm") {
        Ok(file) => file,
        Err(error) => {
            eprintln!("skipped: no file in /dev/shm: {error}");
            return;
        }
    };
    let kind = rustix::fs::fstatfs(&file).unwrap();
    let room = kind.f_blocks * u64::try_from(kind.f_bsize).unwrap();
    if kind.f_type != 0x0102_1994 || room == 0 {
        eprintln!("skipped: /dev/shm is no tmpfs with a limit");
        return;
    }
    let mib = (room >> 20) + 1;
    let hotplug = mib.next_multiple_of(128);
    for (mib, hotplug) in [(mib, 0), (64, hotplug)] {
        let backing = Backing::File(file.try_clone().unwrap());
        let refused = GuestRam::with_hotplug(mib, hotplug, backing);
        assert!(
            matches!(&refused, Err(MemoryError::BadFile(why)) if why.contains("needed")),
            "{refused:?}"
        );
    }
    let backing = Backing::File(file);
    assert!(GuestRam::new(1, backing).is_ok());
}

/// Bytes of the region at `start` that take up memory of the host, as seen in this process.
fn resident(ram: &GuestRam, start: u64) -> u64 {
    let address = ram.get_host_address(GuestAddress(start)).unwrap() as usize;
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines();
    lines
        .find(|line| line.starts_with(&format!("{address:x}-")))
        .unwrap();
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// Bytes of the memory file that take up memory of the host.
fn in_file(ram: &GuestRam) -> u64 {
    let file = ram.iter().next().unwrap().file_offset().unwrap().file();
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
}

fn fill(ram: &GuestRam, start: u64, length: u64) {
    let bytes = vec![7; usize::try_from(length).unwrap()];
    ram.write_slice(&bytes, GuestAddress(start)).unwrap();
}

#[test]
fn discarded_private_pages_are_gone_and_their_neighbours_are_not() {
    let ram = GuestRam::new(64, Backing::Private).unwrap();
    fill(&ram, 0, 8 * MIB);
    let before = resident(&ram, 0);
    assert!(before >= 8 * MIB);
    ram.discard(2 * MIB..6 * MIB).unwrap();
    assert_eq!(before - resident(&ram, 0), 4 * MIB);
    for (address, value) in [
        (2 * MIB - 1, 7u8),
        (2 * MIB, 0),
        (6 * MIB - 1, 0),
        (6 * MIB, 7),
    ] {
        let read = ram.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!(read, value, "{address:#x}");
    }
}

#[test]
fn discarded_pages_of_a_file_leave_the_file() {
    let outside = std::fs::File::from(
        rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
    );
    for backing in [Backing::Shared, Backing::File(outside)] {
        let ram = GuestRam::with_hotplug(64, 128, backing).unwrap();
        let hotplug = ram.hotplug().unwrap().start;
        fill(&ram, 0, 8 * MIB);
        fill(&ram, hotplug, 8 * MIB);
        let before = in_file(&ram);
        assert!(before >= 16 * MIB);
        ram.discard(hotplug + 2 * MIB..hotplug + 6 * MIB).unwrap();
        assert_eq!(before - in_file(&ram), 4 * MIB);
        ram.discard(PAGE..2 * PAGE).unwrap();
        assert_eq!(ram.read_obj::<u8>(GuestAddress(PAGE)).unwrap(), 0);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(2 * PAGE)).unwrap(), 7);
        let left = hotplug + 6 * MIB;
        assert_eq!(ram.read_obj::<u8>(GuestAddress(left)).unwrap(), 7);
        let length = in_file_length(&ram);
        assert_eq!(length, 192 * MIB, "the file keeps its size");
    }
}

fn in_file_length(ram: &GuestRam) -> u64 {
    let file = ram.iter().next().unwrap().file_offset().unwrap().file();
    file.metadata().unwrap().len()
}

#[test]
fn only_whole_pages_of_guest_memory_can_be_discarded() {
    let ram = GuestRam::with_hotplug(64, 128, Backing::Private).unwrap();
    let hotplug = ram.hotplug().unwrap();
    fill(&ram, 0, 4 * PAGE);
    for range in [0..PAGE - 1, 1..PAGE, PAGE / 2..PAGE] {
        assert!(matches!(
            ram.discard(range),
            Err(DiscardError::Alignment { .. })
        ));
    }
    for range in [
        0..64 * MIB + PAGE,
        64 * MIB..64 * MIB + PAGE,
        64 * MIB..hotplug.start,
        hotplug.start - PAGE..hotplug.start + PAGE,
        hotplug.end - PAGE..hotplug.end + PAGE,
        0..1 << 63,
        u64::MAX - 2 * PAGE + 1..u64::MAX - PAGE + 1,
    ] {
        assert!(
            matches!(
                ram.discard(range.clone()),
                Err(DiscardError::Outside { .. })
            ),
            "{range:x?}"
        );
    }
    assert_eq!(
        ram.read_obj::<u8>(GuestAddress(0)).unwrap(),
        7,
        "a range that is refused loses nothing"
    );
    ram.discard(8..8).unwrap();
    ram.discard(0..64 * MIB).unwrap();
    ram.discard(hotplug).unwrap();
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0)).unwrap(), 0);
}

#[test]
fn a_range_may_go_from_ram_into_the_hot_plug_region_right_behind_it() {
    let ram = GuestRam::with_hotplug(5 << 10, 128, Backing::Private).unwrap();
    let border = ram.hotplug().unwrap().start;
    assert_eq!(border, HIGH_RAM_START + (2 << 30));
    fill(&ram, border - PAGE, PAGE);
    fill(&ram, border, PAGE);
    ram.discard(border - PAGE..border + PAGE).unwrap();
    for address in [border - PAGE, border] {
        assert_eq!(ram.read_obj::<u8>(GuestAddress(address)).unwrap(), 0);
    }
}

#[test]
fn the_hot_plug_region_is_memory_for_devices_but_not_ram_from_the_start() {
    for backing in [Backing::Private, Backing::Shared] {
        let ram = GuestRam::with_hotplug(64, 256, backing).unwrap();
        let hotplug = ram.hotplug().unwrap();
        assert_eq!(hotplug, HIGH_RAM_START..HIGH_RAM_START + 256 * MIB);
        assert_eq!(ram.bytes(), 64 * MIB);
        assert_eq!(ram.low_bytes(), 64 * MIB);
        assert_eq!(ram.boot_regions().count(), 1);
        assert_eq!(ram.iter().count(), 2);
        let last = GuestAddress(hotplug.end - 8);
        ram.write_obj(7u64, last).unwrap();
        assert_eq!(ram.read_obj::<u64>(last).unwrap(), 7);
        let pointer = ram.get_host_address(GuestAddress(hotplug.start)).unwrap();
        assert_eq!(pointer.align_offset(HUGE_PAGE), 0);
    }
}

#[test]
fn the_hot_plug_region_is_the_tail_of_the_memory_file() {
    let ram = GuestRam::with_hotplug(3073, 128, Backing::Shared).unwrap();
    let offsets: Vec<u64> = ram
        .iter()
        .map(|region| region.file_offset().unwrap().start())
        .collect();
    assert_eq!(offsets, [0, HOLE_START, HOLE_START + MIB]);
    assert_eq!(in_file_length(&ram), 3201 * MIB);
    assert_eq!(in_file(&ram), 0, "it costs nothing until it is used");
}

#[test]
fn a_hot_plug_region_that_is_not_made_of_slots_is_refused() {
    for mib in [1, 127, 129] {
        assert!(matches!(
            GuestRam::with_hotplug(64, mib, Backing::Private),
            Err(MemoryError::HotplugSize(found)) if found == mib
        ));
    }
    let mib = 1 << 44;
    assert!(matches!(
        GuestRam::with_hotplug(64, mib, Backing::Private),
        Err(MemoryError::Size(found)) if found == mib
    ));
}
