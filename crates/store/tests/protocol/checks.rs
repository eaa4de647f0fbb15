//! The protocol as it is: nothing is lost, in any order of events, within these bounds.

use std::time::Instant;

use stateright::{Checker as _, Model as _};

use crate::config::{Config, Pins, Plan};

pub(crate) const SMALL: Config = Config {
    name: "two writers, two runs",
    stored: 0b01,
    writers: &[BRINGS_1, BRINGS_1],
    runs: 2,
    expiry: false,
    copies: 1,
    looks_one_by_one: false,
    repack: false,
    orphans: false,
    damage: false,
    reader: false,
    pins: Pins::All,
    flaw: None,
};
pub(crate) const BRINGS_1: Plan = Plan {
    parent: None,
    brings: 0b01,
};
pub(crate) const BRINGS_2: Plan = Plan {
    parent: None,
    brings: 0b11,
};

fn check(config: Config, states: usize) {
    let since = Instant::now();
    let checker = config.checker().threads(2).spawn_bfs().join();
    let found = checker.unique_state_count();
    println!("{}: {found} states, {} generated, depth {}, {:?}", config.name, checker.state_count(), checker.max_depth(), since.elapsed());
    checker.assert_properties();
    assert_eq!(found, states, "{}", config.name);
}

#[test]
fn small() { check(SMALL, 0); }
#[test]
fn small2() { check(Config { name: "pack of two", stored: 0b11, writers: &[BRINGS_2, BRINGS_2], ..SMALL }, 0); }
#[test]
fn expiry() { check(Config { name: "expiry", expiry: true, ..SMALL }, 0); }
