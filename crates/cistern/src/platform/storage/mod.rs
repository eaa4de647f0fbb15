//! The installation's store, for its operators: figures, and the search for damage.

pub mod api;
pub mod cache;
pub mod cli;
pub mod gc;
pub mod jobs;
pub mod mend;
pub mod model;
pub mod scrub;
pub mod service;
pub mod space;
#[cfg(test)]
pub mod tests;
