//! What tests of this crate share.

pub mod api;
mod document_tests;
pub mod schema;
