//! Walks the tables once, from the first cluster of the disk to the last.

use std::io;

use super::cluster::{self, Inflater, Mapping};
use super::header::Header;
use crate::bytes::{be_u64, human};
use crate::error::{Error, Result};
use crate::extents::{Extent, Extents};
use crate::source::Source;

const SUBCLUSTERS: u32 = 32;
/// How much of the L1 table is read at a time.
const L1_BLOCK_BYTES: u64 = 64 << 10;

/// Gives the extents of the whole disk; returns how many bytes of it lie behind the end of the file.
pub(crate) fn read(
    header: &Header,
    source: &mut Source<'_>,
    sink: &mut dyn FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<u64> {
    let cluster_bytes = usize::try_from(header.cluster_bytes())
        .map_err(|_| Error::limit("The clusters of the qcow2 image are too large for this machine."))?;
    let mut reader = Reader {
        header,
        source,
        extents: Extents::new(sink),
        inflater: Inflater::new(header.compression)?,
        packed: Vec::new(),
        cluster: vec![0; cluster_bytes],
        missing: 0,
    };
    let mut table = vec![0; cluster_bytes];
    let l1_bytes = header.l1_entries * 8;
    for block_at in (0..l1_bytes).step_by(64 << 10) {
        let length = (l1_bytes - block_at).min(L1_BLOCK_BYTES);
        let block = reader
            .source
            .read_up_to(header.l1_at + block_at, usize::try_from(length).unwrap_or(0))?;
        for entry in block.chunks_exact(8) {
            reader.l1_entry(be_u64(entry, 0), &mut table)?;
        }
    }
    reader.extents.flush()?;
    if reader.extents.end() != header.virtual_bytes {
        return Err(Error::damaged(
            "The qcow2 image became shorter while it was read. Leave it alone and try again.",
        ));
    }
    Ok(reader.missing)
}

struct Reader<'h, 's, 'f, 'k> {
    header: &'h Header,
    source: &'s mut Source<'f>,
    extents: Extents<'k>,
    inflater: Inflater,
    packed: Vec<u8>,
    cluster: Vec<u8>,
    missing: u64,
}

impl Reader<'_, '_, '_, '_> {
    fn left(&self) -> u64 {
        self.header.virtual_bytes.saturating_sub(self.extents.end())
    }

    /// Gives what one L1 entry covers.
    fn l1_entry(&mut self, entry: u64, table: &mut [u8]) -> Result<()> {
        let Some(table_at) = cluster::l2_table(self.header, entry)? else {
            let span = self.header.cluster_bytes() * self.header.l2_entries();
            return self.extents.zero(span.min(self.left()));
        };
        self.source.read_at(table_at, table)?;
        let entry_bytes = if self.header.extended_l2 { 16 } else { 8 };
        for entry in table.chunks_exact(entry_bytes) {
            let length = self.header.cluster_bytes().min(self.left());
            if length == 0 {
                return Ok(());
            }
            let bitmap = if self.header.extended_l2 {
                be_u64(entry, 8)
            } else {
                0
            };
            match cluster::mapping(self.header, be_u64(entry, 0), bitmap)? {
                Mapping::Zero => self.extents.zero(length)?,
                Mapping::Plain(at) => self.plain(at, length)?,
                Mapping::Subclusters { at, allocated } => self.subclusters(at, allocated, length)?,
                Mapping::Compressed { at, length: packed } => self.compressed(at, packed, length)?,
            }
        }
        Ok(())
    }

    /// A file may end inside its last cluster: QEMU reads zeros there, and so do we. A cluster that lies wholly
    /// behind the end is a sign of a file that was cut off, and refused.
    fn plain(&mut self, at: u64, length: u64) -> Result<()> {
        let available = self.source.len().saturating_sub(at).min(length);
        if available == 0 {
            return Err(self.behind_the_end(at));
        }
        self.extents.source(at, available)?;
        self.missing += length - available;
        self.extents.zero(length - available)
    }

    fn subclusters(&mut self, at: u64, allocated: u32, length: u64) -> Result<()> {
        let size = self.header.cluster_bytes() / u64::from(SUBCLUSTERS);
        if at >= self.source.len() {
            return Err(self.behind_the_end(at));
        }
        for number in 0..SUBCLUSTERS {
            let start = u64::from(number) * size;
            let piece = length.saturating_sub(start).min(size);
            if allocated & (1 << number) == 0 {
                self.extents.zero(piece)?;
                continue;
            }
            // Subclusters behind the end of the file, in a cluster that begins before it, are zeros as above.
            let available = self.source.len().saturating_sub(at + start).min(piece);
            self.extents.source(at + start, available)?;
            self.missing += piece - available;
            self.extents.zero(piece - available)?;
        }
        Ok(())
    }

    fn compressed(&mut self, at: u64, packed_bytes: u64, length: u64) -> Result<()> {
        // The length counts whole sectors, and the file need not end on one.
        let end = self
            .source
            .len()
            .checked_next_multiple_of(512)
            .unwrap_or(u64::MAX);
        if at >= self.source.len() || at + packed_bytes > end {
            return Err(self.behind_the_end(at));
        }
        let available = packed_bytes.min(self.source.len() - at);
        self.packed.resize(usize::try_from(available).unwrap_or(0), 0);
        self.source.read_at(at, &mut self.packed)?;
        self.inflater.inflate(&self.packed, &mut self.cluster)?;
        let wanted = usize::try_from(length).unwrap_or(0);
        self.extents.data(self.cluster.get(..wanted).unwrap_or_default())
    }

    fn behind_the_end(&self, at: u64) -> Error {
        Error::damaged(format!(
            "The qcow2 image is cut off: a cluster of its disk stands at byte {at}, but the file has only {}. \
             Download or copy it again and compare its checksum.",
            human(self.source.len())
        ))
    }
}
