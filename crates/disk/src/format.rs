//! The plain types of the public face: names of formats and wrappers, what was found, and the limits.

use std::fmt;
use std::str::FromStr;

/// A virtual-disk format that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The bytes of the disk, one after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's format, where one file is the whole disk.
    Vmdk,
    /// Hyper-V's format.
    Vhdx,
    /// The format of Virtual PC, Xen and Azure.
    Vhd,
    /// VirtualBox's format.
    Vdi,
    /// An archive of a virtual machine with one disk in one of the other formats.
    Ova,
}

impl Format {
    /// Every format, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vmdk,
        Self::Vhdx,
        Self::Vhd,
        Self::Vdi,
        Self::Ova,
    ];

    /// The name in the API, on the command line and in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
            Self::Ova => "ova",
        }
    }
}

/// A compression around a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrapper {
    /// RFC 1952, one member or several.
    Gzip,
    /// bzip2, one stream or several (as pbzip2 writes).
    Bzip2,
    /// The .xz container, one stream or several (not the older .lzma).
    Xz,
    /// Zstandard (RFC 8878), one frame or several, skippable frames included.
    Zstd,
}

impl Wrapper {
    /// Every wrapper, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Bzip2, Self::Xz, Self::Zstd];

    /// The name in messages and on the pipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// A name that is neither a format nor a wrapper.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not known, use one of {known}")]
pub struct UnknownName {
    given: String,
    known: String,
}

impl UnknownName {
    fn new(given: &str, known: &[&str]) -> Self {
        Self {
            given: given.chars().take(64).collect(),
            known: known.join(", "),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownName::new(name, &Self::ALL.map(Self::name)))
    }
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Wrapper {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|wrapper| wrapper.name() == name);
        found.ok_or_else(|| UnknownName::new(name, &Self::ALL.map(Self::name)))
    }
}

/// What a file is, as far as its first and last bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Compressed: unwrap it, then probe again.
    Wrapped(Wrapper),
    /// A virtual disk.
    Disk(Format),
}

/// How much a disk may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of the disk that a guest would see, in bytes.
    pub max_virtual_bytes: u64,
    /// Memory for one mapping table of the image, in bytes.
    pub max_table_bytes: u64,
}

impl Default for Limits {
    /// `DigitalOcean` takes "100 GB or less after being decompressed". Read here as 100 GiB, because a disk made
    /// with `qemu-img create … 100G` or `truncate -s 100G` has that size. Tables: 64 MiB.
    fn default() -> Self {
        Self {
            max_virtual_bytes: 100 << 30,
            max_table_bytes: 64 << 20,
        }
    }
}

/// What disk an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The format it was read as.
    pub format: Format,
    /// The format with what matters of its variant, for people: `qcow2 v3, zstd`.
    pub variant: String,
    /// The size of the disk that a guest sees, in bytes; a multiple of 512, never 0.
    pub virtual_bytes: u64,
    /// What is odd but does not stop the import, one sentence each.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_known() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for wrapper in Wrapper::ALL {
            assert_eq!(wrapper.to_string().parse(), Ok(wrapper));
        }
        let error = "qed".parse::<Format>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`qed` is not known, use one of raw, qcow2, vmdk, vhdx, vhd, vdi, ova"
        );
        assert!("zip".parse::<Wrapper>().is_err());
    }

    #[test]
    fn the_default_takes_what_qemu_calls_100g() {
        assert_eq!(Limits::default().max_virtual_bytes, 107_374_182_400);
    }
}
