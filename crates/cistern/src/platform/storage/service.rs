//! What operators can do with the store.

use chrono::DateTime;
use serde_json::json;
use store::{RebuildProgress, Rebuilt, Store};

use super::cache;
use super::jobs::{ATTEMPTS, VERIFY};
use super::model::{Report, StoreStats};
use crate::app::{self, App};
use crate::config::Config;
use crate::platform::accounts::Caller;
use crate::platform::clock::wire;
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::jobs::{JobRow, NewJob, job_enqueue_in_tx, job_find};
use crate::platform::keys::service::key_load;

/// A verification, running or over.
pub struct Verification {
    /// The job.
    pub job: JobRow,
    /// What it found, once it is over.
    pub report: Option<Report>,
}

/// The store's figures.
pub async fn store_stats(app: &App, caller: &Caller) -> Result<StoreStats> {
    caller.require("store:read")?;
    Ok(StoreStats {
        cache: cache::cache_figures(app),
        requests: app.store.requests().map(Into::into),
        ..figures(app).await?
    })
}

/// The figures that the database has; cache and requests are a server's.
pub(super) async fn figures(app: &App) -> Result<StoreStats> {
    let oldest_us = app.store.health().await?.oldest_us;
    let read_since = oldest_us.and_then(DateTime::from_timestamp_micros).map(wire);
    Ok(StoreStats {
        read_since,
        ..app.store.stats().await?.into()
    })
}

/// Starts the search for damage; with `read_data` every stored byte is read.
pub async fn verify_start(app: &App, caller: &Caller, read_data: bool) -> Result<Verification> {
    caller.require("store:update")?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let new = NewJob {
        kind: VERIFY,
        payload: json!({ "read_data": read_data }),
        team_id: None,
        action_id: None,
        node: None,
        priority: 0,
    };
    let id = job_enqueue_in_tx(&*tx, now, new, ATTEMPTS).await?;
    let event = Event::done("store.verify_start", "job", id).with(json!({ "read_data": read_data }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    app.queue.wake();
    verify_load(app, id).await
}

/// How a verification is.
pub async fn verify_get(app: &App, caller: &Caller, id: i64) -> Result<Verification> {
    caller.require("store:read")?;
    verify_load(app, id).await
}

async fn verify_load(app: &App, id: i64) -> Result<Verification> {
    let job = job_find(app, id).await?;
    let job = job.filter(|job| job.kind == VERIFY).ok_or(Error::NotFound)?;
    let report = match (&job.state, job.finished_at) {
        (Some(state), Some(_)) => {
            let report = serde_json::from_value(state.clone());
            Some(report.context("could not read what a verification found")?)
        }
        _ => None,
    };
    Ok(Verification { job, report })
}

/// Makes the index of chunks anew from the packs, in a database that is otherwise intact. No server may run.
pub async fn index_rebuild(config: &Config) -> Result<Rebuilt> {
    let db = app::existing_open(config).await?;
    let backend = app::backend_open(config)?;
    let options = store::Options {
        key: key_load(config).await?,
        ..store::Options::default()
    };
    let store = Store::open_to_rebuild(backend, db.conn(), options).await;
    let store = store.map_err(|error| match error.kind() {
        store::Kind::Invalid | store::Kind::Incompatible => Error::Precondition(error.to_string()),
        _ => error.into(),
    })?;
    Ok(store.rebuild_index(&RebuildProgress::default()).await?)
}
