//! What should be in the store: disks of a few chunks, out of few different ones, so that they share much.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::TreeRoot;

use crate::random::Rng;

pub(crate) const CHUNK_LENGTH: usize = 64 * 1024;
pub(crate) const CHUNK: u64 = CHUNK_LENGTH as u64;
/// Different chunks.
const CONTENTS: u64 = 24;
/// Disks that are imported again and again.
const TEMPLATES: u64 = 5;
/// Chunks under one node.
const FAN_OUT: u64 = 1024;

/// A disk: which of its chunks hold what. What is not named is zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Disk {
    pub(crate) chunks: u64,
    pub(crate) at: BTreeMap<u64, u64>,
}

impl Disk {
    /// One of a few, sometimes changed a little, sometimes all new.
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let template = rng.below(TEMPLATES);
        let mut disk = Self::template(&mut Rng::new(seed ^ (template + 1)));
        if rng.chance(300) {
            disk.change(rng);
        }
        if rng.chance(100) {
            disk = Self::template(rng);
        }
        disk
    }

    fn template(rng: &mut Rng) -> Self {
        let is_large = rng.chance(150);
        let mut disk = Self {
            chunks: 2 + rng.below(9),
            at: BTreeMap::new(),
        };
        if is_large {
            disk.chunks += FAN_OUT;
        }
        for at in disk.places() {
            if rng.chance(850) {
                disk.at.insert(at, 1 + rng.below(CONTENTS));
            }
        }
        disk
    }

    /// Writes some chunks anew.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        let places = self.places();
        for _ in 0..=rng.below(2) {
            let at = places[rng.index(places.len())];
            match rng.below(CONTENTS + 1) {
                0 => self.at.remove(&at),
                content => self.at.insert(at, content),
            };
        }
    }

    /// Where its data can be: at the beginning, and behind the first node's end.
    pub(crate) fn places(&self) -> Vec<u64> {
        let near = 0..self.chunks.min(12);
        let far = FAN_OUT.min(self.chunks)..self.chunks;
        near.chain(far).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.chunks * CHUNK
    }

    /// The nodes of its tree, each told by what is under it.
    fn nodes(&self) -> BTreeSet<Vec<(u64, u64, u64)>> {
        let mut nodes = BTreeSet::new();
        let leaves = self.chunks.div_ceil(FAN_OUT);
        let mut top = Vec::new();
        for leaf in 0..leaves {
            let of_leaf = self.at.range(leaf * FAN_OUT..(leaf + 1) * FAN_OUT);
            let node: Vec<_> = of_leaf.map(|(at, content)| (0, at % FAN_OUT, *content)).collect();
            top.extend(node.iter().map(|(_, at, content)| (1 + leaf, *at, *content)));
            if !node.is_empty() {
                nodes.insert(node);
            }
        }
        if leaves > 1 && !top.is_empty() {
            nodes.insert(top);
        }
        nodes
    }
}

/// The bytes of a chunk.
pub(crate) fn content(of: u64) -> Bytes {
    if of == 0 {
        return vec![0; CHUNK_LENGTH].into();
    }
    // Compresses well, and differs from all others.
    of.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_le_bytes()
        .repeat(CHUNK_LENGTH / 8)
        .into()
}

/// What is committed.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) roots: BTreeMap<String, (TreeRoot, Disk)>,
    pub(crate) named: u64,
}

impl Model {
    /// A name that nobody had yet.
    pub(crate) fn name(&mut self) -> String {
        self.named += 1;
        self.named.to_string()
    }

    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<(String, TreeRoot, Disk)> {
        if self.roots.is_empty() {
            return None;
        }
        let (name, (tree, disk)) = self.roots.iter().nth(rng.index(self.roots.len()))?;
        Some((name.clone(), *tree, disk.clone()))
    }

    /// How many different chunks and nodes all roots need.
    pub(crate) fn needed(&self) -> usize {
        let disks = || self.roots.values().map(|(_, disk)| disk);
        let contents: BTreeSet<u64> = disks().flat_map(|disk| disk.at.values().copied()).collect();
        let nodes: BTreeSet<_> = disks().flat_map(Disk::nodes).collect();
        contents.len() + nodes.len()
    }
}
