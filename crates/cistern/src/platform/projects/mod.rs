//! Projects: how a team groups its things. Each team has exactly one default project, which is made when it is first
//! needed and takes every new thing.

pub mod api;
pub mod migration;
pub mod model;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;
