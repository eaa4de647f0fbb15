//! Reading disks back. Every frame is decoded and compared with its digest: an error, never wrong bytes.

pub(crate) mod ahead;
pub(crate) mod decoded;
pub(crate) mod leaves;
pub(crate) mod nodes;
pub(crate) mod packs;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::digest::{Digest, Keys};
use crate::error::{Error, Kind, Result, bytes_shown};
use crate::memory::Reader;
use crate::pack;
use crate::rows::{self, Location};
use crate::seal::ObjectKey;
use crate::store::{Store, Stored, pack_key};
use crate::tree::{FAN_OUT, TreeRoot};
use crate::verify::damaging;
use crate::{CHUNK_BYTES, reader::nodes::TreeReader};
use ahead::Ahead;
use leaves::Leaf;
use nodes::{Known, damaged_at};
use packs::{Caching, Source};

const CHUNK: u64 = CHUNK_BYTES as u64;
/// Chunks that `read_at` reads at once.
const WINDOW: u64 = 64;
/// Chunks that share a piece of memory: who holds on to one holds on to all of them.
pub(crate) const TOGETHER: usize = 4;
/// Chunks that one thread reads and decodes, where that takes no request to a bucket.
const SHARE: usize = 8;
/// One request to the backend is at most this long…
const REQUEST_BYTES: u64 = 4 << 20;
/// …and skips at most this much that nobody asked for.
const REQUEST_GAP: u64 = 128 << 10;
/// A request for so many chunks is one of those that come back to the same.
const FEW: u64 = 4;

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
    memory: Arc<Reader>,
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
                memory: Arc::new(self.inner.memory.reader()),
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
        let text = format!("{} are outside of a disk of {size} bytes", bytes_shown(range));
        Err(Error::new(Kind::Invalid, text))
    }
}

impl Inner {
    /// Like `chunks_load`, for callers that come back to the same chunks with small requests.
    async fn chunks_get(&self, range: Range<u64>) -> Result<Vec<Option<Bytes>>> {
        if range.end - range.start > FEW {
            return self.chunks_load(range, Caching::Fill).await;
        }
        let mut out = Vec::new();
        for index in range {
            let name = self.name(index).await;
            let kept = name.and_then(|name| self.memory.decoded().get(&name));
            if kept.is_some() {
                out.push(kept);
                continue;
            }
            let chunk = self.chunks_load(index..index + 1, Caching::Fill).await?.pop();
            let chunk = chunk.flatten();
            if let (Some(name), Some(data)) = (name, &chunk) {
                self.memory.decoded().insert(name, data.clone());
            }
            out.push(chunk);
        }
        Ok(out)
    }

    /// The domain and digest of a chunk, where it has one and that can be told: who loads it says what is wrong.
    async fn name(&self, index: u64) -> Option<(i64, Digest)> {
        let leaf = self.leaf(&(index..index + 1)).await.ok()??;
        let (digest, _) = leaf.chunk(in_leaf(index))?;
        Some((self.tree.root.domain, digest))
    }

    /// Loads chunks; `None` stands for zeros. What is damaged is remembered.
    async fn chunks_load(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        match self.chunks_load_again(range.clone(), caching).await {
            Ok(loaded) => Ok(loaded),
            Err(error) => {
                let unreadable = self.unreadable(&error, range, caching).await;
                self.damage_mark(&error).await;
                Err(match unreadable {
                    Some(bytes) => error.at(bytes),
                    None => error,
                })
            }
        }
    }

