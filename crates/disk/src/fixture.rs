//! Small images made by hand, for tests to bend. The fuzz targets and their seeds use this file too, so it needs
//! nothing of the crate.

/// Writes a big-endian number of 32 bits.
pub(crate) fn put_u32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Writes a big-endian number of 64 bits.
pub(crate) fn put_u64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// A qcow2 image: header in cluster 0, L1 table in 1, refcount table in 2, the first L2 table in 3, data from 4 on.
#[derive(Clone)]
pub(crate) struct Qcow2 {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) virtual_bytes: u64,
    pub(crate) zstd: bool,
    pub(crate) extended_l2: bool,
    /// The entries of the first L2 table and, with extended entries, their bitmaps.
    pub(crate) l2: Vec<(u64, u64)>,
    /// What follows the tables.
    pub(crate) data: Vec<u8>,
}

impl Qcow2 {
    /// Version 3, clusters of 512 bytes, 4 KiB of disk: cluster 0 plain, the others not allocated.
    pub(crate) fn small() -> Self {
        let data = (0..512_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let l2 = vec![(4 * 512, 0)];
        Self {
            version: 3,
            cluster_bits: 9,
            virtual_bytes: 4096,
            zstd: false,
            extended_l2: false,
            l2,
            data,
        }
    }

    /// Where in the file cluster `number` begins.
    pub(crate) fn cluster(&self, number: usize) -> usize {
        number << self.cluster_bits
    }

    /// The L2 entry of a compressed cluster of `length` bytes that begins at `at`.
    pub(crate) fn compressed(&self, at: usize, length: usize) -> u64 {
        let sectors = (at + length - 1) / 512 - at / 512;
        (1 << 62) | ((sectors as u64) << (62 - (self.cluster_bits - 8))) | at as u64
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut image = vec![0; self.cluster(4)];
        let entry_bytes = if self.extended_l2 { 16 } else { 8 };
        let covered = (1_u64 << self.cluster_bits) * ((1 << self.cluster_bits) / entry_bytes);
        put_u32(&mut image, 0, 0x5146_49fb);
        put_u32(&mut image, 4, self.version);
        put_u32(&mut image, 20, self.cluster_bits);
        put_u64(&mut image, 24, self.virtual_bytes);
        put_u32(
            &mut image,
            36,
            u32::try_from(self.virtual_bytes.div_ceil(covered)).unwrap(),
        );
        put_u64(&mut image, 40, self.cluster(1) as u64);
        put_u64(&mut image, 48, self.cluster(2) as u64);
        put_u32(&mut image, 56, 1);
        if self.version >= 3 {
            put_u64(
                &mut image,
                72,
                (u64::from(self.zstd) << 3) | (u64::from(self.extended_l2) << 4),
            );
            put_u32(&mut image, 96, 4);
            put_u32(&mut image, 100, 112);
            image[104] = u8::from(self.zstd);
        }
        let (l1, l2) = (self.cluster(1), self.cluster(3));
        put_u64(&mut image, l1, (1 << 63) | l2 as u64);
        for (number, (entry, bitmap)) in self.l2.iter().enumerate() {
            let at = l2 + number * usize::try_from(entry_bytes).unwrap();
            put_u64(&mut image, at, *entry);
            if self.extended_l2 {
                put_u64(&mut image, at + 8, *bitmap);
            }
        }
        image.extend_from_slice(&self.data);
        image
    }
}

/// A raw disk of `sectors` sectors with one MBR partition from sector 8 to the end.
pub(crate) fn mbr_disk(sectors: u32) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 512];
    mbr_entry(&mut disk, 0, 0x83, 8, sectors - 8);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Writes an MBR entry.
pub(crate) fn mbr_entry(disk: &mut [u8], number: usize, kind: u8, start: u32, count: u32) {
    let at = 446 + 16 * number;
    disk[at] = 0;
    disk[at + 4] = kind;
    disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
}

/// A raw disk with a GPT of 128 entries and one partition over all usable sectors; at least 80 sectors.
pub(crate) fn gpt_disk(sectors: u32) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 512];
    let last = sectors - 1;
    mbr_entry(&mut disk, 0, 0xee, 1, last);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (lba, other, entries) in [(1, last, 2), (last, 1, last - 32)] {
        let at = lba as usize * 512;
        disk[at..at + 8].copy_from_slice(b"EFI PART");
        let le =
            |disk: &mut [u8], at: usize, value: u32| disk[at..at + 4].copy_from_slice(&value.to_le_bytes());
        le(&mut disk, at + 8, 0x0001_0000);
        le(&mut disk, at + 12, 92);
        le(&mut disk, at + 24, lba);
        le(&mut disk, at + 32, other);
        le(&mut disk, at + 40, 34);
        le(&mut disk, at + 48, last - 33);
        disk[at + 56..at + 72].copy_from_slice(b"0123456789abcdef");
        le(&mut disk, at + 72, entries);
        le(&mut disk, at + 80, 128);
        le(&mut disk, at + 84, 128);
        let entry = entries as usize * 512;
        disk[entry..entry + 16].copy_from_slice(b"linux partition!");
        disk[entry + 16..entry + 32].copy_from_slice(b"its own identity");
        le(&mut disk, entry + 32, 34);
        le(&mut disk, entry + 40, last - 33);
        gpt_seal(&mut disk, at);
    }
    disk
}

/// Makes the checksums of the GPT header at byte `at` right again, as far as the header makes sense.
pub(crate) fn gpt_seal(disk: &mut [u8], at: usize) {
    let number = |disk: &[u8], at: usize| -> Option<u64> {
        Some(u64::from(u32::from_le_bytes(
            disk.get(at..at.checked_add(4)?)?.try_into().ok()?,
        )))
    };
    let entries = (|| {
        let start = usize::try_from(number(disk, at + 72)? * 512).ok()?;
        let length = usize::try_from(number(disk, at + 80)?.checked_mul(number(disk, at + 84)?)?).ok()?;
        disk.get(start..start.checked_add(length)?).map(crc32fast::hash)
    })();
    if let Some(checksum) = entries {
        disk[at + 88..at + 92].copy_from_slice(&checksum.to_le_bytes());
    }
    let Some(size) = number(disk, at + 12).and_then(|size| usize::try_from(size).ok()) else {
        return;
    };
    if size < 20 || disk.len() < at + size {
        return;
    }
    disk[at + 16..at + 20].fill(0);
    let checksum = crc32fast::hash(&disk[at..at + size]);
    disk[at + 16..at + 20].copy_from_slice(&checksum.to_le_bytes());
}
