//! Leaves of trees with the places of their chunks, kept for all readers of a store.
//!
//! Who reads a few KiB here and there wants another leaf each time: to load it and to look the places of its chunks up
//! takes ten times as long as to read a chunk. A place is only a hint: gc may have moved what was there, or another
//! import healed it, and whoever finds that nothing or nothing good is there forgets the leaf and looks again.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hashlink::LruCache;

use crate::digest::Digest;
use crate::error::Result;
use crate::rows::{LOOKUP, Location};
use crate::store::Store;
use crate::tree::{FAN_OUT, Node};

/// Leaves that are kept: those of 32 GiB. Each takes 33 KiB, and 3 KiB for each group of places that was looked up: 30
/// MiB at most.
const KEPT: usize = 512;
/// Chunks whose places are looked up together: 8 MiB of a disk, and one statement.
const GROUP: usize = LOOKUP;
const GROUPS: usize = 8;
const _: () = assert!(FAN_OUT == (GROUPS * GROUP) as u64, "the groups are the leaf");

/// A domain, and the digest of a leaf in it.
type Name = (i64, Digest);

#[derive(Debug)]
pub(crate) struct Leaves {
    kept: Mutex<LruCache<Name, Arc<Leaf>>>,
}

impl Default for Leaves {
    fn default() -> Self {
        Self {
            kept: Mutex::new(LruCache::new(KEPT)),
        }
    }
}

impl Leaves {
    pub(super) fn get(&self, name: &Name) -> Option<Arc<Leaf>> {
        self.kept().get(name).map(Arc::clone)
    }

    pub(super) fn insert(&self, name: Name, leaf: &Arc<Leaf>) {
        self.kept().insert(name, Arc::clone(leaf));
    }

    pub(super) fn forget(&self, name: &Name) {
        self.kept().remove(name);
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<Name, Arc<Leaf>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Leaf {
    node: Node,
    /// The places of each group of chunks, once they were looked up.
    places: [OnceLock<Box<[Option<Location>]>>; GROUPS],
}

impl Leaf {
    pub(super) fn new(node: Node) -> Self {
        Self {
            node,
            places: [const { OnceLock::new() }; GROUPS],
        }
    }

    /// The digest of chunk number `index` of the leaf, where that is not zero, and its place, where it has one.
    pub(super) fn chunk(&self, index: usize) -> Option<(Digest, Option<Location>)> {
        let digest = self.node.child(index as u64)?;
        let places = self.places.get(index / GROUP).and_then(OnceLock::get);
        Some((digest, places.and_then(|places| places[index % GROUP])))
    }

    /// Whether the places of these chunks, some at least, were looked up.
    pub(super) fn is_located(&self, first: usize, last: usize) -> bool {
        self.places[first / GROUP..=last / GROUP]
            .iter()
            .all(|group| group.get().is_some())
    }

    /// Looks the places of these chunks up.
    pub(super) async fn locate(&self, store: &Store, domain: i64, first: usize, last: usize) -> Result<()> {
        for (number, group) in self
            .places
            .iter()
            .enumerate()
            .take(last / GROUP + 1)
            .skip(first / GROUP)
        {
            if group.get().is_some() {
                continue;
            }
            let chunks = || (number * GROUP..(number + 1) * GROUP).map(|index| self.node.child(index as u64));
            let mut digests: Vec<Digest> = chunks().flatten().collect();
            digests.sort_unstable();
            digests.dedup();
            let found = store.locate(domain, &digests).await?;
            let places = chunks().map(|digest| found.get(&digest?).copied()).collect();
            // Another may have been faster.
            let _ = group.set(places);
        }
        Ok(())
    }
}
