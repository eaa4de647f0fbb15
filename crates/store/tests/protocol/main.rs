//! The protocol of writers and gc (docs/store-format.md §8) in every state that some small worlds can reach, and what
//! the checker finds where it is broken. The model is a package of its own, in `model/`.

use protocol::worlds::{self, World};
use protocol::{broken, explore, shortest};

/// Nothing is lost, everything that has to happen does, and as many states were gone through as ever.
fn holds((config, states): World) {
    let explored = explore(config);
    println!("{explored}");
    assert!(explored.holds(), "{explored}");
    assert_eq!(
        explored.states, states,
        "{}: another number of states",
        config.name
    );
}

#[test]
fn batches() {
    holds(worlds::BATCHES);
}

#[test]
fn chain() {
    holds(worlds::CHAIN);
}

#[test]
fn repack() {
    holds(worlds::REPACK);
}

#[test]
fn repack_late() {
    holds(worlds::REPACK_LATE);
}

#[test]
fn late() {
    holds(worlds::LATE);
}

#[test]
fn damage() {
    holds(worlds::DAMAGE);
}

#[test]
fn damage_repack() {
    holds(worlds::DAMAGE_REPACK);
}

#[test]
fn numbers() {
    holds(worlds::NUMBERS);
}

#[test]
fn every_flaw_is_found() {
    for broken in broken::BROKEN {
        let name = format!("{:?}: {}", broken.config.flaw, broken.property);
        let Some((trace, states)) = shortest(broken.config, broken.property, broken.steps) else {
            panic!("{name}: not found");
        };
        println!("{name}, {} steps, {states} states", trace.steps());
        assert_eq!(trace.steps(), broken.steps, "{name}, {trace}");
    }
}

/// What shows a flaw is the flaw, not the world.
#[test]
fn without_its_flaw_every_one_of_these_worlds_holds() {
    for broken in broken::BROKEN {
        let explored = explore(protocol::Config {
            flaw: None,
            ..broken.config
        });
        assert!(
            explored.violated.is_empty(),
            "{:?}: {explored}",
            broken.config.flaw
        );
    }
}
