//! Foreign images are parsed in a child process that can do nothing but read its one open file (or ask the server for
//! its bytes on a socket, where the file is encrypted: [`served`]) and write to its one pipe: no files, no network, no
//! other processes, bounded memory and time (see [`lockdown`]). What it says is checked by [`disk::record::Reader`] and
//! believed no further.
//!
//! [`child`] is the child's side, [`parent`] the server's.

mod attempt;
pub mod child;
mod lockdown;
mod parent;
mod served;
mod start;

pub use parent::{Opened, Patience, Piece, Sandbox, SandboxError};

/// The hidden subcommand of the child.
pub const SUBCOMMAND: &str = "__sandbox";
