use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::elf::tests::{elf_with_notes, note};

fn sufficient() -> String {
    REQUIRED
        .iter()
        .map(|option| format!("{}=y\n", option.name))
        .collect()
}

fn image(pvh: bool, config: Option<&str>) -> Vec<u8> {
    let entry = note(b"Xen\0", 18, &0x0100_0000_u64.to_le_bytes());
    let mut file = elf_with_notes(if pvh { &entry } else { &[] });
    if let Some(config) = config {
        file.extend_from_slice(b"IKCFG_ST is also a word in some text; ");
        file.extend_from_slice(CONFIG_START);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(config.as_bytes()).unwrap();
        file.extend_from_slice(&packed.finish().unwrap());
        file.extend_from_slice(b"IKCFG_ED");
    }
    file
}

#[test]
fn a_kernel_with_everything_has_no_defects() {
    assert_eq!(kernel(&image(true, Some(&sufficient()))), Ok(vec![]));
}

#[test]
fn a_missing_option_is_named_with_its_reason() {
    let config = sufficient()
        .replace("CONFIG_OVERLAY_FS=y", "# CONFIG_OVERLAY_FS is not set")
        .replace("CONFIG_VIRTIO_FS=y", "CONFIG_VIRTIO_FS=m");
    let defects: Vec<_> = kernel(&image(true, Some(&config)))
        .unwrap()
        .iter()
        .map(Defect::to_string)
        .collect();
    assert_eq!(
        defects,
        [
            "CONFIG_VIRTIO_FS is a module, and a guest loads none; it is needed for root file systems and volumes from the host",
            "CONFIG_OVERLAY_FS is off; it is needed for root file systems made of layers",
        ]
    );
}

#[test]
fn a_kernel_without_entry_or_configuration_is_told_so() {
    assert_eq!(
        kernel(&image(false, None)),
        Ok(vec![Defect::NoPvhEntry, Defect::NoConfig])
    );
}

#[test]
fn a_compressed_kernel_is_refused() {
    assert_eq!(kernel(b"MZ\xea\x07\x00\xc0\x07\x8c"), Err(ElfError::NotElf));
}
