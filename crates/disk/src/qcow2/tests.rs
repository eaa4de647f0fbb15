use std::io::Cursor;
use std::io::Write;

use flate2::Compression as Level;
use flate2::write::DeflateEncoder;

use crate::error::ErrorKind;
use crate::extents::{Content, Extent};
use crate::fixture::{Qcow2, mbr_disk, put_u32, put_u64};
use crate::format::{Format, Limits};
use crate::{Error, Info};

fn info(image: &[u8]) -> Result<Info, Error> {
    crate::info(Format::Qcow2, &mut Cursor::new(image), &Limits::default())
}

/// The extents as text, and what the reading ended with.
fn read(image: &[u8]) -> Result<(Info, Vec<String>), Error> {
    let mut seen = Vec::new();
    let info = crate::read(
        Format::Qcow2,
        &mut Cursor::new(image),
        &Limits::default(),
        &mut |extent: Extent<'_>| {
            let content = match extent.content {
                Content::Zero => "zero".to_owned(),
                Content::Source(at) => format!("source {at}"),
                Content::Data(bytes) => format!("data {}", bytes[0]),
            };
            seen.push(format!("{}+{} {content}", extent.offset, extent.length));
            Ok(())
        },
    )?;
    Ok((info, seen))
}

#[track_caller]
fn fails(image: &[u8], kind: ErrorKind, words: &str) {
    let error = read(image).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(words), "{error}");
}

/// The small image with a number of 32 or 64 bits changed in its header.
fn header32(at: usize, value: u32) -> Vec<u8> {
    let mut image = Qcow2::small().build();
    put_u32(&mut image, at, value);
    image
}

fn header64(at: usize, value: u64) -> Vec<u8> {
    let mut image = Qcow2::small().build();
    put_u64(&mut image, at, value);
    image
}

