use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Change, LogEntry, Vhdx, put_le_u32, put_le_u64, vhdx_log_seal, vhdx_seal};
use crate::whole::{fails, whole, whole_within};

const BLOCK: usize = 1 << 20;

/// An image with a change, whose checksums are made right again.
fn with(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut image = Vhdx::dynamic().build();
    change(&mut image);
    vhdx_seal(&mut image);
    image
}

/// With a number of 32 bits changed at `at` of the items of the metadata.
fn with_item(at: usize, value: u32) -> Vec<u8> {
    with(|image| put_le_u32(image, Vhdx::ITEMS_AT + at, value))
}

/// With a number of 32 bits changed at `at` of both region tables.
fn with_region(at: usize, value: u32) -> Vec<u8> {
    with(|image| {
        for table in Vhdx::REGIONS_AT {
            put_le_u32(image, table + at, value);
        }
    })
}

/// With a number of 32 bits changed at `at` of both headers.
fn with_header(at: usize, value: u32) -> Vec<u8> {
    with(|image| {
        for header in Vhdx::HEADERS_AT {
            put_le_u32(image, header + at, value);
        }
    })
}

fn with_log(log: Vec<LogEntry>) -> Vec<u8> {
    Vhdx {
        log,
        ..Vhdx::dynamic()
    }
    .build()
}

#[track_caller]
fn refused(image: &[u8], kind: ErrorKind, words: &str) {
    fails(Format::Vhdx, image, kind, words);
}

/// What [`Vhdx::dynamic`] holds.
fn expected() -> Vec<u8> {
    let mut disk = vec![0; 7 << 19];
    disk[BLOCK..2 * BLOCK].fill(1);
    disk
}

#[test]
fn a_disk_is_its_blocks_and_zeros_between() {
    let (info, disk) = whole(Format::Vhdx, &Vhdx::dynamic().build()).unwrap();
    assert_eq!((info.variant.as_str(), info.warnings.len()), ("vhdx, dynamic", 0));
    assert!(disk == expected());
    // Undefined, unmapped, and unmapped as early versions wrote it.
    for state in [1, 3, 5] {
        let mut image = Vhdx::dynamic();
        image.table[1] = state;
        assert!(whole(Format::Vhdx, &image.build()).unwrap().1 == vec![0; 7 << 19]);
    }
    let fixed = Vhdx {
        is_fixed: true,
        virtual_bytes: 2 << 20,
        table: vec![(5 << 20) | 6, (4 << 20) | 6],
        blocks: 2,
        log: Vec::new(),
    };
    let (info, disk) = whole(Format::Vhdx, &fixed.build()).unwrap();
    assert_eq!(info.variant, "vhdx, fixed");
    assert!(disk == [vec![2; BLOCK], vec![1; BLOCK]].concat());
}

#[test]
fn an_entry_for_a_sector_bitmap_stands_after_each_chunk_of_blocks() {
    // Blocks of 256 MiB with sectors of 512 bytes: every 16 of them.
    let mut image = Vhdx::dynamic();
    image.virtual_bytes = 20 << 28;
    image.table = vec![0; 21];
    image.table[16] = (4 << 20) | 6;
    image.table[17] = 2;
    let mut image = image.build();
    put_le_u32(&mut image, Vhdx::ITEMS_AT, 256 << 20);
    let mut extents = Vec::new();
    let info = crate::read(
        Format::Vhdx,
        &mut std::io::Cursor::new(&image),
        &Limits::default(),
        &mut |extent| {
            extents.push((extent.offset, extent.length));
            Ok(())
        },
    );
    assert_eq!(info.unwrap().virtual_bytes, 20 << 28);
    assert_eq!(extents, [(0, 20 << 28)], "the bitmap's entry is no block");
}

#[test]
fn the_header_that_was_written_last_counts() {
    let torn = |number: usize| {
        let mut image = Vhdx::dynamic().build();
        image[Vhdx::HEADERS_AT[number] + 100] ^= 1;
        image
    };
    assert!(whole(Format::Vhdx, &torn(0)).is_ok());
    assert!(whole(Format::Vhdx, &torn(1)).is_ok());
    let mut both = torn(0);
    both[Vhdx::HEADERS_AT[1] + 100] ^= 1;
    refused(&both, ErrorKind::Damaged, "neither of its two headers");
    // The older one says something else, in a way that would be refused.
    let image = with(|image| put_le_u32(image, Vhdx::HEADERS_AT[0] + 64, 2 << 16));
    assert!(whole(Format::Vhdx, &image).is_ok());
    let image = with(|image| put_le_u32(image, Vhdx::HEADERS_AT[1] + 64, 2 << 16));
    refused(&image, ErrorKind::Refused, "version 2");
    refused(
        &with_header(64, 1 << 16 | 1),
        ErrorKind::Refused,
        "log of version 1",
    );
    refused(&[0; 4096], ErrorKind::Refused, "not a VHDX");
    refused(
        &Vhdx::dynamic().build()[..66 << 10],
        ErrorKind::Damaged,
        "neither of its two",
    );
}