    /// Which of the chunks that were asked for cannot be read, where an error is about several that were read together:
    /// the first, and those that follow it without a gap. `None` where the error says so itself, or it cannot be told.
    async fn unreadable(&self, error: &Error, range: Range<u64>, caching: Caching) -> Option<Range<u64>> {
        let about = error.range().filter(|_| damaging(error))?;
        if about.end - about.start <= CHUNK {
            return None;
        }
        let mut bad: Option<Range<u64>> = None;
        for index in range.start.max(about.start / CHUNK)..range.end.min(about.end.div_ceil(CHUNK)) {
            let own = self.bytes(&(index..index + 1));
            match (self.chunks_try(index..index + 1, caching).await, &mut bad) {
                (Ok(_), None) => {}
                (Ok(_), Some(_)) => break,
                // Of a damaged tree all that hangs on it is lost.
                (Err(error), _) if error.range().is_some_and(|range| range != own) || !damaging(&error) => {
                    return None;
                }
                (Err(_), Some(bad)) => bad.end = own.end,
                (Err(_), None) => bad = Some(own),
            }
        }
        bad
    }

    async fn chunks_load_again(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        match self.chunks_try(range.clone(), caching).await {
            // The object may have been rewritten elsewhere, or healed: the index is asked once more.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged) => {
                self.places_forget(&range).await;
                let error = match self.chunks_try(range.clone(), caching).await {
                    Ok(chunks) => return Ok(chunks),
                    Err(error) => error,
                };
                let error = match error.range() {
                    Some(_) if error.kind() == Kind::Damaged => error,
                    _ => damaged_at(error, self.bytes(&range)),
                };
                Err(self.tree.store.or_away(error).await)
            }
            // Of a disk that went away, maybe.
            Err(error) if error.kind() == Kind::Io => Err(self.tree.store.or_away(error).await),
            done => done,
        }
    }

    /// Marks a chunk whose bytes were read and are wrong, so that no import relies on it. Where it is not a single
    /// chunk, the pack is looked at.
    async fn damage_mark(&self, error: &Error) {
        let (Kind::Damaged, Some(range)) = (error.kind(), error.range()) else {
            return;
        };
        let index = range.start / CHUNK;
        let Ok(Some(leaf)) = self.leaf(&(index..index + 1)).await else {
            return;
        };
        let (digest, at) = match leaf.chunk(in_leaf(index)) {
            Some((digest, Some(at))) => (digest, at),
            Some((_, None)) => return self.tree.store.damage_doubt(),
            None => return,
        };
        if self.bytes(&(index..index + 1)) != range {
            return self.tree.store.object_doubt(at.object).await;
        }
        // Another may have healed it meanwhile, and its new place is not at fault.
        let wanted = vec![Wanted { index, digest, at }];
        let Ok(pack) = self.tree.store.stored(at.object).await else {
            return;
        };
        match self.share(pack, wanted, (Caching::Pass, true)).await {
            Err(error) if error.kind() == Kind::Damaged => {}
            Err(error) if error.kind() == Kind::NotFound => {
                return self.tree.store.object_doubt(at.object).await;
            }
            _ => return,
        }
        let store = &self.tree.store.inner;
        let domain = self.tree.root.domain;
        if let Err(error) = rows::chunk_damage(&store.db, store.number, domain, digest, at).await {
            tracing::error!(%error, "cannot mark a damaged chunk");
        }
        self.tree.store.damage_look();
    }

    async fn chunks_try(&self, range: Range<u64>, caching: Caching) -> Result<Vec<Option<Bytes>>> {
        let mut wanted = Vec::new();
        let mut rest = range.clone();
        while !rest.is_empty() {
            let end = (rest.start / FAN_OUT + 1) * FAN_OUT;
            let of_leaf = rest.start..rest.end.min(end);
            rest.start = of_leaf.end;
            let Some(leaf) = self.leaf(&of_leaf).await? else {
                continue;
            };
            for index in of_leaf {
                match leaf.chunk(in_leaf(index)) {
                    None => {}
                    Some((digest, Some(at))) => wanted.push(Wanted { index, digest, at }),
                    Some((digest, None)) => {
                        let error = Error::new(Kind::Damaged, format!("chunk {digest} is in no index"));
                        return Err(error.at(self.bytes(&(index..index + 1))));
                    }
                }
            }
        }
        let mut out = vec![None; usize::try_from(range.end - range.start).unwrap_or_default()];
        // More than one would keep whoever waits for them busy, one after the other.
        let is_alone = wanted.len() == 1;
        let requests = requests(&wanted);
        let mut loaded = stream::iter(requests)
            .map(|request| self.request(request, caching, is_alone))
            .buffered(4);
        while let Some(chunks) = loaded.try_next().await? {
            for (index, data) in chunks {
                out[usize::try_from(index - range.start).unwrap_or_default()] = Some(data);
            }
        }
        Ok(out)
    }

    /// Reads neighbours in one pack with one request, and decodes and checks them; where that takes no request, in
    /// shares.
    async fn request(
        &self,
        wanted: Vec<Wanted>,
        caching: Caching,
        is_alone: bool,
    ) -> Result<Vec<(u64, Bytes)>> {
        let Some(first) = wanted.first() else {
            return Ok(Vec::new());
        };
        let pack = self.tree.store.stored(first.at.object).await;
        let pack = pack.map_err(|error| error.at(self.bytes_of(&wanted)))?;
        if wanted.len() <= SHARE || !self.tree.store.is_local(pack, &range_of(&wanted)) {
            return self.share(pack, wanted, (caching, is_alone)).await;
        }
        let shares = wanted
            .chunks(SHARE)
            .map(|share| self.share(pack, share.to_vec(), (caching, false)));
        // All of them, or which of two errors is told would be a matter of time.
        let read: Result<Vec<_>> = join_all(shares).await.into_iter().collect();
        Ok(read?.into_iter().flatten().collect())
    }

    async fn share(
        &self,
        pack: Stored,
        wanted: Vec<Wanted>,
        (caching, is_alone): (Caching, bool),
    ) -> Result<Vec<(u64, Bytes)>> {
        let store = &self.tree.store;
        let (whole, range) = (self.bytes_of(&wanted), range_of(&wanted));
        let frames = Frames {
            keys: store.inner.keys.clone(),
            pack,
            wanted,
            virtual_bytes: self.tree.root.virtual_bytes,
            memory: Arc::clone(&self.memory),
        };
        let read = store.pack_read(pack, range, (caching, is_alone), move |from| frames.decode(from));
        // What is wrong with a single chunk says so itself.
        read.await.map_err(|error| {
            if error.range().is_some() {
                error
            } else {
                error.at(whole)
            }
        })
    }

    /// The leaf that these chunks are of, with their places; `None` where all of it is zero.
    async fn leaf(&self, chunks: &Range<u64>) -> Result<Option<Arc<Leaf>>> {
        let (store, domain) = (&self.tree.store, self.tree.root.domain);
        let (number, first, last) = (
            chunks.start / FAN_OUT,
            in_leaf(chunks.start),
            in_leaf(chunks.end - 1),
        );
        let leaves = &store.inner.leaves;
        match self.tree.leaf_kept(number) {
            Known::Zero => return Ok(None),
            Known::Digest(digest) => {
                let kept = leaves.get(&(domain, digest));
                if let Some(leaf) = kept.filter(|leaf| leaf.is_located(first, last)) {
                    return Ok(Some(leaf));
                }
            }
            Known::Nothing => {}
        }
        let _turn = store.inner.read_ahead.lookup().await;
        let Some(digest) = self.tree.child(1, number).await? else {
            return Ok(None);
        };
        let leaf = if let Some(leaf) = leaves.get(&(domain, digest)) {
            leaf
        } else {
            let leaf = Arc::new(Leaf::new(self.tree.leaf_read(digest, number).await?));
            leaves.insert((domain, digest), &leaf);
            leaf
        };
        // The window before this one may have waited for the same.
        leaf.locate(store, domain, first, last).await?;
        Ok(Some(leaf))
    }

    async fn places_forget(&self, chunks: &Range<u64>) {
        for number in chunks.start / FAN_OUT..chunks.end.div_ceil(FAN_OUT) {
            if let Ok(Some(digest)) = self.tree.child(1, number).await {
                self.tree
                    .store
                    .inner
                    .leaves
                    .forget(&(self.tree.root.domain, digest));
            }
        }
    }

    /// The bytes of the disk that they are of, and all between.
    fn bytes_of(&self, wanted: &[Wanted]) -> Range<u64> {
        let [first, last] = [wanted.first(), wanted.last()].map(|one| one.map_or(0, |one| one.index));
        self.bytes(&(first..last + 1))
    }

    fn bytes(&self, chunks: &Range<u64>) -> Range<u64> {
        chunks.start * CHUNK..(chunks.end * CHUNK).min(self.tree.root.virtual_bytes)
    }
}

