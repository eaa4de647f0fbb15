//! Downloads: a stored disk comes out again as a file of some format, made while it is sent.
//!
//! Nothing is spooled: [`disk::layout`] knows every byte's place in the file, so any range can be made by itself, and
//! the length is known before the first byte. Only a VMDK is compressed, and made from its beginning to its end. Data
//! goes out only after the store has checked it; where stored data is damaged the connection is cut before the range,
//! and an event says which it is. The bytes are pulled by the client: who reads slowly makes us read slowly, who goes
//! away makes us stop. A client that does not read at all leaves its body unpolled, so nothing that a body polls may
//! hold a connection of the database: what needs one is a task.

pub mod api;
mod export;
mod limits;
pub mod range;
pub mod service;
#[cfg(test)]
mod tests;
mod vmdk;

#[cfg(test)]
pub use export::Export;
pub use export::{Format, etag, qcow2_segments};
pub use limits::Downloads;
