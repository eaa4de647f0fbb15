//! The header of a sparse extent, and the footer that repeats it in a `streamOptimized` file.

use super::CONVERT;
use super::descriptor::{self, Kind};
use crate::bytes::{has, human, le_u16, le_u32, le_u64};
use crate::error::{AGAIN, CHECK, Error, Result};
use crate::format::{Format, Info, Limits};
use crate::raw::{SECTOR, check_limit};
use crate::source::Source;

pub(crate) const MAGIC: &[u8] = b"KDMV";
/// Entries of a grain table: the format has no other number.
pub(super) const TABLE_ENTRIES: u64 = 512;
const HEADER_BYTES: usize = 512;
/// From 4 KiB to the 64 KiB that every tool writes.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=128;
const MAX_DESCRIPTOR_SECTORS: u64 = (1 << 20) / SECTOR;
/// The directory is where the footer says.
const AT_END: u64 = u64::MAX;
/// A footer's marker, the footer and the end mark: the last three sectors.
const ENDING_SECTORS: u64 = 3;
const FOOTER_MARKER: u32 = 3;

/// The line ends of the header, in which a transfer as text shows.
const NEWLINES: &[u8] = b"\n \r\n";

const NEWLINE_TEST: u32 = 1 << 0;
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const KNOWN_FLAGS: u32 = NEWLINE_TEST | 1 << 1 | ZERO_GRAINS | COMPRESSED | MARKERS;
const DEFLATE: u16 = 1;

#[derive(Debug)]
pub(super) struct Header {
    kind: Kind,
    pub(super) virtual_bytes: u64,
    pub(super) grain_bytes: u64,
    pub(super) directory_at: u64,
    pub(super) is_compressed: bool,
    /// Whether an entry of 1 means a grain of zeros.
    pub(super) has_zero_grains: bool,
    was_not_closed: bool,
}

impl Header {
    pub(super) fn read(source: &mut Source<'_>, limits: &Limits) -> Result<Self> {
        let bytes = source.read_up_to(0, HEADER_BYTES)?;
        if !has(&bytes, 0, MAGIC) {
            return Err(Error::refused(
                "This is not a VMDK image: its first bytes are not those of a sparse VMDK.",
            ));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(Error::damaged(format!(
                "The VMDK image is cut off inside its header. {AGAIN}"
            )));
        }
        let fields = Fields::read(&bytes)?;
        let descriptor = fields.descriptor(source)?;
        if descriptor.sectors != fields.sectors {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: its header says {} sectors, its descriptor {}. {CHECK}",
                fields.sectors, descriptor.sectors
            )));
        }
        let directory = if fields.directory == AT_END {
            footer(source, &fields)?
        } else {
            fields.directory
        };
        let header = Self {
            kind: descriptor.kind,
            virtual_bytes: fields.virtual_bytes(limits)?,
            grain_bytes: fields.grain_sectors * SECTOR,
            directory_at: directory.saturating_mul(SECTOR),
            is_compressed: fields.flags & COMPRESSED != 0,
            has_zero_grains: fields.flags & ZERO_GRAINS != 0,
            was_not_closed: fields.was_not_closed,
        };
        header.check(source.len(), limits)?;
        Ok(header)
    }

    pub(super) fn info(&self) -> Info {
        let mut warnings = Vec::new();
        if self.was_not_closed {
            warnings.push(
                "The VMDK image was not closed properly (its unclean mark is set); its contents are taken as they are."
                    .to_owned(),
            );
        }
        Info {
            format: Format::Vmdk,
            variant: format!("vmdk, {}", self.kind.name()),
            virtual_bytes: self.virtual_bytes,
            warnings,
        }
    }

    /// How much of the disk one table covers.
    pub(super) const fn table_span(&self) -> u64 {
        self.grain_bytes * TABLE_ENTRIES
    }

    /// No grain begins before this byte.
    #[expect(clippy::unused_self, reason = "a fact of the image, the same for all of them")]
    pub(super) const fn data_from(&self) -> u64 {
        HEADER_BYTES as u64
    }

    fn check(&self, file_bytes: u64, limits: &Limits) -> Result<()> {
        if (self.kind == Kind::StreamOptimized) != self.is_compressed {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: it says to be {}, and its grains are{} compressed. {CHECK}",
                self.kind.name(),
                if self.is_compressed { "" } else { " not" }
            )));
        }
        let bytes = self.virtual_bytes.div_ceil(self.table_span()) * 4;
        if bytes > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The VMDK image has a grain directory of {}, more than is taken. {CONVERT}",
                human(bytes)
            )));
        }
        let end = self.directory_at.checked_add(bytes);
        if self.directory_at < HEADER_BYTES as u64 || end.is_none_or(|end| end > file_bytes) {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged or cut off: its grain directory at byte {} is not inside the file ({}). {AGAIN}",
                self.directory_at,
                human(file_bytes)
            )));
        }
        Ok(())
    }
}

/// The numbers of a header or a footer.
#[derive(PartialEq, Eq)]
struct Fields {
    version: u32,
    flags: u32,
    sectors: u64,
    grain_sectors: u64,
    descriptor_at: u64,
    descriptor_sectors: u64,
    table_entries: u32,
    /// The sector of the grain directory.
    directory: u64,
    compression: u16,
    was_not_closed: bool,
}

