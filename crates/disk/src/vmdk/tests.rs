use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Vmdk, put_le_u32, put_le_u64, zlib};
use crate::format::Format;
use crate::whole::{fails, whole, whole_within};

#[track_caller]
fn refused(image: &[u8], kind: ErrorKind, words: &str) {
    fails(Format::Vmdk, image, kind, words);
}

fn with(mut image: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    put_le_u32(&mut image, at, value);
    image
}

fn sparse_with(at: usize, value: u32) -> Vec<u8> {
    with(Vmdk::sparse().build(), at, value)
}

fn stream_with(at: usize, value: u32) -> Vec<u8> {
    with(Vmdk::stream().build(), at, value)
}

/// Where the first grain of a stream has its marker.
const FIRST_GRAIN: usize = 3 * 512;

fn expected() -> Vec<u8> {
    [[1_u8; 4096], [0; 4096], [3; 4096], [0; 4096]].concat()
}

#[test]
fn a_sparse_disk_is_its_grains_and_zeros_between() {
    let (info, disk) = whole(Format::Vmdk, &Vmdk::sparse().build()).unwrap();
    assert_eq!(
        (info.variant.as_str(), info.warnings.len()),
        ("vmdk, monolithicSparse", 0)
    );
    assert!(disk == expected());
    let (info, _) = whole(Format::Vmdk, &{
        let mut image = Vmdk::sparse().build();
        image[72] = 1;
        image
    })
    .unwrap();
    assert!(info.warnings[0].contains("not closed"), "{:?}", info.warnings);
}

#[test]
fn a_stream_is_decompressed_grain_by_grain() {
    let (info, disk) = whole(Format::Vmdk, &Vmdk::stream().build()).unwrap();
    assert_eq!(
        (info.variant.as_str(), info.warnings.len()),
        ("vmdk, streamOptimized", 0)
    );
    assert!(disk == expected());
    // The disk may end inside a grain, which is whole all the same.
    let short = Vmdk {
        sectors: 19,
        descriptor: Vmdk::stream().descriptor.replace("RW 32", "RW 19"),
        ..Vmdk::stream()
    };
    assert!(whole(Format::Vmdk, &short.build()).unwrap().1 == expected()[..19 * 512]);
    // Or the grain ends with the disk, as QEMU writes it; one that ends before is damaged.
    for (bytes, is_whole) in [(3 * 512, true), (3 * 512 - 1, false)] {
        let mut image = short.build();
        let packed = zlib(&vec![3; bytes]);
        let at = FIRST_GRAIN + 512;
        put_le_u32(&mut image, at + 8, u32::try_from(packed.len()).unwrap());
        image[at + 12..at + 12 + packed.len()].copy_from_slice(&packed);
        assert_eq!(whole(Format::Vmdk, &image).is_ok(), is_whole, "{bytes}");
    }
}

#[test]
fn a_grain_may_be_said_to_be_zero_where_the_header_allows_it() {
    let image = sparse_with(4 * 512, 1);
    assert!(
        whole(Format::Vmdk, &with(image.clone(), 8, 5)).unwrap().1
            == [vec![0; 4096], expected()[4096..].to_vec()].concat()
    );
    // Sector 1 without that flag is the descriptor: QEMU would read it as a grain.
    let (_, disk) = whole(Format::Vmdk, &image).unwrap();
    assert!(disk.starts_with(b"# Disk DescriptorFile"));
    // A table that is not there: all of its grains are zero.
    let (_, disk) = whole(Format::Vmdk, &sparse_with(3 * 512, 0)).unwrap();
    assert!(disk == vec![0; 16384]);
}

