//! The VDI file: header, map, then from the next MiB on the blocks, as VirtualBox makes a dynamic one.

use std::ops::Range;

use super::blocks::{Blocks, Entry};
use super::clusters::Clusters;
use super::{Id, check_size};
use crate::bytes;
use crate::error::Result;

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: u64 = MIB;
const MAP_AT: u64 = 512;
/// Blocks are counted with 32 bits, of which the last two numbers mean something else.
const MAX_VIRTUAL_BYTES: u64 = 16 << 40;

pub(super) fn plan(
    virtual_bytes: u64,
    allocated: impl Iterator<Item = Range<u64>>,
    id: Id,
) -> Result<Blocks> {
    check_size("VDI", virtual_bytes, MAX_VIRTUAL_BYTES)?;
    let blocks = virtual_bytes.div_ceil(BLOCK_BYTES);
    let used = Clusters::of_disk(virtual_bytes, BLOCK_BYTES, allocated)?;
    let data_at = (MAP_AT + blocks * 4).next_multiple_of(MIB);
    let header = header(virtual_bytes, blocks, used.total(), data_at, id);
    Ok(Blocks {
        virtual_bytes,
        block_bytes: BLOCK_BYTES,
        used,
        parts: vec![(0, header)],
        table_at: MAP_AT,
        entries: blocks,
        entry: Entry::Vdi,
        data_at,
        prefix: Vec::new(),
        tail: Vec::new(),
    })
}

fn header(virtual_bytes: u64, blocks: u64, used: u64, data_at: u64, id: Id) -> Vec<u8> {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut header = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| bytes::put(&mut header, at, field);
    put(0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    // Signature, version 1.1, length of the rest of the header, dynamic.
    put(64, &0xbeda_107f_u32.to_le_bytes());
    put(68, &0x0001_0001_u32.to_le_bytes());
    put(72, &400_u32.to_le_bytes());
    put(76, &1_u32.to_le_bytes());
    put(340, &low(MAP_AT).to_le_bytes());
    put(344, &low(data_at).to_le_bytes());
    // Cylinders, heads and sectors are left at 0: the guest's own.
    put(360, &512_u32.to_le_bytes());
    put(368, &virtual_bytes.to_le_bytes());
    put(376, &low(BLOCK_BYTES).to_le_bytes());
    put(384, &low(blocks).to_le_bytes());
    put(388, &low(used).to_le_bytes());
    // The image, and its last snapshot; no parent.
    put(392, &id);
    put(408, &id);
    header
}
