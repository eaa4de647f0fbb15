//! Writers, as computed layouts: the length of an image file is known before a byte of it is made, and any range of
//! it can be made by itself. So a download can answer `Range`, resume and state its length, and nothing is spooled.
//!
//! A layout knows which clusters of the disk are in use, not what they hold: where the file holds disk contents it
//! says so ([`Segment::Disk`]) and the caller brings the bytes.

mod blocks;
mod clusters;
mod qcow2;
mod vdi;
mod vhd;
mod vhdx;

use std::ops::Range;

use crate::bytes::human;
use crate::error::Error;
use blocks::Blocks;
use qcow2::Qcow2;

/// What a file identifies itself by, in the formats that want it. The same disk should have the same.
pub type Id = [u8; 16];

/// The plan of an image file.
#[derive(Debug, Clone)]
pub struct Layout {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Raw(u64),
    Qcow2(Box<Qcow2>),
    Blocks(Box<Blocks>),
}

/// A piece of the file, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes (headers and tables), at most 64 KiB.
    Bytes(Vec<u8>),
    /// This part of the disk, in bytes of the disk.
    Disk {
        /// Where it starts on the disk.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// So many zeros.
    Zero {
        /// How many.
        length: u64,
    },
}

impl Segment {
    /// How many bytes of the file this is.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk { length, .. } | Self::Zero { length } => *length,
        }
    }
}

impl Layout {
    /// A raw image: the disk itself, `virtual_bytes` long.
    pub fn raw(virtual_bytes: u64) -> Self {
        Self {
            kind: Kind::Raw(virtual_bytes),
        }
    }

    /// A qcow2 image of version 3 with 64 KiB clusters, not compressed. `allocated` are the ranges of the disk, in
    /// bytes and in any order, that may hold something else than zeros; a cluster that one of them touches is
    /// written whole. Takes one bit of memory for 64 KiB of disk, however scattered the ranges are.
    ///
    /// Refused: a size that is 0, not a multiple of 512 or above 16 TiB, and a range behind the end of the disk.
    pub fn qcow2(virtual_bytes: u64, allocated: impl Iterator<Item = Range<u64>>) -> Result<Self, Error> {
        let layout = Qcow2::new(virtual_bytes, allocated)?;
        Ok(Self {
            kind: Kind::Qcow2(Box::new(layout)),
        })
    }

    /// A dynamic VDI with blocks of 1 MiB, as VirtualBox makes them. `allocated` as for [`Self::qcow2`].
    ///
    /// Refused: a size that is 0, not a multiple of 512 or above 16 TiB, and a range behind the end of the disk.
    pub fn vdi(
        virtual_bytes: u64,
        allocated: impl Iterator<Item = Range<u64>>,
        id: Id,
    ) -> Result<Self, Error> {
        vdi::plan(virtual_bytes, allocated, id).map(Self::of_blocks)
    }

    /// A dynamic VHD with blocks of 2 MiB. `allocated` as for [`Self::qcow2`].
    ///
    /// Refused: a size that is 0, not a multiple of 512 or above 2040 GiB, and a range behind the end of the disk.
    pub fn vhd(
        virtual_bytes: u64,
        allocated: impl Iterator<Item = Range<u64>>,
        id: Id,
    ) -> Result<Self, Error> {
        vhd::plan(virtual_bytes, allocated, id).map(Self::of_blocks)
    }

    /// A dynamic VHDX with blocks of 1 MiB. `allocated` as for [`Self::qcow2`].
    ///
    /// Refused: a size that is 0, not a multiple of 512 or above 64 TiB, and a range behind the end of the disk.
    pub fn vhdx(
        virtual_bytes: u64,
        allocated: impl Iterator<Item = Range<u64>>,
        id: Id,
    ) -> Result<Self, Error> {
        vhdx::plan(virtual_bytes, allocated, id).map(Self::of_blocks)
    }

    fn of_blocks(blocks: Blocks) -> Self {
        Self {
            kind: Kind::Blocks(Box::new(blocks)),
        }
    }

    /// The length of the file in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a file length; an empty layout is of no use to anyone"
    )]
    pub fn len(&self) -> u64 {
        match &self.kind {
            Kind::Raw(virtual_bytes) => *virtual_bytes,
            Kind::Qcow2(layout) => layout.len(),
            Kind::Blocks(layout) => layout.len(),
        }
    }

    /// The pieces that make up `range` of the file, without gaps; what lies behind the end of the file is left out.
    pub fn segments(&self, range: Range<u64>) -> impl Iterator<Item = Segment> + '_ {
        let end = range.end.min(self.len());
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let segment = match &self.kind {
                Kind::Raw(_) => Segment::Disk {
                    offset: at,
                    length: end - at,
                },
                Kind::Qcow2(layout) => layout.segment(at, end),
                Kind::Blocks(layout) => layout.segment(at, end),
            };
            at += segment.length();
            Some(segment)
        })
    }
}

/// Refuses a disk that the format cannot hold.
pub(crate) fn check_size(format: &str, virtual_bytes: u64, most: u64) -> Result<(), Error> {
    if virtual_bytes == 0 || !virtual_bytes.is_multiple_of(512) {
        return Err(Error::refused(format!(
            "A {format} image cannot hold a disk of {virtual_bytes} bytes: it must be a multiple of 512."
        )));
    }
    if virtual_bytes > most {
        return Err(Error::limit(format!(
            "The disk is {} large; {format} images are written up to {}.",
            human(virtual_bytes),
            human(most)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
