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
use crate::extents::Extent;
use crate::format::{Info, Limits};
use crate::source::Source;
use header::Header;

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let header = Header::read(source, limits)?;
    let mut info = header.info();
    let missing = reader::read(&header.only(until), source, sink)?;
    if missing > 0 {
        info.warnings.push(format!(
            "The file ends inside its last cluster; the missing {missing} bytes were read as zeros, as QEMU does."
        ));
    }
    Ok(info)
}

#[cfg(test)]
mod tests;
