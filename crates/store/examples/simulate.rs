//! Runs one seed of the simulation and shows every step: `cargo run -p cistern-store --example simulate -- SEED
//! [VARIANT]`, or many (`FROM..TO`) and shows which fail. A variant is `digest-names`, `digest-names-guarded`,
//! `unguarded`, `pins-dropped` or `lost`.

#[path = "../tests/simulation/actors.rs"]
mod actors;
#[path = "../tests/simulation/broken.rs"]
mod broken;
#[path = "../tests/simulation/disks.rs"]
mod disks;
#[path = "../tests/simulation/healing.rs"]
mod healing;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/random.rs"]
mod random;
#[path = "../tests/simulation/run.rs"]
mod run;
#[path = "../tests/simulation/scheduler.rs"]
mod scheduler;

use std::ops::Range;

use broken::Variant;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let seeds = arguments.next().ok_or("give a seed, or several as FROM..TO")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
    let variant = match arguments.next().as_deref() {
        None => Variant::Real,
        Some("lost") => Variant::Lost,
        Some("digest-names") => Variant::DigestNames,
        Some("digest-names-guarded") => Variant::DigestNamesGuarded,
        Some("unguarded") => Variant::Unguarded,
        Some("pins-dropped") => Variant::PinsDropped,
        Some(other) => return Err(format!("`{other}` is no variant")),
    };
    match seeds.split_once("..") {
        None => one(number(&seeds)?, variant),
        Some((from, to)) => several(number(from)?..number(to)?, variant),
    }
}

/// Shows every step.
fn one(seed: u64, variant: Variant) -> Result<(), String> {
    let outcome = run::run(seed, variant);
    for line in &outcome.trace {
        eprintln!("{line}");
    }
    match outcome.failure {
        Some(failure) => Err(format!("seed {seed}: {failure}")),
        None => Ok(()),
    }
}

/// Shows which fail.
fn several(seeds: Range<u64>, variant: Variant) -> Result<(), String> {
    let mut failures = 0;
    for seed in seeds.clone() {
        if let Some(failure) = run::run(seed, variant).failure {
            failures += 1;
            eprintln!("seed {seed}: {failure}");
        }
    }
    let text = format!(
        "{failures} of {} seeds failed",
        seeds.end.saturating_sub(seeds.start)
    );
    if failures > 0 {
        return Err(text);
    }
    eprintln!("{text}");
    Ok(())
}
