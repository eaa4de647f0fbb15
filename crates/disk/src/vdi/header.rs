//! The header of a VDI.

use crate::bytes::{has, human, le_u32, le_u64};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::format::{Format, Info, Limits};
use crate::raw::{SECTOR, check_limit};
use crate::source::Source;

/// At byte 64 of the file.
pub(crate) const SIGNATURE: &[u8] = b"\x7f\x10\xda\xbe";
const VERSION: u32 = 0x0001_0001;
const HEADER_BYTES: usize = 512;
/// Up to the number of allocated blocks; the identifiers follow.
const LEAST_HEADER_BYTES: u32 = 384;
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 4096..=256 << 20;

const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

pub(super) struct Header {
    is_fixed: bool,
    pub(super) virtual_bytes: u64,
    pub(super) block_bytes: u64,
    pub(super) map_at: u64,
    pub(super) data_at: u64,
    /// How many blocks the file has.
    pub(super) allocated: u32,
}

impl Header {
    pub(super) fn read(source: &mut Source<'_>, limits: &Limits) -> Result<Self> {
        let bytes = source.read_up_to(0, HEADER_BYTES)?;
        if !has(&bytes, 64, SIGNATURE) {
            return Err(Error::refused(
                "This is not a VDI image: it does not have the signature of VDI at byte 64.",
            ));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(Error::damaged(format!(
                "The VDI image is cut off inside its header. {AGAIN}"
            )));
        }
        check_version(&bytes)?;
        let is_fixed = is_fixed(&bytes)?;
        let header = Self {
            is_fixed,
            virtual_bytes: virtual_bytes(&bytes, limits)?,
            block_bytes: u64::from(le_u32(&bytes, 376)),
            map_at: u64::from(le_u32(&bytes, 340)),
            data_at: u64::from(le_u32(&bytes, 344)),
            allocated: le_u32(&bytes, 388),
        };
        header.check(&bytes, source.len(), limits)?;
        Ok(header)
    }

    pub(super) fn info(&self) -> Info {
        let kind = if self.is_fixed { "fixed" } else { "dynamic" };
        Info {
            format: Format::Vdi,
            variant: format!("vdi, {kind}"),
            virtual_bytes: self.virtual_bytes,
            warnings: Vec::new(),
        }
    }

    fn check(&self, bytes: &[u8], file_bytes: u64, limits: &Limits) -> Result<()> {
        if !self.block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&self.block_bytes) {
            return Err(damaged(&format!(
                "its blocks are {} bytes large, a power of two from 4 KiB to 256 MiB is allowed",
                self.block_bytes
            )));
        }
        let extra = le_u32(bytes, 380);
        if extra != 0 {
            return Err(Error::refused(format!(
                "The VDI image has {extra} bytes of its own in front of each block, which nothing writes that is known \
                 here. Convert it with `VBoxManage clonemedium disk IMAGE image.vdi` and import the result."
            )));
        }
        let blocks = u64::from(le_u32(bytes, 384));
        let needed = self.virtual_bytes.div_ceil(self.block_bytes);
        if blocks < needed {
            return Err(damaged(&format!(
                "it has {blocks} blocks, its size needs {needed}"
            )));
        }
        if u64::from(self.allocated) > blocks {
            return Err(damaged(&format!(
                "it claims {} blocks in use of {blocks}",
                self.allocated
            )));
        }
        if blocks * 4 > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The VDI image has a map of {}, more than is taken. Convert it with `VBoxManage clonemedium disk IMAGE \
                 image.vdi` and import the result.",
                human(blocks * 4)
            )));
        }
        self.check_places(u64::from(le_u32(bytes, 72)), blocks, file_bytes)
    }

    /// The map is behind the header, the data behind the map.
    fn check_places(&self, header_bytes: u64, blocks: u64, file_bytes: u64) -> Result<()> {
        let header_end = 72 + header_bytes.max(u64::from(LEAST_HEADER_BYTES) - 72);
        let map_end = self.map_at + blocks * 4;
        let is_in_order = header_end <= self.map_at && map_end <= self.data_at;
        let is_aligned = self.map_at.is_multiple_of(SECTOR) && self.data_at.is_multiple_of(SECTOR);
        if !is_in_order || !is_aligned {
            return Err(damaged(&format!(
                "its map at byte {} and its data at byte {} overlap, or begin inside a sector",
                self.map_at, self.data_at
            )));
        }
        if map_end > file_bytes {
            return Err(Error::damaged(format!(
                "The VDI image is cut off inside its map. {AGAIN}"
            )));
        }
        Ok(())
    }
}

fn damaged(what: &str) -> Error {
    Error::damaged(format!("The VDI image is damaged: {what}. {CHECK}"))
}

fn check_version(bytes: &[u8]) -> Result<()> {
    let version = le_u32(bytes, 68);
    if version != VERSION {
        return Err(Error::refused(format!(
            "The VDI image has version {}.{}; 1.1 is taken. Convert it with `VBoxManage clonemedium disk IMAGE \
             image.vdi` and import the result.",
            version >> 16,
            version & 0xffff
        )));
    }
    let header_bytes = le_u32(bytes, 72);
    if header_bytes < LEAST_HEADER_BYTES - 72 {
        return Err(damaged(&format!(
            "it says that its header is {header_bytes} bytes long"
        )));
    }
    let sector_bytes = le_u32(bytes, 360);
    if u64::from(sector_bytes) != SECTOR {
        return Err(Error::refused(format!(
            "The VDI image has sectors of {sector_bytes} bytes; 512 are taken. Make the disk anew with sectors of 512 \
             bytes."
        )));
    }
    Ok(())
}

fn is_fixed(bytes: &[u8]) -> Result<bool> {
    let kind = le_u32(bytes, 76);
    // The identifiers of the image this one belongs to, and of its parent.
    let has_parent = bytes
        .get(424..456)
        .is_some_and(|ids| ids.iter().any(|byte| *byte != 0));
    match kind {
        DYNAMIC | FIXED if !has_parent => Ok(kind == FIXED),
        DYNAMIC | FIXED | 3 | 4 => Err(Error::refused(
            "The VDI image is a snapshot or a differencing disk: it needs its parent, so it is not complete by itself. \
             Make a whole one with `VBoxManage clonemedium disk IMAGE whole.vdi` and import that.",
        )),
        _ => Err(damaged(&format!("it has the unknown type {kind}"))),
    }
}

/// Rounded up to a sector, as QEMU does: VirtualBox's own disks always end on one.
fn virtual_bytes(bytes: &[u8], limits: &Limits) -> Result<u64> {
    let size = le_u64(bytes, 368);
    if size == 0 {
        return Err(Error::refused("The VDI image holds an empty disk (0 bytes)."));
    }
    check_limit(size, limits)?;
    Ok(size.next_multiple_of(SECTOR))
}
