//! SSH keys: the public keys of a team, which new droplets get.

pub mod api;
#[cfg(test)]
mod known_tests;
pub mod migration;
pub mod model;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;
