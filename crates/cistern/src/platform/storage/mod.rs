//! The installation's store, for its operators: figures, and the search for damage.

pub mod api;
pub mod cli;
pub mod jobs;
pub mod model;
pub mod service;
#[cfg(test)]
mod tests;
