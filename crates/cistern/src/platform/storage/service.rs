//! What operators can do with the store.

use chrono::DateTime;
use rustix::fs::{Access, access};
use serde_json::{Value, json};
use store::{Damage, HealProgress, Healed, RebuildProgress, Rebuilt, Store, VerifyProgress, WrappingKey};

use super::cache;
use super::jobs::{ATTEMPTS, VERIFY};
use super::model::{Report, StoreStats};
use crate::app::{self, App};
use crate::config::Config;
use crate::platform::accounts::Caller;
use crate::platform::clock::wire;
use crate::platform::db::{Db, migrate};
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::service::event_record_local;
use crate::platform::events::{self, Event, Who};
use crate::platform::jobs::{JobRow, NewJob, job_enqueue_in_tx, job_find};
use crate::platform::journal::{self, Recovered};
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
    // What an index that was made anew names was not read yet.
    let oldest_us = app
        .store
        .health()
        .await?
        .oldest_us
        .filter(|oldest_us| *oldest_us > 0);
    let read_since = oldest_us.and_then(DateTime::from_timestamp_micros).map(wire);
    Ok(StoreStats {
        read_since,
        ..app.store.stats().await?.into()
    })
}

/// Starts the search for damage; with `read_data` every stored byte is read.
pub async fn verify_start(app: &App, caller: &Caller, read_data: bool) -> Result<Verification> {
    caller.require("store:update")?;
    let id = verify_enqueue(app, &caller.who, read_data).await?;
    verify_load(app, id).await
}

/// Enqueues the search for damage that `who` wants; gives the job.
pub(super) async fn verify_enqueue(app: &App, who: &Who, read_data: bool) -> Result<i64> {
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
    events::record_in_tx(&*tx, now, who, event).await?;
    tx.commit().await?;
    app.queue.wake();
    Ok(id)
}

/// How a verification is.
pub async fn verify_get(app: &App, caller: &Caller, id: i64) -> Result<Verification> {
    caller.require("store:read")?;
    verify_load(app, id).await
}

async fn verify_load(app: &App, id: i64) -> Result<Verification> {
    let job = job_find(app, id).await?;
    let job = job.filter(|job| job.kind == VERIFY).ok_or(Error::NotFound)?;
    app.db.ends_check(job.finished_at.is_some())?;
    let report = match (&job.state, job.finished_at) {
        (Some(state), Some(_)) => {
            let report = serde_json::from_value(state.clone());
            Some(report.context("could not read what a verification found")?)
        }
        _ => None,
    };
    Ok(Verification { job, report })
}

/// Whether the data folder is there and cannot be written: read-only media, say.
pub fn is_for_reading(config: &Config) -> bool {
    config.data.is_dir() && access(&config.data, Access::WRITE_OK).is_err()
}

/// Looks for damage where nothing can be written: nothing is marked or mended, and what only the database knows of the
/// journal, which is its newest object, is not looked for.
pub async fn verify_for_reading(
    config: &Config,
    read_data: bool,
    progress: &VerifyProgress,
) -> Result<Vec<Damage>> {
    let db = Db::open_to_look(&app::place(config)).await?;
    if !migrate::is_current(&db).await? {
        return Err(Error::Precondition(
            "the database is empty, or older than this version of Cistern, and cannot be brought up to date where it is: copy it \
             to a folder that can be written, with what lies beside it, and start a server there once"
                .into(),
        ));
    }
    let options = store::Options {
        key: key_load(config).await?,
        ..store::Options::default()
    };
    let store = Store::open(app::backend_open(config)?, db.conn(), options).await?;
    if let Some(misfit) = journal::misfit(&db, &store).await? {
        return Err(Error::Precondition(misfit.sentence()));
    }
    Ok(store.verify_unmarked(read_data, progress).await?)
}

/// Brings what is damaged or missing of the store back from a copy of it, a folder or a bucket. A server may run.
pub async fn heal_from(app: &App, copy: &str, progress: &HealProgress) -> Result<Healed> {
    // What an older database has in mind may not be what the store holds now.
    if let Some(sentence) = app.db.refusal() {
        return Err(Error::Precondition(sentence.to_owned()));
    }
    let backend = app::backend_open_to_read(&app.config, copy)?;
    let place = backend.describe();
    let healed = app.store.heal_from(backend, progress).await;
    // What it stored anew lies in new packs, which an older copy of the store lacks; also of one that failed later.
    let may_have_moved = match &healed {
        Ok(healed) => healed.chunks > 0,
        Err(error) => !matches!(error.kind(), store::Kind::NotFound | store::Kind::Incompatible),
    };
    let told = if may_have_moved {
        moves_tell(app).await
    } else {
        Ok(())
    };
    let healed = healed.map_err(|error| match error.kind() {
        store::Kind::NotFound | store::Kind::Incompatible => Error::Precondition(error.to_string()),
        _ => error.into(),
    })?;
    told?;
    if healed.objects + healed.chunks > 0 {
        let detail = json!({
            "copy": place, "objects": healed.objects, "bytes": healed.bytes, "chunks": healed.chunks,
            "chunk_bytes": healed.chunk_bytes, "lost": healed.lost,
        });
        store_event(app, "store.heal", detail).await?;
    }
    Ok(healed)
}

/// Leaves an object of the journal, by which a copy from before what heals stored is told from the store.
async fn moves_tell(app: &App) -> Result<()> {
    let heals = app.store.heals_over().await?;
    journal::advance(app).await?;
    Ok(app.store.heals_told(&heals).await?)
}

/// Tells that the database that is there was taken as the store's, whatever the store knew beyond it.
pub async fn database_kept(config: &Config, key: Option<WrappingKey>, found: &Recovered) -> Result<()> {
    let key = match key {
        Some(printed) => Some(printed),
        None => key_load(config).await?,
    };
    let app = App::open_existing_with(config.clone(), key).await?;
    let detail = json!({
        "keep_database": true, "packs": found.packs, "chunks": found.chunks, "damaged_images": found.damaged_roots,
    });
    store_event(&app, "store.recover", detail).await
}

/// Records what was done with the store by who has its machine.
async fn store_event(app: &App, what: &'static str, detail: Value) -> Result<()> {
    event_record_local(app, Event::done(what, "store", app.store.id()).with(detail)).await
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
