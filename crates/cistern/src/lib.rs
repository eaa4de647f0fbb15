//! Cistern: DigitalOcean's *Containers & Images* family, self-hosted.
//!
//! The library holds everything; the executable only calls `main`. ARCHITECTURE.md is the map.

mod app;
mod config;
mod images;
mod platform;
mod routes;
