//! How many events of a kind that anybody can cause are written in a minute, and how many are left out, in bounded
//! memory.

use std::collections::HashMap;
use std::hash::Hash;

use crate::platform::clock::Time;

/// Minutes after which what was left out and never told is forgotten.
const UNTOLD_MINUTES: i64 = 24 * 60;

/// Counts by key, each key in a group; groups and keys have a limit a minute.
#[derive(Debug)]
pub struct Tally<G, K> {
    /// Keys that are told apart at most.
    keys_max: usize,
    minute: i64,
    /// Written in this minute.
    groups: HashMap<G, u32>,
    keys: HashMap<K, Count>,
}

#[derive(Debug)]
struct Count {
    /// When it was counted last.
    minute: i64,
    /// Written in this minute.
    written: u32,
    left_out: u64,
}

/// What may be written in a minute.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of one group.
    pub group: u32,
    /// Of one key.
    pub key: u32,
}

impl<G: Eq + Hash, K: Clone + Eq + Hash> Tally<G, K> {
    /// One that tells `keys_max` keys apart.
    pub fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            minute: 0,
            groups: HashMap::new(),
            keys: HashMap::new(),
        }
    }

    /// Whether one more may be written; then how many of the same key were left out since the last one. `crowd` takes
    /// the place of a key that there is no room for; there must be few of them.
    pub fn admit(&mut self, now: Time, limits: Limits, group: G, key: K, crowd: K) -> Option<u64> {
        self.turn(now);
        let is_known = self.keys.contains_key(&key) || self.keys.len() < self.keys_max;
        let written = self.groups.entry(group).or_default();
        let count = self.keys.entry(if is_known { key } else { crowd });
        let count = count.or_insert(Count {
            minute: self.minute,
            written: 0,
            left_out: 0,
        });
        count.minute = self.minute;
        if *written >= limits.group || count.written >= limits.key {
            count.left_out += 1;
            return None;
        }
        *written += 1;
        count.written += 1;
        Some(std::mem::take(&mut count.left_out))
    }

    /// Takes what was left out, by key, the most first.
    pub fn take_left_out(&mut self, now: Time) -> Vec<(K, u64)> {
        self.turn(now);
        let some = self.keys.iter_mut().filter(|(_, count)| count.left_out > 0);
        let mut out: Vec<(K, u64)> = some
            .map(|(key, count)| (key.clone(), std::mem::take(&mut count.left_out)))
            .collect();
        self.keys.retain(|_, count| count.written > 0);
        out.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        out
    }

    /// Keys that are told apart now.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Begins a new minute where one has begun.
    fn turn(&mut self, now: Time) {
        let minute = now.timestamp() / 60;
        if self.minute == minute {
            return;
        }
        self.minute = minute;
        self.groups.clear();
        let is_wanted = |count: &Count| count.left_out > 0 && minute - count.minute <= UNTOLD_MINUTES;
        self.keys.retain(|_, count| is_wanted(count));
        for count in self.keys.values_mut() {
            count.written = 0;
        }
    }
}
