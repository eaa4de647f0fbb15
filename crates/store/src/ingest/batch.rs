//! A batch: up to 128 chunks, described first and read later, by the threads that hash them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use crate::CHUNK_BYTES;
use crate::digest::{Digest, FrameKind, Keys};
use crate::error::{Error, Kind, Result};
use crate::rows::LOOKUP;

const CHUNK: usize = CHUNK_BYTES as usize;
/// Bytes of a batch, which is also one look-up.
pub(crate) const BATCH_BYTES: usize = LOOKUP * CHUNK;
/// What one thread reads and hashes at a time.
const GROUP_BYTES: usize = 512 << 10;
/// A batch of many short runs is passed on although it holds little data.
const RUNS_LIMIT: usize = 8192;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Where bytes come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Zero,
    Bytes(Bytes),
    File(Arc<File>, u64),
}

#[derive(Debug)]
struct Part {
    at: usize,
    length: usize,
    source: Source,
}

/// Consecutive chunks that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// The next so many chunks of the buffer.
    Chunks(u64),
    Zero(u64),
    Parent(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    filled: usize,
    parts: Vec<Part>,
    pub(crate) runs: Vec<Run>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0 && self.runs.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == BATCH_BYTES || self.is_aligned() && self.runs.len() >= RUNS_LIMIT
    }

    /// Whether the last chunk is complete.
    pub(crate) fn is_aligned(&self) -> bool {
        self.filled.is_multiple_of(CHUNK)
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        BATCH_BYTES - self.filled
    }

    pub(crate) fn run_zero(&mut self, chunks: u64) {
        match self.runs.last_mut() {
            Some(Run::Zero(count)) => *count += chunks,
            _ => self.runs.push(Run::Zero(chunks)),
        }
    }

    pub(crate) fn run_parent(&mut self, chunks: u64) {
        match self.runs.last_mut() {
            Some(Run::Parent(count)) => *count += chunks,
            _ => self.runs.push(Run::Parent(chunks)),
        }
    }

    /// Whether there are bytes to be read.
    pub(crate) fn has_bytes(&self) -> bool {
        self.filled > 0
    }

    /// Adds bytes; at most `room()`.
    pub(crate) fn push(&mut self, length: usize, source: &Source) {
        let before = self.filled.div_ceil(CHUNK);
        let mut done = 0;
        while done < length {
            // Cut where the threads' shares meet, so that each part belongs to one of them.
            let at = self.filled;
            let take = (length - done).min(GROUP_BYTES - at % GROUP_BYTES);
            let source = match source {
                Source::Zero => Source::Zero,
                Source::Bytes(data) => Source::Bytes(data.slice(done..done + take)),
                Source::File(file, offset) => Source::File(Arc::clone(file), offset + done as u64),
            };
            self.parts.push(Part {
                at,
                length: take,
                source,
            });
            self.filled += take;
            done += take;
        }
        let begun = (self.filled.div_ceil(CHUNK) - before) as u64;
        match self.runs.last_mut() {
            _ if begun == 0 => {}
            Some(Run::Chunks(count)) => *count += begun,
            _ => self.runs.push(Run::Chunks(begun)),
        }
    }

    /// Reads everything into `buffer` and hashes each chunk; `None` stands for a chunk of zeros.
    pub(crate) fn read_and_hash(&mut self, keys: &Keys, buffer: &mut [u8]) -> Result<Vec<Option<Digest>>> {
        let (parts, filled) = (std::mem::take(&mut self.parts), self.filled);
        let groups = buffer[..filled].par_chunks_mut(GROUP_BYTES).enumerate();
        let hashed: Result<Vec<Vec<Option<Digest>>>> = groups
            .map(|(number, group)| {
                let start = number * GROUP_BYTES;
                let first = parts.partition_point(|part| part.at < start);
                for part in parts[first..]
                    .iter()
                    .take_while(|part| part.at < start + GROUP_BYTES)
                {
                    let to = part.at - start;
                    part_read(part, &mut group[to..to + part.length])?;
                }
                Ok(group
                    .chunks(CHUNK)
                    .map(|chunk| chunk_digest(keys, chunk))
                    .collect())
            })
            .collect();
        Ok(hashed?.concat())
    }
}

fn part_read(part: &Part, to: &mut [u8]) -> Result<()> {
    match &part.source {
        Source::Zero => to.fill(0),
        Source::Bytes(data) => to.copy_from_slice(data),
        Source::File(file, offset) => file.read_exact_at(to, *offset).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                let text = format!("the file ends before byte {}", offset + part.length as u64);
                return Error::new(Kind::Invalid, text);
            }
            Error::io(format!("cannot read the file at byte {offset}"), error)
        })?,
    }
    Ok(())
}

fn chunk_digest(keys: &Keys, chunk: &[u8]) -> Option<Digest> {
    if *chunk == ZEROS[..chunk.len()] {
        None
    } else {
        Some(keys.digest(FrameKind::Data, chunk))
    }
}
