//! The protocol of writers and gc (docs/store-format.md §8), checked in every state that small worlds can reach.
//!
//! Each check names its bounds and its number of states: a model that quietly goes through less fails. Then the
//! protocol is broken in one place each time, and the checker has to find what that loses.

mod backend;
mod canonical;
mod checks;
mod config;
mod flaws;
mod gc;
mod model;
mod settle;
mod state;
mod writer;
