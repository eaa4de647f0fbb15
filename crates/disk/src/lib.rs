//! Virtual-disk formats: what a file is ([`probe`]), which disk it holds ([`info`], [`read`]), how a compressed
//! one is opened ([`unwrap`]), how the result crosses a pipe ([`record`]) and how a stored disk is written out
//! again ([`layout`]).
//!
//! Everything here runs on bytes that a stranger chose, so the rules of the house are: no I/O of its own, no
//! unsafe, no panic on any input, checked arithmetic on every number that comes from a file, and memory and time
//! bounded by [`Limits`]. A backing file, a data file or any other name inside an image is never opened: such
//! images are refused (CVE-2011-3147, CVE-2014-0134, CVE-2015-5163, CVE-2024-32498, CVE-2024-50386).

mod bytes;
mod error;
mod extents;
#[cfg(test)]
mod fixture;
mod format;
mod gpt;
mod head;
pub mod layout;
mod mbr;
mod ova;
mod probe;
mod qcow2;
mod raw;
pub mod record;
mod source;
mod table;
pub mod unwrap;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
#[cfg(test)]
mod whole;

use std::io::{self, Read, Seek};

use error::Result;
pub use error::{Error, ErrorKind};
pub use extents::{Content, Extent, MAX_DATA_BYTES};
pub use format::{Format, Info, Limits, Probe, UnknownName, Wrapper};
pub use probe::probe;
use source::Source;
pub use vmdk::writer as stream_vmdk;

/// Checks the headers of `source` as `format` and says what disk it holds. Nothing of the disk itself is read.
pub fn info(format: Format, source: &mut (impl Read + Seek), limits: &Limits) -> Result<Info, Error> {
    read_until(format, &mut Source::new(source)?, limits, 0, &mut |_| Ok(()))
}

/// Refuses a disk that could not boot, because it has no partition table or one that does not hold for it: a bare file
/// system, above all. Reads the beginning of the disk. Of a raw one [`info`] says the same and more.
pub fn table_check(format: Format, source: &mut (impl Read + Seek), limits: &Limits) -> Result<(), Error> {
    let mut source = Source::new(source)?;
    if format == Format::Raw {
        return raw::info(&mut source, limits).map(drop);
    }
    let (info, head) = head::read(format, &mut source, limits)?;
    raw::inside_check(head, info.virtual_bytes)
}

/// Reads the disk in `source`. The sink gets extents in ascending order, without gaps, that cover exactly
/// `0..virtual_bytes`. Neighbours of one kind come merged; a [`Content::Data`] is at most [`MAX_DATA_BYTES`] long.
///
/// Warnings that only reading can find are in the returned [`Info`]; on an error what the sink got is worthless.
pub fn read(
    format: Format,
    source: &mut (impl Read + Seek),
    limits: &Limits,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info, Error> {
    read_until(format, &mut Source::new(source)?, limits, u64::MAX, sink)
}

/// As [`read`], of the disk's first `until` bytes.
fn read_until(
    format: Format,
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    match format {
        Format::Raw => raw::read(source, limits, until, sink),
        Format::Qcow2 => qcow2::read(source, limits, until, sink),
        Format::Vmdk => vmdk::read(source, limits, until, sink),
        Format::Vhdx => vhdx::read(source, limits, until, sink),
        Format::Vhd => vhd::read(source, limits, until, sink),
        Format::Vdi => vdi::read(source, limits, until, sink),
        Format::Ova => ova::read(source, limits, until, sink),
    }
}