fn with_l2(l2: &[u64]) -> Vec<u8> {
    Qcow2 {
        l2: l2.iter().map(|entry| (*entry, 0)).collect(),
        ..Qcow2::small()
    }
    .build()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Level::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image whose first cluster is these compressed bytes.
fn compressed(zstd: bool, packed: &[u8]) -> Vec<u8> {
    let mut image = Qcow2 {
        zstd,
        data: packed.to_vec(),
        ..Qcow2::small()
    };
    image.l2 = vec![(image.compressed(4 * 512, packed.len()), 0)];
    image.build()
}

#[test]
fn plain_zero_and_unallocated_clusters_are_read_and_merged() {
    let (info, seen) = read(&Qcow2::small().build()).unwrap();
    assert_eq!(
        (info.variant.as_str(), info.virtual_bytes, info.warnings.len()),
        ("qcow2 v3", 4096, 0)
    );
    assert_eq!(seen, ["0+512 source 2048", "512+3584 zero"]);
    // A host cluster may be mapped twice; a zero flag wins over an offset.
    let (_, seen) = read(&with_l2(&[2048, 2048, 1, 2048 | 1, (1 << 63) | 2048])).unwrap();
    assert_eq!(
        seen,
        [
            "0+512 source 2048",
            "512+512 source 2048",
            "1024+1024 zero",
            "2048+512 source 2048",
            "2560+1536 zero"
        ]
    );
    let (info, _) = read(
        &Qcow2 {
            version: 2,
            ..Qcow2::small()
        }
        .build(),
    )
    .unwrap();
    assert_eq!(info.variant, "qcow2 v2");
}

#[test]
fn the_disk_may_end_inside_a_cluster_and_span_several_l1_entries() {
    let image = Qcow2 {
        cluster_bits: 12,
        virtual_bytes: 512,
        data: vec![1; 4096],
        l2: vec![(4 << 12, 0)],
        ..Qcow2::small()
    };
    assert_eq!(read(&image.build()).unwrap().1, ["0+512 source 16384"]);
    let image = Qcow2 {
        virtual_bytes: 1 << 20,
        ..Qcow2::small()
    };
    assert_eq!(
        read(&image.build()).unwrap().1,
        ["0+512 source 2048", "512+1048064 zero"]
    );
}

#[test]
fn the_header_is_checked_field_by_field() {
    let damaged = ErrorKind::Damaged;
    fails(&header32(0, 0), ErrorKind::Refused, "first bytes");
    fails(&header32(4, 4), ErrorKind::Refused, "version 4");
    fails(&header32(20, 8), damaged, "2^8 bytes");
    fails(&header32(20, 22), damaged, "2^22 bytes");
    fails(&header32(20, u32::MAX), damaged, "2^4294967295");
    fails(&header64(24, 0), ErrorKind::Refused, "empty disk");
    fails(&header64(24, 4097), damaged, "not a multiple of 512");
    fails(
        &header64(24, (100 << 30) + 512),
        ErrorKind::Limit,
        "limit is 100 GiB",
    );
    fails(&header64(24, !511), ErrorKind::Limit, "limit is 100 GiB");
    fails(&header32(96, 7), damaged, "2^7 bits");
    fails(&header32(100, 96), damaged, "96 bytes long");
    fails(&header32(100, 108), damaged, "108 bytes long");
    fails(&header32(100, 1 << 31), damaged, "2147483648 bytes long");
    fails(
        &Qcow2::small().build()[..71],
        damaged,
        "cut off inside its header",
    );
    fails(
        &Qcow2::small().build()[..103],
        damaged,
        "cut off inside its header",
    );
}

#[test]
fn other_files_keys_and_unknown_features_are_refused() {
    fails(&header64(8, 1024), ErrorKind::Refused, "backing file");
    fails(&header32(32, 1), ErrorKind::Refused, "encrypted");
    fails(&header32(32, 2), ErrorKind::Refused, "encrypted");
    fails(&header64(72, 1 << 2), ErrorKind::Refused, "another file");
    fails(&header64(72, 1 << 5), ErrorKind::Refused, "bits 0x20");
    fails(&header64(72, 1 << 63), ErrorKind::Refused, "not known here");
    fails(&header64(72, 1 << 1), ErrorKind::Damaged, "marked as corrupt");
    let (info, _) = read(&header64(72, 1)).unwrap();
    assert!(info.warnings[0].contains("dirty bit"));
}

#[test]
fn the_compression_type_must_agree_with_its_feature_bit() {
    fails(&header64(72, 1 << 3), ErrorKind::Damaged, "contradicts");
    let mut image = Qcow2::small().build();
    image[104] = 1;
    fails(&image, ErrorKind::Damaged, "contradicts");
    image[104] = 2;
    fails(&image, ErrorKind::Refused, "compression type 2");
    assert_eq!(
        info(
            &Qcow2 {
                zstd: true,
                ..Qcow2::small()
            }
            .build()
        )
        .unwrap()
        .variant,
        "qcow2 v3, zstd"
    );
}

#[test]
fn extended_l2_needs_clusters_of_16_kib() {
    let image = Qcow2 {
        extended_l2: true,
        ..Qcow2::small()
    }
    .build();
    fails(&image, ErrorKind::Damaged, "2^14 to 2^21");
}

#[test]
fn header_extensions_are_walked_within_bounds() {
    let extension = |kind: u32, length: u32| {
        let mut image = header32(112, kind);
        put_u32(&mut image, 116, length);
        image
    };
    fails(&extension(0x4441_5441, 8), ErrorKind::Refused, "another file");
    fails(&extension(0x0537_be77, 16), ErrorKind::Refused, "encrypted");
    fails(
        &extension(0x1234_5678, 393),
        ErrorKind::Damaged,
        "longer than the header",
    );
    fails(
        &extension(0x1234_5678, u32::MAX),
        ErrorKind::Damaged,
        "longer than the header",
    );
    let (info, _) = read(&extension(0x2385_2875, 24)).unwrap();
    assert!(info.warnings[0].contains("bitmaps"));
    // The second of two is found; an endless chain of empty ones ends.
    let mut image = extension(0x1234_5678, 1);
    put_u32(&mut image, 128, 0x4441_5441);
    fails(&image, ErrorKind::Refused, "another file");
    let mut image = Qcow2 {
        cluster_bits: 12,
        l2: Vec::new(),
        ..Qcow2::small()
    }
    .build();
    (112..4096).step_by(8).for_each(|at| put_u32(&mut image, at, 5));
    fails(&image, ErrorKind::Damaged, "too many extensions");
}

#[test]
fn tables_are_aligned_outside_the_header_and_inside_the_file() {
    let damaged = ErrorKind::Damaged;
    for (name, field) in [("L1 table", 40), ("refcount table", 48)] {
        fails(&header64(field, 0), damaged, name);
        fails(&header64(field, 513), damaged, name);
        fails(&header64(field, 1 << 30), damaged, name);
        fails(&header64(field, !511), damaged, name);
    }
    fails(&header32(36, 0), damaged, "0 entries");
    fails(&header32(36, (4 << 20) + 1), ErrorKind::Limit, "L1 table");
    fails(&header32(36, 4 << 20), damaged, "cut off");
    fails(&header32(56, 0), damaged, "refcount table is 0 bytes large");
    fails(
        &header32(56, u32::MAX),
        damaged,
        "refcount table is 1.9 TiB large",
    );
    let limits = Limits {
        max_table_bytes: 7,
        ..Limits::default()
    };
    let error = crate::info(Format::Qcow2, &mut Cursor::new(Qcow2::small().build()), &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn internal_snapshots_are_a_warning_when_their_table_can_be_there() {
    let mut image = header32(60, 1);
    fails(&image, ErrorKind::Damaged, "snapshot table");
    put_u64(&mut image, 64, 1024);
    let (info, _) = read(&image).unwrap();
    assert!(info.warnings[0].contains("1 internal snapshot"));
    put_u64(&mut image, 64, 1 << 40);
    fails(&image, ErrorKind::Damaged, "snapshot table");
    fails(&header32(60, 65_537), ErrorKind::Damaged, "65537 snapshots");
}

#[test]
fn l1_and_l2_entries_are_checked() {
    let damaged = ErrorKind::Damaged;
    let l1 = |entry: u64| header64(512, entry);
    for entry in [1, 1 << 62, 1 << 56, 256] {
        fails(&l1((3 * 512) | entry), damaged, "L1 entry");
    }
    fails(&l1(1 << 20), damaged, "cut off");
    fails(&l1(0x00ff_ffff_ffff_fe00), damaged, "cut off");
    assert_eq!(read(&l1(0)).unwrap().1, ["0+4096 zero"]);
    for entry in [2, 1 << 8, 1 << 56, 1 << 61] {
        fails(&with_l2(&[2048 | entry]), damaged, "L2 entry");
    }
    // Clusters of 1 KiB: an offset of 512 is aligned to sectors only.
    let image = Qcow2 {
        cluster_bits: 10,
        l2: vec![(4 * 1024 + 512, 0)],
        data: vec![1; 2048],
        ..Qcow2::small()
    };
    fails(&image.build(), damaged, "L2 entry");
    let mut image = Qcow2 {
        cluster_bits: 10,
        ..Qcow2::small()
    }
    .build();
    put_u64(&mut image, 1024, 512 * 3);
    fails(&image, damaged, "L1 entry");
    let image = Qcow2 {
        version: 2,
        l2: vec![(1, 0)],
        ..Qcow2::small()
    }
    .build();
    fails(&image, damaged, "L2 entry");
}

#[test]
fn a_cluster_may_run_past_the_end_of_the_file_but_not_begin_there() {
    let mut image = Qcow2::small().build();
    image.truncate(2048 + 100);
    let (info, seen) = read(&image).unwrap();
    assert_eq!(seen, ["0+100 source 2048", "100+3996 zero"]);
    assert!(info.warnings[0].contains("412 bytes"), "{:?}", info.warnings);
    image.truncate(2048);
    fails(&image, ErrorKind::Damaged, "cut off");
}

#[test]
fn compressed_clusters_of_both_kinds_are_read() {
    let packed = deflated(&[7; 512]);
    assert_eq!(
        read(&compressed(false, &packed)).unwrap().1,
        ["0+512 data 7", "512+3584 zero"]
    );
    let packed = zstd::bulk::compress(&[8; 512], 3).unwrap();
    assert_eq!(
        read(&compressed(true, &packed)).unwrap().1,
        ["0+512 data 8", "512+3584 zero"]
    );
    // Rubbish up to the end of the sector belongs to the next cluster.
    let mut image = compressed(false, &deflated(&[7; 512]));
    image.resize(5 * 512, 0xff);
    assert_eq!(read(&image).unwrap().1, ["0+512 data 7", "512+3584 zero"]);
}

#[test]
fn a_compressed_cluster_decodes_to_exactly_one_cluster() {
    for size in [511, 513, 5000] {
        fails(
            &compressed(false, &deflated(&vec![7; size])),
            ErrorKind::Damaged,
            "cannot be decompressed",
        );
        let packed = zstd::bulk::compress(&vec![7; size], 3).unwrap();
        fails(
            &compressed(true, &packed),
            ErrorKind::Damaged,
            "cannot be decompressed",
        );
    }
    fails(
        &compressed(false, b"not deflate at all"),
        ErrorKind::Damaged,
        "cannot be decompressed",
    );
    fails(
        &compressed(true, b"not zstd at all"),
        ErrorKind::Damaged,
        "cannot be decompressed",
    );
    let packed = deflated(&[7; 512]);
    fails(
        &compressed(false, &packed[..packed.len() / 2]),
        ErrorKind::Damaged,
        "cannot be decompressed",
    );
}

/// A zstd frame of 512 bytes whose header asks for a window of `2^log` bytes.
fn zstd_with_window(log: u8) -> Vec<u8> {
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    packed.extend(&((512_u32 << 3) | 1).to_le_bytes()[..3]);
    packed.extend([9; 512]);
    packed
}

#[test]
fn the_window_of_a_compressed_cluster_is_bounded() {
    let (_, seen) = read(&compressed(true, &zstd_with_window(24))).unwrap();
    assert_eq!(seen, ["0+512 data 9", "512+3584 zero"]);
    for log in [25, 27, 31] {
        let image = compressed(true, &zstd_with_window(log));
        fails(&image, ErrorKind::Damaged, "cannot be decompressed");
    }
}

#[test]
fn a_compressed_cluster_lies_behind_the_header_and_inside_the_file() {
    let small = Qcow2::small();
    fails(
        &with_l2(&[small.compressed(0, 100)]),
        ErrorKind::Damaged,
        "L2 entry",
    );
    fails(
        &with_l2(&[small.compressed(511, 100)]),
        ErrorKind::Damaged,
        "L2 entry",
    );
    fails(
        &with_l2(&[small.compressed(5 * 512, 1)]),
        ErrorKind::Damaged,
        "cut off",
    );
    fails(
        &with_l2(&[small.compressed(4 * 512, 513)]),
        ErrorKind::Damaged,
        "cut off",
    );
    fails(
        &with_l2(&[(1 << 62) | ((1 << 61) - 1)]),
        ErrorKind::Damaged,
        "cut off",
    );
}

/// An image with 16 KiB clusters, extended L2 entries and these for its first clusters.
fn extended(l2: &[(u64, u64)]) -> Vec<u8> {
    let (virtual_bytes, data) = (2 << 14, vec![3; 1 << 14]);
    let l2 = l2.to_vec();
    Qcow2 {
        cluster_bits: 14,
        extended_l2: true,
        virtual_bytes,
        data,
        l2,
        ..Qcow2::small()
    }
    .build()
}

#[test]
fn subclusters_are_read_one_by_one() {
    let at = 4 << 14;
    let (info, seen) = read(&extended(&[(at, (0b10 << 32) | 0b1101), (at, 0xffff_ffff)])).unwrap();
    assert_eq!(info.variant, "qcow2 v3, extended L2");
    assert_eq!(
        seen,
        [
            "0+512 source 65536",
            "512+512 zero",
            "1024+1024 source 66560",
            "2048+14336 zero",
            "16384+16384 source 65536"
        ]
    );
    assert_eq!(
        read(&extended(&[(0, u64::MAX << 32), (at, 0)])).unwrap().1,
        ["0+32768 zero"]
    );
}

#[test]
fn subclusters_must_not_contradict_themselves() {
    let at = 4 << 14;
    fails(
        &extended(&[(at, (1 << 32) | 1)]),
        ErrorKind::Damaged,
        "contradict",
    );
    fails(&extended(&[(0, 1)]), ErrorKind::Damaged, "contradict");
    fails(&extended(&[(at | 1, 1)]), ErrorKind::Damaged, "L2 entry");
    fails(&extended(&[(8 << 14, 1)]), ErrorKind::Damaged, "cut off");
    let entry = (1 << 62) | at;
    fails(&extended(&[(entry, 1)]), ErrorKind::Damaged, "L2 entry");
}

#[test]
fn a_failing_sink_stops_the_reading() {
    let mut calls = 0;
    let error = crate::read(
        Format::Qcow2,
        &mut Cursor::new(Qcow2::small().build()),
        &Limits::default(),
        &mut |_| {
            calls += 1;
            Err(std::io::Error::other("full"))
        },
    );
    assert_eq!((error.unwrap_err().kind(), calls), (ErrorKind::Io, 1));
}

/// What is said of this disk as a raw file, and in a qcow2 image.
fn table_checked(disk: &[u8]) -> [Result<(), Error>; 2] {
    let image = Qcow2 {
        virtual_bytes: disk.len() as u64,
        l2: (0..disk.len() / 512).map(|n| ((4 + n) as u64 * 512, 0)).collect(),
        data: disk.to_vec(),
        ..Qcow2::small()
    };
    [(Format::Raw, disk.to_vec()), (Format::Qcow2, image.build())]
        .map(|(format, file)| crate::table_check(format, &mut Cursor::new(file), &Limits::default()))
}

#[test]
fn a_disk_without_a_partition_table_is_refused_whatever_it_is_in() {
    let good = mbr_disk(32);
    for checked in table_checked(&good) {
        checked.unwrap();
    }
    let mut bare = vec![0; 32 * 512];
    bare[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let mut empty_table = good.clone();
    empty_table[446..510].fill(0);
    let mut cut = good.clone();
    cut[458] = 0xff;
    for (disk, words) in [
        (
            &bare,
            "an ext2, ext3 or ext4 file system without a partition table",
        ),
        (&empty_table, "empty partition table"),
        (&cut, "cut off"),
    ] {
        for checked in table_checked(disk) {
            let error = checked.unwrap_err();
            assert!(error.message().contains(words), "{error}");
        }
    }
    let [raw, inside] = table_checked(&vec![0; 32 * 512]).map(|checked| checked.unwrap_err());
    assert!(raw.message().contains("not recognised"), "{raw}");
    assert!(inside.message().contains("no partition table"), "{inside}");
}

#[test]
fn a_partition_table_is_found_in_a_compressed_cluster_and_before_what_was_never_written() {
    let mut first = mbr_disk(16)[..512].to_vec();
    // From sector 1 to the end of a disk of 4 KiB.
    first[454..462].copy_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
    let image = compressed(false, &deflated(&first));
    crate::table_check(Format::Qcow2, &mut Cursor::new(image), &Limits::default()).unwrap();
}

#[test]
fn looking_for_a_partition_table_panics_on_nothing() {
    let mut first = mbr_disk(16)[..512].to_vec();
    first[454..462].copy_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
    for image in [Qcow2::small().build(), compressed(false, &deflated(&first))] {
        for at in 0..image.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bent = image.clone();
                bent[at] = value;
                let checked = crate::table_check(Format::Qcow2, &mut Cursor::new(bent), &Limits::default());
                if let Err(error) = checked {
                    assert!(error.message().ends_with('.'), "{at} {value}: {error}");
                }
            }
        }
    }
}
