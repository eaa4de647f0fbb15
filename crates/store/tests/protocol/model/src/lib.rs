//! The protocol by which writers, readers and gc share a store (docs/store-format.md §8), as a model for a checker.
//!
//! A transaction is one step, and any step may come next: that is what clocks, networks, crashes and a second server
//! amount to. [`worlds`] are gone through whole, and nothing is lost in them; [`broken`] are the same protocol with one
//! thing wrong each, and the checker finds what that loses. The tests that hold both are
//! `cargo test -p cistern-store --test protocol`; `cargo run --release -p cistern-protocol` shows them one by one.

mod backend;
pub mod broken;
mod canonical;
mod config;
mod explore;
mod gc;
mod protocol;
mod settle;
mod state;
pub mod worlds;
mod writer;

pub use config::{Config, Flaw};
pub use explore::{Explored, Trace, explore, shortest};
