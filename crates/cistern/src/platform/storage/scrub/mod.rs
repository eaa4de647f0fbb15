//! Reading everything that is stored again, slowly and always, so that damage is found before somebody needs what is
//! hurt.
//!
//! The work is the store's (`store::scrub`); here is when it is done and how fast, and who is told.

pub mod jobs;
pub mod service;
#[cfg(test)]
mod tests;
