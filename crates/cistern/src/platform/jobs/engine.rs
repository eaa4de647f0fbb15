//! The workers: claim, keep the lease, run, end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::context::{JobContext, Shared, Why};
use super::model::{Job, JobError, JobKind};
use super::rows;
use crate::app::App;
use crate::platform::error::{Error, Result};
use crate::platform::{actions, random};

/// How often a lease is made longer, at least three times in its length; also how soon a cancel is seen.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often an idle worker looks for work of other processes and for what is due.
const POLL: Duration = Duration::from_secs(1);
/// The longest wait before a retry, apart from its spread.
const RETRY_MAX: TimeDelta = TimeDelta::minutes(5);
/// No job is ever made to wait for longer than this: the longest wait before a retry, with all of its spread. Whatever
/// else is enqueued, or put back, is due at once.
pub(super) const WAIT_MAX: TimeDelta = TimeDelta::seconds(RETRY_MAX.num_seconds() * 5 / 4);
/// The same where something is away, so that work goes on soon after it is back.
const AWAY_RETRY_MAX: TimeDelta = TimeDelta::seconds(45);
/// So often a job is tried again because something is away: with the waits before, for a quarter of an hour at least.
const AWAY_MAX: i64 = 30;

/// The kinds of job this server can run.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, JobKind>,
}

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with(mut self, kind: JobKind) -> Self {
        self.kinds.insert(kind.name, kind);
        self
    }
}

/// The running workers of one server.
pub struct Engine {
    workers: JoinSet<()>,
    stopping: CancellationToken,
}

/// What each worker knows.
#[derive(Clone)]
struct Worker {
    app: App,
    kinds: Arc<Registry>,
    claims: Arc<Claims>,
    /// The lowest priority it takes.
    least: i32,
    stopping: CancellationToken,
}

impl Engine {
    /// Starts `workers` workers as `node`, first taking back what this node held when it was last stopped hard.
    pub async fn start(app: &App, kinds: Registry, node: &str, workers: usize) -> Result<Self> {
        let owner = format!("{node}/{}", random::uuid());
        let taken = rows::job_take_back(app.db.conn(), app.clock.now(), node, &owner).await?;
        if taken > 0 {
            tracing::info!(jobs = taken, "jobs cut off by the last stop will go on");
        }
        let stopping = CancellationToken::new();
        let alone = kinds
            .kinds
            .values()
            .filter(|kind| kind.is_alone)
            .map(|kind| kind.name);
        let alone = alone.collect();
        let worker = Worker {
            app: app.clone(),
            kinds: Arc::new(kinds),
            claims: Arc::new(Claims::new(node, owner, workers, alone)),
            least: i32::MIN,
            stopping: stopping.clone(),
        };
        // Half of them keep free of work that can wait, or a few long checksums would hold up every import.
        let free = if workers > 1 { workers.div_ceil(2) } else { 0 };
        let mut set = JoinSet::new();
        for number in 0..workers {
            let least = if number < free { 0 } else { i32::MIN };
            set.spawn(
                Worker {
                    least,
                    ..worker.clone()
                }
                .work(),
            );
        }
        Ok(Self {
            workers: set,
            stopping,
        })
    }

    /// No workers.
    pub fn idle() -> Self {
        Self {
            workers: JoinSet::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Stops claiming, asks running jobs to hand themselves back, and waits for them.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        while self.workers.join_next().await.is_some() {}
    }
}

impl Worker {
    async fn work(self) {
        let mut failing = false;
        while !self.stopping.is_cancelled() {
            let next = self.claims.next(&self.app, self.least).await;
            // Said once, or a database that cannot be written for an hour would fill the log.
            match &next {
                Err(error) if !failing => {
                    tracing::error!(error = error.chain(), "could not look for jobs; trying again");
                }
                Ok(_) if failing => tracing::info!("jobs are looked for again"),
                _ => {}
            }
            failing = next.is_err();
            match next {
                Ok(Some(row)) => self.run(row).await,
                Ok(None) | Err(_) => self.idle().await,
            }
        }
    }

