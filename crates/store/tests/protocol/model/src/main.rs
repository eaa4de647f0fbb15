//! Shows what the model goes through: `cargo run --release -p cistern-protocol -- [--large | --broken]`.
//!
//! Without an argument the worlds of the tests, with `--large` those that take too long for these,
//! with `--broken` the shortest way in which each flaw loses something.

use std::process::ExitCode;

use protocol::broken::{BROKEN, Broken};
use protocol::worlds::{LARGE, WORLDS};
use protocol::{Config, explore, shortest};

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let is_right = match argument.as_deref() {
        None => all_hold(&WORLDS.map(|(config, _)| config)),
        Some("--large") => all_hold(&LARGE),
        Some("--broken") => BROKEN.iter().all(show),
        Some(other) => {
            eprintln!("`{other}` is no argument: --large or --broken, or none");
            return ExitCode::from(2);
        }
    };
    if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn all_hold(worlds: &[Config]) -> bool {
    let mut is_right = true;
    for config in worlds {
        let explored = explore(*config);
        println!("{explored}");
        is_right &= explored.holds();
    }
    is_right
}

fn show(broken: &Broken) -> bool {
    let found = shortest(broken.config, broken.property, broken.steps);
    match &found {
        Some((trace, _)) => println!("{:?}: {}, {trace}", broken.config.flaw, broken.property),
        None => println!("{:?}: nothing found", broken.config.flaw),
    }
    found.is_some()
}
