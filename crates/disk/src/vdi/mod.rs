//! The reader of VDI, VirtualBox's format, fixed and dynamic. It has no written specification: the layout is that of
//! VirtualBox's `VDICore.h` (header 1.1), as QEMU's documentation describes it.
//!
//! A map names, for each block of the disk, the block of the file that holds it. Two blocks of the disk in one of the
//! file are damage: no tool writes that, and what one of them holds is another's.

mod header;

use std::io;

use crate::bytes::le_u32;
use crate::error::{CHECK, Error, Result};
use crate::extents::{Extent, Extents};
use crate::format::{Info, Limits};
use crate::source::Source;
use crate::table::{self, Walk};
use header::Header;

pub(crate) use header::SIGNATURE;

/// A block that was never written.
const UNUSED: u32 = u32::MAX;
/// A block that the guest gave back.
const DISCARDED: u32 = u32::MAX - 1;

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let header = Header::read(source, limits)?;
    let end = header.virtual_bytes.min(until);
    let mut extents = Extents::new(sink);
    let mut seen = Seen::new(header.allocated);
    let needed = end.div_ceil(header.block_bytes);
    table::walk(source, header.map_at, needed, 4, &mut |source, entry| {
        let length = header.block_bytes.min(end - extents.end());
        let block = le_u32(entry, 0);
        if block == UNUSED || block == DISCARDED {
            extents.zero(length)?;
            return Ok(Walk::On);
        }
        if !seen.first_time(block) {
            return Err(Error::damaged(format!(
                "The VDI image is damaged: block {block} of the file is named twice in its map, or is none of the {} it \
                 has. {CHECK}",
                header.allocated
            )));
        }
        // No overflow: both factors are below 2^32.
        let at = header.data_at + u64::from(block) * header.block_bytes;
        if at + length > source.len() {
            return Err(Error::damaged(format!(
                "The VDI image is cut off: a block of its disk stands at byte {at}, behind the end of the file. \
                 Download or copy it again and compare its checksum."
            )));
        }
        extents.source(at, length)?;
        Ok(Walk::On)
    })?;
    extents.flush()?;
    Ok(header.info())
}

/// Which blocks of the file were named.
struct Seen {
    words: Vec<u64>,
    blocks: u32,
}

impl Seen {
    /// `blocks` is at most the number of blocks of the disk, which the limits bound.
    fn new(blocks: u32) -> Self {
        Self {
            words: vec![0; blocks.div_ceil(64) as usize],
            blocks,
        }
    }

    fn first_time(&mut self, block: u32) -> bool {
        let bit = 1 << (block % 64);
        let word = self.words.get_mut((block / 64) as usize);
        let Some(word) = word.filter(|word| block < self.blocks && **word & bit == 0) else {
            return false;
        };
        *word |= bit;
        true
    }
}

#[cfg(test)]
mod tests;
