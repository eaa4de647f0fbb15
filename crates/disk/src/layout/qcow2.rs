//! The qcow2 file: header, L1 table, refcount table, refcount blocks, L2 tables, then the data clusters in disk
//! order. Each part starts on a cluster, every cluster of the file is used once, so all reference counts are 1.

use std::ops::Range;

use super::clusters::{Clusters, GROUP};
use super::{Segment, check_size};
use crate::error::Result;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const ENTRIES: u64 = CLUSTER / 8;
/// Reference counts are 16 bits wide (order 4), as QEMU makes them.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNTS: u64 = CLUSTER / 2;
const COPIED: u64 = 1 << 63;
const HEADER_BYTES: u32 = 112;
const MAX_VIRTUAL_BYTES: u64 = 16 << 40;

#[derive(Debug, Clone)]
pub(super) struct Qcow2 {
    virtual_bytes: u64,
    clusters: Clusters,
    /// For each L1 entry, how many L2 tables come before it in the file; one more for the total.
    l2_before: Vec<u64>,
    /// In clusters of the file.
    refcount_table_at: u64,
    refcount_blocks_at: u64,
    l2_at: u64,
    data_at: u64,
    end: u64,
}

impl Qcow2 {
    pub(super) fn new(virtual_bytes: u64, allocated: impl Iterator<Item = Range<u64>>) -> Result<Self> {
        check_size("qcow2", virtual_bytes, MAX_VIRTUAL_BYTES)?;
        let clusters = Clusters::of_disk(virtual_bytes, CLUSTER, allocated)?;
        Ok(Self::plan(virtual_bytes, clusters))
    }

