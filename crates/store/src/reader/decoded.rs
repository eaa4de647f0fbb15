//! Chunks that were read one or two at a time lately, decoded, for all disks of a store together.
//!
//! To decode and hash a chunk takes a tenth of a millisecond, and who reads a few KiB here and there comes back to the
//! same chunks, as does the next who reads the same disk, or another with the same content. They are kept by domain
//! and digest, so what is kept is never wrong, and tells no team what another has. How much, `Options::decoded_bytes`
//! says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashlink::LruCache;

use crate::CHUNK_BYTES;
use crate::digest::Digest;

/// What small reads of open disks found decoded in memory since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes that are kept.
    pub bytes: u64,
    /// Chunks that were there.
    pub hits: u64,
    /// Chunks that had to be read and decoded.
    pub misses: u64,
}

/// A domain, and the digest of a chunk in it.
type Name = (i64, Digest);

#[derive(Debug)]
pub(crate) struct Decoded {
    kept: Mutex<LruCache<Name, Bytes>>,
    /// Chunks that are kept at most.
    limit: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Whether anything was looked for since it was tidied up last.
    is_wanted: AtomicBool,
}

impl Decoded {
    /// Keeps so many bytes of chunks at most.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            kept: Mutex::new(LruCache::new_unbounded()),
            limit: usize::try_from(limit_bytes / u64::from(CHUNK_BYTES)).unwrap_or(usize::MAX),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
        }
    }

    pub(crate) fn get(&self, name: &Name) -> Option<Bytes> {
        let found = self.kept().get(name).cloned();
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        self.is_wanted.store(true, Ordering::Relaxed);
        found
    }

    pub(crate) fn insert(&self, name: Name, chunk: Bytes) {
        if self.limit == 0 {
            return;
        }
        // What gave way is dropped when the lock is free again.
        let (before, oldest) = {
            let mut kept = self.kept();
            let oldest = (kept.len() >= self.limit).then(|| kept.remove_lru()).flatten();
            (kept.insert(name, chunk), oldest)
        };
        drop((before, oldest));
    }

    /// Gives all of them back, unless something was looked for since the last time.
    pub(crate) fn tidy(&self) {
        if self.is_wanted.swap(false, Ordering::Relaxed) {
            return;
        }
        let all = std::mem::replace(&mut *self.kept(), LruCache::new_unbounded());
        drop(all);
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        MemoryStats {
            bytes: self.kept().len() as u64 * u64::from(CHUNK_BYTES),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<Name, Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        (7, Digest(bytes))
    }

    #[test]
    fn what_was_read_longest_ago_gives_way() {
        let decoded = Decoded::new(3 * 65536 + 65535);
        for number in 0..3 {
            decoded.insert(name(number), Bytes::from_static(b"x"));
        }
        assert!(decoded.get(&name(0)).is_some(), "and is now the newest");
        decoded.insert(name(3), Bytes::from_static(b"y"));
        assert!(decoded.get(&name(0)).is_some());
        assert!(decoded.get(&name(1)).is_none());
        assert!(decoded.get(&(8, name(0).1)).is_none(), "of another domain");
        let (bytes, hits, misses) = (3 * 65536, 2, 2);
        assert_eq!(decoded.stats(), MemoryStats { bytes, hits, misses });
        decoded.tidy();
        assert!(decoded.get(&name(0)).is_some(), "somebody looked for it lately");
        decoded.tidy();
        decoded.tidy();
        assert!(decoded.get(&name(0)).is_none());
    }

    #[test]
    fn a_limit_below_a_chunk_keeps_none() {
        let decoded = Decoded::new(65535);
        decoded.insert(name(0), Bytes::from_static(b"x"));
        assert!(decoded.get(&name(0)).is_none());
        assert_eq!(decoded.stats().bytes, 0);
    }
}
