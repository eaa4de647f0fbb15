//! Cistern: DigitalOcean's *Containers & Images* family, self-hosted.
//!
//! The library holds everything; the executable only calls `main`. ARCHITECTURE.md is the map.

mod app;
mod cli;
mod config;
mod images;
mod platform;
mod registry;
mod routes;
mod serve;
mod telemetry;

pub use cli::main;
