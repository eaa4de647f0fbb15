//! The GUID partition table (UEFI 2.10, chapter 5).
//!
//! What a damaged copy means here follows from where the image goes: a droplet's disk is usually larger than the
//! image, so the guest finds the primary table and moves the backup to the new end. So
//! - a valid primary with a damaged, missing or misplaced backup is taken with a warning,
//! - a damaged primary is refused even when the backup is whole: on a larger disk nobody would find the backup.
//!   The message says how to repair the image.

use crate::bytes::{has, le_u32, le_u64};
use crate::error::{Error, Result};
use crate::raw::SECTOR;
use crate::source::Source;

pub(crate) const SIGNATURE: &[u8] = b"EFI PART";

const ENTRY_BYTES: u32 = 128;
const MAX_ENTRIES: u32 = 1024;
const HEADER_BYTES: u32 = 92;
const REPAIR: &str = "Repair it with `sgdisk -e IMAGE` or `gdisk` and try again.";

struct Header {
    alternate: u64,
    first_usable: u64,
    last_usable: u64,
    guid: Vec<u8>,
    entries_at: u64,
    entries: u32,
    entries_crc: u32,
}

/// Checks both copies of the table on a disk of `sectors` 512-byte sectors; gives warnings.
pub(crate) fn check(source: &mut Source<'_>, head: &[u8], sectors: u64) -> Result<Vec<String>> {
    let last = sectors.saturating_sub(1);
    let primary = match table(source, head.get(512..1024).unwrap_or_default(), 1) {
        Ok(found) => found,
        Err(Fault::Io(error)) => return Err(error),
        Err(Fault::Rule(reason)) => return Err(primary_damaged(source, last, &reason)),
    };
    let (header, entries) = primary;
    // Its backup's header stands behind everything usable (UEFI 2.10, 5.3.1); a guest would write over it.
    if header.alternate > 1 && header.last_usable >= header.alternate {
        return Err(Error::damaged(format!(
            "The GPT is damaged: its usable sectors end at {}, and its backup stands at {}. {REPAIR}",
            header.last_usable, header.alternate
        )));
    }
    let mut warnings = Vec::new();
    check_partitions(&header, &entries, sectors)?;
    if header.last_usable > last {
        warnings.push(
            "The end of the disk is missing behind its last partition; a droplet's disk must be larger than the image."
                .to_owned(),
        );
    }
    if let Some(warning) = backup_warning(source, &header, last)? {
        warnings.push(warning);
    }
    Ok(warnings)
}

/// A broken rule of one copy, apart from a source that cannot be read.
enum Fault {
    Rule(String),
    Io(Error),
}

fn rule<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Rule(reason.into()))
}

/// Reads and checks one copy: the header in `sector`, which stands at `lba`, and its entries.
fn table(source: &mut Source<'_>, sector: &[u8], lba: u64) -> Result<(Header, Vec<u8>), Fault> {
    let header = header(sector, lba)?;
    let bytes = u64::from(header.entries) * u64::from(ENTRY_BYTES);
    let at = header.entries_at.checked_mul(SECTOR);
    let Some(at) = at.filter(|at| at.checked_add(bytes).is_some_and(|end| end <= source.len())) else {
        return rule("its entries lie outside the disk");
    };
    if lba == 1 && (header.entries_at < 2 || at + bytes > header.first_usable.saturating_mul(SECTOR)) {
        return rule("its entries overlap its header or the usable sectors");
    }
    let mut entries = vec![0; header.entries as usize * ENTRY_BYTES as usize];
    source.read_at(at, &mut entries).map_err(Fault::Io)?;
    if crc32fast::hash(&entries) != header.entries_crc {
        return rule("the checksum of its entries is wrong");
    }
    Ok((header, entries))
}