/// Neighbours in one pack that are read together.
struct Frames {
    keys: Keys,
    pack: Stored,
    wanted: Vec<Wanted>,
    virtual_bytes: u64,
    memory: Arc<Reader>,
}

impl Frames {
    /// The chunks with their numbers.
    fn decode(&self, from: &Source<'_>) -> Result<Vec<(u64, Bytes)>> {
        let opens = self.keys.pack_key(self.pack.id)?;
        let size = CHUNK_BYTES as usize;
        let mut out = Vec::with_capacity(self.wanted.len());
        for some in self.wanted.chunks(TOGETHER) {
            let range = range_of(some);
            let plain = from.read(range.clone(), |data| {
                self.memory.piece(some.len() * size, |plain| {
                    let mut places = some.iter().zip(plain.chunks_exact_mut(size));
                    places.try_for_each(|(one, to)| {
                        self.chunk_decode(opens.as_ref(), one, data, range.start, to)
                    })
                })
            })?;
            let places = some.iter().enumerate();
            out.extend(places.map(|(n, one)| (one.index, plain.slice(n * size..(n + 1) * size))));
        }
        Ok(out)
    }

    /// Decodes one chunk out of bytes of the pack, which begin at `base`.
    fn chunk_decode(
        &self,
        opens: Option<&ObjectKey>,
        one: &Wanted,
        data: &[u8],
        base: u64,
        to: &mut [u8],
    ) -> Result<()> {
        let from = usize::try_from(u64::from(one.at.offset) - base).unwrap_or(usize::MAX);
        let frame = data.get(from..from + one.at.length as usize);
        let frame = frame.ok_or_else(|| Error::new(Kind::Damaged, "the object is too short"));
        let opened = frame.and_then(|frame| pack::chunk_open_to(&self.keys, opens, one.digest, frame, to));
        let bytes = one.index * CHUNK..((one.index + 1) * CHUNK).min(self.virtual_bytes);
        opened.map_err(|error| error.context(pack_key(self.pack.id)).at(bytes))
    }
}

/// The number of a chunk within its leaf.
fn in_leaf(index: u64) -> usize {
    usize::try_from(index % FAN_OUT).unwrap_or_default()
}

/// From the first to the last byte of frames that follow each other in one pack.
fn range_of(wanted: &[Wanted]) -> Range<u64> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
        return 0..0;
    };
    u64::from(first.at.offset)..u64::from(last.at.offset) + u64::from(last.at.length)
}

/// Groups chunks that follow each other in one pack.
fn requests(wanted: &[Wanted]) -> Vec<Vec<Wanted>> {
    let mut out: Vec<Vec<Wanted>> = Vec::new();
    for one in wanted {
        let own = range_of(std::slice::from_ref(one));
        if let Some(group) = out.last_mut()
            && group
                .first()
                .is_some_and(|first| first.at.object == one.at.object)
            && let before = range_of(group)
            && own.start >= before.end
            && own.start - before.end <= REQUEST_GAP
            && own.end - before.start <= REQUEST_BYTES
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
