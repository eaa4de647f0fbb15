//! The protocol with one thing wrong each: what the checker has to find, and in how many steps at best.

use crate::config::{Config, Flaw};
use crate::protocol::{CONDEMNED, KEY_USED, LEAKED, LOST, UNREAD};
use crate::worlds::{BOTH, CHILD, FIRST, PLAIN};

/// A flaw, the smallest world that shows it, and what it breaks.
#[derive(Clone, Copy, Debug)]
pub struct Broken {
    pub config: Config,
    pub property: &'static str,
    /// Length of a shortest way there.
    pub steps: usize,
}

const fn broken(flaw: Flaw, config: Config, property: &'static str, steps: usize) -> Broken {
    Broken {
        config: Config {
            flaw: Some(flaw),
            ..config
        },
        property,
        steps,
    }
}

/// One writer, one run.
const PAIR: Config = Config {
    writers: &[FIRST],
    runs: 1,
    ..PLAIN
};
const PAIR_LATE: Config = Config { delays: true, ..PAIR };
const PAIR_EXPIRY: Config = Config { expiry: true, ..PAIR };
const INCREMENTAL: Config = Config {
    writers: &[CHILD],
    runs: 1,
    ..PLAIN
};
const REPACK: Config = Config {
    garbage: 0b100,
    repack: true,
    ..PAIR
};
const TAKEOVER: Config = Config { runs: 2, ..PAIR };
const TWO_PINS: Config = Config {
    stored: 0b011,
    writers: &[FIRST, BOTH],
    runs: 1,
    ..PLAIN
};
const DAMAGE: Config = Config {
    damage: true,
    runs: 1,
    ..PLAIN
};
const ORPHAN: Config = Config {
    delays: true,
    orphans: true,
    ..PAIR_EXPIRY
};

/// All of them.
pub const BROKEN: [Broken; 18] = [
    broken(Flaw::DigestKeysUnguarded, PAIR_LATE, LOST, 8),
    broken(Flaw::DigestKeys, PAIR_LATE, LOST, 15),
    broken(Flaw::DigestKeys, PAIR_LATE, KEY_USED, 8),
    broken(Flaw::Unguarded, PAIR_LATE, LOST, 8),
    broken(Flaw::PinsDropped, PAIR, LOST, 8),
    broken(Flaw::ParentUnpinned, INCREMENTAL, LOST, 12),
    broken(Flaw::SnapshotInTwo, INCREMENTAL, LOST, 13),
    broken(Flaw::NotBroughtBack, PAIR, LOST, 8),
    broken(Flaw::NotBroughtBack, PAIR, CONDEMNED, 7),
    broken(Flaw::CommitUnchecked, PAIR_EXPIRY, LOST, 10),
    broken(Flaw::OldPackFirst, REPACK, LOST, 6),
    broken(
        Flaw::RepackUnchecked,
        Config {
            expiry: true,
            ..REPACK
        },
        LOST,
        7,
    ),
    broken(Flaw::TakeoverUnfenced, TAKEOVER, LOST, 10),
    broken(Flaw::PinsSinceSnapshot, TWO_PINS, LOST, 12),
    broken(Flaw::EpochFalls, DAMAGE, LOST, 20),
    broken(Flaw::EpochFalls, DAMAGE, CONDEMNED, 19),
    broken(Flaw::OrphansKept, ORPHAN, LEAKED, 13),
    broken(
        Flaw::ReaderAsksOnce,
        Config {
            reader: true,
            ..REPACK
        },
        UNREAD,
        10,
    ),
];