    async fn idle(&self) {
        tokio::select! {
            () = self.app.queue.wait(POLL) => {}
            () = self.stopping.cancelled() => {}
        }
    }

    async fn run(&self, row: rows::Model) {
        let job = Job {
            id: row.id,
            kind: row.kind,
            payload: row.payload,
            action_id: row.action_id,
            attempt: row.attempts,
            max_attempts: row.max_attempts,
            // Every claim raises both, and only what is not counted is taken back.
            uncounted: row.fence - i64::from(row.attempts),
            fence: row.fence,
        };
        let result = if row.cancel_requested {
            Err(JobError::Cancelled)
        } else if job.attempt > job.max_attempts {
            Err(JobError::Fail(
                "the server stopped each time while it worked on this; see its log".into(),
            ))
        } else {
            self.attempt(&job).await
        };
        if let Err(error) = self.settle_when_possible(&job, &result).await {
            // The lease runs out and the job is claimed again.
            tracing::error!(
                job_id = job.id,
                error = error.chain(),
                "could not write how a job ended"
            );
        }
        self.app.queue.tell_end();
    }

    async fn attempt(&self, job: &Job) -> Result<(), JobError> {
        let Some(kind) = self.kinds.kinds.get(job.kind.as_str()) else {
            return Err(JobError::Fail(format!(
                "this version of Cistern has no job `{}`",
                job.kind
            )));
        };
        tracing::info!(
            job_id = job.id,
            kind = job.kind,
            attempt = job.attempt,
            "job started"
        );
        let context = JobContext {
            app: self.app.clone(),
            job: job.clone(),
            stop: CancellationToken::new(),
            shared: Arc::new(Shared::default()),
        };
        let heartbeat = tokio::spawn(heartbeat(context.clone(), self.stopping.clone()));
        let span = tracing::info_span!("job", job_id = job.id);
        let task = tokio::spawn(tracing::Instrument::instrument((kind.run)(context), span));
        let result = match task.await {
            Ok(result) => result,
            Err(panic) => {
                tracing::error!(job_id = job.id, %panic, "job panicked");
                Err(JobError::Retry(
                    "something went wrong on our side; the server's log has the details".into(),
                ))
            }
        };
        heartbeat.abort();
        result
    }

    /// Writes how an attempt ended. A database that is away is waited for: without it this worker could do nothing
    /// else, and a job whose lease runs out has one attempt less.
    async fn settle_when_possible(&self, job: &Job, result: &Result<(), JobError>) -> Result<()> {
        loop {
            match self.settle(job, result).await {
                Err(Error::Away(_)) if !self.stopping.is_cancelled() => self.idle().await,
                done => return done,
            }
        }
    }

    /// Writes how an attempt ended. A success that ended itself in its own transaction is left alone.
    async fn settle(&self, job: &Job, result: &Result<(), JobError>) -> Result<()> {
        let now = self.app.clock.now();
        match result {
            Ok(()) => {
                let tx = self.app.db.write().await?;
                if rows::job_end(&*tx, now, job.id, job.fence, rows::DONE, None).await?
                    && let Some(action) = job.action_id
                {
                    actions::action_end_in_tx(&*tx, now, action, None).await?;
                }
                tx.commit().await
            }
            Err(JobError::Stopped) => {
                let tx = self.app.db.write().await?;
                rows::job_hand_back(&*tx, job.id, job.fence, now, None, true).await?;
                tx.commit().await
            }
            Err(JobError::LeaseLost) => {
                lease_lost(job);
                Ok(())
            }
            Err(JobError::Retry(reason)) if job.attempt < job.max_attempts => {
                let wait = retry_wait(job.attempt.into(), RETRY_MAX, random::unit());
                self.retry(job, reason, wait, false).await
            }
            Err(JobError::Away(reason)) if job.uncounted < AWAY_MAX => {
                let wait = retry_wait(job.uncounted + 1, AWAY_RETRY_MAX, random::unit());
                self.retry(job, reason, wait, true).await
            }
            Err(JobError::Retry(reason) | JobError::Away(reason) | JobError::Fail(reason)) => {
                self.fail(job, rows::FAILED, reason).await
            }
            Err(JobError::Cancelled) => self.fail(job, rows::CANCELLED, "cancelled").await,
        }
    }

