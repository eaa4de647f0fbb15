use std::io::Cursor;

use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Qcow2, gpt_disk, mbr_disk};

fn probed(bytes: &[u8]) -> Result<Probe> {
    probe(&mut Cursor::new(bytes))
}

/// The sentence with which `bytes` are refused.
fn refusal(bytes: &[u8]) -> String {
    let error = probed(bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    error.to_string()
}

/// A good MBR disk of 80 KiB with `magic` at `at`: without its rule it would pass as raw.
fn disk_with(at: usize, magic: &[u8]) -> Vec<u8> {
    let mut disk = mbr_disk(160);
    disk[at..at + magic.len()].copy_from_slice(magic);
    disk
}

#[test]
fn wrappers_and_disks_are_told_apart() {
    assert_eq!(
        probed(&[0x1f, 0x8b, 8, 0]).unwrap(),
        Probe::Wrapped(Wrapper::Gzip)
    );
    assert_eq!(
        probed(b"BZh9\x31\x41\x59\x26\x53\x59").unwrap(),
        Probe::Wrapped(Wrapper::Bzip2)
    );
    assert_eq!(
        probed(b"BZh1\x17\x72\x45\x38\x50\x90").unwrap(),
        Probe::Wrapped(Wrapper::Bzip2)
    );
    assert_eq!(probed(b"\xfd7zXZ\0").unwrap(), Probe::Wrapped(Wrapper::Xz));
    assert_eq!(
        probed(b"\x28\xb5\x2f\xfd").unwrap(),
        Probe::Wrapped(Wrapper::Zstd)
    );
    assert_eq!(
        probed(b"\x5f\x2a\x4d\x18").unwrap(),
        Probe::Wrapped(Wrapper::Zstd)
    );
    assert_eq!(
        probed(&Qcow2::small().build()).unwrap(),
        Probe::Disk(Format::Qcow2)
    );
    assert_eq!(probed(&mbr_disk(16)).unwrap(), Probe::Disk(Format::Raw));
    assert_eq!(probed(&gpt_disk(80)).unwrap(), Probe::Disk(Format::Raw));
    assert_eq!(
        probed(b"BZh text that only begins like bzip2")
            .unwrap_err()
            .kind(),
        ErrorKind::Refused
    );
}

#[test]
fn every_foreign_magic_is_refused_by_name_even_on_a_good_disk() {
    for foreign in FOREIGN {
        let disk = disk_with(foreign.at, foreign.magic);
        let sentence = refusal(&disk);
        assert!(
            sentence.contains(foreign.what) && sentence.contains(foreign.advice),
            "{sentence}"
        );
    }
    assert!(refusal(&disk_with(0, b"QFI\xfb\0\0\0\x01")).contains("version 1"));
    assert!(refusal(&disk_with(0, b"\n <!DOCTYPE HTML>")).contains("web page"));
}

#[test]
fn each_format_is_known_by_its_magic_even_on_a_good_disk() {
    let formats = [
        (disk_with(0, b"KDMV"), Format::Vmdk),
        (disk_with(0, b"vhdxfile"), Format::Vhdx),
        (disk_with(64, b"\x7f\x10\xda\xbe"), Format::Vdi),
        (disk_with(257, b"ustar"), Format::Ova),
        // A fixed VHD is a raw disk with a footer, which had 511 bytes before Virtual PC 2004.
        (disk_with(159 * 512, b"conectix"), Format::Vhd),
        (disk_with(159 * 512 + 1, b"conectix"), Format::Vhd),
        (disk_with(0, b"conectix"), Format::Vhd),
    ];
    for (disk, format) in formats {
        assert_eq!(probed(&disk).unwrap(), Probe::Disk(format));
        let error = crate::info(Format::Raw, &mut Cursor::new(&disk), &crate::Limits::default()).unwrap_err();
        assert!(error.message().contains("not a raw disk"), "{error}");
    }
}

#[test]
fn a_dmg_footer_makes_a_good_disk_foreign() {
    assert!(refusal(&disk_with(159 * 512, b"koly")).contains("DMG"));
}

#[test]
fn a_bare_file_system_is_named_but_its_old_magic_on_a_partitioned_disk_is_no_matter() {
    let numbers: [(usize, &[u8], &str); 3] = [
        (1080, &[0x53, 0xef], "ext4"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "F2FS"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "EROFS"),
    ];
    for (at, magic, name) in BARE.iter().copied().chain(numbers) {
        let mut disk = disk_with(at, magic);
        if at != 0 {
            assert_eq!(probed(&disk).unwrap(), Probe::Disk(Format::Raw), "{name}");
        }
        disk[510] = 0;
        let sentence = refusal(&disk);
        assert!(
            sentence.contains(name) && sentence.contains("whole disk"),
            "{sentence}"
        );
    }
    // A FAT boot sector has the signature of an MBR, and code in place of the table.
    let mut fat = disk_with(54, b"FAT16");
    fat[446] = 0x33;
    assert!(refusal(&fat).contains("FAT"));
}

#[test]
fn what_is_nothing_is_refused_with_what_would_be_taken() {
    assert!(refusal(b"").contains("empty"));
    for bytes in [&b"x"[..], b"some text", &[0; 4096], &vec![0xff; 100_000]] {
        assert!(refusal(bytes).contains("neither a virtual disk"));
    }
}