#[test]
fn regions_are_inside_apart_and_known() {
    let torn = |numbers: &[usize]| {
        let mut image = Vhdx::dynamic().build();
        for number in numbers {
            image[Vhdx::REGIONS_AT[*number] + 5000] ^= 1;
        }
        image
    };
    assert!(whole(Format::Vhdx, &torn(&[0])).is_ok());
    refused(&torn(&[0, 1]), ErrorKind::Damaged, "no region table");
    refused(&with_region(8, 2048), ErrorKind::Damaged, "longer than its place");
    // The first entry is the block table's: its place and its length.
    refused(&with_region(36, u32::MAX), ErrorKind::Damaged, "cut off");
    for (at, value) in [(32, 0), (32, 0x20_0001), (40, 0), (40, 1000)] {
        refused(&with_region(at, value), ErrorKind::Damaged, "impossible place");
    }
    refused(&with_region(32, 3 << 20), ErrorKind::Damaged, "overlap");
    refused(&with_region(32, 1 << 20), ErrorKind::Damaged, "overlap");
    refused(
        &with_region(16, 7),
        ErrorKind::Refused,
        "region that must be understood",
    );
    let optional = with(|image| {
        for table in Vhdx::REGIONS_AT {
            put_le_u32(image, table + 8, 3);
            put_le_u64(image, table + 16 + 64 + 16, 9 << 20);
            put_le_u32(image, table + 16 + 64 + 24, 1 << 20);
        }
    });
    assert!(
        whole(Format::Vhdx, &optional).is_ok(),
        "an unknown region that may be ignored"
    );
    refused(
        &with_region(8, 1),
        ErrorKind::Damaged,
        "lacks its block table or its metadata",
    );
    let twice = with(|image| {
        for table in Vhdx::REGIONS_AT {
            image.copy_within(table + 16..table + 32, table + 48);
        }
    });
    refused(&twice, ErrorKind::Damaged, "names a region twice");
    refused(
        &with_header(72, 64 << 10),
        ErrorKind::Damaged,
        "log in an impossible place",
    );
    refused(
        &with_header(68, 0),
        ErrorKind::Damaged,
        "log in an impossible place",
    );
}

#[test]
fn metadata_are_complete_known_and_sane() {
    let entry = |number: usize, at: usize, value: u32| {
        with(|image| put_le_u32(image, Vhdx::METADATA_AT + 32 + 32 * number + at, value))
    };
    refused(
        &with(|image| image[Vhdx::METADATA_AT] = 0),
        ErrorKind::Damaged,
        "no metadata",
    );
    refused(
        &with(|image| image[Vhdx::METADATA_AT + 11] = 8),
        ErrorKind::Damaged,
        "no metadata",
    );
    refused(
        &entry(0, 16, 100),
        ErrorKind::Damaged,
        "metadata in an impossible place",
    );
    refused(
        &entry(0, 16, u32::MAX),
        ErrorKind::Damaged,
        "metadata in an impossible place",
    );
    refused(
        &entry(0, 20, 4),
        ErrorKind::Damaged,
        "metadata in an impossible place",
    );
    refused(
        &entry(0, 0, 7),
        ErrorKind::Refused,
        "metadata that must be understood",
    );
    refused(
        &entry(1, 24, 7),
        ErrorKind::Refused,
        "metadata that must be understood",
    );
    let optional = with(|image| {
        put_le_u32(image, Vhdx::METADATA_AT + 32, 7);
        put_le_u32(image, Vhdx::METADATA_AT + 32 + 24, 0);
    });
    refused(&optional, ErrorKind::Damaged, "lacks its block size");
    let twice = with(|image| {
        image[Vhdx::METADATA_AT + 10] = 4;
        image.copy_within(
            Vhdx::METADATA_AT + 32..Vhdx::METADATA_AT + 64,
            Vhdx::METADATA_AT + 128,
        );
    });
    refused(&twice, ErrorKind::Damaged, "the same metadata twice");
    for size in [0, 1 << 19, 3 << 20, 512 << 20] {
        refused(&with_item(0, size), ErrorKind::Damaged, "power of two");
    }
    refused(&with_item(4, 2), ErrorKind::Refused, "differencing");
    refused(&with_item(16, 1024), ErrorKind::Damaged, "sectors of 1024");
    refused(&with_item(8, 1000), ErrorKind::Damaged, "whole sectors");
    refused(
        &with_item(12, 1 << 24),
        ErrorKind::Damaged,
        "whole sectors up to 64 TiB",
    );
    refused(&with_item(12, 1 << 10), ErrorKind::Limit, "the limit is");
    let empty = with(|image| put_le_u64(image, Vhdx::ITEMS_AT + 8, 0));
    refused(&empty, ErrorKind::Refused, "empty disk");
    let (info, _) = whole(Format::Vhdx, &with_item(16, 4096)).unwrap();
    assert!(info.warnings[0].contains("4096"), "{:?}", info.warnings);
    let locator = with(|image| {
        let at = Vhdx::METADATA_AT + 32;
        image[at..at + 16].copy_from_slice(&super::guid::PARENT_LOCATOR);
    });
    refused(&locator, ErrorKind::Refused, "differencing");
}

