//! The writer of `streamOptimized` VMDK, the form that VMware's tools and OVA want. Its grains are compressed, so where
//! one begins depends on all before it: such a file is made from its beginning to its end, and has no length before.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::header::TABLE_ENTRIES;
use crate::bytes;
use crate::error::{Error, Result};
use crate::layout::{Id, check_size};
use crate::raw::SECTOR;

/// What is compressed by itself: 64 KiB of the disk, as every tool writes.
pub const GRAIN_BYTES: usize = 64 << 10;
const GRAIN_SECTORS: u64 = GRAIN_BYTES as u64 / SECTOR;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Where the first grain begins, as in VMware's own files.
const DATA_FROM: u64 = 128;
/// Sectors are counted with 32 bits.
const MAX_VIRTUAL_BYTES: u64 = 2 << 40;
/// The quickest level that looks at how often a byte is there.
const LEVEL: Compression = Compression::new(2);

const TABLE_MARKER: u32 = 1;
const DIRECTORY_MARKER: u32 = 2;
const FOOTER_MARKER: u32 = 3;

/// Compresses one grain as the file wants it. Of its own, so that several can be at it; the result depends on nothing
/// else. `grain` has [`GRAIN_BYTES`], the last one too, or fewer: what is missing is zeros.
pub fn pack(grain: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    let grain = if grain.len() < GRAIN_BYTES {
        whole.extend_from_slice(grain);
        whole.resize(GRAIN_BYTES, 0);
        &whole
    } else {
        grain
    };
    let packed = pack_at(LEVEL, grain);
    if packed.len() < GRAIN_BYTES {
        return packed;
    }
    // What does not compress is kept as it is, in blocks that say so.
    pack_at(Compression::none(), grain)
}

fn pack_at(level: Compression, grain: &[u8]) -> Vec<u8> {
    let mut zlib = Compress::new(level, true);
    let mut packed = Vec::with_capacity(grain.len() + grain.len() / 8 + 128);
    loop {
        let done = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX);
        let rest = grain.get(done..).unwrap_or_default();
        match zlib.compress_vec(rest, &mut packed, FlushCompress::Finish) {
            Ok(Status::StreamEnd) | Err(_) => return packed,
            Ok(_) => packed.reserve(1024),
        }
    }
}

/// A file as it is written: its beginning, then the grains that are not all zeros in the order of the disk, then its
/// end. Each step gives the bytes that come next.
#[derive(Debug)]
pub struct Writer {
    virtual_bytes: u64,
    id: Id,
    /// How many bytes were given.
    at: u64,
    /// The sectors of the tables that are written; 0 where there is none.
    directory: Vec<u32>,
    /// The table that is being filled, and its number.
    table: Vec<u32>,
    table_number: u64,
}

impl Writer {
    /// A disk of `virtual_bytes`. Refused: a size that is 0, not a multiple of 512 or above 2 TiB.
    pub fn new(virtual_bytes: u64, id: Id) -> Result<Self, Error> {
        check_size("VMDK", virtual_bytes, MAX_VIRTUAL_BYTES)?;
        Ok(Self {
            virtual_bytes,
            id,
            at: 0,
            directory: Vec::new(),
            table: Vec::new(),
            table_number: 0,
        })
    }

    /// The header and the descriptor.
    pub fn begin(&mut self) -> Vec<u8> {
        let mut bytes = self.header(u64::MAX);
        bytes.extend_from_slice(self.descriptor().as_bytes());
        bytes.resize(place(DATA_FROM * SECTOR), 0);
        self.at = bytes.len() as u64;
        bytes
    }

