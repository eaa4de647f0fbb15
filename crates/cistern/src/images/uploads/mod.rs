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
//! **One writer, the newest.** Whoever writes or deletes asks the request before it, in this process, to come to an end
//! ([`turns`]): that one makes durable and promises what it has, and hears 400, which clients do not try again, so that
//! two of them do not fight for ever. Then it holds an exclusive `flock` on the file, in any process, and reads the row
//! after it got the lock. A request that only hangs promises what came of it after a second of silence, so that HEAD
//! tells a client that connects again the true offset.

pub mod api;
pub mod append;
pub mod migration;
pub mod model;
pub mod rows;
pub mod service;
mod spool;
#[cfg(test)]
mod tests;
pub mod turns;
