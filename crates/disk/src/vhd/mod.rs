//! The reader of VHD, the format of Virtual PC, Xen and Azure (Microsoft's "Virtual Hard Disk Image Format
//! Specification" of 2006): fixed disks, which are raw ones with a footer, and dynamic ones, whose blocks stand in the
//! order in which they were first written.
//!
//! A fixed VHD begins like any raw disk, so its footer is looked for before a partition table is. The bitmap of sectors
//! in front of each block is not read: it says which sectors were ever written, the others hold zeros, and QEMU does
//! not read it either.

mod footer;

pub(crate) use footer::COOKIE;

use std::io;

use crate::bytes::be_u32;
use crate::error::{CHECK, Error, Result};
use crate::extents::{Extent, Extents};
use crate::format::{Format, Info, Limits};
use crate::raw::{SECTOR, check_limit};
use crate::source::Source;
use crate::table::{self, Walk};
use footer::{Dynamic, Footer, Kind};

/// A block that was never written.
const UNUSED: u32 = u32::MAX;

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let image = open(source, limits)?;
    let end = image.footer.virtual_bytes.min(until);
    let mut extents = Extents::new(sink);
    match &image.dynamic {
        None => extents.source(0, end)?,
        Some(dynamic) => blocks(source, dynamic, end, &mut extents)?,
    }
    extents.flush()?;
    Ok(image.info())
}

/// What is known before the disk is read.
struct Image {
    footer: Footer,
    /// Of a dynamic disk.
    dynamic: Option<Dynamic>,
}

impl Image {
    fn info(&self) -> Info {
        let kind = match self.dynamic {
            None => "fixed",
            Some(_) => "dynamic",
        };
        Info {
            format: Format::Vhd,
            variant: format!("vhd, {kind}"),
            virtual_bytes: self.footer.virtual_bytes,
            warnings: self.footer.warnings(),
        }
    }
}

fn open(source: &mut Source<'_>, limits: &Limits) -> Result<Image> {
    let footer = Footer::read(source)?;
    check_limit(footer.virtual_bytes, limits)?;
    let dynamic = match footer.kind {
        Kind::Fixed => {
            footer.check_fixed(source.len())?;
            None
        }
        Kind::Dynamic { header_at } => Some(Dynamic::read(source, header_at, &footer, limits)?),
    };
    Ok(Image { footer, dynamic })
}

fn blocks(source: &mut Source<'_>, dynamic: &Dynamic, end: u64, extents: &mut Extents<'_>) -> Result<()> {
    let needed = end.div_ceil(dynamic.block_bytes);
    table::walk(source, dynamic.table_at, needed, 4, &mut |source, entry| {
        let length = dynamic.block_bytes.min(end - extents.end());
        let sector = be_u32(entry, 0);
        if sector == UNUSED {
            extents.zero(length)?;
            return Ok(Walk::On);
        }
        let at = u64::from(sector) * SECTOR + dynamic.bitmap_bytes();
        if u64::from(sector) * SECTOR < dynamic.data_from || at + length > source.len() {
            return Err(Error::damaged(format!(
                "The VHD image is damaged or cut off: a block of its disk stands at sector {sector}, among its tables or \
                 behind the end of the file. {CHECK}"
            )));
        }
        extents.source(at, length)?;
        Ok(Walk::On)
    })
}

#[cfg(test)]
mod tests;
