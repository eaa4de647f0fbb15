//! Files handed over on the same machine: `cistern image import FILE` gives the server the open file itself over
//! `DATA/cistern.sock`, so nothing is copied and nothing goes through HTTP.
//!
//! The socket belongs to the server's user (0600, in a folder of 0700), and the other end must be that user or root;
//! who the caller is in Cistern is still decided by the token in the request, with the same scopes as over HTTP. The
//! server takes a descriptor, never a path, so it reads nothing that the caller could not read. Only regular files,
//! opened for reading, are taken.
//!
//! The descriptor lives in this process (`images::handed`): an import that is cut off by a restart fails with a
//! sentence. A file that changes while it is read is refused ([`Stamp`]).

mod client;
mod file;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::{Connection, SOCKET, connect};
pub use file::Stamp;
pub use server::serve;
pub use wire::{Answer, Request};
