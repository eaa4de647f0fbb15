//! The header of a qcow2 image and the extensions behind it.

use crate::bytes::{be_u32, be_u64, has, human};
use crate::error::{CHECK, Error, Result};
use crate::format::{Format, Info, Limits};
use crate::raw::check_limit;
use crate::source::Source;

const V2_HEADER_BYTES: u32 = 72;
const V3_HEADER_BYTES: u32 = 104;
/// QEMU's own limits: `QCOW_MAX_L1_SIZE`, `QCOW_MAX_REFTABLE_SIZE`, `QCOW_MAX_SNAPSHOTS`.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65_536;
/// No writer makes more than five kinds; a chain of empty ones could fill a whole cluster.
const MAX_EXTENSIONS: usize = 64;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Zstd,
}

/// What the reader needs of a header that passed every check.
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) virtual_bytes: u64,
    pub(crate) compression: Compression,
    pub(crate) extended_l2: bool,
    pub(crate) l1_at: u64,
    /// As many L1 entries as the virtual size needs; a snapshot may have left a longer table.
    pub(crate) l1_entries: u64,
    warnings: Vec<String>,
}

impl Header {
    /// That of the same image with a disk that ends after so many bytes.
    pub(crate) fn only(mut self, bytes: u64) -> Self {
        let span = self.cluster_bytes() * self.l2_entries();
        self.virtual_bytes = self.virtual_bytes.min(bytes);
        self.l1_entries = self.l1_entries.min(self.virtual_bytes.div_ceil(span));
        self
    }

    /// Reads and checks the header, its extensions and where its tables are.
    pub(crate) fn read(source: &mut Source<'_>, limits: &Limits) -> Result<Self> {
        let bytes = source.read_up_to(0, 4096)?;
        if !has(&bytes, 0, b"QFI\xfb") {
            return Err(Error::refused(
                "This is not a qcow2 image: its first bytes are not those of qcow2.",
            ));
        }
        if bytes.len() < V2_HEADER_BYTES as usize {
            return Err(cut_off());
        }
        let version = be_u32(&bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::refused(format!(
                "The qcow image has version {version}; 2 and 3 are taken. \
                 Convert it with `qemu-img convert -O qcow2 IMAGE image.qcow2` and import the result."
            )));
        }
        refuse_foreign_parts(&bytes)?;
        let features = Features::read(&bytes, version)?;
        let cluster_bits = cluster_bits(&bytes, features.extended_l2)?;
        let mut warnings = features.warnings();
        extensions(source, features.header_bytes, 1 << cluster_bits, &mut warnings)?;
        let mut header = Self {
            version,
            cluster_bits,
            virtual_bytes: virtual_bytes(&bytes, limits)?,
            compression: features.compression,
            extended_l2: features.extended_l2,
            l1_at: be_u64(&bytes, 40),
            l1_entries: 0,
            warnings,
        };
        header.l1_entries = header.checked_l1(u64::from(be_u32(&bytes, 36)), source.len(), limits)?;
        header.check_other_tables(&bytes, source.len())?;
        Ok(header)
    }

    pub(crate) fn info(&self) -> Info {
        let mut variant = format!("qcow2 v{}", self.version);
        if self.compression == Compression::Zstd {
            variant.push_str(", zstd");
        }
        if self.extended_l2 {
            variant.push_str(", extended L2");
        }
        let warnings = self.warnings.clone();
        Info {
            format: Format::Qcow2,
            variant,
            virtual_bytes: self.virtual_bytes,
            warnings,
        }
    }

    pub(crate) const fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of one L2 table, which fills one cluster.
    pub(crate) const fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / if self.extended_l2 { 16 } else { 8 }
    }

    fn checked_l1(&self, entries: u64, file_bytes: u64, limits: &Limits) -> Result<u64> {
        // No overflow: at most 2^21 * 2^18.
        let needed = self
            .virtual_bytes
            .div_ceil(self.cluster_bytes() * self.l2_entries());
        if entries < needed {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: its L1 table has {entries} entries, its size needs {needed}. {CHECK}"
            )));
        }
        if entries * 8 > MAX_L1_BYTES || needed * 8 > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The qcow2 image has an L1 table of {}, more than is taken. Convert it with `qemu-img convert -O qcow2 \
                 -o cluster_size=64k IMAGE image.qcow2` and import the result.",
                human(entries * 8)
            )));
        }
        self.check_table("L1 table", self.l1_at, entries * 8, file_bytes)?;
        Ok(needed)
    }

    fn check_other_tables(&self, bytes: &[u8], file_bytes: u64) -> Result<()> {
        let refcounts = u64::from(be_u32(bytes, 56)) * self.cluster_bytes();
        if refcounts == 0 || refcounts > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: its refcount table is {} large. {CHECK}",
                human(refcounts)
            )));
        }
        self.check_table("refcount table", be_u64(bytes, 48), refcounts, file_bytes)?;
        let snapshots = be_u32(bytes, 60);
        if snapshots > MAX_SNAPSHOTS {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: it claims to hold {snapshots} snapshots. {CHECK}"
            )));
        }
        // The smallest entry of the snapshot table has 40 bytes.
        self.check_table(
            "snapshot table",
            be_u64(bytes, 64),
            u64::from(snapshots) * 40,
            file_bytes,
        )
    }

    /// A table starts on a cluster, behind the header, and ends inside the file.
    fn check_table(&self, name: &str, at: u64, length: u64, file_bytes: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        if !at.is_multiple_of(self.cluster_bytes()) || at == 0 {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: its {name} stands at byte {at}, inside its header or between two \
                 clusters. {CHECK}"
            )));
        }
        if at.checked_add(length).is_none_or(|end| end > file_bytes) {
            return Err(Error::damaged(format!(
                "The qcow2 image is cut off: its {name} ends behind the end of the file ({}). \
                 Download or copy it again and compare its checksum.",
                human(file_bytes)
            )));
        }
        Ok(())
    }
}

