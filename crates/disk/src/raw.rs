//! Raw disks. Anything can be called raw, so a file is taken as one only when it has a partition table that holds
//! for its length; once taken it stays raw and is never probed again (CVE-2024-50386, CVE-2026-24708).

use std::io;

use crate::bytes::{has, human};
use crate::error::{Error, Result};
use crate::extents::{Extent, Extents};
use crate::format::{Format, Info, Limits};
use crate::gpt;
use crate::mbr::{self, Mbr};
use crate::probe::{Ends, wrapper};
use crate::source::Source;

/// The sector size that droplets have; 4096-byte sectors would move the GPT.
pub(crate) const SECTOR: u64 = 512;

pub(crate) fn info(source: &mut Source<'_>, limits: &Limits) -> Result<Info> {
    let ends = Ends::read(source)?;
    if let Some(wrapper) = wrapper(&ends.head) {
        return Err(Error::refused(format!(
            "This is {wrapper}-compressed, not a raw disk. Import it as it is."
        )));
    }
    if let Some(format) = ends.virtual_disk() {
        return Err(Error::refused(format!(
            "This is a {format} image, not a raw disk. Import it as {format}."
        )));
    }
    ends.refuse_foreign()?;
    check_limit(source.len(), limits)?;
    let found = inspect(source, &ends)?;
    let variant = format!("raw, {}", found.table);
    Ok(Info {
        format: Format::Raw,
        variant,
        virtual_bytes: source.len(),
        warnings: found.warnings,
    })
}

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let info = info(source, limits)?;
    let mut extents = Extents::new(sink);
    extents.source(0, info.virtual_bytes.min(until))?;
    extents.flush()?;
    Ok(info)
}

/// Refuses a disk that is larger than allowed.
pub(crate) fn check_limit(virtual_bytes: u64, limits: &Limits) -> Result<()> {
    if virtual_bytes <= limits.max_virtual_bytes {
        return Ok(());
    }
    Err(Error::limit(format!(
        "The disk is {} large, the limit is {}. Shrink its last partition and the disk, and try again.",
        human(virtual_bytes),
        human(limits.max_virtual_bytes)
    )))
}

/// What a partition table said.
#[derive(Debug)]
pub(crate) struct Partitioned {
    /// `MBR` or `GPT`.
    pub(crate) table: &'static str,
    pub(crate) warnings: Vec<String>,
}

/// Finds the partition table and checks it against the length of the file.
pub(crate) fn inspect(source: &mut Source<'_>, ends: &Ends) -> Result<Partitioned> {
    let Some(mbr) = Mbr::parse(&ends.head) else {
        return Err(no_table(ends));
    };
    if let Err(error) = mbr.check() {
        // The boot sector of a FAT or NTFS file system has the same signature, with code where the table would be.
        return Err(if ends.bare().is_some() {
            no_table(ends)
        } else {
            error
        });
    }
    let remainder = source.len() % SECTOR;
    if remainder != 0 {
        return Err(Error::refused(format!(
            "A raw disk is a multiple of 512 bytes long, but this file has {remainder} bytes more. If the file is \
             complete, round it up with `truncate -s %512 IMAGE` and try again."
        )));
    }
    let sectors = source.len() / SECTOR;
    let mut warnings = mbr.check_within(sectors)?;
    if mbr.is_protective() {
        warnings.append(&mut gpt::check(source, &ends.head, sectors)?);
        return Ok(Partitioned {
            table: "GPT",
            warnings,
        });
    }
    if has(&ends.head, 512, gpt::SIGNATURE) {
        warnings.push("The disk also carries an old GPT without a protective MBR; it is ignored.".to_owned());
    }
    Ok(Partitioned {
        table: "MBR",
        warnings,
    })
}

/// Checks the disk inside an image by its beginning, as far as a raw file is checked by its own. The rest of a GPT, and
/// what is merely odd, is the guest's.
pub(crate) fn inside_check(head: Vec<u8>, virtual_bytes: u64) -> Result<()> {
    let ends = Ends::begin(head);
    ends.refuse_foreign()?;
    let Some(mbr) = Mbr::parse(&ends.head) else {
        return Err(no_table_inside(&ends));
    };
    if let Err(error) = mbr.check() {
        return Err(if ends.bare().is_some() {
            no_table_inside(&ends)
        } else {
            error
        });
    }
    mbr.check_within(virtual_bytes / SECTOR).map(drop)
}

fn no_table_inside(ends: &Ends) -> Error {
    let is_known = ends.bare().is_some() || has(&ends.head, 512, gpt::SIGNATURE);
    if is_known || has(&ends.head, 4096, gpt::SIGNATURE) {
        return no_table(ends);
    }
    Error::refused(
        "The disk in this image has no partition table (MBR or GPT), so it could not boot. Import the whole disk of \
         an operating system, as the distribution's cloud image has it.",
    )
}

fn no_table(ends: &Ends) -> Error {
    if has(&ends.head, 512, gpt::SIGNATURE) {
        return Error::damaged(
            "The disk has a GPT but no protective MBR in its first sector, so it could not boot. \
             Repair it with `sgdisk -e IMAGE` and try again.",
        );
    }
    if has(&ends.head, 4096, gpt::SIGNATURE) {
        return Error::refused(mbr::SECTORS_OF_4096);
    }
    match ends.bare() {
        Some(name) => Error::refused(format!(
            "This is {name} without a partition table, which cannot boot by itself. Import the whole disk with its \
             partition table and boot loader, as the distribution's cloud image has it."
        )),
        None => Error::refused(
            "The file is not recognised: it is neither a virtual disk (qcow2, VMDK, VHDX, VHD, VDI or OVA) nor a raw disk with an MBR or GPT partition table \
             (alone or in gzip, bzip2, xz or zstd). Check that it is a disk image and that it is complete.",
        ),
    }
}

#[cfg(test)]
mod tests;
