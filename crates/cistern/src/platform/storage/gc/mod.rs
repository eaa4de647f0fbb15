//! Freeing what nothing needs: by schedule, or asked for with `cistern gc`.
//!
//! The work is the store's (`store::gc`); here is when it is done, what is let go of before it, and who is told. It is
//! a job that only one server works on at a time. A full disk is looked after by [`super::space`].

pub mod api;
pub mod cli;
pub mod jobs;
pub mod model;
pub mod service;
#[cfg(test)]
mod tests;
