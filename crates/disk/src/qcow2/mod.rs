//! The reader of qcow2 versions 2 and 3 (the format: docs/interop/qcow2.txt of QEMU).
//!
//! Tables are trusted in nothing: each offset is aligned, outside the header and inside the file before it is used.
//! Reference counts are not read: they say what may be overwritten, and nothing is overwritten here. One L2 table
//! is in memory at a time and the disk is walked once, so time and memory are bounded by the virtual size and the
//! cluster size, whatever the tables say; clusters that are mapped many times cost no more than any others.

mod cluster;
mod header;
mod reader;

use std::io;

use crate::error::Result;
use crate::extents::{Content, Extent};
use crate::format::{Info, Limits};
use crate::probe::HEAD_BYTES;
use crate::raw;
use crate::source::Source;
use header::Header;

pub(crate) fn info(source: &mut Source<'_>, limits: &Limits) -> Result<Info> {
    Ok(Header::read(source, limits)?.info())
}

pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let header = Header::read(source, limits)?;
    let missing = reader::read(&header, source, sink)?;
    let mut info = header.info();
    if missing > 0 {
        info.warnings.push(format!(
            "The file ends inside its last cluster; the missing {missing} bytes were read as zeros, as QEMU does."
        ));
    }
    Ok(info)
}

/// Refuses the disk where it is no more bootable than a raw one without a partition table.
pub(crate) fn table_check(source: &mut Source<'_>, limits: &Limits) -> Result<()> {
    let header = Header::read(source, limits)?;
    let virtual_bytes = header.virtual_bytes;
    let head = head(&header.only(HEAD_BYTES as u64), source)?;
    raw::inside_check(head, virtual_bytes)
}

/// The whole disk, which is a short one.
fn head(header: &Header, source: &mut Source<'_>) -> Result<Vec<u8>> {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let mut head = vec![0; place(header.virtual_bytes)];
    let mut stored = Vec::new();
    reader::read(header, source, &mut |extent| {
        let range = place(extent.offset)..place(extent.offset.saturating_add(extent.length));
        match extent.content {
            Content::Zero => {}
            Content::Source(at) => stored.push((range, at)),
            Content::Data(bytes) => {
                if let Some(part) = head.get_mut(range) {
                    part.copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    })?;
    for (range, at) in stored {
        if let Some(part) = head.get_mut(range) {
            source.read_at(at, part)?;
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
