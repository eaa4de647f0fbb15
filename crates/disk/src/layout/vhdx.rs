//! The VHDX file, dynamic: headers and region tables in the first MiB, an empty log, the metadata, the block table, the
//! blocks. They have 1 MiB each, as Microsoft advises for Linux guests, so that little of them is zeros.

use std::ops::Range;

use super::blocks::{Blocks, Entry};
use super::clusters::Clusters;
use super::{Id, check_size};
use crate::bytes::put;
use crate::error::Result;
use crate::vhdx::crc::crc32c;
use crate::vhdx::guid;

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: u64 = MIB;
const SECTOR: u64 = 512;
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;
const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
const ITEMS_AT: u32 = 64 << 10;
const MAX_VIRTUAL_BYTES: u64 = 64 << 40;

const IS_VIRTUAL_DISK: u32 = 1 << 1;
const IS_REQUIRED: u32 = 1 << 2;

pub(super) fn plan(
    virtual_bytes: u64,
    allocated: impl Iterator<Item = Range<u64>>,
    id: Id,
) -> Result<Blocks> {
    check_size("VHDX", virtual_bytes, MAX_VIRTUAL_BYTES)?;
    let blocks = virtual_bytes.div_ceil(BLOCK_BYTES);
    let used = Clusters::of_disk(virtual_bytes, BLOCK_BYTES, allocated)?;
    // A sector bitmap has 1 MiB, a bit for each sector of the blocks before it.
    let blocks_a_bitmap = 8 * MIB * SECTOR / BLOCK_BYTES;
    let entries = blocks + (blocks - 1) / blocks_a_bitmap;
    let table_bytes = (entries * 8).next_multiple_of(MIB);
    let mut parts = vec![(0, identifier())];
    for (at, sequence) in HEADERS_AT.into_iter().zip(1..) {
        parts.push((at, header(sequence, id)));
    }
    for at in REGIONS_AT {
        parts.push((at, regions(table_bytes)));
    }
    let (table, items) = metadata(virtual_bytes, id);
    parts.push((METADATA_AT, table));
    parts.push((METADATA_AT + u64::from(ITEMS_AT), items));
    Ok(Blocks {
        virtual_bytes,
        block_bytes: BLOCK_BYTES,
        used,
        parts,
        table_at: TABLE_AT,
        entries,
        entry: Entry::Vhdx { blocks_a_bitmap },
        data_at: TABLE_AT + table_bytes,
        prefix: Vec::new(),
        tail: Vec::new(),
    })
}

fn identifier() -> Vec<u8> {
    let mut bytes = b"vhdxfile".to_vec();
    bytes.extend("Cistern".encode_utf16().flat_map(u16::to_le_bytes));
    bytes
}

fn header(sequence: u64, id: Id) -> Vec<u8> {
    let mut header = vec![0; 4096];
    put(&mut header, 0, b"head");
    put(&mut header, 8, &sequence.to_le_bytes());
    // Of the last writing, and of the last that a guest could see; no log.
    put(&mut header, 16, &id);
    put(&mut header, 32, &id);
    put(&mut header, 66, &1_u16.to_le_bytes());
    put(&mut header, 68, &u32::try_from(MIB).unwrap_or(0).to_le_bytes());
    put(&mut header, 72, &LOG_AT.to_le_bytes());
    seal(&mut header);
    header
}

fn regions(table_bytes: u64) -> Vec<u8> {
    let mut regions = vec![0; 64 << 10];
    put(&mut regions, 0, b"regi");
    put(&mut regions, 8, &2_u32.to_le_bytes());
    let all = [
        (guid::BLOCK_TABLE, TABLE_AT, table_bytes),
        (guid::METADATA, METADATA_AT, MIB),
    ];
    for (number, (id, at, length)) in all.into_iter().enumerate() {
        let entry = 16 + 32 * number;
        put(&mut regions, entry, &id);
        put(&mut regions, entry + 16, &at.to_le_bytes());
        put(
            &mut regions,
            entry + 24,
            &u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes(),
        );
        put(&mut regions, entry + 28, &1_u32.to_le_bytes());
    }
    seal(&mut regions);
    regions
}

/// The table of the metadata, and the items it names.
fn metadata(virtual_bytes: u64, id: Id) -> (Vec<u8>, Vec<u8>) {
    let block = u32::try_from(BLOCK_BYTES).unwrap_or(0).to_le_bytes();
    let sector = 512_u32.to_le_bytes();
    let parameters = [block, [0; 4]].concat();
    let size = virtual_bytes.to_le_bytes();
    let of_disk = IS_VIRTUAL_DISK | IS_REQUIRED;
    let all: [(guid::Guid, u32, &[u8]); 5] = [
        (guid::FILE_PARAMETERS, IS_REQUIRED, &parameters),
        (guid::VIRTUAL_DISK_SIZE, of_disk, &size),
        (guid::VIRTUAL_DISK_ID, of_disk, &id),
        (guid::LOGICAL_SECTOR_SIZE, of_disk, &sector),
        (guid::PHYSICAL_SECTOR_SIZE, of_disk, &sector),
    ];
    let (mut table, mut items) = (vec![0; 32 + 32 * all.len()], Vec::new());
    put(&mut table, 0, b"metadata");
    put(&mut table, 10, &5_u16.to_le_bytes());
    for (number, (id, flags, value)) in all.into_iter().enumerate() {
        let low = |value: usize| u32::try_from(value).unwrap_or(0);
        let entry = 32 + 32 * number;
        put(&mut table, entry, &id);
        put(
            &mut table,
            entry + 16,
            &(ITEMS_AT + low(items.len())).to_le_bytes(),
        );
        put(&mut table, entry + 20, &low(value.len()).to_le_bytes());
        put(&mut table, entry + 24, &flags.to_le_bytes());
        items.extend_from_slice(value);
    }
    (table, items)
}

fn seal(bytes: &mut [u8]) {
    let sum = crc32c(bytes, 4);
    put(bytes, 4, &sum.to_le_bytes());
}
