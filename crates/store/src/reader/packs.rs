//! Reading a part of a pack and decoding it: from its file, where the backend is a folder, or by way of the cache.

use std::cell::RefCell;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::backend::folder;
use crate::cache::{PackCache, Part};
use crate::error::{Error, Kind, Result};
use crate::store::{Store, Stored, pack_key};

/// A frame of a chunk, at most: one that is alone, and in memory already, is read and decoded by whoever wants it. To
/// hand it to another thread and back takes as long.
const SMALL_BYTES: u64 = 66 << 10;

/// A few frames, and what lies between them, are never longer.
const READ_LIMIT: usize = 2 << 20;

thread_local! {
    /// What was read and is being decoded. Whoever decodes more than a few chunks reads them one after another.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a read has to do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Takes what it has, and keeps what was fetched: it may be wanted again.
    Fill,
    /// Takes what it has, and keeps nothing: of a whole large disk, as that would throw out everything else.
    Look,
    /// Goes by it: who judges what is stored has to see what is stored.
    Pass,
}

/// Where the bytes of a part of a pack are.
pub(crate) enum Source<'a> {
    /// In memory, from this byte of the pack on.
    Memory(u64, &'a [u8]),
    /// In the file that the pack is.
    File(&'a File, String),
    /// In files of the cache.
    Cache(&'a PackCache, Part),
}

impl Source<'_> {
    /// Hands these bytes of the pack to `take`.
    pub(crate) fn read<T>(&self, range: Range<u64>, take: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        if let Self::Memory(base, data) = self {
            let from = range
                .start
                .checked_sub(*base)
                .and_then(|from| usize::try_from(from).ok());
            let bytes = from.and_then(|from| data.get(from..from.checked_add(length)?));
            return take(bytes.ok_or_else(|| Error::new(Kind::Damaged, "the object is too short"))?);
        }
        if length > READ_LIMIT {
            let text = format!("the index names {length} bytes of a pack as a few frames");
            return Err(Error::new(Kind::Damaged, text));
        }
        scratch(length, |bytes| {
            self.fill(range, bytes)?;
            take(bytes)
        })
    }

    /// Reads these bytes out of files.
    fn fill(&self, range: Range<u64>, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Memory(..) => Ok(()),
            Self::File(file, key) => folder::read_exactly(file, key, range.start, bytes),
            Self::Cache(cache, part) => {
                let part = Part {
                    start: range.start,
                    end: range.end,
                    ..*part
                };
                let gone = || Error::new(Kind::NotFound, "the cache has it no more");
                cache.read(part, bytes).ok_or_else(gone)
            }
        }
    }
}

