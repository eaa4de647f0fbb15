//! The footer of a VHD, and the header of a dynamic one.

use crate::bytes::{be_u32, be_u64, has, human};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::format::Limits;
use crate::raw::SECTOR;
use crate::source::Source;

pub(crate) const COOKIE: &[u8] = b"conectix";
const FOOTER_BYTES: usize = 512;
/// Virtual PC before 2004 wrote one byte less.
const OLD_FOOTER_BYTES: u64 = 511;
const HEADER_BYTES: usize = 1024;
/// The specification's own block is 2 MiB, and says that it may change; larger ones than this are in no tool.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 512 * 8..=256 << 20;

/// How the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    /// With a header at this byte of the file.
    Dynamic {
        header_at: u64,
    },
}

pub(super) struct Footer {
    pub(super) kind: Kind,
    /// The "current size". What its cylinders, heads and sectors make is smaller for most disks, and old guests' alone.
    pub(super) virtual_bytes: u64,
    /// Where the footer begins.
    at: u64,
    is_saved_state: bool,
}

impl Footer {
    /// Finds and checks the footer at the end of the file.
    pub(super) fn read(source: &mut Source<'_>) -> Result<Self> {
        let (at, bytes) = find(source)?;
        check_sum(&bytes, 64, "footer")?;
        let virtual_bytes = be_u64(&bytes, 48);
        if virtual_bytes == 0 || !virtual_bytes.is_multiple_of(SECTOR) {
            return Err(Error::damaged(format!(
                "The VHD image is damaged: its disk size, {virtual_bytes} bytes, is no multiple of 512. {CHECK}"
            )));
        }
        if be_u32(&bytes, 12) >> 16 != 1 {
            return Err(Error::refused(format!(
                "The VHD image has version {}; version 1 is taken. Convert it with `qemu-img convert -f vpc -O qcow2 IMAGE \
                 image.qcow2` and import the result.",
                be_u32(&bytes, 12) >> 16
            )));
        }
        Ok(Self {
            kind: kind(&bytes)?,
            virtual_bytes,
            at,
            is_saved_state: bytes.get(84) == Some(&1),
        })
    }

    /// A fixed disk stands in front of its footer, and nothing else does.
    pub(super) fn check_fixed(&self, file_bytes: u64) -> Result<()> {
        if self.virtual_bytes == self.at {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "The VHD image is damaged or cut off: its disk has {}, but the file has {} in front of its footer. {AGAIN}",
            human(self.virtual_bytes),
            human(file_bytes.min(self.at))
        )))
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        if !self.is_saved_state {
            return Vec::new();
        }
        vec![
            "The VHD image belongs to a virtual machine that was suspended; its memory is not part of the import, so \
             the disk is as after a power cut."
                .to_owned(),
        ]
    }
}

fn find(source: &mut Source<'_>) -> Result<(u64, Vec<u8>)> {
    for length in [FOOTER_BYTES as u64, OLD_FOOTER_BYTES] {
        let at = source.len().saturating_sub(length);
        let mut bytes = source.read_up_to(at, FOOTER_BYTES)?;
        if has(&bytes, 0, COOKIE) {
            bytes.resize(FOOTER_BYTES, 0);
            return Ok((at, bytes));
        }
    }
    let is_dynamic = has(&source.read_up_to(0, COOKIE.len())?, 0, COOKIE);
    Err(if is_dynamic {
        Error::damaged(format!(
            "The VHD image is cut off: it has no footer at its end. {AGAIN}"
        ))
    } else {
        Error::refused("This is not a VHD image: it has no VHD footer at its end.")
    })
}

fn kind(footer: &[u8]) -> Result<Kind> {
    match be_u32(footer, 60) {
        2 => Ok(Kind::Fixed),
        3 => Ok(Kind::Dynamic {
            header_at: be_u64(footer, 16),
        }),
        4 => Err(Error::refused(
            "The VHD image is a differencing disk: it needs its parent, so it is not complete by itself. Merge both \
             (`Merge-VHD`, or `qemu-img convert -f vpc -O qcow2` where the parent is), and import the result.",
        )),
        other => Err(Error::refused(format!(
            "The VHD image has the disk type {other}; fixed (2) and dynamic (3) disks are taken. Convert it to a dynamic \
             VHD and import that."
        ))),
    }
}

/// The checksum is the one's complement of the sum of all bytes but its own.
fn check_sum(bytes: &[u8], at: usize, name: &str) -> Result<()> {
    let own = at..at + 4;
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .filter(|(index, _)| !own.contains(index))
        .map(|(_, byte)| u32::from(*byte))
        .sum();
    if be_u32(bytes, at) == !sum {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "The VHD image is damaged: the checksum of its {name} does not hold. {AGAIN}"
    )))
}

/// Where the blocks of a dynamic disk are.
#[derive(Debug)]
pub(super) struct Dynamic {
    pub(super) table_at: u64,
    pub(super) block_bytes: u64,
    /// No block begins before this byte.
    pub(super) data_from: u64,
}

impl Dynamic {
    pub(super) fn read(source: &mut Source<'_>, at: u64, footer: &Footer, limits: &Limits) -> Result<Self> {
        let mut bytes = vec![0; HEADER_BYTES];
        if at < FOOTER_BYTES as u64 {
            return Err(misplaced("header", at));
        }
        source.read_at(at, &mut bytes)?;
        if !has(&bytes, 0, b"cxsparse") {
            return Err(misplaced("header", at));
        }
        check_sum(&bytes, 36, "header")?;
        let block_bytes = u64::from(be_u32(&bytes, 32));
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(Error::damaged(format!(
                "The VHD image is damaged: its blocks are {block_bytes} bytes large, a power of two up to 256 MiB is \
                 allowed. {CHECK}"
            )));
        }
        let table_at = be_u64(&bytes, 16);
        let entries = u64::from(be_u32(&bytes, 28));
        let needed = footer.virtual_bytes.div_ceil(block_bytes);
        if entries < needed {
            return Err(Error::damaged(format!(
                "The VHD image is damaged: its block table has {entries} entries, its size needs {needed}. {CHECK}"
            )));
        }
        if needed * 4 > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The VHD image has a block table of {}, more than is taken. Convert it with `qemu-img convert -f vpc -O \
                 qcow2 IMAGE image.qcow2` and import the result.",
                human(needed * 4)
            )));
        }
        let end = table_at.checked_add(needed * 4).filter(|end| *end <= footer.at);
        let data_from = FOOTER_BYTES as u64;
        match end {
            Some(_) if table_at >= data_from => Ok(Self {
                table_at,
                block_bytes,
                data_from,
            }),
            _ => Err(misplaced("block table", table_at)),
        }
    }

    /// One bit a sector, in whole sectors, stands in front of each block.
    pub(super) const fn bitmap_bytes(&self) -> u64 {
        (self.block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }
}

fn misplaced(name: &str, at: u64) -> Error {
    Error::damaged(format!(
        "The VHD image is damaged or cut off: it has no {name} at byte {at}, where its {name} should be. {CHECK}"
    ))
}
