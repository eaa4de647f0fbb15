//! What a file is, from its first and last bytes. What is not taken is named, with what to do instead.
//!
//! The order matters: a fixed VHD is a raw disk with a footer and an ISO may carry a partition table, so foreign
//! magics are looked for before a partition table makes something a raw disk. Nothing is decided by a file name.

use std::io::{Read, Seek};

use crate::bytes::{be_u32, has, le_u16, le_u32};
use crate::error::{Error, Result};
use crate::format::{Format, Probe, Wrapper};
use crate::source::Source;
use crate::{ova, raw, vdi, vhd, vhdx, vmdk};

/// Enough for the magic that stands deepest, that of Btrfs at 64 KiB + 64.
pub(crate) const HEAD_BYTES: usize = 68 << 10;
const SECTOR: u64 = 512;

/// Looks at the head and the tail of `source`. Whatever is neither a wrapper, qcow2 nor a partitioned raw disk is
/// refused with a sentence that names it.
pub fn probe(source: &mut (impl Read + Seek)) -> Result<Probe, Error> {
    of(&mut Source::new(source)?)
}

/// As [`probe()`].
pub(crate) fn of(source: &mut Source<'_>) -> Result<Probe> {
    let ends = Ends::read(source)?;
    if let Some(wrapper) = wrapper(&ends.head) {
        return Ok(Probe::Wrapped(wrapper));
    }
    if let Some(format) = ends.virtual_disk() {
        return Ok(Probe::Disk(format));
    }
    ends.refuse_foreign()?;
    raw::inspect(source, &ends)?;
    Ok(Probe::Disk(Format::Raw))
}

/// The two ends of a file.
pub(crate) struct Ends {
    pub(crate) head: Vec<u8>,
    tail: Vec<u8>,
}

impl Ends {
    pub(crate) fn read(source: &mut Source<'_>) -> Result<Self> {
        if source.len() == 0 {
            return Err(Error::refused(
                "The file is empty. Check that the download or copy was complete.",
            ));
        }
        let head = source.read_up_to(0, HEAD_BYTES)?;
        let tail = source.read_up_to(source.len().saturating_sub(SECTOR), 512)?;
        Ok(Self { head, tail })
    }

    /// Those of a disk of which only the first is known.
    pub(crate) const fn begin(head: Vec<u8>) -> Self {
        Self {
            head,
            tail: Vec::new(),
        }
    }

    /// The format that has a magic of its own: whatever else the file may look like, this is what it is. A VHD's is at
    /// its end (before Virtual PC 2004 it was 511 bytes long), and again at the beginning of a dynamic one.
    pub(crate) fn virtual_disk(&self) -> Option<Format> {
        if is_qcow2(&self.head) {
            return Some(Format::Qcow2);
        }
        let footer = [(&self.tail, 0), (&self.tail, 1), (&self.head, 0)];
        if footer.iter().any(|(bytes, at)| has(bytes, *at, vhd::COOKIE)) {
            return Some(Format::Vhd);
        }
        let by_magic = MAGICS.iter().find(|(at, magic, _)| has(&self.head, *at, magic));
        by_magic.map(|(_, _, format)| *format)
    }

    /// Refuses whatever carries the magic of something that is not taken.
    pub(crate) fn refuse_foreign(&self) -> Result<()> {
        match self.foreign() {
            None => Ok(()),
            Some(foreign) => Err(Error::refused(format!(
                "This is {}. {}",
                foreign.what, foreign.advice
            ))),
        }
    }

    fn foreign(&self) -> Option<&'static Foreign> {
        // Of a disk of which only the beginning is known: one image inside another.
        if self.virtual_disk().is_some() {
            return Some(&INSIDE);
        }
        if has(&self.tail, 0, b"koly") {
            return Some(&DMG);
        }
        if is_qcow1(&self.head) {
            return Some(&QCOW1);
        }
        let by_magic = FOREIGN
            .iter()
            .find(|foreign| has(&self.head, foreign.at, foreign.magic));
        by_magic.or_else(|| is_web_page(&self.head).then_some(&WEB_PAGE))
    }

    /// The file system, volume or archive that fills the whole file, for a file without a partition table.
    pub(crate) fn bare(&self) -> Option<&'static str> {
        if let Some((_, _, name)) = BARE.iter().find(|(at, magic, _)| has(&self.head, *at, magic)) {
            return Some(name);
        }
        if le_u16(&self.head, 1080) == 0xEF53 {
            return Some("an ext2, ext3 or ext4 file system");
        }
        match le_u32(&self.head, 1024) {
            0xF2F5_2010 => Some("an F2FS file system"),
            0xE0F5_E1E2 => Some("an EROFS file system"),
            _ => None,
        }
    }
}

pub(crate) fn is_qcow2(head: &[u8]) -> bool {
    has(head, 0, b"QFI\xfb") && !is_qcow1(head)
}

fn is_qcow1(head: &[u8]) -> bool {
    has(head, 0, b"QFI\xfb") && be_u32(head, 4) == 1
}

/// The compression that `head` begins with.
pub(crate) fn wrapper(head: &[u8]) -> Option<Wrapper> {
    let bzip2_block = has(head, 4, b"\x31\x41\x59\x26\x53\x59") || has(head, 4, b"\x17\x72\x45\x38\x50\x90");
    match head {
        [0x1f, 0x8b, 8, ..] => Some(Wrapper::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] if bzip2_block => Some(Wrapper::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Wrapper::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Wrapper::Zstd),
        _ => None,
    }
}

