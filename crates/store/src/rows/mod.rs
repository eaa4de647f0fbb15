//! The store's only SQL: entities and queries, on whatever connection or transaction they are given.
//!
//! Rows that move together are named in the crate's protocol (see the crate documentation); the order of
//! locks is always gate, then session, then everything else.

mod away;
mod chunks;
mod database;
mod entities;
mod gate;
mod gc;
mod gc_runs;
mod health;
mod judged;
mod objects;
mod orphans;
mod rebuild;
mod roots;
mod sessions;
#[cfg(test)]
mod tests;

pub use away::database_away;
pub(crate) use chunks::*;
pub use database::POSTGRES_SETTINGS;
pub(crate) use database::*;
pub(crate) use entities::*;
pub(crate) use gate::*;
pub(crate) use gc::*;
pub(crate) use gc_runs::*;
pub(crate) use health::*;
pub(crate) use judged::*;
pub(crate) use objects::*;
pub(crate) use orphans::*;
pub(crate) use rebuild::*;
pub(crate) use roots::*;
pub(crate) use sessions::*;
