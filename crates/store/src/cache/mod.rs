//! A bounded cache of packs on the local disk, for stores whose objects lie in a bucket: a disk is read lazily there, a
//! few KiB at a time, and each request takes as long as a seek on a slow drive.
//!
//! It keeps blocks of 1 MiB, each in a file of its own, as they are in the backend: those of an encrypted store are
//! encrypted. Packs are in the order of the disk, so the blocks behind one that is missing are fetched with it, the
//! more the more of those before it were wanted.
//!
//! Nothing relies on a file's being whole. Whoever reads decodes and hashes, and what is wrong is forgotten and read
//! from the backend: so nothing is `fsync`ed, what a power loss tore does no harm, and a file that cannot be written is
//! only slower.

mod index;

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::owner;
use crate::store::pack_key;
use index::{Block, Index};

/// Bytes of a block; the last one of a pack is shorter.
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
const BLOCK: usize = 1 << 20;
/// Blocks of one request, where not more were asked for.
const REQUEST_BLOCKS: u64 = 4;
/// Requests under way, which bounds the memory that they take: 6 MiB each, at most.
const REQUESTS: usize = 8;
/// Parts of packs that are fetched one at a time: who comes second finds what the first one fetched.
const TURNS: usize = 64;

/// Where a cache is, and how large it may grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// A folder of its own: what else is in it is removed.
    pub folder: PathBuf,
    /// Bytes of all its files together.
    pub limit_bytes: u64,
}

/// What a cache did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes that its files have.
    pub bytes: u64,
    /// Reads that it could serve.
    pub hits: u64,
    /// Reads for which the backend was asked.
    pub misses: u64,
}

/// A part of a pack that somebody wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) pack: Uuid,
    /// The whole pack's size.
    pub(crate) pack_bytes: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Part {
    fn blocks(&self) -> Range<u64> {
        self.start / BLOCK_BYTES..self.end.div_ceil(BLOCK_BYTES)
    }
}

#[derive(Debug)]
pub(crate) struct PackCache {
    folder: PathBuf,
    index: Mutex<Index>,
    turns: Vec<tokio::sync::Mutex<()>>,
    requests: Semaphore,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Names files that are being written.
    next: AtomicU64,
    is_failing: AtomicBool,
}

impl PackCache {
    /// Opens a cache with what an earlier process left in it.
    pub(crate) fn open(options: &CacheOptions) -> Result<Self> {
        let folder = options.folder.clone();
        let context = |error| Error::io(format!("cannot open the cache `{}`", folder.display()), error);
        owner::folder_make(&folder).map_err(context)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(context)? {
            let entry = entry.map_err(context)?;
            let (meta, name) = (entry.metadata().map_err(context)?, entry.file_name());
            match name.to_str().and_then(Block::parse).filter(|_| meta.is_file()) {
                Some(block) => found.push((meta.modified().ok(), block, meta.len())),
                None if meta.is_file() => fs::remove_file(entry.path()).map_err(context)?,
                None => {}
            }
        }
        found.sort();
        let mut index = Index::new(options.limit_bytes);
        let mut evicted = Vec::new();
        for (_, block, bytes) in found {
            match index.room(bytes) {
                Some(blocks) => {
                    evicted.extend(blocks);
                    index.insert(block, bytes);
                }
                None => evicted.push(block),
            }
        }
        let cache = Self {
            folder,
            index: Mutex::new(index),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            requests: Semaphore::new(REQUESTS),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            next: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        };
        cache.remove(&evicted);
        Ok(cache)
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.index().bytes(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Whether all of a part is here, as far as is known.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.index().has(part.pack, part.blocks())
    }

    /// Fills `to` with a part that is here; `None` where it is not, or not any more. Blocks on files.
    pub(crate) fn read(&self, part: Part, to: &mut [u8]) -> Option<()> {
        if !self.index().touch(part.pack, part.blocks()) {
            return None;
        }
        let mut rest = to;
        for number in part.blocks() {
            let (block, range) = block_of(part, number);
            let length = usize::try_from(range.end - range.start).ok()?;
            let (now, later) = rest.split_at_mut_checked(length)?;
            if let Err(error) = self.block_read(block, range.start, now) {
                tracing::debug!(%error, "a file of the cache cannot be read");
                self.index().remove(block);
                self.remove(&[block]);
                return None;
            }
            rest = later;
        }
        Some(())
    }

    /// The path of the file that a part is in, and where it begins there, if it is in one and here.
    pub(crate) fn file_of(&self, part: Part) -> Option<(PathBuf, u64)> {
        let blocks = part.blocks();
        if blocks.end - blocks.start != 1 || !self.index().touch(part.pack, blocks.clone()) {
            return None;
        }
        let (block, range) = block_of(part, blocks.start);
        Some((self.folder.join(block.to_string()), range.start))
    }

    /// Counts a read that it could serve.
    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads a part with what of it is here, and keeps what was fetched.
    pub(crate) async fn fetch(self: &Arc<Self>, backend: &dyn Backend, part: Part) -> Result<Bytes> {
        let _turns = self.turns(part).await;
        // Who had the turn before may have fetched it.
        if self.has(part)
            && let Some(data) = self.blocking(move |cache| cache.bytes_read(part)).await
        {
            self.hit();
            return Ok(data);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let missing = self.missing(part);
        let bytes = missing.start * BLOCK_BYTES..(missing.end * BLOCK_BYTES).min(part.pack_bytes);
        let fetched = {
            let _request = self.requests.acquire().await;
            backend.get_range(&pack_key(part.pack), bytes.clone()).await?
        };
        let joined = self.blocking(move |cache| {
            let data = cache.joined(part, &bytes, &fetched);
            cache.keep_all(part.pack, missing.start, &fetched);
            data
        });
        match joined.await {
            Some(data) => Ok(data),
            None => {
                backend
                    .get_range(&pack_key(part.pack), part.start..part.end)
                    .await
            }
        }
    }

    async fn blocking(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Option<Bytes> + Send + 'static,
    ) -> Option<Bytes> {
        let cache = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&cache))
            .await
            .ok()
            .flatten()
    }