    fn plan(virtual_bytes: u64, clusters: Clusters) -> Self {
        let mut l2_before = vec![0];
        let mut l2_tables = 0;
        for group in 0..clusters.groups() {
            l2_tables += u64::from(clusters.group_in_use(group));
            l2_before.push(l2_tables);
        }
        let l1 = (clusters.groups() * 8).div_ceil(CLUSTER);
        let others = 1 + l1 + l2_tables + clusters.total();
        // The refcounts count their own clusters too: grow them until they cover everything.
        let (mut blocks, mut table) = (1, 1);
        loop {
            let needed = (others + blocks + table).div_ceil(REFCOUNTS);
            let needed_table = needed.max(blocks).div_ceil(ENTRIES);
            if needed <= blocks && needed_table <= table {
                break;
            }
            (blocks, table) = (needed.max(blocks), needed_table.max(table));
        }
        let refcount_table_at = 1 + l1;
        let refcount_blocks_at = refcount_table_at + table;
        let l2_at = refcount_blocks_at + blocks;
        let data_at = l2_at + l2_tables;
        let end = data_at + clusters.total();
        Self {
            virtual_bytes,
            clusters,
            l2_before,
            refcount_table_at,
            refcount_blocks_at,
            l2_at,
            data_at,
            end,
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.end * CLUSTER
    }

    /// The piece that starts at byte `at` of the file and ends at `end` or before; `at` must be below both.
    pub(super) fn segment(&self, at: u64, end: u64) -> Segment {
        let cluster = at / CLUSTER;
        if cluster >= self.data_at {
            return self.data(at - self.data_at * CLUSTER, end - at);
        }
        let skip = at % CLUSTER;
        let length = (end - at).min(CLUSTER - skip);
        let mut bytes = self.table(cluster);
        bytes.resize(usize::try_from(skip + length).unwrap_or(0), 0);
        bytes.drain(..usize::try_from(skip).unwrap_or(0));
        Segment::Bytes(bytes)
    }

    /// The used part of the metadata cluster `cluster`; zeros follow.
    fn table(&self, cluster: u64) -> Vec<u8> {
        if cluster == 0 {
            return self.header();
        }
        if cluster < self.refcount_table_at {
            return self.l1(cluster - 1);
        }
        if cluster < self.refcount_blocks_at {
            return self.refcount_table(cluster - self.refcount_table_at);
        }
        if cluster < self.l2_at {
            return self.refcount_block(cluster - self.refcount_blocks_at);
        }
        self.l2(cluster - self.l2_at)
    }

    fn header(&self) -> Vec<u8> {
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let high = |value: u64| low(value >> 32);
        let refcounts = self.refcount_table_at * CLUSTER;
        // In the order of the format; each comment is about the line below it.
        let words = [
            // Magic and version; no backing file (offset of 64 bits, length).
            [0x5146_49fb, 3, 0, 0, 0],
            // The last is the encryption: none.
            [
                CLUSTER_BITS,
                high(self.virtual_bytes),
                low(self.virtual_bytes),
                0,
                low(self.clusters.groups()),
            ],
            // Where the L1 table and the refcount table are, and how many clusters the latter has.
            [
                high(CLUSTER),
                low(CLUSTER),
                high(refcounts),
                low(refcounts),
                low(self.refcount_blocks_at - self.refcount_table_at),
            ],
            // No snapshots (number, offset), no incompatible features.
            [0, 0, 0, 0, 0],
            // No compatible and no autoclear features.
            [0, 0, 0, 0, REFCOUNT_ORDER],
            // Compression type zlib with its padding, then the end of the extensions.
            [HEADER_BYTES, 0, 0, 0, 0],
        ];
        words
            .as_flattened()
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    fn l1(&self, index: u64) -> Vec<u8> {
        let entries = (index * ENTRIES)..((index + 1) * ENTRIES).min(self.clusters.groups());
        let entry = |group: u64| {
            if !self.clusters.group_in_use(group) {
                return 0;
            }
            let before = usize::try_from(group)
                .ok()
                .and_then(|group| self.l2_before.get(group));
            COPIED | ((self.l2_at + before.copied().unwrap_or(0)) * CLUSTER)
        };
        entries.flat_map(|group| entry(group).to_be_bytes()).collect()
    }

    fn refcount_table(&self, index: u64) -> Vec<u8> {
        let blocks = self.l2_at - self.refcount_blocks_at;
        let entries = (index * ENTRIES)..((index + 1) * ENTRIES).min(blocks);
        entries
            .flat_map(|block| ((self.refcount_blocks_at + block) * CLUSTER).to_be_bytes())
            .collect()
    }

    fn refcount_block(&self, index: u64) -> Vec<u8> {
        let counted = self.end.saturating_sub(index * REFCOUNTS).min(REFCOUNTS);
        (0..counted).flat_map(|_| 1_u16.to_be_bytes()).collect()
    }

    fn l2(&self, index: u64) -> Vec<u8> {
        // The group of the index-th table: the last one that has `index` tables before it.
        let group = self
            .l2_before
            .partition_point(|before| *before <= index)
            .saturating_sub(1) as u64;
        let mut data = self.data_at + self.clusters.before_group(group);
        let entry = |cluster: u64| {
            if !self.clusters.contains(cluster) {
                return 0;
            }
            data += 1;
            COPIED | ((data - 1) * CLUSTER)
        };
        (group * GROUP..(group + 1) * GROUP)
            .map(entry)
            .flat_map(u64::to_be_bytes)
            .collect()
    }

    /// A piece of the data clusters, from byte `at` of them on, at most `most` long.
    fn data(&self, at: u64, most: u64) -> Segment {
        let skip = at % CLUSTER;
        let first = self.clusters.nth(at / CLUSTER);
        let run = self.clusters.run(first, (skip + most).div_ceil(CLUSTER));
        let offset = first * CLUSTER + skip;
        let length = (run * CLUSTER - skip).min(most);
        // The last cluster of the file is whole even where the disk ends inside it.
        match self.virtual_bytes.saturating_sub(offset) {
            0 => Segment::Zero { length },
            left => Segment::Disk {
                offset,
                length: length.min(left),
            },
        }
    }
}
