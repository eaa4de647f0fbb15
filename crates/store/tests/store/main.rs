//! The store against real databases and real backends. One binary: see `support` for where it runs.

mod round_trip;
mod support;
