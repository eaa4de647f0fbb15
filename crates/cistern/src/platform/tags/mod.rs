//! Tags: labels of a team on its things.
//!
//! A tag keeps the capitals it was made with: `PROD` and `prod` are one tag, shown as it was first written, and in a
//! path only that form is found. How many things of a kind carry a tag is kept beside it, so that listing tags costs
//! the same for ten things as for a million.

pub mod api;
pub mod migration;
pub mod model;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;
