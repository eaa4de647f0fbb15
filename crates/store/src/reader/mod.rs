//! Reading disks back. Every frame is decoded and compared with its digest: an error, never wrong bytes.

pub(crate) mod ahead;
pub(crate) mod nodes;
pub(crate) mod packs;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::digest::{Digest, Keys};
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::pack;
use crate::rows::{self, Location};
use crate::store::{Store, Stored, pack_key};
use crate::tree::{FAN_OUT, Node, TreeRoot};
use crate::{CHUNK_BYTES, reader::nodes::TreeReader};
use ahead::Ahead;
use nodes::damaged_at;
use packs::Caching;

const CHUNK: u64 = CHUNK_BYTES as u64;
/// Chunks that `read_at` reads at once.
const WINDOW: u64 = 64;
/// Chunks that share a piece of memory: who holds on to one holds on to all of them.
const TOGETHER: usize = 4;
/// One request to the backend is at most this long…
const REQUEST_BYTES: u32 = 4 << 20;
/// …and skips at most this much that nobody asked for.
const REQUEST_GAP: u32 = 128 << 10;
/// About 130 KiB each.
const LEAVES_KEPT: usize = 4;
const CHUNKS_KEPT: usize = 64;

/// A piece of a disk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes are zero.
    Zero(u64),
    /// These bytes.
    Data(Bytes),
}

/// An open disk. Clones share its caches.
#[derive(Debug, Clone)]
pub struct DiskReader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tree: TreeReader,
    leaves: Mutex<VecDeque<(u64, Arc<Leaf>)>>,
    chunks: Mutex<VecDeque<(u64, Bytes)>>,
}

/// A leaf with the places of its chunks.
#[derive(Debug)]
struct Leaf {
    node: Option<Arc<Node>>,
    places: HashMap<Digest, Location>,
}

/// A chunk that is to be read: its number, digest and place.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    index: u64,
    digest: Digest,
    at: Location,
}

impl Piece {
    /// Bytes of the disk that it stands for.
    pub fn length(&self) -> u64 {
        match self {
            Self::Zero(length) => *length,
            Self::Data(bytes) => bytes.len() as u64,
        }
    }
}

impl Store {
    /// Opens a disk for reading. Nothing is read until asked for.
    pub fn disk_open(&self, root: TreeRoot) -> DiskReader {
        let tree = TreeReader::cached(self.clone(), root);
        DiskReader {
            inner: Arc::new(Inner {
                tree,
                leaves: Mutex::default(),
                chunks: Mutex::default(),
            }),
        }
    }
}

impl DiskReader {
    /// Size of the disk.
    pub fn virtual_bytes(&self) -> u64 {
        self.inner.tree.root.virtual_bytes
    }

    /// Fills `buffer` from `offset`. The range must lie within the disk.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        self.check(&range)?;
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let first = at / CHUNK;
            let last = (range.end.div_ceil(CHUNK)).min(first + WINDOW);
            for (index, chunk) in (first..last).zip(self.inner.chunks_get(first..last).await?) {
                let skip = usize::try_from(at - index * CHUNK).unwrap_or_default();
                let take = rest.len().min(CHUNK_BYTES as usize - skip);
                let (now, later) = rest.split_at_mut(take);
                match chunk {
                    Some(data) => now.copy_from_slice(&data[skip..skip + take]),
                    None => now.fill(0),
                }
                rest = later;
                at += take as u64;
            }
        }
        Ok(())
    }

    /// The parts of `range` that are stored, merged, in whole chunks (clipped to `range`). Everything else
    /// reads as zeros. Reads tree nodes only, and keeps none of them: a reader may be open for long after it.
    pub async fn allocated(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.check(&range)?;
        let tree = TreeReader::cached(self.inner.tree.store.clone(), self.inner.tree.root);
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = range.start / CHUNK;
        let end = range.end.div_ceil(CHUNK);
        while at < end {
            let zeros = tree.zeros_at(at, end).await?;
            if zeros > 0 {
                at += zeros;
                continue;
            }
            let bytes = (at * CHUNK).max(range.start)..((at + 1) * CHUNK).min(range.end);
            match runs.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => runs.push(bytes),
            }
            at += 1;
        }
        Ok(runs)
    }

    /// The bytes of `range` in order, read ahead and decoded on several cores. Memory: 16 MiB at most for one that is
    /// read fast, 64 MiB for all of a store together and 256 KiB for each one more, and next to nothing for one that
    /// nobody reads. Has to be called within a runtime.
    pub fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Piece>> {
        match self.check(&range) {
            Ok(()) => Ahead::new(Arc::clone(&self.inner), range).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        let size = self.virtual_bytes();
        if range.start <= range.end && range.end <= size {
            return Ok(());
        }
        let text = format!(
            "bytes {}..{} are outside of a disk of {size} bytes",
            range.start, range.end
        );
        Err(Error::new(Kind::Invalid, text))
    }
}

