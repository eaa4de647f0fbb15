//! Cistern.

pub mod config;
