//! The reader of OVA: a tar archive with a virtual machine's description (`.ovf`) and its disks (DMTF DSP0243). The
//! one disk inside is read where it stands in the archive; nothing is ever extracted, and no name in it is used for
//! more than telling what a member is (CVE-2026-23954 and the like are about archives that were unpacked).
//!
//! The description is not read: which member is a disk is told by its first and last bytes, as for any other file. A CD
//! image in it is left out with a warning.

mod tar;

use std::io;

use crate::bytes::has;
use crate::error::{Error, Result};
use crate::extents::{Content, Extent};
use crate::format::{Format, Info, Limits, Probe};
use crate::probe;
use crate::source::Source;
use tar::{Member, Members};

/// At byte 257 of a tar archive.
pub(crate) const MAGIC: &[u8] = b"ustar";
pub(crate) const MAGIC_AT: usize = 257;

const UNPACK: &str = "Unpack it (`tar -xf IMAGE`) and import the one disk image in it.";

/// Gives the extents of the disk up to byte `until`.
pub(crate) fn read(
    source: &mut Source<'_>,
    limits: &Limits,
    until: u64,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<Info> {
    let disk = find(source)?;
    let mut shifted = |extent: Extent<'_>| {
        let content = match extent.content {
            Content::Source(at) => Content::Source(at + disk.at),
            other => other,
        };
        sink(Extent { content, ..extent })
    };
    let info = crate::read_until(disk.format, &mut disk.window(source), limits, until, &mut shifted)?;
    Ok(disk.info(info))
}

/// The one disk in the archive.
struct InnerDisk {
    at: u64,
    length: u64,
    format: Format,
    has_cd: bool,
}

impl InnerDisk {
    fn window<'a>(&self, source: &'a mut Source<'_>) -> Source<'a> {
        source.window(self.at, self.length)
    }

    fn info(&self, inner: Info) -> Info {
        let mut warnings = inner.warnings;
        if self.has_cd {
            warnings.push(
                "The OVA also holds a CD image, which is left out; only its disk is imported.".to_owned(),
            );
        }
        Info {
            format: Format::Ova,
            variant: format!("ova, {}", inner.variant),
            warnings,
            ..inner
        }
    }
}

/// Looks at every member; exactly one may be a disk.
fn find(source: &mut Source<'_>) -> Result<InnerDisk> {
    let members = Members::read(source)?.all;
    if !members.iter().any(|member| member.ends_with(".ovf")) {
        return Err(Error::refused(format!(
            "This is a tar archive without the description (.ovf) that would make it an OVA. {UNPACK}"
        )));
    }
    let (mut disks, mut has_cd) = (Vec::new(), false);
    for member in members.iter().filter(|member| !is_text(member)) {
        match look(source, member)? {
            Found::Disk(format) => disks.push((member, format)),
            Found::Cd => has_cd = true,
        }
    }
    match disks.as_slice() {
        [(member, format)] => Ok(InnerDisk {
            at: member.at,
            length: member.length,
            format: *format,
            has_cd,
        }),
        [] => Err(Error::refused(
            "The OVA holds no disk. Export the virtual machine again, with its disk.",
        )),
        several => Err(Error::refused(format!(
            "The OVA holds {} disks; an image is one disk. Unpack it (`tar -xf IMAGE`) and import each of them by itself.",
            several.len()
        ))),
    }
}

/// The description, its checksums and signature, a machine's settings: by their names, as OVF says.
fn is_text(member: &Member) -> bool {
    const NAMES: [&str; 6] = [".ovf", ".mf", ".cert", ".nvram", ".vmx", ".xml"];
    member.length == 0 || NAMES.iter().any(|end| member.ends_with(end))
}

enum Found {
    Disk(Format),
    Cd,
}

fn look(source: &mut Source<'_>, member: &Member) -> Result<Found> {
    let mut window = source.window(member.at, member.length);
    let head = window.read_up_to(32_769, 5)?;
    if has(&head, 0, b"CD001") && member.ends_with(".iso") {
        return Ok(Found::Cd);
    }
    match probe::of(&mut window) {
        Ok(Probe::Disk(Format::Ova)) => {
            Err(Error::refused(format!("The OVA holds another archive. {UNPACK}")))
        }
        Ok(Probe::Disk(format)) => Ok(Found::Disk(format)),
        Ok(Probe::Wrapped(wrapper)) => Err(Error::refused(format!(
            "The OVA holds a disk that is compressed with {wrapper}. {UNPACK}"
        ))),
        Err(error) => Err(Error::new(
            error.kind(),
            format!(
                "The OVA holds a member that is no disk image. {}",
                error.message()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