fn cut_off() -> Error {
    Error::damaged(
        "The qcow2 image is cut off inside its header. Download or copy it again and compare its checksum.",
    )
}

/// Refuses what would make a reader open another file or ask for a key.
fn refuse_foreign_parts(bytes: &[u8]) -> Result<()> {
    if be_u64(bytes, 8) != 0 {
        return Err(Error::refused(
            "The qcow2 image needs a backing file, so it is not complete by itself. Merge both with \
             `qemu-img convert -O qcow2 IMAGE image.qcow2` where the backing file is, and import the result.",
        ));
    }
    if be_u32(bytes, 32) != 0 {
        return Err(encrypted());
    }
    Ok(())
}

fn encrypted() -> Error {
    Error::refused(
        "The qcow2 image is encrypted. Decrypt it where its passphrase is and import the result: `qemu-img convert \
         --object secret,id=s,file=PASSPHRASE --image-opts driver=qcow2,file.filename=IMAGE,encrypt.key-secret=s \
         -O qcow2 PLAIN.qcow2`.",
    )
}

fn data_file() -> Error {
    Error::refused(
        "The qcow2 image keeps its data in another file, so it is not complete by itself. Convert it with \
         `qemu-img convert -O qcow2 IMAGE image.qcow2` where that file is, and import the result.",
    )
}

/// What version 3 says beyond version 2.
struct Features {
    header_bytes: u32,
    dirty: bool,
    snapshots: u32,
    compression: Compression,
    extended_l2: bool,
}

impl Features {
    fn read(bytes: &[u8], version: u32) -> Result<Self> {
        let snapshots = be_u32(bytes, 60);
        if version == 2 {
            let compression = Compression::Zlib;
            return Ok(Self {
                header_bytes: V2_HEADER_BYTES,
                dirty: false,
                snapshots,
                compression,
                extended_l2: false,
            });
        }
        let header_bytes = be_u32(bytes, 100);
        if bytes.len() < V3_HEADER_BYTES as usize {
            return Err(cut_off());
        }
        if header_bytes < V3_HEADER_BYTES
            || !header_bytes.is_multiple_of(8)
            || header_bytes as usize > bytes.len()
        {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: it says that its header is {header_bytes} bytes long. {CHECK}"
            )));
        }
        let refcount_order = be_u32(bytes, 96);
        if refcount_order > 6 {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: its reference counts are 2^{refcount_order} bits wide. {CHECK}"
            )));
        }
        let incompatible = be_u64(bytes, 72);
        check_incompatible(incompatible)?;
        let compression = compression(bytes, header_bytes, incompatible & COMPRESSION != 0)?;
        let (dirty, extended_l2) = (incompatible & DIRTY != 0, incompatible & EXTENDED_L2 != 0);
        Ok(Self {
            header_bytes,
            dirty,
            snapshots,
            compression,
            extended_l2,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.dirty {
            warnings.push(
                "The qcow2 image was not closed properly (its dirty bit is set); its contents are taken as they are."
                    .to_owned(),
            );
        }
        if self.snapshots > 0 {
            warnings.push(format!(
                "The qcow2 image holds {} internal snapshot(s), which are left out; only its present state is imported.",
                self.snapshots
            ));
        }
        warnings
    }
}