/// Makes something of the bytes that were read; notices whatever is wrong with them.
type Decode<T> = Arc<dyn Fn(&Source<'_>) -> Result<T> + Send + Sync>;

impl Store {
    /// Reads a part of a pack and hands it to `decode`, which has to notice whatever is wrong with it. What the cache
    /// has and is wrong is forgotten, and read from the backend. A single frame that nothing else is read with is
    /// `alone`.
    pub(crate) async fn pack_read<T: Send + 'static>(
        &self,
        pack: Stored,
        range: Range<u64>,
        (caching, alone): (Caching, bool),
        decode: impl Fn(&Source<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let part = part_of(pack, &range);
        if alone && let Some(done) = self.pack_read_now(part, caching, &decode) {
            return Ok(done);
        }
        let decode: Decode<T> = Arc::new(decode);
        if let Some(root) = self.inner.backend.folder() {
            let root = root.to_owned();
            let read = move || {
                let key = pack_key(part.pack);
                let file = folder::open(&root, &key)?;
                decode(&Source::File(&file, key))
            };
            return self.compute(read).await;
        }
        if caching != Caching::Pass
            && let Some(cache) = self.inner.cache.get()
            && range.end <= pack.bytes
            && let Some(done) = self.cache_read(cache, part, caching, &decode).await?
        {
            return Ok(done);
        }
        let data = self
            .inner
            .backend
            .get_range(&pack_key(pack.id), range.clone())
            .await?;
        self.compute(move || decode(&Source::Memory(range.start, &data)))
            .await
    }

    /// Whether a part of a pack can be read without asking a bucket.
    pub(crate) fn is_local(&self, pack: Stored, range: &Range<u64>) -> bool {
        let part = part_of(pack, range);
        self.inner.backend.folder().is_some() || self.inner.cache.get().is_some_and(|cache| cache.has(part))
    }

    /// Reads and decodes a small part here and now, where it is in memory: in a file's pages that the system keeps.
    /// `None` also where something is wrong with it; who reads it then will tell.
    fn pack_read_now<T>(
        &self,
        part: Part,
        caching: Caching,
        decode: &impl Fn(&Source<'_>) -> Result<T>,
    ) -> Option<T> {
        if part.end - part.start > SMALL_BYTES || !self.inner.has_nowait.load(Ordering::Relaxed) {
            return None;
        }
        let cache = self.inner.cache.get().filter(|_| caching != Caching::Pass);
        let (file, from) = match (self.inner.backend.folder(), cache) {
            (Some(root), _) => (root.join(pack_key(part.pack)), part.start),
            (None, Some(cache)) => cache.file_of(part)?,
            (None, None) => return None,
        };
        let file = self.open_now(&file)?;
        let length = usize::try_from(part.end - part.start).ok()?;
        let done = scratch(length, |bytes| {
            let is_read = self.read_now(&file, from, bytes);
            is_read.then(|| decode(&Source::Memory(part.start, bytes)).ok())?
        })?;
        if let Some(cache) = cache {
            cache.hit();
        }
        Some(done)
    }

    /// Opens a file, if the system has all names on its way in memory.
    fn open_now(&self, path: &Path) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
            Ok(file) => Some(file.into()),
            Err(error) => {
                self.nowait_failed(error);
                None
            }
        }
    }

    /// Reads what the system has in memory of a file, if that is all of it.
    fn read_now(&self, file: &File, from: u64, bytes: &mut [u8]) -> bool {
        let wanted = bytes.len();
        match preadv2(file, &mut [IoSliceMut::new(bytes)], from, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == wanted,
            Err(error) => {
                self.nowait_failed(error);
                false
            }
        }
    }

    /// A system or a file system that cannot tell what it has in memory is not asked again.
    fn nowait_failed(&self, error: Errno) {
        if matches!(
            error,
            Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM
        ) {
            self.inner.has_nowait.store(false, Ordering::Relaxed);
        }
    }

    /// `None` where the backend has to be asked for just what is wanted.
    async fn cache_read<T: Send + 'static>(
        &self,
        cache: &Arc<PackCache>,
        part: Part,
        caching: Caching,
        decode: &Decode<T>,
    ) -> Result<Option<T>> {
        if cache.has(part) {
            let (kept, decode) = (Arc::clone(cache), Arc::clone(decode));
            // One hand-over to another thread for file and frames together.
            match self
                .compute(move || Ok(decode(&Source::Cache(&kept, part))))
                .await?
            {
                Ok(done) => {
                    cache.hit();
                    return Ok(Some(done));
                }
                // Thrown out meanwhile.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => distrust(cache, part, &error),
            }
        }
        if caching == Caching::Look {
            return Ok(None);
        }
        let fetched = match cache.fetch(&*self.inner.backend, part).await {
            // A block is longer than what is wanted: perhaps that can still be read.
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Io) => return Ok(None),
            fetched => fetched?,
        };
        let decode = Arc::clone(decode);
        match self
            .compute(move || Ok(decode(&Source::Memory(part.start, &fetched))))
            .await?
        {
            Ok(done) => Ok(Some(done)),
            Err(error) => {
                distrust(cache, part, &error);
                Ok(None)
            }
        }
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.options.world.compute(work).await
    }
}

fn part_of(pack: Stored, range: &Range<u64>) -> Part {
    Part {
        pack: pack.id,
        pack_bytes: pack.bytes,
        start: range.start,
        end: range.end,
    }
}

/// Lends so many bytes of this thread's buffer, with anything in them.
fn scratch<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    READ.with_borrow_mut(|bytes| {
        bytes.resize(length.max(bytes.len()), 0);
        work(&mut bytes[..length])
    })
}

fn distrust(cache: &PackCache, part: Part, error: &Error) {
    tracing::warn!(%error, pack = %part.pack, "what the cache has of a pack does not decode: it is read again");
    cache.forget(part.pack);
}
