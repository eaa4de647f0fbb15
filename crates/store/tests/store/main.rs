//! The store against real databases and real backends. One binary: see `support` for where it runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod cache;
mod copy;
mod copy_failing;
mod damage;
mod deletion;
mod domains;
mod doubt;
mod encryption;
mod faults;
mod format;
mod gc;
mod heal;
mod keys;
mod meanwhile;
mod model;
mod objects;
mod presence;
mod rebuild;
mod round_trip;
mod scrub;
mod sessions;
mod support;
mod unreadable;
mod verify;
