//! Reading a part of a pack and decoding it, by way of the cache where there is one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::{PackCache, Part};
use crate::error::{Error, Kind, Result};
use crate::store::{Store, Stored, pack_key};

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

/// Makes something of the bytes that were read; notices whatever is wrong with them.
type Decode<T> = Arc<dyn Fn(&Bytes) -> Result<T> + Send + Sync>;

impl Store {
    /// Reads a part of a pack and hands it to `decode`, which has to notice whatever is wrong with it. What the cache has and
    /// is wrong is forgotten, and read from the backend.
    pub(crate) async fn pack_read<T: Send + 'static>(
        &self,
        pack: Stored,
        range: Range<u64>,
        caching: Caching,
        decode: impl Fn(&Bytes) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let decode: Decode<T> = Arc::new(decode);
        if caching != Caching::Pass
            && let Some(cache) = self.inner.cache.get()
            && range.end <= pack.bytes
        {
            let part = Part {
                pack: pack.id,
                pack_bytes: pack.bytes,
                start: range.start,
                end: range.end,
            };
            if let Some(done) = self.cache_read(cache, part, caching, &decode).await? {
                return Ok(done);
            }
        }
        let data = self.inner.backend.get_range(&pack_key(pack.id), range).await?;
        self.compute(move || decode(&data)).await
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
            let done = self.compute(move || Ok(kept.read(part).map(|data| decode(&data))));
            match done.await? {
                Some(Ok(done)) => return Ok(Some(done)),
                Some(Err(error)) => distrust(cache, part, &error),
                None => {}
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
        match self.compute(move || Ok(decode(&fetched))).await? {
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

fn distrust(cache: &PackCache, part: Part, error: &Error) {
    tracing::warn!(%error, pack = %part.pack, "what the cache has of a pack does not decode: it is read again");
    cache.forget(part.pack);
}
