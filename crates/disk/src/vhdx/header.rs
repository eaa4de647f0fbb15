//! The two headers, of which the one that was written last counts, and the region table.

use super::MIB;
use super::crc::crc32c;
use super::guid::{self, Guid};
use super::log::Log;
use crate::bytes::{has, le_u16, le_u32, le_u64};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::source::Source;

/// At the beginning of the file.
pub(crate) const SIGNATURE: &[u8] = b"vhdxfile";
const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;
const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE_BYTES: usize = 64 << 10;
const MAX_REGIONS: u32 = 2047;

/// The header that counts.
pub(super) struct Header {
    /// Which entries of the log count; nothing where the file was closed.
    pub(super) log: Option<Guid>,
    pub(super) log_region: Region,
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) at: u64,
    pub(super) length: u64,
}

impl Region {
    /// A region begins on a MiB behind the headers, and is whole MiB long.
    fn new(at: u64, length: u32) -> Option<Self> {
        let length = u64::from(length);
        let is_sound = at >= MIB && at.is_multiple_of(MIB) && length > 0 && length.is_multiple_of(MIB);
        (is_sound && at.checked_add(length).is_some()).then_some(Self { at, length })
    }

    fn overlaps(self, other: Self) -> bool {
        self.at < other.at + other.length && other.at < self.at + self.length
    }
}

impl Header {
    pub(super) fn read(source: &mut Source<'_>) -> Result<Self> {
        if !has(&source.read_up_to(0, SIGNATURE.len())?, 0, SIGNATURE) {
            return Err(Error::refused(
                "This is not a VHDX image: its first bytes are not those of VHDX.",
            ));
        }
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for at in HEADERS_AT {
            let bytes = source.read_up_to(at, HEADER_BYTES)?;
            let sequence = le_u64(&bytes, 8);
            let is_newer = newest.as_ref().is_none_or(|(newest, _)| sequence > *newest);
            if is_sealed(&bytes, HEADER_BYTES, b"head") && is_newer {
                newest = Some((sequence, bytes));
            }
        }
        let Some((_, bytes)) = newest else {
            return Err(Error::damaged(format!(
                "The VHDX image is damaged or cut off: neither of its two headers holds. {AGAIN}"
            )));
        };
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (log_version, version) = (le_u16(bytes, 64), le_u16(bytes, 66));
        if version != 1 || log_version != 0 {
            return Err(Error::refused(format!(
                "The VHDX image has version {version} with a log of version {log_version}; 1 and 0 are taken. Convert it \
                 with `Convert-VHD` and import the result."
            )));
        }
        let log: Guid = bytes
            .get(48..64)
            .and_then(|id| id.try_into().ok())
            .unwrap_or_default();
        let log = (log != Guid::default()).then_some(log);
        let region = Region::new(le_u64(bytes, 72), le_u32(bytes, 68));
        let Some(log_region) = region else {
            return Err(damaged("has a log in an impossible place"));
        };
        Ok(Self { log, log_region })
    }
}

/// Whether `bytes` have this signature, their whole length, and the checksum that they state at byte 4.
pub(super) fn is_sealed(bytes: &[u8], length: usize, signature: &[u8]) -> bool {
    bytes.len() == length && has(bytes, 0, signature) && crc32c(bytes, 4) == le_u32(bytes, 4)
}

pub(super) fn damaged(what: &str) -> Error {
    Error::damaged(format!("The VHDX image is damaged: it {what}. {CHECK}"))
}

/// Where the block table and the metadata are.
pub(super) struct Regions {
    pub(super) table: Region,
    pub(super) metadata: Region,
}

impl Regions {
    pub(super) fn read(source: &mut Source<'_>, log: &Log) -> Result<Self> {
        for at in REGIONS_AT {
            let mut bytes = vec![0; REGION_TABLE_BYTES];
            log.read_at(source, at, &mut bytes)?;
            if is_sealed(&bytes, REGION_TABLE_BYTES, b"regi") {
                return Self::parse(&bytes, log);
            }
        }
        Err(damaged("has no region table that holds"))
    }

    fn parse(bytes: &[u8], log: &Log) -> Result<Self> {
        let count = le_u32(bytes, 8);
        if count > MAX_REGIONS {
            return Err(damaged("has a region table that is longer than its place"));
        }
        let (mut table, mut metadata) = (None, None);
        let mut all = vec![log.region()];
        let entries = bytes.get(16..).unwrap_or_default().chunks_exact(32);
        for entry in entries.take(count as usize) {
            let Some(region) = Region::new(le_u64(entry, 16), le_u32(entry, 24)) else {
                return Err(damaged("has a region in an impossible place"));
            };
            if all.iter().any(|other| other.overlaps(region)) {
                return Err(damaged("has regions that overlap"));
            }
            all.push(region);
            let known = if has(entry, 0, &guid::BLOCK_TABLE) {
                &mut table
            } else if has(entry, 0, &guid::METADATA) {
                &mut metadata
            } else if le_u32(entry, 28) & 1 == 1 {
                return Err(Error::refused(
                    "The VHDX image has a region that must be understood and is not known here. Convert it with \
                     `Convert-VHD` and import the result.",
                ));
            } else {
                continue;
            };
            if known.replace(region).is_some() {
                return Err(damaged("names a region twice"));
            }
        }
        match (table, metadata) {
            (Some(table), Some(metadata)) => Ok(Self { table, metadata }),
            _ => Err(damaged("lacks its block table or its metadata")),
        }
    }
}