impl Fields {
    fn read(bytes: &[u8]) -> Result<Self> {
        let fields = Self {
            version: le_u32(bytes, 4),
            flags: le_u32(bytes, 8),
            sectors: le_u64(bytes, 12),
            grain_sectors: le_u64(bytes, 20),
            descriptor_at: le_u64(bytes, 28),
            descriptor_sectors: le_u64(bytes, 36),
            table_entries: le_u32(bytes, 44),
            directory: le_u64(bytes, 56),
            compression: le_u16(bytes, 77),
            was_not_closed: bytes.get(72) == Some(&1),
        };
        if !(1..=3).contains(&fields.version) {
            return Err(Error::refused(format!(
                "The VMDK image has version {}; 1, 2 and 3 are taken. {CONVERT}",
                fields.version
            )));
        }
        fields.check(bytes)?;
        Ok(fields)
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        if self.flags & NEWLINE_TEST != 0 && !has(bytes, 73, NEWLINES) {
            return Err(Error::damaged(
                "The VMDK image is damaged: its line ends were changed on the way, as a transfer in text mode does. \
                 Transfer it again in binary mode.",
            ));
        }
        let unknown = self.flags & !KNOWN_FLAGS;
        if unknown != 0 {
            return Err(Error::refused(format!(
                "The VMDK image uses features that are not known here (flags {unknown:#x}). {CONVERT}"
            )));
        }
        if !self.grain_sectors.is_power_of_two() || !GRAIN_SECTORS.contains(&self.grain_sectors) {
            return Err(Error::refused(format!(
                "The VMDK image has grains of {} sectors; a power of two from 8 to 128 is taken. {CONVERT}",
                self.grain_sectors
            )));
        }
        if u64::from(self.table_entries) != TABLE_ENTRIES {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: its grain tables have {} entries, the format has 512. {CHECK}",
                self.table_entries
            )));
        }
        let is_compressed = self.flags & COMPRESSED != 0;
        let is_sound = self.compression == if is_compressed { DEFLATE } else { 0 };
        if !is_sound || is_compressed != (self.flags & MARKERS != 0) {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: its compression {} contradicts its flags {:#x}. {CHECK}",
                self.compression, self.flags
            )));
        }
        Ok(())
    }

    fn virtual_bytes(&self, limits: &Limits) -> Result<u64> {
        if self.sectors == 0 {
            return Err(Error::refused("The VMDK image holds an empty disk (0 bytes)."));
        }
        let bytes = self.sectors.saturating_mul(SECTOR);
        check_limit(bytes, limits)?;
        Ok(bytes)
    }

    fn descriptor(&self, source: &mut Source<'_>) -> Result<descriptor::Descriptor> {
        let part = || {
            Error::refused(format!(
                "This is one part of a VMDK image that consists of several files; its descriptor is in another. {CONVERT}"
            ))
        };
        if self.descriptor_at == 0 || self.descriptor_sectors == 0 {
            return Err(part());
        }
        if self.descriptor_sectors > MAX_DESCRIPTOR_SECTORS {
            return Err(Error::limit(format!(
                "The VMDK image has a descriptor of {}; up to 1 MiB is taken. {CONVERT}",
                human(self.descriptor_sectors.saturating_mul(SECTOR))
            )));
        }
        let mut text = vec![0; usize::try_from(self.descriptor_sectors * SECTOR).unwrap_or(0)];
        source.read_at(self.descriptor_at.saturating_mul(SECTOR), &mut text)?;
        // QEMU leaves room for one in each part.
        if text.iter().all(|byte| *byte == 0) {
            return Err(part());
        }
        descriptor::parse(&text)
    }
}

/// The directory's sector out of the footer, which must agree with the header in everything else.
fn footer(source: &mut Source<'_>, header: &Fields) -> Result<u64> {
    let missing = || {
        Error::damaged(format!(
            "The VMDK image is cut off: it has no footer at its end. {AGAIN}"
        ))
    };
    let at = source
        .len()
        .checked_sub(ENDING_SECTORS * SECTOR)
        .ok_or_else(missing)?;
    let mut ending = [0; HEADER_BYTES * 3];
    source.read_at(at, &mut ending)?;
    let (marker, rest) = ending.split_at(HEADER_BYTES);
    let (footer, end) = rest.split_at(HEADER_BYTES);
    let is_marker = le_u64(marker, 0) == 1 && le_u32(marker, 8) == 0 && le_u32(marker, 12) == FOOTER_MARKER;
    if !is_marker || !has(footer, 0, MAGIC) || end.iter().any(|byte| *byte != 0) {
        return Err(missing());
    }
    let fields = Fields::read(footer)?;
    let directory = fields.directory;
    let as_header = Fields {
        directory: AT_END,
        ..fields
    };
    if directory == AT_END || as_header != *header {
        return Err(Error::damaged(format!(
            "The VMDK image is damaged: its footer contradicts its header. {CHECK}"
        )));
    }
    Ok(directory)
}