    /// Grain `number` of the disk, which [`pack`] has compressed; numbers must rise.
    pub fn grain(&mut self, number: u64, packed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(packed.len() + 1024);
        let table = number / TABLE_ENTRIES;
        if table != self.table_number {
            self.table_write(&mut bytes)?;
            self.table_number = table;
        }
        self.table.resize(place(number % TABLE_ENTRIES), 0);
        self.table.push(self.sector(&bytes)?);
        bytes.extend_from_slice(&(number * GRAIN_SECTORS).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(packed.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(packed);
        fill(&mut bytes);
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// The last table, the directory and the footer.
    pub fn end(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.table_write(&mut bytes)?;
        let tables = self
            .virtual_bytes
            .div_ceil(GRAIN_BYTES as u64)
            .div_ceil(TABLE_ENTRIES);
        self.directory.resize(place(tables), 0);
        marker(&mut bytes, (tables * 4).div_ceil(SECTOR), DIRECTORY_MARKER);
        let directory = u64::from(self.sector(&bytes)?);
        bytes.extend(self.directory.iter().flat_map(|sector| sector.to_le_bytes()));
        fill(&mut bytes);
        marker(&mut bytes, 1, FOOTER_MARKER);
        bytes.extend_from_slice(&self.header(directory));
        // The end mark.
        bytes.resize(bytes.len() + place(SECTOR), 0);
        Ok(bytes)
    }

    /// The sector that follows `pending`, which is not counted yet.
    fn sector(&self, pending: &[u8]) -> Result<u32> {
        let at = (self.at + pending.len() as u64) / SECTOR;
        u32::try_from(at).map_err(|_| Error::limit("The VMDK image would be larger than 2 TiB."))
    }

    /// Writes the table that was filled, if anything is in it.
    fn table_write(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if self.table.is_empty() {
            return Ok(());
        }
        marker(bytes, TABLE_ENTRIES * 4 / SECTOR, TABLE_MARKER);
        self.directory.resize(place(self.table_number), 0);
        self.directory.push(self.sector(bytes)?);
        self.table.resize(place(TABLE_ENTRIES), 0);
        bytes.extend(self.table.drain(..).flat_map(u32::to_le_bytes));
        Ok(())
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        let mut header = vec![0; place(SECTOR)];
        let mut put = |at: usize, field: &[u8]| bytes::put(&mut header, at, field);
        put(0, super::MAGIC);
        // Version 3; line ends to test, compressed grains, markers.
        put(4, &3_u32.to_le_bytes());
        put(8, &0x3_0001_u32.to_le_bytes());
        put(12, &(self.virtual_bytes / SECTOR).to_le_bytes());
        put(20, &GRAIN_SECTORS.to_le_bytes());
        put(28, &1_u64.to_le_bytes());
        put(36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put(44, &512_u32.to_le_bytes());
        put(56, &directory.to_le_bytes());
        put(64, &DATA_FROM.to_le_bytes());
        put(73, b"\n \r\n");
        put(77, &1_u16.to_le_bytes());
        header
    }

    fn descriptor(&self) -> String {
        let sectors = self.virtual_bytes / SECTOR;
        // All ones and the number before it mean something else.
        let content = u32::from_le_bytes([self.id[0], self.id[1], self.id[2], self.id[3]]) & 0x7fff_ffff;
        format!(
            "# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
             # Extent description\nRW {sectors} SPARSE \"disk.vmdk\"\n\n\
             # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{}\"\n\
             ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n",
            (sectors / (255 * 63)).clamp(1, 65_535)
        )
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Up to the next sector.
fn fill(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(place(SECTOR)), 0);
}

/// Says what the next sectors are, and how many.
fn marker(bytes: &mut Vec<u8>, sectors: u64, kind: u32) {
    bytes.extend_from_slice(&sectors.to_le_bytes());
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    fill(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::Format;
    use crate::whole::whole;

    const ID: Id = *b"0123456789abcdef";

    fn write(disk: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(disk.len() as u64, ID).unwrap();
        let mut file = writer.begin();
        for (number, grain) in (0..).zip(disk.chunks(GRAIN_BYTES)) {
            if grain.iter().any(|byte| *byte != 0) {
                file.extend(writer.grain(number, &pack(grain)).unwrap());
            }
        }
        file.extend(writer.end().unwrap());
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_disk_reads_back_equal(
            sectors in 1..80_000_usize,
            grains in prop::collection::vec((0..700_usize, 0..3_u8), 0..12),
        ) {
            let mut disk = vec![0; sectors * 512];
            for (grain, kind) in grains {
                let range = (grain * GRAIN_BYTES).min(disk.len())..((grain + 1) * GRAIN_BYTES).min(disk.len());
                for (at, byte) in disk[range].iter_mut().enumerate() {
                    // Alike, patterned, and what does not compress.
                    *byte = match kind {
                        0 => 7,
                        1 => at.to_le_bytes()[0],
                        _ => (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).to_le_bytes()[0],
                    };
                }
            }
            let (info, read) = whole(Format::Vmdk, &write(&disk)).unwrap();
            prop_assert_eq!(info.variant, "vmdk, streamOptimized");
            prop_assert!(read == disk);
        }
    }

    /// The entity tag of a download names its bytes. Where another compressor makes others of the same disk this fails:
    /// then `LAYOUT_VERSION` in `images/download/export.rs` of the service has to rise with it.
    #[test]
    fn the_same_disk_is_the_same_bytes_in_every_version() {
        let disk: Vec<u8> = (0..200_000_u64)
            .map(|at| {
                (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).to_le_bytes()[0]
                    & if at % 3 == 0 { 0xff } else { 3 }
            })
            .chain(std::iter::repeat_n(0, 4_800))
            .collect();
        assert_eq!(crc32fast::hash(&write(&disk)), 3_976_181_708);
    }

    #[test]
    fn a_disk_that_cannot_be_held_is_refused() {
        for bytes in [0, 1000, (2 << 40) + 512] {
            assert!(Writer::new(bytes, ID).is_err(), "{bytes}");
        }
    }

    #[test]
    fn what_does_not_compress_fits_what_the_reader_takes() {
        let noise: Vec<u8> = (0..GRAIN_BYTES as u64)
            .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_le_bytes()[0])
            .collect();
        let packed = pack(&noise);
        assert!(packed.len() < GRAIN_BYTES + 64, "{}", packed.len());
    }
}
