//! The reader of VHDX, Hyper-V's format ([MS-VHDX]), fixed and dynamic.
//!
//! A VHDX that was not closed keeps its last changes in a log. They are not written anywhere: [`log`] makes them a
//! layer of small pages, and [`Image`] reads every table and every block through it.

pub(crate) mod crc;
pub(crate) mod guid;
mod header;
mod log;
mod metadata;

use std::io;

use crate::bytes::{human, le_u64};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::extents::{Extent, Extents};
use crate::format::{Format, Info, Limits};
use crate::raw::check_limit;
use crate::source::Source;
use header::Regions;
use log::Log;
use metadata::Metadata;

pub(crate) use header::SIGNATURE;

const MIB: u64 = 1 << 20;
/// Where the format says that an entry has a file offset, in MiB.
const OFFSET_SHIFT: u32 = 20;
/// Sectors that one block of the sector bitmap describes: it is 1 MiB large.
const BITMAP_SECTORS: u64 = 8 * MIB;

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let image = Image::open(source, limits)?;
    let end = image.metadata.virtual_bytes.min(until);
    let mut extents = Extents::new(sink);
    let mut entries = Vec::new();
    let (mut block, mut left) = (0, 0_usize);
    while extents.end() < end {
        // Between the entries of blocks stands one for their sector bitmap, which only differencing disks have.
        if block % image.blocks_a_bitmap() == 0 || left == 0 {
            let most = image.blocks_a_bitmap() - block % image.blocks_a_bitmap();
            entries = image.entries(source, block, most.min(ENTRIES_AT_ONCE))?;
            left = entries.len();
        }
        let entry = entries.get(entries.len() - left).copied().unwrap_or(0);
        left -= 1;
        block += 1;
        let length = image.metadata.block_bytes.min(end - extents.end());
        image.block(source, entry, length, &mut extents)?;
    }
    extents.flush()?;
    Ok(image.info())
}

/// How much of the block table is in memory: 64 KiB.
const ENTRIES_AT_ONCE: u64 = 8192;

/// What is known before the disk is read.
struct Image {
    regions: Regions,
    metadata: Metadata,
    log: Log,
}

impl Image {
    fn open(source: &mut Source<'_>, limits: &Limits) -> Result<Self> {
        let header = header::Header::read(source)?;
        let log = Log::read(source, &header, limits)?;
        let regions = Regions::read(source, &log)?;
        let metadata = Metadata::read(source, &log, &regions)?;
        check_limit(metadata.virtual_bytes, limits)?;
        let image = Self {
            regions,
            metadata,
            log,
        };
        image.check_table(limits)?;
        Ok(image)
    }

    fn info(&self) -> Info {
        let kind = if self.metadata.is_fixed {
            "fixed"
        } else {
            "dynamic"
        };
        let mut warnings = self.metadata.warnings();
        if !self.log.is_empty() {
            warnings.push(
                "The VHDX image was not closed properly; the changes in its log were applied as they were read."
                    .to_owned(),
            );
        }
        Info {
            format: Format::Vhdx,
            variant: format!("vhdx, {kind}"),
            virtual_bytes: self.metadata.virtual_bytes,
            warnings,
        }
    }

    /// Blocks between two entries for sector bitmaps: at least 16, since a block has at most 256 MiB.
    const fn blocks_a_bitmap(&self) -> u64 {
        BITMAP_SECTORS * self.metadata.sector_bytes / self.metadata.block_bytes
    }

    /// The table must have an entry for each block, in numbers that cannot overflow (QEMU issues 4033 and 4390).
    fn check_table(&self, limits: &Limits) -> Result<()> {
        let blocks = self.metadata.virtual_bytes.div_ceil(self.metadata.block_bytes);
        let entries = blocks + (blocks - 1) / self.blocks_a_bitmap();
        let table = self.regions.table;
        if entries * 8 > table.length {
            return Err(Error::damaged(format!(
                "The VHDX image is damaged: its block table has {}, its size needs {}. {CHECK}",
                human(table.length),
                human(entries * 8)
            )));
        }
        if entries * 8 > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The VHDX image has a block table of {}, more than is taken. Convert it with `qemu-img convert -O qcow2 \
                 IMAGE image.qcow2` and import the result.",
                human(entries * 8)
            )));
        }
        Ok(())
    }

    /// The entries of up to `count` blocks from `block` on, which have no other entry between them.
    fn entries(&self, source: &mut Source<'_>, block: u64, count: u64) -> Result<Vec<u64>> {
        let first = block + block / self.blocks_a_bitmap();
        let mut bytes = vec![0; usize::try_from(count * 8).unwrap_or(0)];
        let left = self.regions.table.length.saturating_sub(first * 8);
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.log
            .read_at(source, self.regions.table.at + first * 8, &mut bytes)?;
        Ok(bytes.chunks_exact(8).map(|entry| le_u64(entry, 0)).collect())
    }

    /// Gives what one entry of the table says, for `length` bytes of the disk.
    fn block(
        &self,
        source: &mut Source<'_>,
        entry: u64,
        length: u64,
        extents: &mut Extents<'_>,
    ) -> Result<()> {
        // Not present, undefined, zero, unmapped (and the number that unmapped had in early versions).
        match entry & 7 {
            0..=3 | 5 => return extents.zero(length),
            6 => {}
            state => {
                return Err(Error::damaged(format!(
                    "The VHDX image is damaged: a block of its disk is in state {state}, which a disk without a parent \
                     cannot have. {CHECK}"
                )));
            }
        }
        let at = entry >> OFFSET_SHIFT << OFFSET_SHIFT;
        if at < MIB
            || at
                .checked_add(length)
                .is_none_or(|end| end > self.log.file_bytes())
        {
            return Err(Error::damaged(format!(
                "The VHDX image is damaged or cut off: a block of its disk stands at byte {at}, in its header or behind \
                 the end of the file. {AGAIN}"
            )));
        }
        self.log.extents(source, at, length, extents)
    }
}

#[cfg(test)]
mod tests;