    /// Nothing of a pack is wanted any more.
    pub(crate) fn forget(&self, pack: Uuid) {
        let blocks = self.index().remove_pack(pack);
        self.remove(&blocks);
    }

    /// Gives all of its room back.
    pub(crate) fn clear(&self) {
        let blocks = self.index().clear();
        self.remove(&blocks);
    }

    /// The blocks to ask for: from the first that is missing to the last, and some behind it where those before it were
    /// wanted.
    fn missing(&self, part: Part) -> Range<u64> {
        let index = self.index();
        let blocks = part.blocks();
        let is_missing = |number: &u64| !index.has(part.pack, *number..*number + 1);
        let first = blocks.clone().find(is_missing).unwrap_or(blocks.start);
        let last = blocks.clone().rev().find(is_missing).unwrap_or(first);
        let before = (0..first)
            .rev()
            .take_while(|number| !is_missing(number))
            .zip(0..REQUEST_BLOCKS);
        let wanted = (before.count() as u64).min(REQUEST_BLOCKS.saturating_sub(last + 1 - first));
        let ahead = (last + 1..part.pack_bytes.div_ceil(BLOCK_BYTES))
            .take(usize::try_from(wanted).unwrap_or_default())
            .take_while(is_missing);
        first..last + 1 + ahead.count() as u64
    }

    /// A part of which some may be here, and the rest was fetched.
    fn joined(&self, part: Part, bytes: &Range<u64>, fetched: &Bytes) -> Option<Bytes> {
        let of = |range: Range<u64>| {
            let at = |offset: u64| usize::try_from(offset - bytes.start).unwrap_or_default();
            fetched.slice(at(range.start)..at(range.end).min(fetched.len()))
        };
        if bytes.start <= part.start && part.end <= bytes.end {
            return Some(of(part.start..part.end));
        }
        let mut out = BytesMut::with_capacity(usize::try_from(part.end - part.start).ok()?);
        if part.start < bytes.start {
            let before = Part {
                end: bytes.start,
                ..part
            };
            out.extend_from_slice(&self.bytes_read(before)?);
        }
        out.extend_from_slice(&of(bytes.start.max(part.start)..bytes.end.min(part.end)));
        if bytes.end < part.end {
            let behind = Part {
                start: bytes.end,
                ..part
            };
            out.extend_from_slice(&self.bytes_read(behind)?);
        }
        Some(out.freeze())
    }

    fn bytes_read(&self, part: Part) -> Option<Bytes> {
        let mut out = BytesMut::zeroed(usize::try_from(part.end - part.start).ok()?);
        self.read(part, &mut out)?;
        Some(out.freeze())
    }

    /// Keeps what was fetched of a pack, from block number `first` on, where there is room for it.
    fn keep_all(&self, pack: Uuid, first: u64, fetched: &[u8]) {
        for (number, data) in (first..).zip(fetched.chunks(BLOCK)) {
            let bytes = data.len() as u64;
            let Some(evicted) = self.index().room(bytes) else {
                return;
            };
            self.remove(&evicted);
            let block = Block { pack, number };
            if let Err(error) = self.block_write(block, data) {
                self.index().room_return(bytes);
                // Said once: with a full disk it would be said at each read.
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the cache of packs cannot be written; reading goes on without it");
                }
                return;
            }
            self.is_failing.store(false, Ordering::Relaxed);
            self.index().insert(block, bytes);
        }
    }

    fn block_write(&self, block: Block, data: &[u8]) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{number}.tmp"));
        let written = write_new(&temporary, data)
            .and_then(|()| fs::rename(&temporary, self.folder.join(block.to_string())));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn block_read(&self, block: Block, from: u64, to: &mut [u8]) -> io::Result<()> {
        fs::File::open(self.folder.join(block.to_string()))?.read_exact_at(to, from)
    }

    /// Removes the files of blocks that are not in the index any more.
    fn remove(&self, blocks: &[Block]) {
        for block in blocks {
            let removed = fs::remove_file(self.folder.join(block.to_string()));
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a file of the cache cannot be removed");
            }
        }
    }

    /// The right to fetch a part, alone; in one order, so that two never wait for each other.
    async fn turns(&self, part: Part) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        let of = |segment: u64| {
            let pack = u64::from_le_bytes(part.pack.as_bytes()[..8].try_into().unwrap_or_default());
            usize::try_from(pack.wrapping_add(segment) % TURNS as u64).unwrap_or_default()
        };
        let blocks = part.blocks();
        let segments = blocks.start / REQUEST_BLOCKS..blocks.end.div_ceil(REQUEST_BLOCKS);
        let mut numbers: Vec<_> = segments.map(of).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut turns = Vec::with_capacity(numbers.len());
        for number in numbers {
            turns.push(self.turns[number].lock().await);
        }
        turns
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Block number `number` of the pack, and which of its bytes belong to the part.
fn block_of(part: Part, number: u64) -> (Block, Range<u64>) {
    let first = number * BLOCK_BYTES;
    let block = Block {
        pack: part.pack,
        number,
    };
    (
        block,
        part.start.max(first) - first..part.end.min(first + BLOCK_BYTES) - first,
    )
}

/// Nobody but the owner reads what is cached.
fn write_new(path: &Path, data: &[u8]) -> io::Result<()> {
    let file = owner::file_open(path)?;
    file.set_len(0)?;
    file.write_all_at(data, 0)
}

#[cfg(test)]
mod tests;
