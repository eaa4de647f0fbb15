//! The VHD file, dynamic: a copy of the footer, the header, the block table, the blocks (each behind the bitmap of its
//! sectors, all of which count), the footer.

use std::ops::Range;

use super::blocks::{Blocks, Entry};
use super::clusters::Clusters;
use super::{Id, check_size};
use crate::bytes::put;
use crate::error::Result;

const BLOCK_BYTES: u64 = 2 << 20;
const SECTOR: u64 = 512;
const HEADER_AT: u64 = 512;
const TABLE_AT: u64 = 1536;
/// The largest that Hyper-V and QEMU take: 2040 GiB.
const MAX_VIRTUAL_BYTES: u64 = 2040 << 30;
const DYNAMIC: u32 = 3;
/// Of whom the size counts, and not what cylinders, heads and sectors make: Hyper-V.
const CREATOR: &[u8; 4] = b"win ";
const CREATOR_SYSTEM: &[u8; 4] = b"Wi2k";

pub(super) fn plan(
    virtual_bytes: u64,
    allocated: impl Iterator<Item = Range<u64>>,
    id: Id,
) -> Result<Blocks> {
    check_size("VHD", virtual_bytes, MAX_VIRTUAL_BYTES)?;
    let blocks = virtual_bytes.div_ceil(BLOCK_BYTES);
    let used = Clusters::of_disk(virtual_bytes, BLOCK_BYTES, allocated)?;
    let footer = footer(virtual_bytes, id);
    // The table fills whole sectors; entries behind the last block are of no block.
    let entries = (blocks * 4).next_multiple_of(SECTOR) / 4;
    let bitmap = BLOCK_BYTES / SECTOR / 8;
    Ok(Blocks {
        virtual_bytes,
        block_bytes: BLOCK_BYTES,
        used,
        parts: vec![(0, footer.clone()), (HEADER_AT, header(blocks))],
        table_at: TABLE_AT,
        entries,
        entry: Entry::Vhd,
        data_at: TABLE_AT + entries * 4,
        prefix: vec![0xff; usize::try_from(bitmap).unwrap_or(0)],
        tail: footer,
    })
}

fn footer(virtual_bytes: u64, id: Id) -> Vec<u8> {
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    // Features (a bit that is always set) and version 1.0.
    put(&mut footer, 8, &2_u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
    put(&mut footer, 16, &HEADER_AT.to_be_bytes());
    put(&mut footer, 28, CREATOR);
    put(&mut footer, 32, &0x0006_0001_u32.to_be_bytes());
    put(&mut footer, 36, CREATOR_SYSTEM);
    put(&mut footer, 40, &virtual_bytes.to_be_bytes());
    put(&mut footer, 48, &virtual_bytes.to_be_bytes());
    put(&mut footer, 56, &geometry(virtual_bytes / SECTOR));
    put(&mut footer, 60, &DYNAMIC.to_be_bytes());
    put(&mut footer, 68, &id);
    seal(&mut footer, 64);
    footer
}

fn header(blocks: u64) -> Vec<u8> {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut header = vec![0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &TABLE_AT.to_be_bytes());
    put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
    put(&mut header, 28, &low(blocks).to_be_bytes());
    put(&mut header, 32, &low(BLOCK_BYTES).to_be_bytes());
    seal(&mut header, 36);
    header
}

/// The one's complement of the sum of all bytes.
fn seal(bytes: &mut [u8], at: usize) {
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    put(bytes, at, &(!sum).to_be_bytes());
}

/// Cylinders, heads and sectors a track, as the specification's appendix computes them.
fn geometry(sectors: u64) -> [u8; 4] {
    let sectors = sectors.min(65_535 * 16 * 255);
    let (heads, a_track, tracks) = if sectors >= 65_535 * 16 * 63 {
        (16, 255, sectors / 255)
    } else {
        let tracks = sectors / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            (heads, 17, tracks)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31, sectors / 31)
        } else {
            (16, 63, sectors / 63)
        }
    };
    let cylinders = u16::try_from(tracks / heads).unwrap_or(u16::MAX).to_be_bytes();
    let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    [cylinders[0], cylinders[1], byte(heads), byte(a_track)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_is_that_of_the_specification() {
        let of = |bytes: u64| {
            let [high, low, heads, sectors] = geometry(bytes / 512);
            (u16::from_be_bytes([high, low]), heads, sectors)
        };
        // As Hyper-V and QEMU state them for disks of these sizes.
        assert_eq!(of(8 << 20), (240, 4, 17));
        assert_eq!(of(127 << 30), (65_278, 16, 255));
        assert_eq!(of(2040 << 30), (65_535, 16, 255));
    }
}
