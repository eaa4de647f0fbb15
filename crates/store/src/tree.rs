//! Disk trees: the ordered chunks of one disk (docs/store-format.md §6). Geometry and node bytes, pure.
//!
//! A node of level 0 (a leaf) names up to 1024 data chunks; a node of level n up to 1024 nodes of level
//! n-1. What is all zeros has no child, whatever its size, so an empty 16 TiB disk costs nothing.

use crate::CHUNK_BYTES;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// Children of one node.
pub(crate) const FAN_OUT: u64 = 1024;
const FAN_OUT_BITS: u32 = 10;
const BITMAP_BYTES: usize = 128;
const NODE_HEADER_BYTES: usize = 8 + BITMAP_BYTES;
const NODE_MAGIC: &[u8; 4] = b"CTND";
const NODE_VERSION: u8 = 1;
/// 16 TiB needs level 2; level 5 is more than a u64 of bytes.
pub(crate) const LEVEL_LIMIT: u8 = 4;

/// The top of one disk's tree: all that is needed to read the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeRoot {
    /// Digest of the top node, or [`Digest::EMPTY`] for a disk of zeros.
    pub digest: Digest,
    /// Level of the top node.
    pub level: u8,
    /// Size of the disk in bytes.
    pub virtual_bytes: u64,
    /// The dedup domain that the digests are looked up in; 0 for the whole installation.
    pub domain: i64,
}

/// Number of chunks of a disk.
pub(crate) fn chunk_count(virtual_bytes: u64) -> u64 {
    virtual_bytes.div_ceil(u64::from(CHUNK_BYTES))
}

/// Chunks under one child of a node of `level`.
pub(crate) fn child_span(level: u8) -> u64 {
    1 << (FAN_OUT_BITS * u32::from(level))
}

/// The lowest level whose node covers the disk.
pub(crate) fn root_level(virtual_bytes: u64) -> Result<u8> {
    let chunks = chunk_count(virtual_bytes);
    (0..=LEVEL_LIMIT)
        .find(|level| child_span(level + 1) >= chunks)
        .ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("a disk of {virtual_bytes} bytes is too large"),
            )
        })
}

/// A node in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// 0 for a leaf.
    pub(crate) level: u8,
    children: Vec<Option<Digest>>,
}

impl Node {
    pub(crate) fn new(level: u8) -> Self {
        Self {
            level,
            children: Vec::new(),
        }
    }

    /// Child number `index`; `None` where everything under it is zero.
    pub(crate) fn child(&self, index: u64) -> Option<Digest> {
        let index = usize::try_from(index).ok()?;
        self.children.get(index).copied().flatten()
    }

    /// The children that are there, with their numbers, in order.
    pub(crate) fn present(&self) -> impl Iterator<Item = (u64, Digest)> + '_ {
        (0_u64..)
            .zip(&self.children)
            .filter_map(|(index, child)| child.map(|digest| (index, digest)))
    }

    pub(crate) fn len(&self) -> u64 {
        self.children.len() as u64
    }

    pub(crate) fn push(&mut self, child: Option<Digest>) {
        self.children.push(child);
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }

    /// The node's one and only encoding.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; NODE_HEADER_BYTES];
        out[..4].copy_from_slice(NODE_MAGIC);
        out[4] = NODE_VERSION;
        out[5] = self.level;
        let mut count = 0_u16;
        for (index, digest) in self.present() {
            let index = usize::try_from(index).unwrap_or_default();
            out[8 + index / 8] |= 1 << (index % 8);
            out.extend_from_slice(&digest.0);
            count += 1;
        }
        out[6..8].copy_from_slice(&count.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8], level: u8) -> Result<Self> {
        let damaged = |what: &str| Error::new(Kind::Damaged, format!("tree node {what}"));
        if bytes.len() < NODE_HEADER_BYTES || &bytes[..4] != NODE_MAGIC || bytes[4] != NODE_VERSION {
            return Err(damaged("does not begin as one"));
        }
        if bytes[5] != level {
            return Err(damaged("has the wrong level"));
        }
        let (header, digests) = bytes.split_at(NODE_HEADER_BYTES);
        let bitmap = &header[8..];
        let count: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
        let claimed = usize::from(u16::from_le_bytes([header[6], header[7]]));
        if count != claimed || digests.len() != count * 32 {
            return Err(damaged("has the wrong length"));
        }
        let mut digests = digests.chunks_exact(32).map(Digest::from_slice);
        let mut children = Vec::with_capacity(1024);
        for index in 0..1024 {
            let present = bitmap[index / 8] & (1 << (index % 8)) != 0;
            children.push(if present { digests.next().flatten() } else { None });
        }
        Ok(Self { level, children })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_size() {
        const MIB: u64 = 1 << 20;
        assert_eq!(root_level(0).unwrap(), 0);
        assert_eq!(root_level(64 * MIB).unwrap(), 0);
        assert_eq!(root_level(64 * MIB + 1).unwrap(), 1);
        assert_eq!(root_level(64 * 1024 * MIB).unwrap(), 1);
        assert_eq!(root_level(64 * 1024 * MIB + 1).unwrap(), 2);
        assert_eq!(root_level(u64::MAX).unwrap(), 4);
    }

    #[test]
    fn nodes_round_trip_and_refuse_nonsense() {
        let mut node = Node::new(1);
        for index in 0..700_u32 {
            node.push((index % 3 == 0).then(|| Digest(*blake3::hash(&index.to_le_bytes()).as_bytes())));
        }
        let bytes = node.encode();
        let back = Node::decode(&bytes, 1).unwrap();
        assert!((0..1024).all(|index| back.child(index) == node.child(index)));
        assert!(Node::decode(&bytes, 0).is_err());
        for cut in 0..bytes.len() {
            assert!(Node::decode(&bytes[..cut], 1).is_err());
        }
        let mut more = bytes.clone();
        more.extend_from_slice(&[0; 32]);
        assert!(Node::decode(&more, 1).is_err());
    }
}
