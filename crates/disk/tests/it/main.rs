//! The crate from outside: what it reads and writes, held against QEMU's own tool.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod convert;
mod export;
mod formats;
mod mutated;
mod qemu;
mod support;
