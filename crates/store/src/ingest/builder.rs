//! Builds a tree from chunks in order. Whole subtrees of zeros or of the parent are taken in one step.

use crate::digest::{Digest, FrameKind, Keys};
use crate::error::Result;
use crate::reader::nodes::TreeReader;
use crate::tree::{FAN_OUT, Node, TreeRoot, child_span, root_level};

/// A finished node, to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewNode {
    pub(crate) digest: Digest,
    pub(crate) level: u8,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Builder {
    keys: Keys,
    levels: Vec<Node>,
    position: u64,
    parent: Option<TreeReader>,
    virtual_bytes: u64,
    domain: i64,
    /// Nodes finished since they were last taken.
    pub(crate) nodes: Vec<NewNode>,
}

impl Builder {
    pub(crate) fn new(
        keys: Keys,
        virtual_bytes: u64,
        domain: i64,
        parent: Option<TreeReader>,
    ) -> Result<Self> {
        let levels = (0..=root_level(virtual_bytes)?).map(Node::new).collect();
        Ok(Self {
            keys,
            levels,
            position: 0,
            parent,
            virtual_bytes,
            domain,
            nodes: Vec::new(),
        })
    }

    /// The next chunk.
    pub(crate) fn chunk(&mut self, digest: Option<Digest>) {
        self.child(0, digest);
    }

    /// The next `count` chunks are zero.
    pub(crate) fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            let level = self.step(count, self.top());
            self.child(level, None);
            count -= child_span(level);
        }
    }

    /// The next `count` chunks are the parent's: only the nodes at both ends of the run are read.
    pub(crate) async fn parent(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let Some(parent) = &self.parent else {
                self.zeros(count);
                return Ok(());
            };
            // A span above the parent's top node has no node in the parent.
            let level = self.step(count, self.top().min(parent.root.level + 1));
            let digest = parent.child(level, self.position / child_span(level)).await?;
            self.child(level, digest);
            count -= child_span(level);
        }
        Ok(())
    }

    /// How many chunks that are not zero the parent has where the next `count` chunks will be.
    pub(crate) async fn replaced(&self, count: u64) -> Result<u64> {
        match &self.parent {
            Some(parent) => parent.present(self.position..self.position + count).await,
            None => Ok(0),
        }
    }

    /// Ends the tree; every chunk must have been given.
    pub(crate) fn finish(&mut self) -> TreeRoot {
        let top = self.top();
        for level in 0..=top {
            if self.levels[usize::from(level)].len() > 0 && level < top {
                self.seal(level);
            }
        }
        let digest = self.node_close(top).unwrap_or(Digest::EMPTY);
        TreeRoot {
            digest,
            level: top,
            virtual_bytes: self.virtual_bytes,
            domain: self.domain,
        }
    }

    fn top(&self) -> u8 {
        u8::try_from(self.levels.len() - 1).unwrap_or_default()
    }

    /// The highest level, up to `limit`, whose span begins here and is not longer than `count`.
    fn step(&self, count: u64, limit: u8) -> u8 {
        let fits =
            |level: &u8| self.position.is_multiple_of(child_span(*level)) && child_span(*level) <= count;
        (0..=limit).rev().find(fits).unwrap_or_default()
    }

    /// Adds a child to the open node of `level`.
    fn child(&mut self, level: u8, digest: Option<Digest>) {
        self.position += child_span(level);
        self.add(level, digest);
    }

    fn add(&mut self, level: u8, digest: Option<Digest>) {
        let node = &mut self.levels[usize::from(level)];
        node.push(digest);
        if node.len() == FAN_OUT && level < self.top() {
            self.seal(level);
        }
    }

    fn seal(&mut self, level: u8) {
        let digest = self.node_close(level);
        self.add(level + 1, digest);
    }

    /// Closes the open node of `level` and opens the next; `None` when all of it is zero.
    fn node_close(&mut self, level: u8) -> Option<Digest> {
        let node = std::mem::replace(&mut self.levels[usize::from(level)], Node::new(level));
        if node.is_zero() {
            return None;
        }
        let bytes = node.encode();
        let digest = self.keys.digest(FrameKind::Node, &bytes);
        self.nodes.push(NewNode { digest, level, bytes });
        Some(digest)
    }
}
