//! The shared parts of the `/v2` interface: extractors, error bodies, lists.

pub mod door;
pub mod error;
pub mod extract;
pub mod list;
pub mod origin;
pub mod path;
pub mod rate_limit;
