use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

use super::{CHUNK, REQUIRED, describe, missing_in, missing_options};

fn complete() -> String {
    REQUIRED
        .iter()
        .map(|required| format!("{}=y\n", required.name))
        .collect()
}

fn kernel(offset: usize, config: &str) -> NamedTempFile {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(config.as_bytes()).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![0; offset]).unwrap();
    file.write_all(b"IKCFG_ST").unwrap();
    file.write_all(&gzip.finish().unwrap()).unwrap();
    file.write_all(b"IKCFG_ED and the rest of the kernel")
        .unwrap();
    file
}

#[test]
fn what_is_not_built_in_is_missing() {
    assert_eq!(missing_in(&complete()), []);
    for (instead, missing) in [
        ("# CONFIG_VIRTIO_PCI is not set", true),
        ("CONFIG_VIRTIO_PCI=m", true),
        ("", true),
        ("CONFIG_VIRTIO_PCI_LEGACY=y", true),
        ("CONFIG_VIRTIO_PCI=y", false),
    ] {
        let config = complete().replace("CONFIG_VIRTIO_PCI=y", instead);
        let options: Vec<_> = missing_in(&config)
            .iter()
            .map(|required| required.name)
            .collect();
        let expected: &[&str] = if missing { &["CONFIG_VIRTIO_PCI"] } else { &[] };
        assert_eq!(options, expected, "{instead}");
    }
}

#[test]
fn the_embedded_configuration_is_found_wherever_it_is() {
    let config = complete().replace("CONFIG_PVH=y", "# CONFIG_PVH is not set");
    for offset in [0, 1, CHUNK - 11, CHUNK - 4, CHUNK, 3 * CHUNK - 1] {
        let file = kernel(offset, &config);
        let missing = missing_options(file.path()).unwrap().unwrap();
        assert_eq!(missing.len(), 1, "at {offset}");
        let sentence = describe(&missing);
        assert!(
            sentence.contains(
                "lacks CONFIG_PVH, needed as the way into the kernel without firmware; build it"
            ),
            "{sentence}"
        );
    }
}

#[test]
fn a_kernel_without_configuration_says_nothing() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![b'I'; 2 * CHUNK]).unwrap();
    assert_eq!(missing_options(file.path()).unwrap(), None);
}

#[test]
fn a_damaged_configuration_is_an_error() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"IKCFG_ST this is not gzip").unwrap();
    assert_eq!(missing_options(file.path()).unwrap(), None);
    file.write_all(b"IKCFG_ST\x1f\x8b\x08 this is not either")
        .unwrap();
    missing_options(file.path()).unwrap_err();
}
