//! Walks a disk's tree, with a small cache of nodes.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::CHUNK_BYTES;
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::reader::packs::Caching;
use crate::store::Store;
use crate::tree::{FAN_OUT, Node, TreeRoot, child_span};

/// Nodes kept in memory for one open disk: 33 KiB each.
const NODES_KEPT: usize = 16;

#[derive(Debug)]
pub(crate) struct TreeReader {
    pub(crate) store: Store,
    pub(crate) root: TreeRoot,
    caching: Caching,
    kept: Mutex<Kept>,
}

/// What is known of a leaf without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Digest(Digest),
    Zero,
    Nothing,
}

#[derive(Debug, Default)]
struct Kept {
    nodes: HashMap<Digest, Arc<Node>>,
    order: VecDeque<Digest>,
}

impl TreeReader {
    /// Reads what is stored, whatever the cache of packs has.
    pub(crate) fn new(store: Store, root: TreeRoot) -> Self {
        Self::with(store, root, Caching::Pass)
    }

    /// Reads by way of the cache of packs.
    pub(crate) fn cached(store: Store, root: TreeRoot) -> Self {
        Self::with(store, root, Caching::Fill)
    }

    fn with(store: Store, root: TreeRoot, caching: Caching) -> Self {
        Self {
            store,
            root,
            caching,
            kept: Mutex::default(),
        }
    }

    /// The digest of span number `index` of `level` (level 0: a chunk; level n: a node of level n-1), or
    /// `None` where all of it is zero.
    pub(crate) async fn child(&self, level: u8, index: u64) -> Result<Option<Digest>> {
        if level > self.root.level {
            let top = level == self.root.level + 1 && index == 0 && self.root.digest != Digest::EMPTY;
            return Ok(top.then_some(self.root.digest));
        }
        let node = self.node(level, index / FAN_OUT).await?;
        Ok(node.and_then(|node| node.child(index % FAN_OUT)))
    }

    /// Node number `index` of `level`, or `None` where it is all zero.
    pub(crate) async fn node(&self, level: u8, index: u64) -> Result<Option<Arc<Node>>> {
        let root = self.root;
        if root.digest == Digest::EMPTY || index >= child_span(root.level - level.min(root.level)) {
            return Ok(None);
        }
        let mut node = self.node_load(root.digest, root.level, 0).await?;
        for below in (level..root.level).rev() {
            let at = index / child_span(below - level);
            let Some(digest) = node.child(at % FAN_OUT) else {
                return Ok(None);
            };
            node = self.node_load(digest, below, at).await?;
        }
        Ok(Some(node))
    }

    /// How many chunks from `at` on (up to `end`) are certainly zero; 0 when the first is not.
    pub(crate) async fn zeros_at(&self, at: u64, end: u64) -> Result<u64> {
        let mut level = self.root.level + 1;
        loop {
            let span = child_span(level);
            if self.child(level, at / span).await?.is_none() {
                return Ok((span - at % span).min(end - at));
            }
            if level == 0 {
                return Ok(0);
            }
            level -= 1;
        }
    }

    /// How many chunks of a range (in chunks) are not zero.
    pub(crate) async fn present(&self, range: Range<u64>) -> Result<u64> {
        let mut at = range.start;
        let mut present = 0;
        while at < range.end {
            let zeros = self.zeros_at(at, range.end).await?;
            if zeros > 0 {
                at += zeros;
                continue;
            }
            let leaf = at / FAN_OUT;
            let end = ((leaf + 1) * FAN_OUT).min(range.end);
            if let Some(node) = self.node(0, leaf).await? {
                present += (at..end).filter(|at| node.child(at % FAN_OUT).is_some()).count() as u64;
            }
            at = end;
        }
        Ok(present)
    }

    /// The digest of a leaf, where what is in memory tells it.
    pub(crate) fn leaf_kept(&self, number: u64) -> Known {
        let root = self.root;
        if root.digest == Digest::EMPTY || number >= child_span(root.level) {
            return Known::Zero;
        }
        let kept = self.kept();
        let mut digest = root.digest;
        for level in (1..=root.level).rev() {
            let Some(node) = kept.nodes.get(&digest) else {
                return Known::Nothing;
            };
            match node.child(number / child_span(level - 1) % FAN_OUT) {
                Some(below) => digest = below,
                None => return Known::Zero,
            }
        }
        Known::Digest(digest)
    }

    /// Leaf number `number`, whose digest is known, from the store.
    pub(crate) async fn leaf_read(&self, digest: Digest, number: u64) -> Result<Node> {
        self.node_read(digest, 0, number).await
    }

    async fn node_read(&self, digest: Digest, level: u8, index: u64) -> Result<Node> {
        let loaded = self
            .store
            .frame_find(FrameKind::Node, self.root.domain, digest, self.caching)
            .await;
        let node = loaded.and_then(|plain| Node::decode(&plain, level));
        let node = match node {
            Err(error) => Err(self.store.or_away(error).await),
            node => node,
        };
        if self.caching == Caching::Fill
            && let Err(error) = &node
            && matches!(error.kind(), Kind::NotFound | Kind::Damaged)
        {
            self.store.frame_doubt(self.root.domain, digest).await;
        }
        node.map_err(|error| damaged_at(error, self.span(level, index)))
    }

    async fn node_load(&self, digest: Digest, level: u8, index: u64) -> Result<Arc<Node>> {
        if let Some(node) = self.kept().nodes.get(&digest) {
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(self.node_read(digest, level, index).await?);
        let mut kept = self.kept();
        kept.nodes.insert(digest, Arc::clone(&node));
        kept.order.push_back(digest);
        if kept.order.len() > NODES_KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.nodes.remove(&oldest);
        }
        Ok(node)
    }

    /// The disk bytes under node number `index` of `level`.
    fn span(&self, level: u8, index: u64) -> Range<u64> {
        let bytes = child_span(level)
            .saturating_mul(FAN_OUT)
            .saturating_mul(u64::from(CHUNK_BYTES));
        let start = bytes.saturating_mul(index);
        start..start.saturating_add(bytes).min(self.root.virtual_bytes)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the disk's range in an error that says data is damaged or gone; a passing failure stays what it is.
pub(crate) fn damaged_at(error: Error, range: Range<u64>) -> Error {
    match error.kind() {
        Kind::NotFound => Error::new(Kind::Damaged, "the object that holds the data is gone")
            .with_source(error)
            .at(range),
        _ => error.at(range),
    }
}