#[test]
fn the_block_table_covers_the_disk_and_leads_into_the_file() {
    // A table of 1 MiB has 131,072 entries: QEMU issues 4033 and 4390 were about larger sizes.
    let large = with(|image| put_le_u64(image, Vhdx::ITEMS_AT + 8, 40 << 40));
    let limits = Limits {
        max_virtual_bytes: 64 << 40,
        ..Limits::default()
    };
    let error = whole_within(Format::Vhdx, &large, &limits).unwrap_err();
    assert!(error.message().contains("its size needs 320"), "{error}");
    let small = Limits {
        max_table_bytes: 16,
        ..Limits::default()
    };
    let error = whole_within(Format::Vhdx, &Vhdx::dynamic().build(), &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    for entry in [4, 7] {
        let mut image = Vhdx::dynamic();
        image.table[0] = entry | 4 << 20;
        refused(&image.build(), ErrorKind::Damaged, "without a parent");
    }
    for at in [0, 5 << 20, 0xfff_ffff << 36] {
        let mut image = Vhdx::dynamic();
        image.table[0] = at | 6;
        refused(&image.build(), ErrorKind::Damaged, "a block of its disk stands");
    }
}

/// The page of the block table, with these entries.
fn table_page(entries: &[u64]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    for (number, entry) in entries.iter().enumerate() {
        put_le_u64(&mut page, 8 * number, *entry);
    }
    page
}

fn entry(sequence: u64, tail: u32, at: usize, changes: Vec<Change>) -> LogEntry {
    LogEntry {
        sequence,
        tail,
        at,
        changes,
    }
}

const TABLE: u64 = Vhdx::TABLE_AT as u64;
const DATA: u64 = Vhdx::DATA_AT as u64;

#[test]
fn a_log_is_applied_to_tables_and_blocks() {
    // The third block instead of the second; then some of it anew, and some of that zero.
    let log = vec![
        entry(
            5,
            0,
            0,
            vec![Change::Page(TABLE, table_page(&[0, 0, DATA | 6, 0]))],
        ),
        entry(
            6,
            0,
            8192,
            vec![
                Change::Page(DATA + 8192, vec![9; 4096]),
                Change::Zero(DATA + 16384, 12288),
                Change::Page(DATA + 20480, vec![8; 4096]),
            ],
        ),
    ];
    let (info, disk) = whole(Format::Vhdx, &with_log(log)).unwrap();
    let mut expected = vec![0; 7 << 19];
    let block = &mut expected[2 * BLOCK..3 * BLOCK];
    block.fill(1);
    block[8192..12288].fill(9);
    block[16384..28672].fill(0);
    block[20480..24576].fill(8);
    assert!(disk == expected);
    assert!(
        info.warnings[0].contains("log were applied"),
        "{:?}",
        info.warnings
    );
}

#[test]
fn the_newest_unbroken_run_that_begins_inside_itself_counts() {
    let table = |block: u64| vec![Change::Page(TABLE, table_page(&[block, 0, 0, 0]))];
    let first_block = |log: Vec<LogEntry>| whole(Format::Vhdx, &with_log(log)).unwrap().1[0];
    // An older run elsewhere, and what the newest one has left behind.
    let log = vec![
        entry(3, 0x4000, 0x4000, table(2)),
        entry(8, 0, 0, table(2)),
        entry(9, 0x2000, 0x2000, table(DATA | 6)),
    ];
    assert_eq!(first_block(log), 1);
    // The ring goes on at its beginning.
    let end = BLOCK - 4096;
    let at = u32::try_from(end).unwrap();
    let wrapped = vec![
        entry(4, at, end, table(DATA | 6)),
        entry(5, at, 4096, table(DATA | 6)),
    ];
    assert_eq!(first_block(wrapped), 1);
    // A torn entry ends its run, which is older then: what it promised was never promised.
    let log = vec![entry(8, 0, 0, table(DATA | 6)), entry(9, 0, 8192, table(2))];
    let mut image = with_log(log);
    image[Vhdx::LOG_AT + 8192 + 5000] ^= 1;
    assert_eq!(whole(Format::Vhdx, &image).unwrap().1[0], 1);
}

type Bend<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_log_that_cannot_be_applied_is_damage_and_not_another_disk() {
    let log = || vec![entry(5, 0, 0, vec![Change::Page(TABLE, table_page(&[0; 4]))])];
    let bent = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = with_log(log());
        change(&mut image);
        vhdx_log_seal(&mut image, Vhdx::LOG_AT);
        image
    };
    let at = Vhdx::LOG_AT;
    assert!(whole(Format::Vhdx, &bent(&|_| ())).is_ok());
    let unreadable: [(&str, Bend<'_>); 8] = [
        ("signature", &|image| image[at] = 0),
        ("length 0", &|image| put_le_u32(image, at + 8, 0)),
        ("length", &|image| put_le_u32(image, at + 8, 100)),
        ("tail", &|image| put_le_u32(image, at + 12, 4096)),
        ("number of descriptors", &|image| put_le_u32(image, at + 24, 1000)),
        ("identifier", &|image| image[at + 32] ^= 1),
        ("number of a descriptor", &|image| image[at + 64 + 24] ^= 1),
        ("number of a page", &|image| image[at + 4096 + 4] ^= 1),
    ];
    for (name, change) in unreadable {
        let image = bent(change);
        let error = whole(Format::Vhdx, &image).unwrap_err();
        assert!(
            error.message().contains("its log, without which"),
            "{name}: {error}"
        );
    }
    let mut unsealed = with_log(log());
    unsealed[at + 4096 + 100] ^= 1;
    refused(&unsealed, ErrorKind::Damaged, "its log, without which");
    refused(
        &bent(&|image| put_le_u64(image, at + 64 + 16, 100)),
        ErrorKind::Damaged,
        "changes an impossible place",
    );
    refused(
        &bent(&|image| put_le_u64(image, at + 48, 1 << 40)),
        ErrorKind::Damaged,
        "its log was written when",
    );
    let small = Limits {
        max_table_bytes: 4096,
        ..Limits::default()
    };
    let error = whole_within(Format::Vhdx, &with_log(log()), &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn a_log_may_make_the_file_longer() {
    let log = vec![entry(
        5,
        0,
        0,
        vec![Change::Page(TABLE, table_page(&[(5 << 20) | 6, 0, 0, 0]))],
    )];
    let mut image = with_log(log);
    put_le_u64(&mut image, Vhdx::LOG_AT + 56, 6 << 20);
    vhdx_log_seal(&mut image, Vhdx::LOG_AT);
    assert!(
        whole(Format::Vhdx, &image).unwrap().1 == vec![0; 7 << 19],
        "zeros behind the end"
    );
}

#[test]
fn entries_that_lie_over_one_another_are_not_summed_for_ever() {
    let mut image = with_log(vec![entry(5, 0, 0, Vec::new())]);
    // Every sector begins an entry as long as the log.
    let mut header = image[Vhdx::LOG_AT..Vhdx::LOG_AT + 64].to_vec();
    put_le_u32(&mut header, 8, 1 << 20);
    for at in (Vhdx::LOG_AT..Vhdx::TABLE_AT).step_by(4096) {
        image[at..at + 64].copy_from_slice(&header);
    }
    refused(&image, ErrorKind::Damaged, "lie over one another");
}