/// An archive that may hold several files, by the first 512 bytes of what was unwrapped.
pub(crate) fn archive(head: &[u8]) -> Option<&'static str> {
    let kinds: [(usize, &[u8], &str); 4] = [
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (0, b"070701", "a cpio archive"),
        (0, b"Rar!\x1a\x07", "a RAR archive"),
    ];
    kinds
        .iter()
        .find(|(at, magic, _)| has(head, *at, magic))
        .map(|(_, _, name)| *name)
}

fn is_web_page(head: &[u8]) -> bool {
    let text: Vec<u8> = head.iter().take(256).map(u8::to_ascii_lowercase).collect();
    let text = text.trim_ascii_start();
    text.starts_with(b"<!doctype html") || text.starts_with(b"<html") || text.starts_with(b"<?xml")
}

/// The formats that begin with a magic of their own.
const MAGICS: &[(usize, &[u8], Format)] = &[
    (0, vmdk::MAGIC, Format::Vmdk),
    (0, vhdx::SIGNATURE, Format::Vhdx),
    (64, vdi::SIGNATURE, Format::Vdi),
    (ova::MAGIC_AT, ova::MAGIC, Format::Ova),
];

struct Foreign {
    at: usize,
    magic: &'static [u8],
    what: &'static str,
    advice: &'static str,
}

const fn foreign(at: usize, magic: &'static [u8], what: &'static str, advice: &'static str) -> Foreign {
    Foreign {
        at,
        magic,
        what,
        advice,
    }
}

const CONVERT: &str = "Convert it to qcow2 first, for example with `qemu-img convert -O qcow2 IMAGE image.qcow2`, and import the result.";
const UNPACK: &str = "It may hold several files: unpack it and import the one disk image in it \
     (by itself or compressed with gzip, bzip2, xz or zstd).";
const REPACK: &str = "Decompress it, or compress it with gzip, bzip2, xz or zstd instead.";
const INSTALLER: &str = "Install from it into a virtual disk and import that disk, \
     or take the cloud image (qcow2 or raw) that most distributions offer beside their ISO.";
const WHOLE_DISK: &str =
    "Import the whole disk with its partition table instead, as the distribution's cloud image has it.";

const INSIDE: Foreign = foreign(
    0,
    b"",
    "a virtual disk inside another",
    "Import the inner one by itself.",
);
const DMG: Foreign = foreign(0, b"", "an Apple disk image (DMG)", CONVERT);
const QCOW1: Foreign = foreign(0, b"", "a qcow image of version 1", CONVERT);
const WEB_PAGE: Foreign = foreign(
    0,
    b"",
    "a web page or an XML document, not a disk image",
    "Check the URL: it must lead to the image file itself, without a sign-in or download page in between.",
);

/// Magics that settle what a file is, wherever else it may look like a disk.
const FOREIGN: &[Foreign] = &[
    foreign(0, b"COWD", "a VMDK disk image (COWD)", CONVERT),
    foreign(
        0,
        b"\xbe\xba\xfe\xca\0\0\0\0",
        "a VMDK disk image (seSparse)",
        CONVERT,
    ),
    foreign(
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor, which only names the files that hold the disk",
        "Convert it beside those files with `qemu-img convert -O qcow2 IMAGE image.qcow2` and import the result.",
    ),
    foreign(0, b"QED\0", "a QED disk image", CONVERT),
    foreign(0, b"WithoutFreeSpace", "a Parallels disk image", CONVERT),
    foreign(0, b"WithouFreSpacExt", "a Parallels disk image", CONVERT),
    foreign(0, b"Bochs Virtual HD Image", "a Bochs disk image", CONVERT),
    foreign(
        0,
        b"LUKS\xba\xbe",
        "a LUKS-encrypted volume",
        "Import a disk with a partition table and a boot loader; encrypted partitions inside it are fine.",
    ),
    foreign(
        32769,
        b"CD001",
        "an ISO 9660 image (a CD or an installer)",
        INSTALLER,
    ),
    foreign(32769, b"NSR0", "a UDF image (a DVD or an installer)", INSTALLER),
    foreign(0, b"MSWIM\0\0\0", "a Windows installer image (WIM)", INSTALLER),
    foreign(0, b"PK\x03\x04", "a zip archive", UNPACK),
    foreign(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    foreign(0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    foreign(0, b"070701", "a cpio archive", UNPACK),
    foreign(0, b"!<arch>\n", "a package or a library (ar archive)", UNPACK),
    foreign(0, b"\x04\x22\x4d\x18", "an lz4-compressed file", REPACK),
    foreign(0, b"\x5d\0\0", "a file compressed in the old .lzma form", REPACK),
    foreign(0, b"\x89LZO\0", "an lzop-compressed file", REPACK),
    foreign(0, b"LZIP", "an lzip-compressed file", REPACK),
    foreign(0, b"\x1f\x9d", "a file compressed with `compress` (.Z)", REPACK),
    foreign(0, b"hsqs", "a squashfs file system", WHOLE_DISK),
    foreign(
        0,
        b"XFSB",
        "a bare XFS file system without a partition table",
        WHOLE_DISK,
    ),
    foreign(
        0,
        b"\x7fELF",
        "a program or a kernel (ELF), not a disk image",
        WHOLE_DISK,
    ),
    foreign(
        0,
        b"%PDF-",
        "a PDF document, not a disk image",
        "Check the file or the URL.",
    ),
    foreign(
        0,
        b"-----BEGIN ",
        "a text file (a key or a signature), not a disk image",
        "Check the file or the URL.",
    ),
];

/// Weaker magics: believed only where there is no partition table, since a disk may carry old ones between the
/// table and its first partition.
const BARE: &[(usize, &[u8], &str)] = &[
    (65600, b"_BHRfS_M", "a Btrfs file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (82, b"FAT32", "a FAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"MZ", "a Windows or UEFI program"),
];

#[cfg(test)]
mod tests;
