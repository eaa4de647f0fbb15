//! Which clusters of a disk are in use, and how many come before each: a bitmap with a running count a word, so
//! that both "where in the file is cluster n" and "which cluster is the n-th in use" are quick at any size.

use std::ops::Range;

use crate::error::{Error, Result};

const WORD: u64 = 64;

#[derive(Debug, Clone)]
pub(super) struct Clusters {
    words: Vec<u64>,
    /// In use before the group of [`GROUP_WORDS`] words, and one more for the total.
    before: Vec<u64>,
}

/// Words of one group; 128 words are 8192 clusters, what one L2 table of 64 KiB clusters covers.
const GROUP_WORDS: usize = 128;
pub(super) const GROUP: u64 = GROUP_WORDS as u64 * WORD;

impl Clusters {
    /// `count` clusters, of which those in `used` are in use. The ranges must lie inside.
    pub(super) fn new(count: u64, used: impl Iterator<Item = Range<u64>>) -> Self {
        let length = usize::try_from(count.div_ceil(GROUP)).unwrap_or(0) * GROUP_WORDS;
        let mut words = vec![0; length];
        for range in used {
            mark(&mut words, range);
        }
        let mut total = 0;
        let mut before = vec![0];
        for group in words.chunks(GROUP_WORDS) {
            total += group.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            before.push(total);
        }
        Self { words, before }
    }

    /// Those of a disk of `virtual_bytes` that these ranges touch, in bytes and in any order.
    pub(super) fn of_disk(
        virtual_bytes: u64,
        cluster_bytes: u64,
        allocated: impl Iterator<Item = Range<u64>>,
    ) -> Result<Self> {
        let mut is_outside = false;
        let used = allocated.filter(|range| !range.is_empty()).map(|range| {
            is_outside |= range.end > virtual_bytes;
            range.start / cluster_bytes..range.end.min(virtual_bytes).div_ceil(cluster_bytes)
        });
        let clusters = Self::new(virtual_bytes.div_ceil(cluster_bytes), used);
        if is_outside {
            return Err(Error::refused(format!(
                "An allocated range lies behind the disk's {virtual_bytes} bytes."
            )));
        }
        Ok(clusters)
    }

    pub(super) fn total(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> u64 {
        self.before.len() as u64 - 1
    }

    /// How many clusters are in use before group `group`.
    pub(super) fn before_group(&self, group: u64) -> u64 {
        let index = usize::try_from(group).unwrap_or(usize::MAX);
        self.before.get(index).copied().unwrap_or_else(|| self.total())
    }

    pub(super) fn group_in_use(&self, group: u64) -> bool {
        self.before_group(group + 1) > self.before_group(group)
    }

    pub(super) fn contains(&self, cluster: u64) -> bool {
        let word = usize::try_from(cluster / WORD)
            .ok()
            .and_then(|index| self.words.get(index));
        word.is_some_and(|word| word >> (cluster % WORD) & 1 == 1)
    }

    /// How many clusters in use come before `cluster`.
    pub(super) fn rank(&self, cluster: u64) -> u64 {
        let index = usize::try_from(cluster / WORD).unwrap_or(usize::MAX);
        let first = index / GROUP_WORDS * GROUP_WORDS;
        let whole: u64 = self
            .words
            .iter()
            .take(index)
            .skip(first)
            .map(|word| u64::from(word.count_ones()))
            .sum();
        let word = self.words.get(index).copied().unwrap_or(0);
        let part = word & ((1 << (cluster % WORD)) - 1);
        self.before_group(cluster / GROUP) + whole + u64::from(part.count_ones())
    }

    /// The cluster that is the `rank`-th in use, counted from 0; `rank` must be below the total.
    pub(super) fn nth(&self, rank: u64) -> u64 {
        let group = self
            .before
            .partition_point(|before| *before <= rank)
            .saturating_sub(1);
        let mut left = rank - self.before.get(group).copied().unwrap_or(0);
        let first = group * GROUP_WORDS;
        for (index, word) in self.words.iter().enumerate().skip(first) {
            let ones = u64::from(word.count_ones());
            if left < ones {
                return index as u64 * WORD + nth_one(*word, left);
            }
            left -= ones;
        }
        0
    }

    /// How many clusters in use follow one another from `cluster` on, at most `most`.
    pub(super) fn run(&self, cluster: u64, most: u64) -> u64 {
        let mut length = 0;
        while length < most {
            let at = cluster + length;
            let index = usize::try_from(at / WORD).unwrap_or(usize::MAX);
            let ones =
                u64::from((self.words.get(index).copied().unwrap_or(0) >> (at % WORD)).trailing_ones());
            length += ones;
            if ones < WORD - at % WORD {
                break;
            }
        }
        length.min(most)
    }
}

fn mark(words: &mut [u64], range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let (bit, left) = (at % WORD, range.end - at);
        let here = left.min(WORD - bit);
        let ones = if here == WORD { u64::MAX } else { (1 << here) - 1 };
        let index = usize::try_from(at / WORD).unwrap_or(usize::MAX);
        if let Some(word) = words.get_mut(index) {
            *word |= ones << bit;
        }
        at += here;
    }
}

fn nth_one(mut word: u64, rank: u64) -> u64 {
    for _ in 0..rank {
        word &= word.wrapping_sub(1);
    }
    u64::from(word.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn ranks_and_runs_agree_with_a_plain_list(ranges in prop::collection::vec((0..20_000_u64, 0..300_u64), 0..20)) {
            let count = 20_300;
            let clusters = Clusters::new(count, ranges.iter().map(|(start, length)| *start..start + length));
            let list: Vec<u64> = (0..count)
                .filter(|at| ranges.iter().any(|(start, length)| (*start..start + length).contains(at)))
                .collect();
            prop_assert_eq!(clusters.total(), list.len() as u64);
            for (rank, cluster) in list.iter().enumerate() {
                prop_assert_eq!(clusters.nth(rank as u64), *cluster);
            }
            for at in (0..count).step_by(7) {
                prop_assert_eq!(clusters.rank(at), list.partition_point(|other| *other < at) as u64);
                prop_assert_eq!(clusters.contains(at), list.binary_search(&at).is_ok());
                let run = (at..at + 500).take_while(|next| list.binary_search(next).is_ok()).count();
                prop_assert_eq!(clusters.run(at, 500), run as u64);
            }
            let before = list.iter().filter(|at| **at < GROUP).count();
            prop_assert_eq!(clusters.before_group(1), before as u64);
        }
    }
}
