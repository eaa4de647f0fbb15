//! Asking for a run, looking at one, and beginning one when it is due.

use chrono::TimeDelta;
use serde_json::json;

use super::jobs::{ATTEMPTS, GC};
use super::model::{GivenUp, Report, Wish};
use crate::app::{self, App};
use crate::platform::accounts::Caller;
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::jobs::{JobRow, NewJob, job_enqueue_in_tx, job_find, job_is_open, job_list_open};
use crate::platform::journal;

/// A run, under way or over.
pub struct Run {
    /// The job.
    pub job: JobRow,
    /// What it did, once it is over.
    pub report: Option<Report>,
}

/// Asks for a run.
pub async fn gc_start(app: &App, caller: &Caller, wish: Wish) -> Result<Run> {
    caller.require("store:update")?;
    journal::guard(app).await?;
    let id = enqueue(app, Some(&caller.who), wish, 0).await?;
    gc_load(app, id).await
}

/// How a run is.
pub async fn gc_get(app: &App, caller: &Caller, id: i64) -> Result<Run> {
    caller.require("store:read")?;
    gc_load(app, id).await
}

/// Begins a run when the last one ended (or the store was made) long enough ago and none waits or runs.
pub async fn gc_due(app: &App) -> Result<()> {
    let every = app.config.gc.every_minutes;
    if every == 0 || job_is_open(app, GC).await? {
        return Ok(());
    }
    let last = app.store.gc_last().await?;
    let last_us = last.map_or(app.store.header().created_us, |(ended_us, _)| ended_us);
    let now = app.clock.now();
    let since = now - TimeDelta::minutes(i64::from(every));
    let is_recent = last_us > since.timestamp_micros();
    // A time to come was written by a clock that was ahead, and says nothing: until then no run would be due.
    if is_recent && last_us <= now.timestamp_micros() {
        return Ok(());
    }
    enqueue(app, None, Wish::default(), -1).await.map(drop)
}

/// What frees all that can be freed.
const ALL: Wish = Wish {
    now: true,
    purge: true,
    dry_run: false,
};

/// Begins a run that frees all it can, unless one that does so waits or runs already. Another one is no reason to leave
/// it: this one follows. Whether it was begun.
pub async fn gc_urgent(app: &App) -> Result<bool> {
    let open = job_list_open(app, GC).await?;
    if open.iter().any(|job| job.payload == json!(ALL)) {
        return Ok(false);
    }
    enqueue(app, None, ALL, 0).await?;
    Ok(true)
}

/// Whether anything is kept only so that it can be restored: a purge would give it up.
pub async fn is_restorable(app: &App) -> Result<bool> {
    for purger in app::purgers() {
        if (purger.is_any)(app).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives up what could still be restored, of every product, where `wish` says so; with a dry run only says what that
/// would be.
pub(super) async fn give_up(app: &App, wish: Wish) -> Result<Vec<GivenUp>> {
    let mut given_up = Vec::new();
    for purger in app::purgers().into_iter().filter(|_| wish.purge) {
        let some = if wish.dry_run {
            (purger.list)(app).await?
        } else {
            (purger.purge)(app).await?
        };
        given_up.extend(some);
    }
    Ok(given_up)
}

/// Enqueues a run. That somebody asked for it is an event; that it was due is none.
async fn enqueue(app: &App, who: Option<&Who>, wish: Wish, priority: i32) -> Result<i64> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let new = NewJob {
        kind: GC,
        payload: json!(wish),
        team_id: None,
        action_id: None,
        node: None,
        priority,
    };
    let id = job_enqueue_in_tx(&*tx, now, new, ATTEMPTS).await?;
    if let Some(who) = who {
        let event = Event::done("store.gc_start", "job", id).with(json!(wish));
        events::record_in_tx(&*tx, now, who, event).await?;
    }
    tx.commit().await?;
    app.queue.wake();
    Ok(id)
}

async fn gc_load(app: &App, id: i64) -> Result<Run> {
    let job = job_find(app, id).await?;
    let job = job.filter(|job| job.kind == GC).ok_or(Error::NotFound)?;
    app.db.ends_check(job.finished_at.is_some())?;
    let report = match (&job.state, job.finished_at) {
        (Some(state), Some(_)) => {
            let report = serde_json::from_value(state.clone());
            Some(report.context("could not read what a gc did")?)
        }
        _ => None,
    };
    Ok(Run { job, report })
}
