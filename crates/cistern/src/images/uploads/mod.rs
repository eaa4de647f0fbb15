//! Uploads: files on their way in, by the tus 1.0.0 protocol (<https://tus.io/protocols/resumable-upload>).
//!
//! An upload is a row and a file in `DATA/spool/uploads`. Any tus client can fill it, cut off and resumed as often as
//! it takes; then `POST /v2/images` names it in place of a URL. Extensions: creation, creation-defer-length,
//! creation-with-upload, expiration, termination, checksum (sha1, which tus demands, and sha256).
//!
//! **The offset is a promise.** The row's offset is written only after the bytes below it were synced, so whatever
//! the client was told survives a crash. Bytes beyond it that a crash left in the file are overwritten. Should the
//! file be shorter than the row says, the file is believed.
//!
//! **One writer.** Whoever writes or deletes holds an exclusive `flock` on the file, in any process, and reads the row
//! after it got the lock.

pub mod api;
pub mod migration;
pub mod model;
pub mod rows;
pub mod service;
mod spool;
#[cfg(test)]
mod tests;