fn header(sector: &[u8], lba: u64) -> Result<Header, Fault> {
    if !has(sector, 0, SIGNATURE) {
        return rule("its signature is missing");
    }
    let size = le_u32(sector, 12);
    if !(HEADER_BYTES..=512).contains(&size) || sector.len() < 512 {
        return rule(format!("its header says that it is {size} bytes long"));
    }
    let mut covered = sector.get(..size as usize).unwrap_or_default().to_vec();
    if let Some(field) = covered.get_mut(16..20) {
        field.fill(0);
    }
    if crc32fast::hash(&covered) != le_u32(sector, 16) {
        return rule("the checksum of its header is wrong");
    }
    if le_u32(sector, 8) >> 16 != 1 {
        return rule(format!("its revision is {:#010x}", le_u32(sector, 8)));
    }
    if le_u64(sector, 24) != lba {
        return rule(format!(
            "its header says that it stands at sector {}",
            le_u64(sector, 24)
        ));
    }
    let (entries, entry_bytes) = (le_u32(sector, 80), le_u32(sector, 84));
    if entries == 0 || entries > MAX_ENTRIES || entry_bytes != ENTRY_BYTES {
        return rule(format!("it has {entries} entries of {entry_bytes} bytes"));
    }
    let header = Header {
        alternate: le_u64(sector, 32),
        first_usable: le_u64(sector, 40),
        last_usable: le_u64(sector, 48),
        guid: sector.get(56..72).unwrap_or_default().to_vec(),
        entries_at: le_u64(sector, 72),
        entries,
        entries_crc: le_u32(sector, 88),
    };
    if header.first_usable > header.last_usable {
        return rule("its first usable sector is behind its last one");
    }
    Ok(header)
}

fn check_partitions(header: &Header, entries: &[u8], sectors: u64) -> Result<()> {
    let mut spans = Vec::new();
    for (number, entry) in (1_u32..).zip(entries.chunks_exact(ENTRY_BYTES as usize)) {
        if entry.iter().take(16).all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (le_u64(entry, 32), le_u64(entry, 40));
        if first > last || first < header.first_usable || last > header.last_usable {
            return Err(Error::damaged(format!(
                "The GPT is damaged: partition {number} (sectors {first} to {last}) lies outside the usable sectors. \
                 {REPAIR}"
            )));
        }
        if last >= sectors {
            return Err(Error::damaged(format!(
                "The disk is cut off: partition {number} ends at sector {last}, but the file has only {sectors} \
                 sectors. Download or copy it again and compare its checksum."
            )));
        }
        spans.push((first, last));
    }
    if spans.is_empty() {
        return Err(Error::refused(
            "The disk has an empty partition table (GPT). Import a disk that an operating system is installed on.",
        ));
    }
    spans.sort_unstable();
    if spans
        .windows(2)
        .any(|pair| matches!(pair, [(_, last), (first, _)] if last >= first))
    {
        return Err(Error::damaged(format!(
            "The GPT is damaged: its partitions overlap. {REPAIR}"
        )));
    }
    Ok(())
}

fn backup_warning(source: &mut Source<'_>, primary: &Header, last: u64) -> Result<Option<String>> {
    let alternate = primary.alternate;
    if alternate > last || alternate <= 1 {
        return Ok(Some(format!(
            "The backup GPT is missing: it should stand at sector {alternate}, but the disk ends at sector {last}. \
             The guest can write a new one with `sgdisk -e`."
        )));
    }
    let sector = read_sector(source, alternate)?;
    match table(source, &sector, alternate) {
        Ok((backup, _)) if backup.guid != primary.guid || backup.entries_crc != primary.entries_crc => {
            Ok(Some("The backup GPT differs from the primary one, which is used.".to_owned()))
        }
        Ok(_) if alternate < last => Ok(Some(
            "The disk was enlarged: its backup GPT is not at its end. The guest moves it when it grows its disk."
                .to_owned(),
        )),
        Ok(_) => Ok(None),
        Err(Fault::Io(error)) => Err(error),
        Err(Fault::Rule(reason)) => {
            Ok(Some(format!("The backup GPT is damaged ({reason}); the primary one is used.")))
        }
    }
}

fn primary_damaged(source: &mut Source<'_>, last: u64, reason: &str) -> Error {
    let sector = match read_sector(source, last) {
        Ok(sector) => sector,
        Err(error) => return error,
    };
    if last > 1 && table(source, &sector, last).is_ok() {
        return Error::damaged(format!(
            "The primary GPT is damaged: {reason}. The backup at the end of the disk is whole: restore the primary \
             one from it with `gdisk IMAGE` (r, b, w) and try again, because a droplet's larger disk would not find it."
        ));
    }
    Error::damaged(format!("The GPT is damaged: {reason}. {REPAIR}"))
}

fn read_sector(source: &mut Source<'_>, lba: u64) -> Result<Vec<u8>> {
    let mut sector = vec![0; 512];
    source.read_at(lba.saturating_mul(SECTOR), &mut sector)?;
    Ok(sector)
}
