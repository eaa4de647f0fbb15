//! The reader of VMDK, VMware's format, where one file is the whole disk: `monolithicSparse` and `streamOptimized`
//! (VMware's "Virtual Disk Format 5.0"). Of the others a descriptor names the files that hold the disk, and no name
//! inside an image is ever opened here (CVE-2022-47951).
//!
//! The disk is cut into grains. A directory names tables of 512 entries each, an entry the sector of its grain. In a
//! `streamOptimized` file each grain is compressed behind a marker that repeats which grain it is, and the directory
//! stands at the end, in a footer that repeats the header.

mod descriptor;
mod grain;
mod header;
pub mod writer;

use std::io;

use crate::bytes::{human, le_u32};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::extents::{Extent, Extents};
use crate::format::{Info, Limits};
use crate::raw::SECTOR;
use crate::source::Source;
use crate::table::{self, Walk};
use grain::Grains;
use header::Header;

pub(crate) use header::MAGIC;

/// What `qemu-img convert` makes of images that are not taken, said in their refusals.
const CONVERT: &str = "Convert it with `qemu-img convert -f vmdk -O qcow2 IMAGE image.qcow2` where all its files are, and import \
     the result.";

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let header = Header::read(source, limits)?;
    let end = header.virtual_bytes.min(until);
    let mut reader = Reader {
        header: &header,
        end,
        extents: Extents::new(sink),
        grains: Grains::new(&header),
    };
    let directory = end.div_ceil(header.table_span());
    table::walk(source, header.directory_at, directory, 4, &mut |source, entry| {
        reader.table(source, le_u32(entry, 0))?;
        Ok(Walk::On)
    })?;
    reader.extents.flush()?;
    Ok(header.info())
}

struct Reader<'h, 'k> {
    header: &'h Header,
    end: u64,
    extents: Extents<'k>,
    grains: Grains,
}

impl Reader<'_, '_> {
    fn left(&self) -> u64 {
        self.end.saturating_sub(self.extents.end())
    }

    /// Gives what one table covers, which stands at this sector.
    fn table(&mut self, source: &mut Source<'_>, sector: u32) -> Result<()> {
        if sector == 0 {
            return self.extents.zero(self.header.table_span().min(self.left()));
        }
        let at = u64::from(sector) * SECTOR;
        let entries = header::TABLE_ENTRIES.min(self.left().div_ceil(self.header.grain_bytes));
        table::walk(source, at, entries, 4, &mut |source, entry| {
            self.grain(source, le_u32(entry, 0))?;
            Ok(Walk::On)
        })
    }

    fn grain(&mut self, source: &mut Source<'_>, sector: u32) -> Result<()> {
        let length = self.header.grain_bytes.min(self.left());
        if sector == 0 || (sector == 1 && self.header.has_zero_grains) {
            return self.extents.zero(length);
        }
        let at = u64::from(sector) * SECTOR;
        if at < self.header.data_from() {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: a grain of its disk stands at byte {at}, inside its header. {CHECK}"
            )));
        }
        if self.header.is_compressed {
            let number = self.extents.end() / self.header.grain_bytes;
            // The last grain may be no longer than the disk.
            let disk_left = self.header.virtual_bytes.saturating_sub(self.extents.end());
            let least = self.header.grain_bytes.min(disk_left);
            let bytes = self.grains.read(source, at, number, least)?;
            let wanted = usize::try_from(length).unwrap_or(0);
            return self.extents.data(bytes.get(..wanted).unwrap_or_default());
        }
        if at + length > source.len() {
            return Err(Error::damaged(format!(
                "The VMDK image is cut off: a grain of its disk stands at byte {at}, but the file has only {}. {AGAIN}",
                human(source.len())
            )));
        }
        self.extents.source(at, length)
    }
}

#[cfg(test)]
mod tests;
