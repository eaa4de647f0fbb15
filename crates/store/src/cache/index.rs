//! Which blocks a cache has, and which were used longest ago. No files.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

use uuid::Uuid;

/// A block of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Block {
    pub(super) pack: Uuid,
    pub(super) number: u64,
}

/// The name of its file.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pack, self.number)
    }
}

impl Block {
    /// The block whose file has this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (pack, number) = name.rsplit_once('-')?;
        let block = Self {
            pack: pack.parse().ok()?,
            number: number.parse().ok()?,
        };
        (block.to_string() == name).then_some(block)
    }
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    /// When it was used last, in uses.
    used: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    limit: u64,
    bytes: u64,
    uses: u64,
    kept: HashMap<Block, Kept>,
    by_use: BTreeMap<u64, Block>,
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            uses: 0,
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// Of all files, also those that are about to be written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn has(&self, pack: Uuid, mut numbers: Range<u64>) -> bool {
        numbers.all(|number| self.kept.contains_key(&Block { pack, number }))
    }

    /// Notes that blocks are used, if all of them are here.
    pub(super) fn touch(&mut self, pack: Uuid, numbers: Range<u64>) -> bool {
        if !self.has(pack, numbers.clone()) {
            return false;
        }
        for number in numbers {
            let block = Block { pack, number };
            self.uses += 1;
            if let Some(kept) = self.kept.get_mut(&block) {
                self.by_use.remove(&kept.used);
                kept.used = self.uses;
                self.by_use.insert(self.uses, block);
            }
        }
        true
    }

    /// Takes room for so many bytes; gives the blocks that have to go. `None` where they are more than all of it.
    pub(super) fn room(&mut self, bytes: u64) -> Option<Vec<Block>> {
        if bytes > self.limit {
            return None;
        }
        let mut evicted = Vec::new();
        while self.bytes + bytes > self.limit {
            let Some((_, oldest)) = self.by_use.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            self.remove(oldest);
            evicted.push(oldest);
        }
        self.bytes += bytes;
        Some(evicted)
    }

    /// Gives room back that was taken for a block which did not come.
    pub(super) fn room_return(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// A block is here, in the room that was taken for it.
    pub(super) fn insert(&mut self, block: Block, bytes: u64) {
        self.remove(block);
        self.uses += 1;
        self.by_use.insert(self.uses, block);
        let used = self.uses;
        self.kept.insert(block, Kept { bytes, used });
    }

    pub(super) fn remove(&mut self, block: Block) {
        if let Some(kept) = self.kept.remove(&block) {
            self.by_use.remove(&kept.used);
            self.bytes -= kept.bytes;
        }
    }

    pub(super) fn remove_pack(&mut self, pack: Uuid) -> Vec<Block> {
        let blocks: Vec<_> = self
            .kept
            .keys()
            .filter(|block| block.pack == pack)
            .copied()
            .collect();
        for block in &blocks {
            self.remove(*block);
        }
        blocks
    }

    pub(super) fn clear(&mut self) -> Vec<Block> {
        let blocks: Vec<_> = self.kept.keys().copied().collect();
        for block in &blocks {
            self.remove(*block);
        }
        blocks
    }
}
