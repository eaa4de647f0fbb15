//! Enqueuing jobs, looking at them and cancelling them.

use chrono::TimeDelta;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::model::NewJob;
use super::rows;
use crate::app::App;
use crate::platform::clock::Time;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};

pub use rows::Model as JobRow;

/// Jobs of one answer at most.
const LIST_MAX: u64 = 200;
/// Rows that one statement forgets, so that no writer waits for long.
const FORGET_BATCH: u64 = 2_000;

/// Jobs newest first; `open` leaves out what has ended.
pub async fn job_list(app: &App, open: bool, before: Option<i64>) -> Result<Vec<JobRow>> {
    Ok(rows::job_list(app.db.conn(), open, before, LIST_MAX).await?)
}

/// A job.
pub async fn job_get(app: &App, id: i64) -> Result<JobRow> {
    rows::job_get(app.db.conn(), id).await?.ok_or(Error::NotFound)
}

/// Asks a job to stop: one that waits ends within a second, one that runs at its next step.
pub async fn job_cancel(app: &App, who: &Who, id: i64) -> Result<JobRow> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let job = rows::job_get(&*tx, id).await?.ok_or(Error::NotFound)?;
    if !job_cancel_in_tx(&*tx, now, id).await? {
        return Err(Error::Conflict(format!(
            "job {id} has ended already ({}), so there is nothing to stop",
            job.status
        )));
    }
    let who = Who {
        team_id: job.team_id.or(who.team_id),
        ..who.clone()
    };
    let event = Event::done("job.cancel", "job", id).with(json!({ "kind": job.kind }));
    events::record_in_tx(&*tx, now, &who, event).await?;
    tx.commit().await?;
    app.queue.wake();
    job_get(app, id).await
}

/// Enqueues `new` on the transaction of the change it belongs to; call [`Queue::wake`] after the commit.
pub async fn job_enqueue_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    new: NewJob,
    max_attempts: i32,
) -> Result<i64> {
    Ok(rows::job_insert(conn, now, new, max_attempts).await?)
}

/// Asks a job to stop: one that waits ends before any other is begun, one that runs at its next step. Wake the queue
/// after the commit. Returns false where the job is not there or has ended.
pub async fn job_cancel_in_tx(conn: &impl ConnectionTrait, now: Time, id: i64) -> Result<bool> {
    let is_asked = rows::job_cancel(conn, id).await?;
    rows::job_hurry(conn, now, id).await?;
    Ok(is_asked)
}

/// A job, where it still is, for whoever made it.
pub async fn job_find(app: &App, id: i64) -> Result<Option<JobRow>> {
    Ok(rows::job_get(app.db.conn(), id).await?)
}

/// Whether a job of this kind waits or runs.
pub async fn job_is_open(app: &App, kind: &str) -> Result<bool> {
    Ok(rows::job_is_open(app.db.conn(), kind).await?)
}

/// The jobs of this kind that wait or run.
pub async fn job_list_open(app: &App, kind: &str) -> Result<Vec<JobRow>> {
    Ok(rows::job_list_open(app.db.conn(), kind).await?)
}

/// Removes the jobs that ended longer ago than they are kept; returns how many. Their actions stay.
pub async fn job_forget(app: &App) -> Result<u64> {
    let before = app.clock.now() - TimeDelta::days(i64::from(app.config.jobs.keep_days));
    let mut sum = 0;
    loop {
        let tx = app.db.write().await?;
        let gone = rows::job_forget(&*tx, before, FORGET_BATCH).await?;
        tx.commit().await?;
        sum += gone;
        if gone < FORGET_BATCH {
            return Ok(sum);
        }
    }
}
