//! Cistern: DigitalOcean's *Containers & Images* family, self-hosted.
//!
//! The library holds everything; the executable only calls `main`. ARCHITECTURE.md is the map.

mod app;
mod cli;
mod config;
mod console;
mod images;
mod platform;
mod registry;
mod routes;
mod serve;
mod telemetry;
#[cfg(test)]
mod testing;

pub use cli::main;
