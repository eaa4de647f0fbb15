//! The metadata: sizes, and whether the disk is complete by itself.

use super::MIB;
use super::guid::{self, Guid};
use super::header::{Regions, damaged};
use super::log::Log;
use crate::bytes::{has, human, le_u16, le_u32, le_u64};
use crate::error::{Error, Result};
use crate::source::Source;

const TABLE_BYTES: usize = 64 << 10;
const MAX_ENTRIES: u16 = 2047;
/// The format's own limit ([MS-VHDX] 2.6.2.2).
const MAX_VIRTUAL_BYTES: u64 = 64 << 40;
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = MIB..=256 * MIB;

const IS_USER: u32 = 1;
const IS_REQUIRED: u32 = 1 << 2;
const IS_FIXED: u32 = 1;
const HAS_PARENT: u32 = 1 << 1;

#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) virtual_bytes: u64,
    pub(super) block_bytes: u64,
    /// The logical one: 512 or 4096.
    pub(super) sector_bytes: u64,
    /// Whether blocks stay allocated, as a fixed disk's do.
    pub(super) is_fixed: bool,
}

impl Metadata {
    pub(super) fn read(source: &mut Source<'_>, log: &Log, regions: &Regions) -> Result<Self> {
        let mut table = vec![0; TABLE_BYTES];
        log.read_at(source, regions.metadata.at, &mut table)?;
        let count = le_u16(&table, 10);
        if !has(&table, 0, b"metadata") || count > MAX_ENTRIES {
            return Err(damaged("has no metadata where they should be"));
        }
        let mut items = Items::default();
        let entries = table.get(32..).unwrap_or_default().chunks_exact(32);
        for entry in entries.take(usize::from(count)) {
            items.take(source, log, regions, entry)?;
        }
        items.check()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        if self.sector_bytes == 512 {
            return Vec::new();
        }
        vec![
            "The disk has sectors of 4096 bytes; a droplet's have 512, so its partition table may not be understood there."
                .to_owned(),
        ]
    }
}

/// What was found so far.
#[derive(Default)]
struct Items {
    parameters: Option<(u64, u32)>,
    virtual_bytes: Option<u64>,
    sector_bytes: Option<u64>,
}

impl Items {
    fn take(&mut self, source: &mut Source<'_>, log: &Log, regions: &Regions, entry: &[u8]) -> Result<()> {
        let id: Guid = entry
            .get(..16)
            .and_then(|id| id.try_into().ok())
            .unwrap_or_default();
        let (at, length, flags) = (le_u32(entry, 16), le_u32(entry, 20), le_u32(entry, 24));
        let is_user = flags & IS_USER != 0;
        let wanted = match id {
            _ if is_user => None,
            guid::FILE_PARAMETERS | guid::VIRTUAL_DISK_SIZE => Some(8),
            guid::LOGICAL_SECTOR_SIZE => Some(4),
            guid::PARENT_LOCATOR => return Err(parent()),
            _ => None,
        };
        let Some(wanted) = wanted else {
            let is_known = [guid::VIRTUAL_DISK_ID, guid::PHYSICAL_SECTOR_SIZE].contains(&id);
            if flags & IS_REQUIRED != 0 && (is_user || !is_known) {
                return Err(Error::refused(
                    "The VHDX image has metadata that must be understood and are not known here. Convert it with \
                     `Convert-VHD` and import the result.",
                ));
            }
            return Ok(());
        };
        let end = u64::from(at) + u64::from(length);
        if length != wanted || (at as usize) < TABLE_BYTES || end > regions.metadata.length {
            return Err(damaged("has metadata in an impossible place"));
        }
        let mut value = [0; 8];
        let bytes = value.get_mut(..wanted as usize).unwrap_or_default();
        log.read_at(source, regions.metadata.at + u64::from(at), bytes)?;
        let is_first = match id {
            guid::FILE_PARAMETERS => {
                let both = (u64::from(le_u32(&value, 0)), le_u32(&value, 4));
                self.parameters.replace(both).is_none()
            }
            guid::VIRTUAL_DISK_SIZE => self.virtual_bytes.replace(le_u64(&value, 0)).is_none(),
            _ => self.sector_bytes.replace(u64::from(le_u32(&value, 0))).is_none(),
        };
        if is_first {
            Ok(())
        } else {
            Err(damaged("has the same metadata twice"))
        }
    }

    fn check(self) -> Result<Metadata> {
        let (Some((block_bytes, flags)), Some(virtual_bytes), Some(sector_bytes)) =
            (self.parameters, self.virtual_bytes, self.sector_bytes)
        else {
            return Err(damaged("lacks its block size, its disk size or its sector size"));
        };
        if flags & HAS_PARENT != 0 {
            return Err(parent());
        }
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(damaged(&format!(
                "has blocks of {block_bytes} bytes; a power of two from 1 MiB to 256 MiB is allowed"
            )));
        }
        if ![512, 4096].contains(&sector_bytes) {
            return Err(damaged(&format!(
                "has sectors of {sector_bytes} bytes; 512 and 4096 are allowed"
            )));
        }
        if virtual_bytes == 0 {
            return Err(Error::refused("The VHDX image holds an empty disk (0 bytes)."));
        }
        if !virtual_bytes.is_multiple_of(sector_bytes) || virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err(damaged(&format!(
                "has a disk of {virtual_bytes} bytes, which is no number of whole sectors up to {}",
                human(MAX_VIRTUAL_BYTES)
            )));
        }
        Ok(Metadata {
            virtual_bytes,
            block_bytes,
            sector_bytes,
            is_fixed: flags & IS_FIXED != 0,
        })
    }
}

fn parent() -> Error {
    Error::refused(
        "The VHDX image is a differencing disk (a checkpoint): it needs its parent, so it is not complete by itself. Merge \
         both with `Merge-VHD` and import the result.",
    )
}
