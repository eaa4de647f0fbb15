//! Disks to test with, and a sink that puts extents back together.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use disk::{Content, Extent, Format, Info, Limits, Probe};
use tempfile::TempDir;

/// A small generator of repeatable numbers (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Writes into random places of `disk`: random bytes (which do not compress), text (which does) and zeros.
pub(crate) fn scribble(disk: &mut [u8], numbers: &mut Numbers, pieces: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for _ in 0..pieces {
        let start = numbers.below(disk.len() as u64);
        let length = (1 + numbers.below(200_000)).min(disk.len() as u64 - start);
        let range = usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap();
        let kind = numbers.below(3);
        for byte in &mut disk[range] {
            *byte = match kind {
                0 => numbers.next().to_le_bytes()[0],
                1 => b"cistern "[usize::try_from(numbers.0 % 8).unwrap()],
                _ => 0,
            };
            if kind == 1 {
                numbers.0 = numbers.0.wrapping_add(1);
            }
        }
        ranges.push(start..start + length);
    }
    ranges
}

/// A file with a raw disk of `bytes` with scattered contents.
pub(crate) fn raw(dir: &TempDir, bytes: usize, seed: u64) -> PathBuf {
    let mut disk = vec![0; bytes];
    scribble(&mut disk, &mut Numbers(seed), 24);
    let path = dir.path().join(format!("disk-{seed}.raw"));
    std::fs::write(&path, disk).unwrap();
    path
}

/// Reads an image through `probe`, `info` and `read`, and gives the disk.
pub(crate) fn import(path: &Path, expected: Format) -> (Info, Vec<u8>) {
    let mut file = File::open(path).unwrap();
    assert_eq!(disk::probe(&mut file).unwrap(), Probe::Disk(expected));
    let limits = Limits::default();
    let first = disk::info(expected, &mut file, &limits).unwrap();
    let mut other = File::open(path).unwrap();
    let mut bytes = Vec::new();
    let mut last: Option<(bool, u64)> = None;
    let info = disk::read(expected, &mut file, &limits, &mut |extent: Extent<'_>| {
        assert_eq!(extent.offset, bytes.len() as u64, "extents follow one another");
        assert!(extent.length > 0);
        let length = usize::try_from(extent.length).unwrap();
        let (zero, source_end) = match extent.content {
            Content::Zero => (true, 0),
            Content::Source(at) => (false, at + extent.length),
            Content::Data(_) => (false, 0),
        };
        if let Some((was_zero, before)) = last {
            assert!(!(zero && was_zero), "zeros are merged");
            assert!(
                !matches!(extent.content, Content::Source(at) if at == before),
                "adjacent sources are merged"
            );
        }
        last = Some((zero, source_end));
        match extent.content {
            Content::Zero => bytes.resize(bytes.len() + length, 0),
            Content::Data(data) => bytes.extend_from_slice(data),
            Content::Source(at) => {
                let start = bytes.len();
                bytes.resize(start + length, 0);
                other.seek(SeekFrom::Start(at))?;
                other.read_exact(&mut bytes[start..])?;
            }
        }
        Ok(())
    });
    let info = info.unwrap();
    assert_eq!(info.virtual_bytes, bytes.len() as u64);
    assert_eq!(
        (info.virtual_bytes, &info.variant),
        (first.virtual_bytes, &first.variant)
    );
    (info, bytes)
}
