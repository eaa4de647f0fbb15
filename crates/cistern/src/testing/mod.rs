//! What tests of this crate share.

pub mod api;
pub mod schema;
