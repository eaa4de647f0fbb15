//! One L2 entry, and the decoding of compressed clusters.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::header::{Compression, Header};
use crate::bytes::be_u32;
use crate::error::{CHECK, Error, Result};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits 56..=61 and 1..=8 of a standard L2 entry, and bits 56..=62 and 0..=8 of an L1 entry.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;

/// QEMU compresses a cluster in one call, with a window no larger than the cluster; leave room for other writers.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// What an L2 entry says about one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Reads as zeros: not allocated (there is no backing file), or said to be zero.
    Zero,
    /// Stands at this offset of the file.
    Plain(u64),
    /// Stands at this offset, in 32 subclusters: those with the bit set are there, the others read as zeros.
    Subclusters { at: u64, allocated: u32 },
    /// Compressed, `length` bytes from this offset on (rounded up to the end of a sector).
    Compressed { at: u64, length: u64 },
}

/// The L2 table that an L1 entry names; nothing where it has none.
pub(crate) fn l2_table(header: &Header, entry: u64) -> Result<Option<u64>> {
    let at = entry & OFFSET;
    if entry & L1_RESERVED != 0 || !at.is_multiple_of(header.cluster_bytes()) {
        return Err(bad_entry("L1", entry));
    }
    Ok((at != 0).then_some(at))
}

/// Decodes an L2 entry; `bitmap` is its second half in an image with extended L2 entries.
pub(crate) fn mapping(header: &Header, entry: u64, bitmap: u64) -> Result<Mapping> {
    if entry & COMPRESSED != 0 {
        return compressed(header, entry, bitmap);
    }
    let at = entry & OFFSET;
    let zero = entry & ZERO != 0;
    // Version 2 has no zero clusters, and with extended L2 entries the bitmap says what is zero.
    let zero_allowed = header.version >= 3 && !header.extended_l2;
    if entry & L2_RESERVED != 0 || !at.is_multiple_of(header.cluster_bytes()) || (zero && !zero_allowed) {
        return Err(bad_entry("L2", entry));
    }
    if header.extended_l2 {
        return subclusters(at, entry, bitmap);
    }
    Ok(if zero || at == 0 {
        Mapping::Zero
    } else {
        Mapping::Plain(at)
    })
}

fn subclusters(at: u64, entry: u64, bitmap: u64) -> Result<Mapping> {
    let halves = bitmap.to_be_bytes();
    let (zeros, allocated) = (be_u32(&halves, 0), be_u32(&halves, 4));
    if zeros & allocated != 0 || (at == 0 && allocated != 0) {
        return Err(Error::damaged(format!(
            "The qcow2 image is damaged: the subclusters {bitmap:#018x} of L2 entry {entry:#018x} contradict \
             themselves. {CHECK}"
        )));
    }
    Ok(match allocated {
        0 => Mapping::Zero,
        u32::MAX => Mapping::Plain(at),
        _ => Mapping::Subclusters { at, allocated },
    })
}

fn compressed(header: &Header, entry: u64, bitmap: u64) -> Result<Mapping> {
    let offset_bits = 62 - (header.cluster_bits - 8);
    let at = entry & ((1 << offset_bits) - 1);
    let sectors = ((entry & !COPIED & !COMPRESSED) >> offset_bits) + 1;
    if at < header.cluster_bytes() || bitmap != 0 {
        return Err(bad_entry("L2", entry));
    }
    Ok(Mapping::Compressed {
        at,
        length: sectors * 512 - at % 512,
    })
}

fn bad_entry(table: &str, entry: u64) -> Error {
    Error::damaged(format!(
        "The qcow2 image is damaged: {table} entry {entry:#018x} is not valid. {CHECK}"
    ))
}

/// Decodes clusters; keeps its state and buffers between them.
pub(crate) struct Inflater {
    zlib: Decompress,
    zstd: Option<Decoder<'static>>,
}

impl Inflater {
    pub(crate) fn new(compression: Compression) -> Result<Self> {
        let zstd = match compression {
            Compression::Zlib => None,
            Compression::Zstd => {
                let failed = |error| Error::io("Setting up the zstd decoder failed.", error);
                let mut decoder = Decoder::new().map_err(failed)?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(failed)?;
                Some(decoder)
            }
        };
        Ok(Self {
            zlib: Decompress::new(false),
            zstd,
        })
    }

    /// Fills `cluster` from `packed`, behind whose end there may be rubbish up to the end of the sector. Exactly one
    /// cluster must come out; an end mark is not asked for, as QEMU does not.
    pub(crate) fn inflate(&mut self, packed: &[u8], cluster: &mut [u8]) -> Result<()> {
        let whole = match &mut self.zstd {
            None => inflate_zlib(&mut self.zlib, packed, cluster),
            Some(decoder) => inflate_zstd(decoder, packed, cluster),
        };
        if whole {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "The qcow2 image is damaged: a compressed cluster cannot be decompressed to its full size. {CHECK}"
        )))
    }
}

fn inflate_zlib(zlib: &mut Decompress, packed: &[u8], cluster: &mut [u8]) -> bool {
    zlib.reset(false);
    // `Finish` with the whole input and output at hand needs one call; a second one only learns that it is over.
    let first = zlib.decompress(packed, cluster, FlushDecompress::Finish);
    if zlib.total_out() != cluster.len() as u64 {
        return false;
    }
    if matches!(first, Ok(Status::StreamEnd)) {
        return true;
    }
    let rest = usize::try_from(zlib.total_in())
        .ok()
        .and_then(|read| packed.get(read..))
        .unwrap_or_default();
    let mut more = [0];
    let after = zlib.decompress(rest, &mut more, FlushDecompress::Finish);
    after.is_ok() && zlib.total_out() == cluster.len() as u64
}

fn inflate_zstd(decoder: &mut Decoder<'static>, packed: &[u8], cluster: &mut [u8]) -> bool {
    if decoder.reinit().is_err() {
        return false;
    }
    let (mut read, mut written) = (0, 0);
    loop {
        let (input, output) = (
            packed.get(read..).unwrap_or_default(),
            cluster.get_mut(written..).unwrap_or_default(),
        );
        let Ok(status) = decoder.run_on_buffers(input, output) else {
            return false;
        };
        read += status.bytes_read;
        written += status.bytes_written;
        if status.remaining == 0 {
            return written == cluster.len();
        }
        // Also where the frame is larger than a cluster: the output is full, and nothing moves any more.
        if status.bytes_read == 0 && status.bytes_written == 0 {
            return false;
        }
    }
}