impl Inner {
    /// Like `chunks_load`, for callers that come back to the same chunks with small requests.
    async fn chunks_get(&self, range: Range<u64>) -> Result<Vec<Option<Bytes>>> {
        if range.end - range.start > 4 {
            return self.chunks_load(range, Caching::Fill).await;
        }
        let mut out = Vec::new();
        for index in range {
            let kept = self
                .kept()
                .iter()
                .find(|(kept, _)| *kept == index)
                .map(|(_, data)| data.clone());
            if kept.is_some() {
                out.push(kept);
                continue;
            }
            let chunk = self
                .chunks_load(index..index + 1, Caching::Fill)
                .await?
                .pop()
                .flatten();
            if let Some(data) = &chunk {
                let mut kept = self.kept();
                kept.push_back((index, data.clone()));
                if kept.len() > CHUNKS_KEPT {
                    kept.pop_front();
                }
            }
            out.push(chunk);
        }
        Ok(out)
    }

    /// Loads chunks; `None` stands for zeros. What is damaged is remembered.
    async fn chunks_load(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        let loaded = self.chunks_load_again(range, caching).await;
        if let Err(error) = &loaded {
            self.damage_mark(error).await;
        }
        loaded
    }

    async fn chunks_load_again(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        match self.chunks_try(range.clone(), caching).await {
            // The object may just have been rewritten elsewhere: the index is asked once more.
            Err(error) if error.kind() == Kind::NotFound => {
                self.leaves().clear();
                self.chunks_try(range.clone(), caching)
                    .await
                    .map_err(|error| damaged_at(error, self.bytes(&range)))
            }
            done => done,
        }
    }

    /// Marks a chunk whose bytes were read and are wrong, so that no import relies on it. That an object is gone tells
    /// nothing of a single chunk; an import finds that out by itself.
    async fn damage_mark(&self, error: &Error) {
        let (Kind::Damaged, Some(range)) = (error.kind(), error.range()) else {
            return;
        };
        let index = range.start / CHUNK;
        if self.bytes(&(index..index + 1)) != range {
            return;
        }
        let Ok(leaf) = self.leaf(index / FAN_OUT).await else {
            return;
        };
        let digest = leaf.node.as_ref().and_then(|node| node.child(index % FAN_OUT));
        let Some((digest, at)) = digest.and_then(|digest| Some((digest, *leaf.places.get(&digest)?))) else {
            return;
        };
        let store = &self.tree.store.inner;
        let domain = self.tree.root.domain;
        if let Err(error) = rows::chunk_damage(&store.db, store.number, domain, digest, at).await {
            tracing::error!(%error, "cannot mark a damaged chunk");
        }
    }

    async fn chunks_try(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        let mut wanted = Vec::new();
        for index in range.clone() {
            let leaf = self.leaf(index / FAN_OUT).await?;
            let Some(digest) = leaf.node.as_ref().and_then(|node| node.child(index % FAN_OUT)) else {
                continue;
            };
            let Some(at) = leaf.places.get(&digest).copied() else {
                let error = Error::new(Kind::Damaged, format!("chunk {digest} is in no index"));
                return Err(error.at(self.bytes(&(index..index + 1))));
            };
            wanted.push(Wanted { index, digest, at });
        }
        let mut out = vec![None; usize::try_from(range.end - range.start).unwrap_or_default()];
        let requests = requests(&wanted);
        let mut loaded = stream::iter(requests)
            .map(|request| self.request(request, caching))
            .buffered(4);
        while let Some(chunks) = loaded.try_next().await? {
            for (index, data) in chunks {
                out[usize::try_from(index - range.start).unwrap_or_default()] = Some(data);
            }
        }
        Ok(out)
    }

