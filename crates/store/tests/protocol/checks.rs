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
#[test]
fn zoo() {
    let base = SMALL;
    const INC: Plan = Plan { parent: Some(0), brings: 0b10 };
    const INC2: Plan = Plan { parent: Some(1), brings: 0b100 };
    const B2: Plan = Plan { parent: None, brings: 0b10 };
    let all = [
      Config { name: "a: 1 digest, 2 writers, 3 runs", runs: 3, ..base },
      Config { name: "a2: 1 digest, 3 writers, 2 runs", writers: &[BRINGS_1; 3], ..base },
      Config { name: "a3: 1 digest, 2 writers, 2 runs, delays", delays: true, ..base },
      Config { name: "b: 2 digests, 2 writers, 2 runs, one by one", stored: 0b11, writers: &[BRINGS_2, BRINGS_2], looks_one_by_one: true, ..base },
      Config { name: "b2: 2 digests, 3 writers, 2 runs", stored: 0b11, writers: &[BRINGS_2, BRINGS_2, BRINGS_1], ..base },
      Config { name: "c1: incremental beside full exp", stored: 0b01, writers: &[INC, BRINGS_2], expiry: true, ..base },
      Config { name: "c3: chain exp", stored: 0b01, writers: &[INC, INC2], expiry: true, ..base },
      Config { name: "c4: chain and full", stored: 0b01, writers: &[INC, INC2, B2], ..base },
      Config { name: "d2: repack 1 writer 2 runs exp", stored: 0b11, writers: &[BRINGS_1], repack: true, expiry: true, ..base },
      Config { name: "d3: repack 2 writers 1 run exp reader", stored: 0b11, writers: &[BRINGS_1, B2], repack: true, runs: 1, expiry: true, reader: true, ..base },
      Config { name: "d5: repack 1 writer 1 run late dup", stored: 0b11, writers: &[BRINGS_1], repack: true, runs: 1, expiry: true, orphans: true, delays: true, copies: 2, ..base },
      Config { name: "e: late dup 1w 2r", stored: 0b01, writers: &[BRINGS_1], expiry: true, delays: true, copies: 2, orphans: true, ..base },
      Config { name: "e1: late dup 2w 1r", stored: 0b01, writers: &[BRINGS_1, BRINGS_1], expiry: true, delays: true, copies: 2, orphans: true, runs: 1, ..base },
      Config { name: "f2: damage 2w 2r", stored: 0b01, writers: &[BRINGS_1, BRINGS_1], damage: true, ..base },
      Config { name: "f3: damage 2w 2r exp", stored: 0b01, writers: &[BRINGS_1, BRINGS_1], damage: true, expiry: true, ..base },
      Config { name: "f4: damage 2w 1r repack", stored: 0b11, writers: &[BRINGS_1, BRINGS_1], damage: true, repack: true, runs: 1, ..base },
      Config { name: "g: numbered", stored: 0b11, writers: &[BRINGS_1, BRINGS_2], pins: Pins::SinceBegin, ..base },
      Config { name: "h: expiry 2w 2r 2d", stored: 0b11, writers: &[BRINGS_2, BRINGS_2], expiry: true, ..base },
    ];
    for config in all {
        let since = Instant::now();
        let checker = config.checker().threads(2).target_state_count(60_000_000).spawn_bfs().join();
        println!("ZOO {}: {} states, {} generated, depth {}, {:?}", config.name, checker.unique_state_count(), checker.state_count(), checker.max_depth(), since.elapsed());
        use stateright::{Expectation, HasDiscoveries};
        for p in config.properties() {
            let found = checker.discovery(p.name);
            match (p.expectation, found) {
                (Expectation::Always, Some(path)) => println!("ZOO    VIOLATED {}: {:?}", p.name, path.into_actions()),
                (Expectation::Sometimes, None) => println!("ZOO    NEVER {}", p.name),
                _ => {}
            }
        }
        let _ = HasDiscoveries::All;
    }
}
