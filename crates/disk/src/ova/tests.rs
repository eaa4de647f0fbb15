use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Qcow2, Vhd, Vmdk, mbr_disk, tar, tar_header, tar_seal};
use crate::format::Wrapper;
use crate::whole::{fails, whole};

const OVF: (&str, &[u8]) = ("machine.ovf", b"<Envelope/>");

#[track_caller]
fn refused(archive: &[u8], kind: ErrorKind, words: &str) {
    fails(Format::Ova, archive, kind, words);
}

fn expected() -> Vec<u8> {
    whole(Format::Vmdk, &Vmdk::stream().build()).unwrap().1
}

#[test]
fn the_one_disk_is_read_where_it_stands() {
    let disk = Vmdk::stream().build();
    let archive = tar(&[OVF, ("machine.mf", b"SHA256(...)"), ("Disk1.VMDK", &disk)]);
    assert_eq!(
        crate::probe(&mut std::io::Cursor::new(&archive)).unwrap(),
        Probe::Disk(Format::Ova)
    );
    let (info, read) = whole(Format::Ova, &archive).unwrap();
    assert_eq!(info.variant, "ova, vmdk, streamOptimized");
    assert!(read == expected());
    // A disk whose extents are ranges of the file: they are of the archive's file.
    for (format, inner) in [
        (Format::Vmdk, Vmdk::sparse().build()),
        (Format::Raw, mbr_disk(16)),
        (Format::Vhd, Vhd::dynamic().build()),
        (Format::Qcow2, Qcow2::small().build()),
    ] {
        let (_, read) = whole(Format::Ova, &tar(&[OVF, ("disk", &inner)])).unwrap();
        assert!(read == whole(format, &inner).unwrap().1, "{format}");
    }
}

#[test]
fn exactly_one_disk_is_taken_and_a_cd_is_left_out() {
    let disk = Vmdk::stream().build();
    refused(&tar(&[OVF]), ErrorKind::Refused, "holds no disk");
    refused(
        &tar(&[OVF, ("a.vmdk", &disk), ("b.vmdk", &disk)]),
        ErrorKind::Refused,
        "holds 2 disks",
    );
    refused(
        &tar(&[("a.vmdk", &disk)]),
        ErrorKind::Refused,
        "without the description",
    );
    let mut cd = vec![0; 40_000];
    cd[32_769..32_774].copy_from_slice(b"CD001");
    let (info, read) = whole(Format::Ova, &tar(&[OVF, ("a.vmdk", &disk), ("tools.ISO", &cd)])).unwrap();
    assert!(read == expected());
    assert!(info.warnings[0].contains("CD image"), "{:?}", info.warnings);
    refused(&tar(&[OVF, ("a.vmdk", &cd)]), ErrorKind::Refused, "ISO 9660");
}

#[test]
fn what_is_in_an_archive_is_not_opened_any_further() {
    let inner = tar(&[OVF, ("a.vmdk", &Vmdk::stream().build())]);
    refused(
        &tar(&[OVF, ("inner.ova", &inner)]),
        ErrorKind::Refused,
        "another archive",
    );
    let mut packed = vec![0; 600];
    packed[..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    let words = format!("compressed with {}", Wrapper::Gzip);
    refused(&tar(&[OVF, ("a.vmdk.gz", &packed)]), ErrorKind::Refused, &words);
    refused(
        &tar(&[OVF, ("notes", b"some text")]),
        ErrorKind::Refused,
        "no disk image",
    );
}

/// An archive whose second member has this header in front of its contents.
fn with_header(header: &[u8; 512], between: &[u8]) -> Vec<u8> {
    let mut archive = tar(&[OVF]);
    archive.truncate(archive.len() - 1024);
    archive.extend_from_slice(between);
    archive.extend_from_slice(header);
    archive.extend_from_slice(&Vmdk::stream().build());
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn length() -> u64 {
    Vmdk::stream().build().len() as u64
}

/// A header that speaks of the member behind it.
fn extension(kind: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = tar_header("extension", kind, text.len() as u64).to_vec();
    bytes.extend_from_slice(text);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn long_names_and_lengths_of_pax_and_gnu_are_understood() {
    let read = |archive: &[u8]| whole(Format::Ova, archive).unwrap().1;
    let plain = tar_header("disk.vmdk", b'0', length());
    assert!(read(&with_header(&plain, &[])) == expected());
    // The header says nothing of the length; pax does.
    let size = format!("size={}\n", length());
    let record = format!("{} {size}", size.len() + 3);
    let pax = extension(b'x', record.as_bytes());
    assert!(read(&with_header(&tar_header("disk.vmdk", b'0', 0), &pax)) == expected());
    // Base 256.
    let mut large = plain;
    large[124..136].fill(0);
    large[124] = 0x80;
    large[128..136].copy_from_slice(&length().to_be_bytes());
    tar_seal(&mut large);
    assert!(read(&with_header(&large, &[])) == expected());
    // A name that would make the disk a text.
    let named = extension(b'L', b"a/very/long/name/disk.vmdk\0");
    assert!(read(&with_header(&tar_header("cut.ovf", b'0', length()), &named)) == expected());
    let path = extension(b'x', b"22 path=machine/x.ovf\n");
    refused(&with_header(&plain, &path), ErrorKind::Refused, "holds no disk");
    for kind in [0, b'7'] {
        assert!(read(&with_header(&tar_header("disk.vmdk", kind, length()), &[])) == expected());
    }
    let (global, folder) = (extension(b'g', b"12 mtime=12\n"), tar_header("folder/", b'5', 0));
    assert!(read(&with_header(&plain, &[global.as_slice(), &folder].concat())) == expected());
    // The end mark may be missing.
    let mut archive = tar(&[OVF, ("disk.vmdk", &Vmdk::stream().build())]);
    archive.truncate(archive.len() - 1024);
    assert!(read(&archive) == expected());
}

#[test]
fn links_sparse_files_and_nonsense_are_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'S', b'Z'] {
        let header = tar_header("disk.vmdk", kind, length());
        refused(&with_header(&header, &[]), ErrorKind::Refused, "a link, a device");
    }
    let plain = tar_header("disk.vmdk", b'0', length());
    let sparse = extension(b'x', b"22 GNU.sparse.major=1\n");
    refused(&with_header(&plain, &sparse), ErrorKind::Refused, "sparse");
    let bad = extension(b'x', b"12 size=abc\n");
    refused(&with_header(&plain, &bad), ErrorKind::Damaged, "without a length");
    let huge = extension(b'x', &vec![b'x'; 70_000]);
    refused(&with_header(&plain, &huge), ErrorKind::Limit, "70000 bytes");
    let mut unsealed = plain;
    unsealed[0] ^= 1;
    refused(&with_header(&unsealed, &[]), ErrorKind::Damaged, "checksum");
    for field in [
        &b"77777777777\0"[..],
        b"zzzzzzzzzzz\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut header = plain;
        header[124..136].copy_from_slice(field);
        tar_seal(&mut header);
        refused(&with_header(&header, &[]), ErrorKind::Damaged, "");
    }
    let names: Vec<String> = (0..100).map(|number| format!("{number}.ovf")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    refused(&tar(&many), ErrorKind::Limit, "more than 64 members");
    let archive = with_header(&plain, &[]);
    refused(&archive[..3000], ErrorKind::Damaged, "cut off");
}
