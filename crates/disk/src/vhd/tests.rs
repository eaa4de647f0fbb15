use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Vhd, mbr_disk, put_u32, vhd_seal};
use crate::whole::{fails, whole, whole_within};

fn dynamic_with(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut image = Vhd::dynamic().build();
    change(&mut image);
    vhd_seal(&mut image);
    image
}

fn footer_at(image: &[u8]) -> usize {
    image.len() - 512
}

#[test]
fn a_dynamic_disk_is_its_blocks_and_zeros_between() {
    let image = Vhd::dynamic();
    let (info, disk) = whole(Format::Vhd, &image.build()).unwrap();
    assert_eq!((info.variant.as_str(), info.warnings.len()), ("vhd, dynamic", 0));
    let mut expected = vec![0; 16384];
    expected[4096..8192].copy_from_slice(&image.data[512..]);
    assert!(disk == expected);
    // The disk may end inside its last block.
    let (info, disk) = whole(
        Format::Vhd,
        &Vhd {
            virtual_bytes: 4096 + 512,
            ..image
        }
        .build(),
    )
    .unwrap();
    assert_eq!(info.virtual_bytes, 4608);
    assert!(disk == expected[..4608]);
}

#[test]
fn a_fixed_disk_is_what_stands_in_front_of_its_footer() {
    let disk = mbr_disk(16);
    let image = Vhd::fixed(disk.clone()).build();
    let (info, read) = whole(Format::Vhd, &image).unwrap();
    assert_eq!(info.variant, "vhd, fixed");
    assert!(read == disk);
    // Before Virtual PC 2004 the footer had one byte less.
    let (_, read) = whole(Format::Vhd, &image[..image.len() - 1]).unwrap();
    assert!(read == disk);
}

#[test]
fn every_rule_of_the_footer_counts() {
    let with = |at: usize, bytes: &[u8]| {
        dynamic_with(|image| {
            let at = footer_at(image) + at;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        })
    };
    let be = |value: u64| value.to_be_bytes();
    let check = |image: &[u8], kind, words: &str| fails(Format::Vhd, image, kind, words);
    check(&with(48, &be(0)), ErrorKind::Damaged, "no multiple of 512");
    check(&with(48, &be(1000)), ErrorKind::Damaged, "no multiple of 512");
    check(&with(48, &be(1 << 40)), ErrorKind::Limit, "the limit is");
    check(&with(12, &[0, 2]), ErrorKind::Refused, "version 2");
    check(&with(60, &[0, 0, 0, 4]), ErrorKind::Refused, "differencing");
    check(&with(60, &[0, 0, 0, 5]), ErrorKind::Refused, "disk type 5");
    check(
        &with(60, &[0, 0, 0, 2]),
        ErrorKind::Damaged,
        "in front of its footer",
    );
    check(&with(16, &be(100)), ErrorKind::Damaged, "no header at byte 100");
    check(&with(16, &be(2048)), ErrorKind::Damaged, "no header at byte 2048");
    check(&with(16, &be(u64::MAX)), ErrorKind::Damaged, "cut off");
    let (info, _) = whole(Format::Vhd, &with(84, &[1])).unwrap();
    assert!(info.warnings[0].contains("suspended"), "{:?}", info.warnings);

    let mut unsealed = Vhd::dynamic().build();
    let at = footer_at(&unsealed) + 30;
    unsealed[at] ^= 1;
    check(&unsealed, ErrorKind::Damaged, "checksum of its footer");
    let whole = Vhd::dynamic().build();
    check(
        &whole[..whole.len() - 600],
        ErrorKind::Damaged,
        "no footer at its end",
    );
    check(&[0; 1024], ErrorKind::Refused, "not a VHD");
    check(b"short", ErrorKind::Refused, "not a VHD");
}

#[test]
fn every_rule_of_a_dynamic_disks_header_counts() {
    let with = |at: usize, value: u32| dynamic_with(|image| put_u32(image, Vhd::HEADER_AT + at, value));
    let check = |image: &[u8], kind, words: &str| fails(Format::Vhd, image, kind, words);
    for size in [0, 1000, 2048, 12288, 512 << 20] {
        check(&with(32, size), ErrorKind::Damaged, "power of two");
    }
    check(&with(28, 3), ErrorKind::Damaged, "its size needs 4");
    check(&with(20, 0), ErrorKind::Damaged, "no block table at byte 0");
    check(&with(20, 1 << 20), ErrorKind::Damaged, "no block table");
    check(&with(16, u32::MAX), ErrorKind::Damaged, "no block table");
    let mut unsealed = Vhd::dynamic().build();
    unsealed[Vhd::HEADER_AT + 100] ^= 1;
    check(&unsealed, ErrorKind::Damaged, "checksum of its header");

    let small = Limits {
        max_table_bytes: 8,
        ..Limits::default()
    };
    let error = whole_within(Format::Vhd, &Vhd::dynamic().build(), &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn a_block_must_stand_behind_the_tables_and_inside_the_file() {
    for sector in [0, 200, u32::MAX - 1] {
        let mut image = Vhd::dynamic();
        image.table[2] = sector;
        fails(
            Format::Vhd,
            &image.build(),
            ErrorKind::Damaged,
            "a block of its disk",
        );
    }
}

#[test]
fn a_table_that_claims_to_be_huge_costs_nothing() {
    let image = dynamic_with(|image| put_u32(image, Vhd::HEADER_AT + 28, u32::MAX));
    assert_eq!(whole(Format::Vhd, &image).unwrap().1.len(), 16384);
}
