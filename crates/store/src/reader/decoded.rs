//! Chunks that were read a few at a time lately, decoded, for all disks of a store together.
//!
//! To decode and hash a chunk takes a tenth of a millisecond, and who reads 4 KiB here and there comes back to the same
//! chunks, as does the next who reads the same disk, or another with the same content. They are kept by domain and
//! digest, so what is kept is never wrong, and tells no team what another has.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashlink::LruCache;

use crate::digest::Digest;

/// Chunks that are kept: 32 MiB.
const KEPT: usize = 512;

/// A domain, and the digest of a chunk in it.
type Name = (i64, Digest);

#[derive(Debug)]
pub(crate) struct Decoded {
    kept: Mutex<LruCache<Name, Bytes>>,
}

impl Default for Decoded {
    fn default() -> Self {
        Self {
            kept: Mutex::new(LruCache::new(KEPT)),
        }
    }
}

impl Decoded {
    pub(crate) fn get(&self, name: &Name) -> Option<Bytes> {
        self.kept().get(name).cloned()
    }

    pub(crate) fn insert(&self, name: Name, chunk: Bytes) {
        // What gave way is dropped when the lock is free again.
        let (before, oldest) = {
            let mut kept = self.kept();
            let oldest = (kept.len() >= KEPT).then(|| kept.remove_lru()).flatten();
            (kept.insert(name, chunk), oldest)
        };
        drop((before, oldest));
    }

    /// Gives all of them back.
    pub(crate) fn clear(&self) {
        let all = std::mem::replace(&mut *self.kept(), LruCache::new(KEPT));
        drop(all);
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<Name, Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_longest_ago_gives_way() {
        let decoded = Decoded::default();
        let name = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
            (7, Digest(bytes))
        };
        for number in 0..KEPT {
            decoded.insert(name(number), Bytes::from_static(b"x"));
        }
        assert!(decoded.get(&name(0)).is_some(), "and is now the newest");
        decoded.insert(name(KEPT), Bytes::from_static(b"y"));
        assert!(decoded.get(&name(0)).is_some());
        assert!(decoded.get(&name(1)).is_none());
        assert!(decoded.get(&(8, name(0).1)).is_none(), "of another domain");
        assert_eq!(decoded.kept().len(), KEPT);
        decoded.clear();
        assert!(decoded.get(&name(0)).is_none());
    }
}
