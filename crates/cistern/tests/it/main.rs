//! The black-box suite: one test binary that drives the real executable from outside.
//!
//! Which database and which objects the servers use is chosen by `CISTERN_TEST_WORLD`:
//! `sqlite+folder` (the default), `postgres+s3`, `postgres+folder` or `sqlite+s3`. PostgreSQL and the S3 server are
//! started by the harness; where they are not installed the suite says so and stops, as a failure if
//! `CISTERN_REQUIRE_CLIENTS` is set.

mod harness;
mod tidy;

fn schema_check(_method: &str, _path: &str, _status: u16, _json: &serde_json::Value, _at: &str) {}