    /// Puts a job back until `wait` has passed.
    async fn retry(&self, job: &Job, reason: &str, wait: TimeDelta, uncount: bool) -> Result<()> {
        let run_at = self.app.clock.now() + wait;
        let tx = self.app.db.write().await?;
        if !rows::job_hand_back(&*tx, job.id, job.fence, run_at, Some(reason), uncount).await? {
            // What failed may have failed for just that.
            lease_lost(job);
            return Ok(());
        }
        tx.commit().await?;
        let wait_s = wait.num_seconds();
        tracing::warn!(job_id = job.id, reason, wait_s, "job will be tried again");
        Ok(())
    }

    async fn fail(&self, job: &Job, status: &str, reason: &str) -> Result<()> {
        let now = self.app.clock.now();
        let tx = self.app.db.write().await?;
        if !rows::job_end(&*tx, now, job.id, job.fence, status, Some(reason)).await? {
            lease_lost(job);
            return Ok(());
        }
        if let Some(action) = job.action_id {
            actions::action_end_in_tx(&*tx, now, action, Some(reason)).await?;
        }
        if let Some(kind) = self.kinds.kinds.get(job.kind.as_str()) {
            (kind.failed)(&self.app, &tx, job, reason).await?;
        }
        tx.commit().await?;
        tracing::warn!(job_id = job.id, kind = job.kind, status, reason, "job ended");
        Ok(())
    }
}

fn lease_lost(job: &Job) {
    tracing::warn!(job_id = job.id, "lost the lease of a job; another worker has it");
}

/// Keeps the lease, writes progress, and tells the job when it has to stop.
async fn heartbeat(context: JobContext, stopping: CancellationToken) {
    let stop = |why| {
        *context.shared.why.lock().expect("never held over a panic") = Some(why);
        context.stop.cancel();
    };
    let lease = context.app.config.jobs.lease();
    let mut last_success = context.app.clock.now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT) => {}
            () = stopping.cancelled() => return stop(Why::Stopping),
        }
        let now = context.app.clock.now();
        let progress = context
            .shared
            .progress
            .lock()
            .expect("never held over a panic")
            .take();
        let (id, fence) = (context.job.id, context.job.fence);
        let beat = {
            let _turn = context.app.db.turn().await;
            rows::job_heartbeat(context.app.db.conn(), id, fence, now + lease, progress).await
        };
        match beat {
            Ok(Some(row)) => {
                last_success = now;
                if row.cancel_requested {
                    // The lease is kept while the job winds down.
                    stop(Why::Cancelled);
                }
            }
            Ok(None) => return stop(Why::LeaseLost),
            Err(error) => {
                tracing::warn!(job_id = id, %error, "heartbeat failed");
                if now - last_success > lease {
                    return stop(Why::LeaseLost);
                }
            }
        }
    }
}

/// 1, 2, 4, … seconds up to `max`, spread by up to a quarter.
fn retry_wait(attempt: i64, max: TimeDelta, spread: f64) -> TimeDelta {
    let seconds = TimeDelta::seconds(1 << (attempt.clamp(1, 16) - 1)).min(max);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "milliseconds of minutes"
    )]
    let extra = (seconds.num_milliseconds() as f64 * spread / 4.0) as i64;
    seconds + TimeDelta::milliseconds(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_longer_than_the_longest() {
        for max in [RETRY_MAX, AWAY_RETRY_MAX] {
            assert!((1..40).all(|attempt| retry_wait(attempt, max, 1.0) <= WAIT_MAX));
        }
        assert_eq!(retry_wait(16, RETRY_MAX, 1.0), WAIT_MAX);
    }
}