    /// Reads neighbours in one pack with one request, and decodes and checks them.
    async fn request(&self, wanted: Vec<Wanted>, caching: Caching) -> Result<Vec<(u64, Bytes)>> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Ok(Vec::new());
        };
        let store = &self.tree.store;
        let whole = self.bytes(&(first.index..last.index + 1));
        let base = first.at.offset;
        let range = u64::from(base)..u64::from(last.at.offset) + u64::from(last.at.length);
        let pack = store
            .stored(first.at.object)
            .await
            .map_err(|error| error.at(whole.clone()))?;
        let frames = Frames {
            keys: store.inner.keys.clone(),
            pack,
            base,
            wanted,
            virtual_bytes: self.tree.root.virtual_bytes,
        };
        let read = store.pack_read(pack, range, caching, move |data| frames.decode(data));
        // What is wrong with a single chunk says so itself.
        read.await.map_err(|error| {
            if error.range().is_some() {
                error
            } else {
                error.at(whole)
            }
        })
    }

    async fn leaf(&self, number: u64) -> Result<Arc<Leaf>> {
        if let Some(leaf) = self.leaf_kept(number) {
            return Ok(leaf);
        }
        let _turn = self.tree.store.inner.read_ahead.lookup().await;
        // The window before this one may have waited for the same.
        if let Some(leaf) = self.leaf_kept(number) {
            return Ok(leaf);
        }
        let node = self.tree.node(0, number).await?;
        let mut digests: Vec<_> = node
            .iter()
            .flat_map(|node| node.present())
            .map(|(_, digest)| digest)
            .collect();
        digests.sort_unstable();
        digests.dedup();
        let places = self.tree.store.locate(self.tree.root.domain, &digests).await?;
        let leaf = Arc::new(Leaf { node, places });
        let mut leaves = self.leaves();
        leaves.push_back((number, Arc::clone(&leaf)));
        if leaves.len() > LEAVES_KEPT {
            leaves.pop_front();
        }
        Ok(leaf)
    }

    fn leaf_kept(&self, number: u64) -> Option<Arc<Leaf>> {
        let leaves = self.leaves();
        let kept = leaves.iter().find(|(kept, _)| *kept == number);
        kept.map(|(_, leaf)| Arc::clone(leaf))
    }

    fn bytes(&self, chunks: &Range<u64>) -> Range<u64> {
        chunks.start * CHUNK..(chunks.end * CHUNK).min(self.tree.root.virtual_bytes)
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Arc<Leaf>)>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Bytes)>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neighbours in one pack that are read together.
struct Frames {
    keys: Keys,
    pack: Stored,
    /// Where in the pack the bytes begin.
    base: u32,
    wanted: Vec<Wanted>,
    virtual_bytes: u64,
}

impl Frames {
    /// The chunks with their numbers.
    fn decode(&self, data: &Bytes) -> Result<Vec<(u64, Bytes)>> {
        let opens = self.keys.pack_key(self.pack.id)?;
        let decode = |(one, to): (&Wanted, &mut [u8])| {
            let from = (one.at.offset - self.base) as usize;
            let frame = data.get(from..from + one.at.length as usize);
            let frame = frame.ok_or_else(|| Error::new(Kind::Damaged, "the object is too short"));
            let opened = frame
                .and_then(|frame| pack::chunk_open_to(&self.keys, opens.as_ref(), one.digest, frame, to));
            let bytes = one.index * CHUNK..((one.index + 1) * CHUNK).min(self.virtual_bytes);
            opened.map_err(|error| error.context(pack_key(self.pack.id)).at(bytes))
        };
        let size = CHUNK_BYTES as usize;
        let mut out = Vec::with_capacity(self.wanted.len());
        for some in self.wanted.chunks(TOGETHER) {
            let plain = memory::filled(some.len() * size, |plain| {
                some.iter().zip(plain.chunks_exact_mut(size)).try_for_each(decode)
            })?;
            let places = some.iter().enumerate();
            out.extend(places.map(|(n, one)| (one.index, plain.slice(n * size..(n + 1) * size))));
        }
        Ok(out)
    }
}

/// Groups chunks that follow each other in one pack.
fn requests(wanted: &[Wanted]) -> Vec<Vec<Wanted>> {
    let mut out: Vec<Vec<Wanted>> = Vec::new();
    for one in wanted {
        if let Some(group) = out.last_mut()
            && let (Some(first), Some(last)) = (group.first(), group.last())
            && first.at.object == one.at.object
            && one.at.offset >= last.at.offset + last.at.length
            && one.at.offset - (last.at.offset + last.at.length) <= REQUEST_GAP
            && one.at.offset + one.at.length - first.at.offset <= REQUEST_BYTES
        {
            group.push(*one);
            continue;
        }
        out.push(vec![*one]);
    }
    out
}

/// Cuts loaded chunks to the range that was asked for and merges zeros.
fn pieces(window: Range<u64>, chunks: Vec<Option<Bytes>>, range: &Range<u64>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(chunks.len());
    for (index, chunk) in window.zip(chunks) {
        let start = index * CHUNK;
        let from = range.start.saturating_sub(start).min(CHUNK);
        let to = (range.end - start).min(CHUNK);
        match (chunk, out.last_mut()) {
            (Some(data), _) => {
                let [from, to] = [from, to].map(|at| usize::try_from(at).unwrap_or_default());
                out.push(Piece::Data(data.slice(from..to)));
            }
            (None, Some(Piece::Zero(length))) => *length += to - from,
            (None, _) => out.push(Piece::Zero(to - from)),
        }
    }
    out
}
