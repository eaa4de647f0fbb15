//! The store against real databases and real backends. One binary: see `support` for where it runs.

mod damage;
mod faults;
mod format;
mod model;
mod round_trip;
mod sessions;
mod support;