#[test]
fn every_rule_of_the_header_counts() {
    refused(b"KDMW", ErrorKind::Refused, "not a VMDK");
    refused(
        &Vmdk::sparse().build()[..300],
        ErrorKind::Damaged,
        "inside its header",
    );
    for version in [0, 4] {
        refused(&sparse_with(4, version), ErrorKind::Refused, "version");
    }
    refused(&sparse_with(8, 1 | 1 << 5), ErrorKind::Refused, "flags 0x20");
    refused(&sparse_with(74, 0x0a0a_0a20), ErrorKind::Damaged, "binary mode");
    for sectors in [0, 4, 12, 256] {
        refused(&sparse_with(20, sectors), ErrorKind::Refused, "grains of");
    }
    refused(&sparse_with(44, 256), ErrorKind::Damaged, "256 entries");
    // Compressed without markers, with markers and not compressed, and of another kind than it says.
    refused(
        &sparse_with(8, 0x1_0001),
        ErrorKind::Damaged,
        "contradicts its flags",
    );
    refused(
        &sparse_with(8, 0x3_0001),
        ErrorKind::Damaged,
        "contradicts its flags",
    );
    let mut compressed = sparse_with(8, 0x3_0001);
    compressed[77] = 1;
    refused(&compressed, ErrorKind::Damaged, "its grains are compressed");
    let mut bare = Vmdk::sparse();
    bare.descriptor = Vmdk::stream().descriptor;
    refused(&bare.build(), ErrorKind::Damaged, "its grains are not compressed");
    refused(
        &sparse_with(12, 31),
        ErrorKind::Damaged,
        "says 31 sectors, its descriptor 32",
    );
    let mut empty = Vmdk::sparse();
    empty.sectors = 0;
    empty.descriptor = empty.descriptor.replace("RW 32", "RW 0");
    refused(&empty.build(), ErrorKind::Refused, "empty disk");
    let mut large = Vmdk::sparse();
    large.sectors = u64::MAX;
    large.descriptor = large.descriptor.replace("RW 32", &format!("RW {}", u64::MAX));
    refused(&large.build(), ErrorKind::Limit, "the limit is");
    let small = Limits {
        max_table_bytes: 2,
        ..Limits::default()
    };
    let error = whole_within(Format::Vmdk, &Vmdk::sparse().build(), &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn a_descriptor_must_be_inside_and_of_a_sane_size() {
    refused(&sparse_with(28, 0), ErrorKind::Refused, "one part of a VMDK");
    refused(&sparse_with(36, 0), ErrorKind::Refused, "one part of a VMDK");
    refused(&sparse_with(36, 2049), ErrorKind::Limit, "up to 1 MiB");
    refused(&sparse_with(28, 1 << 30), ErrorKind::Damaged, "cut off");
    refused(
        &sparse_with(Vmdk::DESCRIPTOR_AT, 0),
        ErrorKind::Damaged,
        "does not begin",
    );
}

#[test]
fn tables_and_grains_must_be_inside_the_file() {
    for sector in [0, 1 << 20] {
        refused(&sparse_with(56, sector), ErrorKind::Damaged, "grain directory");
    }
    refused(&sparse_with(60, u32::MAX), ErrorKind::Damaged, "grain directory");
    refused(&sparse_with(3 * 512, 1 << 20), ErrorKind::Damaged, "cut off");
    refused(
        &sparse_with(4 * 512, 1 << 20),
        ErrorKind::Damaged,
        "a grain of its disk",
    );
    let image = Vmdk::sparse().build();
    refused(
        &image[..image.len() - 512],
        ErrorKind::Damaged,
        "a grain of its disk",
    );
}

#[test]
fn a_footer_must_be_there_and_repeat_the_header() {
    let image = Vmdk::stream().build();
    refused(
        &image[..image.len() - 512],
        ErrorKind::Damaged,
        "no footer at its end",
    );
    refused(&image[..1024], ErrorKind::Damaged, "cut off");
    let footer = Vmdk::footer_at(&image);
    refused(&stream_with(footer, 0), ErrorKind::Damaged, "no footer");
    refused(
        &stream_with(footer - 512 + 12, 2),
        ErrorKind::Damaged,
        "no footer",
    );
    refused(&stream_with(footer + 512, 1), ErrorKind::Damaged, "no footer");
    for (at, value) in [(12, 33), (20, 16), (28, 2)] {
        refused(
            &stream_with(footer + at, value),
            ErrorKind::Damaged,
            "footer contradicts its header",
        );
    }
    let mut at_end = image;
    put_le_u64(&mut at_end, footer + 56, u64::MAX);
    refused(&at_end, ErrorKind::Damaged, "footer contradicts its header");
}

#[test]
fn a_compressed_grain_must_be_its_own_and_of_its_size() {
    refused(
        &stream_with(FIRST_GRAIN, 8),
        ErrorKind::Damaged,
        "is the one of sector 8",
    );
    for length in [0, 2 * 4096 + 1, u32::MAX] {
        refused(
            &stream_with(FIRST_GRAIN + 8, length),
            ErrorKind::Damaged,
            "bytes long, more",
        );
    }
    refused(
        &stream_with(FIRST_GRAIN + 8, 10),
        ErrorKind::Damaged,
        "its full size",
    );
    refused(
        &stream_with(FIRST_GRAIN + 12, 0),
        ErrorKind::Damaged,
        "its full size",
    );
    // More and less than a grain, each a sound stream by itself.
    for bytes in [4095, 4097] {
        let packed = zlib(&vec![1; bytes]);
        let mut image = Vmdk::stream().build();
        put_le_u32(&mut image, FIRST_GRAIN + 8, u32::try_from(packed.len()).unwrap());
        image[FIRST_GRAIN + 12..FIRST_GRAIN + 12 + packed.len()].copy_from_slice(&packed);
        refused(&image, ErrorKind::Damaged, "its full size");
    }
    // The checksum of zlib is at the end of its stream.
    let packed = zlib(&[1; 4096]).len();
    refused(
        &stream_with(FIRST_GRAIN + 12 + packed - 4, 0),
        ErrorKind::Damaged,
        "its full size",
    );
}
