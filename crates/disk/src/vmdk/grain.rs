//! The compressed grains of a `streamOptimized` image.

use flate2::{Decompress, FlushDecompress, Status};

use super::header::Header;
use crate::bytes::{le_u32, le_u64};
use crate::error::{CHECK, Error, Result};
use crate::raw::SECTOR;
use crate::source::Source;

/// Which grain it is (in sectors of the disk), and how many bytes follow.
const MARKER_BYTES: usize = 12;

/// Reads and decodes grains; keeps its buffers between them.
pub(super) struct Grains {
    sectors: u64,
    packed: Vec<u8>,
    grain: Vec<u8>,
    zlib: Decompress,
}

impl Grains {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            sectors: header.grain_bytes / SECTOR,
            packed: Vec::new(),
            grain: vec![0; usize::try_from(header.grain_bytes).unwrap_or(0)],
            zlib: Decompress::new(true),
        }
    }

    /// The contents of grain `number`, whose marker is at `at`: a whole grain, or at least as much as `least`.
    pub(super) fn read(
        &mut self,
        source: &mut Source<'_>,
        at: u64,
        number: u64,
        least: u64,
    ) -> Result<&[u8]> {
        let mut marker = [0; MARKER_BYTES];
        source.read_at(at, &mut marker)?;
        let (sector, length) = (le_u64(&marker, 0), le_u32(&marker, 8));
        if sector != number * self.sectors {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: where grain {number} of its disk should be, at byte {at}, is the one of \
                 sector {sector}. {CHECK}"
            )));
        }
        // What does not compress grows by an eighth with the quickest of compressors; QEMU takes twice a grain. A
        // longer one is an attempt (CVE-2026-2243).
        let longest = self.grain.len() * 2;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > longest {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: the compressed grain at byte {at} is said to be {length} bytes long, more \
                 than a grain. {CHECK}"
            )));
        }
        self.packed.resize(length, 0);
        source.read_at(at + MARKER_BYTES as u64, &mut self.packed)?;
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        if inflate(&mut self.zlib, &self.packed, &mut self.grain).is_none_or(|length| length < least) {
            return Err(Error::damaged(format!(
                "The VMDK image is damaged: the compressed grain at byte {at} cannot be decompressed to its full \
                 size. {CHECK}"
            )));
        }
        Ok(&self.grain)
    }
}

/// How many bytes come out of `packed`; nothing where it is not one zlib stream of at most as many as `grain` has.
fn inflate(zlib: &mut Decompress, packed: &[u8], grain: &mut [u8]) -> Option<usize> {
    zlib.reset(true);
    let first = zlib.decompress(packed, grain, FlushDecompress::Finish);
    let length = usize::try_from(zlib.total_out()).ok();
    if matches!(first, Ok(Status::StreamEnd)) {
        return length;
    }
    if length != Some(grain.len()) {
        return None;
    }
    // The output was full before the end mark and the checksum were read.
    let rest = usize::try_from(zlib.total_in())
        .ok()
        .and_then(|read| packed.get(read..))
        .unwrap_or_default();
    let mut more = [0];
    let after = zlib.decompress(rest, &mut more, FlushDecompress::Finish);
    let is_over = matches!(after, Ok(Status::StreamEnd)) && zlib.total_out() == grain.len() as u64;
    length.filter(|_| is_over)
}
