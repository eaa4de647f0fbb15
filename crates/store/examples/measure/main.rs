//! What the store takes, measured: `cargo run --release -p cistern-store --example measure -- WHAT …`, with the words
//! that the module of WHAT gives. `scripts/bench.sh` runs them, and docs/benchmarks.md has the figures.

#[path = "../common/mod.rs"]
mod common;
mod gc;
mod ingest;
mod read;
mod size;

use common::Failure;

/// The server's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (what, args) = args.split_first().ok_or("usage: measure gc|ingest|read|size …")?;
    match what.as_str() {
        "gc" => gc::run(args).await,
        "collect" => gc::collect_alone(args).await,
        "ingest" => ingest::run(args).await,
        "read" => read::run(args).await,
        "size" => size::run(args).await,
        other => Err(format!("`{other}` is not measured: gc, ingest, read or size").into()),
    }
}
