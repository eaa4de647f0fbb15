//! Jobs as data: what is enqueued, what a worker is given, and how one ends.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::context::JobContext;
use crate::app::App;
use crate::platform::db::Tx;
use crate::platform::error::{Context, Error, Result};

/// A job to be.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// A registered [`JobKind::name`].
    pub kind: &'static str,
    /// What the job needs to know; no secrets.
    pub payload: serde_json::Value,
    /// The team it works for.
    pub team_id: Option<i64>,
    /// The action that shows it.
    pub action_id: Option<i64>,
    /// Only this node may run it, because it needs a file there.
    pub node: Option<String>,
    /// Higher runs first; 0 is usual, negative for work that can wait.
    pub priority: i32,
}

/// A claimed job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: i64,
    /// The registered kind.
    pub kind: String,
    /// What it was enqueued with.
    pub payload: serde_json::Value,
    /// The action that shows it.
    pub action_id: Option<i64>,
    /// 1 for the first attempt.
    pub attempt: i32,
    /// After this many attempts a failure is final.
    pub max_attempts: i32,
    /// How often it was handed back without counting the attempt: for outages above all, and by servers that stopped.
    pub uncounted: i64,
    /// Rises with every claim; only the newest claim may change anything.
    pub fence: i64,
}

impl Job {
    /// The payload as the type that its kind defines.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.payload.clone()).context("a job's payload is not what its kind expects")
    }
}

/// How a job that did not succeed ended.
#[derive(Debug)]
pub enum JobError {
    /// Try again later; final after the last attempt. The sentence is for the user.
    Retry(String),
    /// What the server stands on, such as the store, is away, which is nobody's fault: try again later without counting
    /// an attempt, and fail only when it stays away. The sentence is for the user.
    Away(String),
    /// Final. The sentence is for the user.
    Fail(String),
    /// A user cancelled it.
    Cancelled,
    /// The server is stopping: hand it back without counting an attempt.
    Stopped,
    /// Another worker has it now: change nothing.
    LeaseLost,
}

impl From<Error> for JobError {
    /// Faults of ours and passing unavailability are tried again; refusals are final.
    fn from(error: Error) -> Self {
        match error {
            Error::Internal { .. } => {
                tracing::warn!(error = error.chain(), "job attempt failed");
                Self::Retry("Something went wrong on our side. The server's log has the details under this job's number.".into())
            }
            Error::Unavailable(_) | Error::Damaged(_) | Error::TooMany { .. } | Error::TooManyOpen(_) => {
                tracing::warn!(error = error.chain(), "job attempt failed");
                Self::Retry(error.to_string())
            }
            Error::Away(_) => {
                tracing::warn!(error = error.chain(), "job attempt failed");
                Self::Away(error.to_string())
            }
            refused => Self::Fail(refused.to_string()),
        }
    }
}

impl From<sea_orm::DbErr> for JobError {
    fn from(error: sea_orm::DbErr) -> Self {
        Error::from(error).into()
    }
}

/// One kind of job.
#[derive(Clone, Copy)]
pub struct JobKind {
    /// `resource.verb`, unique.
    pub name: &'static str,
    /// Does the work.
    pub run: fn(JobContext) -> BoxFuture<'static, Result<(), JobError>>,
    /// Changes the state the job belongs to, in the transaction that ends it as failed or cancelled.
    pub failed: for<'a> fn(&'a App, &'a Tx, &'a Job, &'a str) -> BoxFuture<'a, Result<()>>,
    /// Whether only one of its jobs is to run at a time in the whole installation. Two servers may still begin one each
    /// at the same moment.
    pub is_alone: bool,
}

/// For kinds whose failure changes nothing but the job itself.
pub fn failed_nothing<'a>(_: &'a App, _: &'a Tx, _: &'a Job, _: &'a str) -> BoxFuture<'a, Result<()>> {
    Box::pin(async { Ok(()) })
}

/// Wakes idle workers of this process, and whoever waits for the end of a job of it. Work of other processes is found
/// by polling.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    wake: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Queue {
    /// Says that a job was committed.
    pub fn wake(&self) {
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Waits for [`Queue::wake`], or for `poll` to pass.
    pub async fn wait(&self, poll: Duration) {
        let _ = tokio::time::timeout(poll, self.wake.notified()).await;
    }

    /// Says that an attempt of some job is over.
    pub(super) fn tell_end(&self) {
        self.ended.notify_waiters();
    }

    /// Waits for the next end of an attempt in this process, counted from this call on, not from the first poll:
    /// whoever asks for it before looking at a job misses nothing.
    pub fn next_end(&self) -> impl Future<Output = ()> + '_ {
        self.ended.notified()
    }
}