fn check_incompatible(bits: u64) -> Result<()> {
    if bits & CORRUPT != 0 {
        return Err(Error::damaged(
            "The qcow2 image is marked as corrupt. Repair it with `qemu-img check -r all IMAGE` and try again.",
        ));
    }
    if bits & DATA_FILE != 0 {
        return Err(data_file());
    }
    let unknown = bits & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(Error::refused(format!(
            "The qcow2 image uses features that are not known here (bits {unknown:#x}). \
             Convert it with `qemu-img convert -O qcow2 IMAGE image.qcow2` and import the result."
        )));
    }
    Ok(())
}

/// The compression type and its feature bit must agree: the bit keeps old readers from taking zstd for zlib.
fn compression(bytes: &[u8], header_bytes: u32, bit: bool) -> Result<Compression> {
    let kind = if header_bytes > V3_HEADER_BYTES {
        bytes.get(104).copied().unwrap_or(0)
    } else {
        0
    };
    match (kind, bit) {
        (0, false) => Ok(Compression::Zlib),
        (1, true) => Ok(Compression::Zstd),
        (0 | 1, _) => Err(Error::damaged(format!(
            "The qcow2 image is damaged: its compression type {kind} contradicts its feature bits. {CHECK}"
        ))),
        _ => Err(Error::refused(format!(
            "The qcow2 image uses compression type {kind}; zlib and zstd are taken. \
             Convert it with `qemu-img convert -O qcow2 IMAGE image.qcow2` and import the result."
        ))),
    }
}

fn cluster_bits(bytes: &[u8], extended_l2: bool) -> Result<u32> {
    let bits = be_u32(bytes, 20);
    let least = if extended_l2 { 14 } else { 9 };
    if !(least..=21).contains(&bits) {
        return Err(Error::damaged(format!(
            "The qcow2 image is damaged: its clusters are 2^{bits} bytes large, 2^{least} to 2^21 are allowed. {CHECK}"
        )));
    }
    Ok(bits)
}

fn virtual_bytes(bytes: &[u8], limits: &Limits) -> Result<u64> {
    let size = be_u64(bytes, 24);
    if size == 0 {
        return Err(Error::refused("The qcow2 image holds an empty disk (0 bytes)."));
    }
    if !size.is_multiple_of(512) {
        return Err(Error::damaged(format!(
            "The qcow2 image is damaged: its disk size, {size} bytes, is not a multiple of 512. \
             Convert it with `qemu-img convert -O qcow2 IMAGE image.qcow2` and import the result."
        )));
    }
    check_limit(size, limits)?;
    Ok(size)
}

/// Walks the header extensions, which lie in the first cluster. Unknown ones may be ignored, says the format.
fn extensions(
    source: &mut Source<'_>,
    header_bytes: u32,
    cluster_bytes: u64,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut at = u64::from(header_bytes);
    for _ in 0..MAX_EXTENSIONS {
        if at + 8 > cluster_bytes || at + 8 > source.len() {
            return Ok(());
        }
        let mut start = [0; 8];
        source.read_at(at, &mut start)?;
        let (kind, length) = (be_u32(&start, 0), u64::from(be_u32(&start, 4)));
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(data_file()),
            EXTENSION_ENCRYPTION => return Err(encrypted()),
            EXTENSION_BITMAPS => {
                warnings.push("The qcow2 image holds dirty bitmaps, which are left out.".to_owned());
            }
            _ => {}
        }
        at += 8 + length.next_multiple_of(8);
        if at > cluster_bytes {
            return Err(Error::damaged(format!(
                "The qcow2 image is damaged: header extension {kind:#010x} is longer than the header. {CHECK}"
            )));
        }
    }
    Err(Error::damaged(format!(
        "The qcow2 image is damaged: its header has too many extensions. {CHECK}"
    )))
}
