//! The worlds that are gone through. Each is as small as what it is about allows, and as large as the time does.

use crate::config::{Config, Pins, Plan};

/// A world and its number of different states, so that a model which quietly goes through less fails.
pub type World = (Config, usize);

/// The first chunk, looked up.
pub const FIRST: Plan = Plan {
    parent: None,
    brings: 0b001,
};
/// The second one.
const SECOND: Plan = Plan {
    parent: None,
    brings: 0b010,
};
/// Both, in one pack where they are missing.
pub const BOTH: Plan = Plan {
    parent: None,
    brings: 0b011,
};
/// On the first root, whose chunks are inherited: the second chunk.
pub const CHILD: Plan = Plan {
    parent: Some(0),
    brings: 0b010,
};
/// On what that one committed: the third chunk.
const GRANDCHILD: Plan = Plan {
    parent: Some(1),
    brings: 0b100,
};

/// One chunk, two writers of it, two runs of gc; nothing is late and nobody crashes.
pub const PLAIN: Config = Config {
    name: "plain",
    stored: 0b001,
    garbage: 0,
    writers: &[FIRST, FIRST],
    runs: 2,
    expiry: false,
    delays: false,
    copies: 1,
    looks_one_by_one: false,
    repack: false,
    orphans: false,
    damage: false,
    reader: false,
    pins: Pins::All,
    flaw: None,
};

/// Three writers of packs of two, which look chunks up one by one, and two runs.
pub const BATCHES: World = (
    Config {
        name: "batches",
        stored: 0b011,
        writers: &[BOTH, BOTH, FIRST],
        looks_one_by_one: true,
        ..PLAIN
    },
    2_614_834,
);

/// An incremental on an incremental, a full copy beside them, parents deleted, crashes and lost leases, two runs.
pub const CHAIN: World = (
    Config {
        name: "chain",
        writers: &[CHILD, GRANDCHILD, SECOND],
        expiry: true,
        ..PLAIN
    },
    5_361_321,
);

/// Two runs that repack, one taking over from the other, beside an incremental, a full copy and a reader.
pub const REPACK: World = (
    Config {
        name: "repack",
        garbage: 0b100,
        writers: &[CHILD, FIRST],
        repack: true,
        reader: true,
        ..PLAIN
    },
    4_067_072,
);

/// A repack whose session or writer is lost anywhere, with requests that land late and twice.
pub const REPACK_LATE: World = (
    Config {
        name: "repack, late",
        garbage: 0b100,
        writers: &[FIRST],
        runs: 1,
        expiry: true,
        delays: true,
        copies: 2,
        repack: true,
        orphans: true,
        reader: true,
        ..PLAIN
    },
    933_301,
);

/// Two writers whose leases end anywhere, requests that land late and twice, and two runs that look for orphans.
pub const LATE: World = (
    Config {
        name: "late",
        expiry: true,
        delays: true,
        copies: 2,
        orphans: true,
        ..PLAIN
    },
    3_462_604,
);

/// Chunks that are found damaged and whole again, beside writers that crash.
pub const DAMAGE: World = (
    Config {
        name: "damage",
        expiry: true,
        damage: true,
        ..PLAIN
    },
    868_633,
);

/// Damage beside a repack.
pub const DAMAGE_REPACK: World = (
    Config {
        name: "damage, repack",
        garbage: 0b100,
        writers: &[CHILD],
        runs: 2,
        repack: true,
        damage: true,
        ..PLAIN
    },
    108_583,
);

/// Pins that a sweep reads by their numbers.
pub const NUMBERS: World = (
    Config {
        name: "numbers",
        stored: 0b011,
        writers: &[FIRST, BOTH],
        expiry: true,
        pins: Pins::SinceBegin,
        ..PLAIN
    },
    1_672_057,
);

/// Those of the tests.
pub const WORLDS: [World; 8] = [
    BATCHES,
    CHAIN,
    REPACK,
    REPACK_LATE,
    LATE,
    DAMAGE,
    DAMAGE_REPACK,
    NUMBERS,
];

/// Those that take too long for the tests.
pub const LARGE: [Config; 4] = [
    // Three writers of one chunk whose leases end anywhere, and three runs.
    Config {
        name: "large: three writers, three runs",
        writers: &[FIRST, FIRST, FIRST],
        runs: 3,
        expiry: true,
        ..PLAIN
    },
    // A repack, a reader and a writer that may be lost anywhere, and two runs.
    Config {
        name: "large: repack, late",
        garbage: 0b100,
        writers: &[FIRST],
        expiry: true,
        delays: true,
        repack: true,
        reader: true,
        ..PLAIN
    },
    // Damage beside a repack and two writers whose leases end anywhere.
    Config {
        name: "large: damage, repack",
        garbage: 0b100,
        writers: &[CHILD, FIRST],
        runs: 1,
        expiry: true,
        repack: true,
        damage: true,
        ..PLAIN
    },
    // Three writers, three runs, packs of two.
    Config {
        name: "large: batches",
        stored: 0b011,
        writers: &[BOTH, BOTH, FIRST],
        runs: 3,
        looks_one_by_one: true,
        ..PLAIN
    },
];
