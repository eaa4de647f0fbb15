//! Runs one seed of the simulation and shows every step: `cargo run -p cistern-store --example simulate -- SEED [VARIANT]`,
//! where a variant is `digest-names`, `digest-names-guarded`, `unguarded` or `pins-dropped`.

#[path = "../tests/simulation/actors.rs"]
mod actors;
#[path = "../tests/simulation/broken.rs"]
mod broken;
#[path = "../tests/simulation/disks.rs"]
mod disks;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/random.rs"]
mod random;
#[path = "../tests/simulation/run.rs"]
mod run;
#[path = "../tests/simulation/scheduler.rs"]
mod scheduler;

use broken::Variant;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().and_then(|text| text.parse().ok());
    let seed: u64 = seed.ok_or("give the number of a seed")?;
    let variant = match arguments.next().as_deref() {
        None => Variant::Real,
        Some("digest-names") => Variant::DigestNames,
        Some("digest-names-guarded") => Variant::DigestNamesGuarded,
        Some("unguarded") => Variant::Unguarded,
        Some("pins-dropped") => Variant::PinsDropped,
        Some(other) => return Err(format!("`{other}` is no variant")),
    };
    let outcome = run::run(seed, variant);
    for line in &outcome.trace {
        eprintln!("{line}");
    }
    match outcome.failure {
        Some(failure) => Err(format!("seed {seed}: {failure}")),
        None => Ok(()),
    }
}
