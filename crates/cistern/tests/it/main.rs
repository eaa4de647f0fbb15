//! The black-box suite: one test binary that drives the real executable from outside.
//!
//! Which database and which objects the servers use is chosen by `CISTERN_TEST_WORLD`:
//! `sqlite+folder` (the default), `postgres+s3`, `postgres+folder` or `sqlite+s3`. PostgreSQL and the S3 server are
//! started by the harness.

mod auth;
mod cache;
mod cli;
mod copy;
mod device;
mod domains;
mod doors;
mod encryption;
mod events;
mod faults;
mod fixtures;
mod formats;
mod full;
mod gc;
mod harness;
mod health;
mod imports;
mod input;
mod jobs;
mod keys;
mod kill;
mod limits;
mod lost;
mod memory;
mod migrate;
mod nginx;
mod outage;
mod owners;
mod plans;
mod races;
mod recover;
mod roles;
mod sandbox;
#[path = "../../src/testing/schema.rs"]
mod schema;
mod secrets;
mod serve;
mod start;
mod stop;
mod takeover;
mod tidy;
mod tls;
mod transfer;
mod two;
mod unread;
