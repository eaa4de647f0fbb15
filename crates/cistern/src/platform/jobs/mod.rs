//! The job engine: long work that survives a crash.
//!
//! A job is enqueued in the transaction that changes the state it belongs to. A worker claims it by a lease (owner,
//! deadline, and a fence number that rises with each claim), keeps the lease by heartbeat, and ends the job in the
//! transaction of the job's own last change, which first checks that the fence is still its own. So a job that lost
//! its lease can change nothing, and a job that was cut off by a crash is claimed again when its lease is over.
//! Steps must be idempotent: a job may run more than once, its end is written exactly once.
//!
//! No transaction is open while a job works.
//!
//! Teams take turns: each has a line of its own, and of the lines whose first jobs are equally important the one goes
//! on whose team has the fewest running. Where there are several teams, one never holds all workers of a server (see
//! [`claims`]), so whoever waits for slow addresses does not let the others wait.

pub mod api;
mod claims;
pub mod cli;
mod context;
mod engine;
pub mod migration;
mod model;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;

pub use context::JobContext;
pub use engine::{Engine, Registry};
pub use model::{Job, JobError, JobKind, NewJob, Queue, failed_nothing};
pub use service::{JobRow, job_cancel_in_tx, job_enqueue_in_tx, job_find, job_is_open, job_list_open};
