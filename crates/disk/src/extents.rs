//! What a reader gives: the disk as a row of extents, and the buffer that merges neighbours on their way out.

use std::io;

use crate::error::{Error, Result};

/// The longest [`Content::Data`] that a reader gives, in bytes: the largest qcow2 cluster.
pub const MAX_DATA_BYTES: usize = 2 << 20;

/// A piece of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent<'a> {
    /// Where it starts on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// Zeros.
    Zero,
    /// The bytes that stand in the source file from this offset on.
    Source(u64),
    /// These bytes, as many as the extent is long (they were compressed in the source).
    Data(&'a [u8]),
}

enum Pending {
    None,
    Zero,
    Source(u64),
    Data,
}

/// Collects extents in order, merges neighbours and hands them to the sink.
pub(crate) struct Extents<'s> {
    sink: &'s mut dyn FnMut(Extent<'_>) -> io::Result<()>,
    offset: u64,
    length: u64,
    pending: Pending,
    data: Vec<u8>,
}

impl<'s> Extents<'s> {
    pub(crate) fn new(sink: &'s mut dyn FnMut(Extent<'_>) -> io::Result<()>) -> Self {
        Self {
            sink,
            offset: 0,
            length: 0,
            pending: Pending::None,
            data: Vec::new(),
        }
    }

    /// Where the next extent starts on the disk, in bytes.
    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.length
    }

    pub(crate) fn zero(&mut self, length: u64) -> Result<()> {
        if length > 0 && !matches!(self.pending, Pending::Zero) {
            self.flush()?;
            self.pending = Pending::Zero;
        }
        self.length += length;
        Ok(())
    }

    pub(crate) fn source(&mut self, at: u64, length: u64) -> Result<()> {
        let adjacent = matches!(self.pending, Pending::Source(start) if start + self.length == at);
        if length > 0 && !adjacent {
            self.flush()?;
            self.pending = Pending::Source(at);
        }
        self.length += length;
        Ok(())
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let full = self.data.len() + bytes.len() > MAX_DATA_BYTES;
        if !bytes.is_empty() && (full || !matches!(self.pending, Pending::Data)) {
            self.flush()?;
            self.pending = Pending::Data;
        }
        self.data.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Hands out what is still held back.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let content = match self.pending {
            Pending::None => return Ok(()),
            Pending::Zero => Content::Zero,
            Pending::Source(at) => Content::Source(at),
            Pending::Data => Content::Data(&self.data),
        };
        let extent = Extent {
            offset: self.offset,
            length: self.length,
            content,
        };
        (self.sink)(extent)
            .map_err(|error| Error::io("Handing on the contents of the image failed.", error))?;
        self.offset += self.length;
        self.length = 0;
        self.pending = Pending::None;
        self.data.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_are_merged_and_sources_only_when_adjacent() {
        let mut seen = Vec::new();
        let mut sink = |extent: Extent<'_>| {
            seen.push(format!(
                "{}+{} {:?}",
                extent.offset, extent.length, extent.content
            ));
            Ok(())
        };
        let mut extents = Extents::new(&mut sink);
        extents.zero(10).unwrap();
        extents.zero(10).unwrap();
        extents.source(100, 5).unwrap();
        extents.source(105, 5).unwrap();
        extents.source(200, 5).unwrap();
        extents.data(b"a").unwrap();
        extents.data(b"b").unwrap();
        extents.zero(0).unwrap();
        extents.flush().unwrap();
        assert_eq!(
            seen,
            [
                "0+20 Zero",
                "20+10 Source(100)",
                "30+5 Source(200)",
                "35+2 Data([97, 98])"
            ]
        );
    }

    #[test]
    fn data_is_never_longer_than_promised() {
        let mut longest = 0;
        let mut sink = |extent: Extent<'_>| {
            longest = longest.max(extent.length);
            Ok(())
        };
        let mut extents = Extents::new(&mut sink);
        for _ in 0..7 {
            extents.data(&vec![1; 700_000]).unwrap();
        }
        extents.flush().unwrap();
        assert_eq!(longest, 1_400_000);
    }
}
