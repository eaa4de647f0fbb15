use std::io::Cursor;

use super::*;
use crate::error::ErrorKind;
use crate::extents::Content;
use crate::fixture::{Qcow2, gpt_disk, gpt_seal, mbr_disk, mbr_entry};

fn warnings(disk: &[u8]) -> Vec<String> {
    crate::info(Format::Raw, &mut Cursor::new(disk), &Limits::default())
        .unwrap()
        .warnings
}

fn error(disk: &[u8]) -> (ErrorKind, String) {
    let error = crate::info(Format::Raw, &mut Cursor::new(disk), &Limits::default()).unwrap_err();
    (error.kind(), error.to_string())
}

#[track_caller]
fn damaged(disk: &[u8], words: &str) {
    let (kind, message) = error(disk);
    assert_eq!(kind, ErrorKind::Damaged, "{message}");
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn refused(disk: &[u8], words: &str) {
    let (kind, message) = error(disk);
    assert_eq!(kind, ErrorKind::Refused, "{message}");
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn warned(disk: &[u8], words: &str) {
    let warnings = warnings(disk);
    assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
}

/// A GPT disk of 80 sectors, with a change to its primary header, whose checksums are made right again.
fn gpt_with(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut disk = gpt_disk(80);
    change(&mut disk);
    gpt_seal(&mut disk, 512);
    disk
}

fn le(disk: &mut [u8], at: usize, value: u32) {
    disk[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_raw_disk_is_one_extent_of_its_source() {
    let disk = mbr_disk(16);
    let mut seen = Vec::new();
    let info = crate::read(
        Format::Raw,
        &mut Cursor::new(&disk),
        &Limits::default(),
        &mut |extent| {
            assert_eq!(extent.content, Content::Source(0));
            seen.push((extent.offset, extent.length));
            Ok(())
        },
    );
    assert_eq!(seen, [(0, 8192)]);
    assert_eq!(info.unwrap().variant, "raw, MBR");
    assert_eq!(warnings(&gpt_disk(80)), Vec::<String>::new());
}

#[test]
fn what_is_not_raw_stays_out_when_called_raw() {
    refused(&Qcow2::small().build(), "qcow2");
    refused(&[0x1f, 0x8b, 8, 0], "gzip-compressed");
    refused(b"KDMV", "vmdk image");
}

#[test]
fn the_size_is_a_multiple_of_512_and_within_the_limit() {
    let mut disk = mbr_disk(16);
    disk.push(0);
    refused(&disk, "truncate -s %512");
    let limits = Limits {
        max_virtual_bytes: 8191,
        ..Limits::default()
    };
    let error = crate::info(Format::Raw, &mut Cursor::new(mbr_disk(16)), &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn an_mbr_needs_a_signature_and_entries_that_hold() {
    let mut disk = mbr_disk(16);
    disk[511] = 0;
    refused(&disk, "neither a virtual disk");
    let mut disk = mbr_disk(16);
    mbr_entry(&mut disk, 0, 0, 8, 8);
    refused(&disk, "empty partition table");
    let mut disk = mbr_disk(16);
    disk[446] = 0x7f;
    damaged(&disk, "boot flag 0x7f");
    let mut disk = mbr_disk(16);
    disk[446] = 0x80;
    assert_eq!(warnings(&disk), Vec::<String>::new());
    let mut disk = mbr_disk(16);
    mbr_entry(&mut disk, 0, 0x83, 0, 8);
    damaged(&disk, "begins on the table itself");
}

#[test]
fn mbr_partitions_lie_inside_the_disk() {
    let mut disk = mbr_disk(16);
    mbr_entry(&mut disk, 3, 0x82, 15, 2);
    damaged(&disk, "partition 4 ends at sector 17");
    mbr_entry(&mut disk, 3, 0x82, u32::MAX, u32::MAX);
    damaged(&disk, "cut off");
}

#[test]
fn an_odd_mbr_is_a_warning() {
    let mut disk = mbr_disk(16);
    mbr_entry(&mut disk, 1, 0x82, 10, 1);
    warned(&disk, "overlap");
    let mut disk = mbr_disk(16);
    mbr_entry(&mut disk, 1, 0x82, 16, 0);
    warned(&disk, "no sectors");
    let mut disk = mbr_disk(16);
    disk[512..520].copy_from_slice(b"EFI PART");
    warned(&disk, "old GPT");
    let mut disk = gpt_disk(80);
    mbr_entry(&mut disk, 1, 0x83, 34, 8);
    warned(&disk, "hybrid");
    let mut disk = gpt_disk(80);
    mbr_entry(&mut disk, 0, 0, 0, 0);
    mbr_entry(&mut disk, 1, 0xee, 1, 79);
    warned(&disk, "first entry");
}

#[test]
fn a_gpt_needs_its_protective_mbr() {
    let mut disk = gpt_disk(80);
    disk[510] = 0;
    damaged(&disk, "no protective MBR");
    let mut disk = gpt_disk(80);
    mbr_entry(&mut disk, 0, 0xee, 2, 78);
    damaged(&disk, "begins at sector 2");
}

#[test]
fn a_gpt_for_large_sectors_is_refused() {
    let mut disk = gpt_disk(80);
    disk[4096..4104].copy_from_slice(b"EFI PART");
    disk[512..520].fill(0);
    refused(&disk, "4096-byte sectors");
    disk[510] = 0;
    refused(&disk, "4096-byte sectors");
}

#[test]
fn a_damaged_primary_gpt_is_refused_and_a_whole_backup_is_pointed_out() {
    for at in [512, 512 + 60, 1024 + 5] {
        let mut disk = gpt_disk(80);
        disk[at] ^= 1;
        damaged(&disk, "(r, b, w)");
        // Both damaged: nothing to restore from.
        disk[79 * 512] ^= 1;
        damaged(&disk, "Repair it with");
    }
}

#[test]
fn each_field_of_a_gpt_header_is_checked() {
    let cases: [(usize, u32, &str); 11] = [
        (8, 0x0002_0000, "revision"),
        (12, 91, "91 bytes long"),
        (12, 513, "513 bytes long"),
        (24, 2, "stands at sector 2"),
        (40, 60, "first usable sector"),
        (72, 79, "outside the disk"),
        (72, 1, "overlap its header"),
        (40, 33, "usable sectors"),
        (80, 0, "0 entries"),
        (80, 1025, "1025 entries"),
        (84, 256, "128 entries of 256 bytes"),
    ];
    for (field, value, words) in cases {
        damaged(&gpt_with(|disk| le(disk, 512 + field, value)), words);
    }
    damaged(
        &gpt_with(|disk| disk[512 + 72..512 + 80].fill(0xff)),
        "outside the disk",
    );
    damaged(
        &gpt_with(|disk| le(disk, 512 + 48, 79)),
        "its backup stands at 79",
    );
}

#[test]
fn gpt_partitions_are_inside_do_not_overlap_and_exist() {
    damaged(
        &gpt_with(|disk| le(disk, 1024 + 32, 33)),
        "outside the usable sectors",
    );
    damaged(
        &gpt_with(|disk| le(disk, 1024 + 40, 47)),
        "outside the usable sectors",
    );
    damaged(
        &gpt_with(|disk| le(disk, 1024 + 40, 33)),
        "outside the usable sectors",
    );
    let twice = |disk: &mut [u8]| disk.copy_within(1024..1152, 1152);
    damaged(&gpt_with(twice), "overlap");
    refused(
        &gpt_with(|disk| disk[1024..1040].fill(0)),
        "empty partition table",
    );
}

#[test]
fn a_backup_gpt_that_is_damaged_missing_or_elsewhere_is_a_warning() {
    let mut disk = gpt_disk(80);
    disk[79 * 512 + 60] ^= 1;
    warned(&disk, "backup GPT is damaged");
    let mut disk = gpt_disk(80);
    disk[79 * 512 + 56] ^= 1;
    gpt_seal(&mut disk, 79 * 512);
    warned(&disk, "differs");
    let mut disk = gpt_disk(80);
    disk.resize(100 * 512, 0);
    warned(&disk, "enlarged");
    let mut disk = gpt_disk(80);
    disk.truncate(79 * 512);
    warned(&disk, "backup GPT is missing");
    warned(&gpt_with(|disk| le(disk, 512 + 32, 1)), "backup GPT is missing");
}

#[test]
fn a_gpt_disk_cut_inside_a_partition_is_refused_and_behind_it_is_a_warning() {
    let mut disk = gpt_disk(80);
    disk.truncate(46 * 512);
    damaged(&disk, "cut off");
    let mut disk = gpt_with(|disk| le(disk, 1024 + 40, 40));
    disk.truncate(46 * 512);
    let warnings = warnings(&disk);
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("end of the disk is missing"), "{warnings:?}");
}
