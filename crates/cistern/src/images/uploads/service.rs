//! What can be done with uploads: begin, fill, ask, end, hand to an image, sweep.

use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::model::{Refusal, metadata_check, true_offset};
use super::rows::{self, Model};
use super::spool::{self, Locked};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::random;
use crate::platform::storage::space;

/// What a caller needs.
pub(super) const SCOPE: &str = "image:create";
/// Uploads that a team may have without an image made of them.
pub const MAX_OPEN: u64 = 100;
/// How long an image's job may need the file.
const USE_LIFE: TimeDelta = TimeDelta::days(7);
/// A file without a row is removed when it is older than this: its row may be about to be written.
const ORPHAN_AGE: Duration = Duration::from_hours(1);
/// How often uploads that are over are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// An upload to be.
#[derive(Clone, Debug, Default)]
pub struct NewUpload {
    /// Its bytes; `None` to say it later.
    pub length: Option<u64>,
    /// `Upload-Metadata` as it came.
    pub metadata: Option<String>,
}

/// An upload that an image was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its bytes.
    pub length: u64,
    /// Only this node can read the file, and knows its path: the job must run there.
    pub node: String,
}

/// Begins an upload.
pub async fn upload_create(app: &App, caller: &Caller, new: NewUpload) -> Result<Model> {
    caller.require(SCOPE)?;
    if let Some(metadata) = &new.metadata {
        metadata_check(metadata)?;
    }
    space::room_check(app)?;
    if let Some(length) = new.length {
        check_size(app, length)?;
        let spare = spool::space(&app.data).await?.usable();
        if length > spare {
            return Err(Error::Unavailable(format!(
                "the server has room for {spare} bytes, too few for an upload of {length}; make room, or try a smaller file"
            )));
        }
    }
    let now = app.clock.now();
    let row = Model {
        id: random::uuid().to_string(),
        team_id: caller.team_id,
        length_bytes: new.length.map(signed).transpose()?,
        offset_bytes: 0,
        metadata: new.metadata,
        node: app.node.clone(),
        used_by: None,
        created_at: now,
        expires_at: now + expiry(app),
        completed_at: (new.length == Some(0)).then_some(now),
    };
    // The file first: a row without one would be an upload that cannot go on.
    let path = spool::path(&app.data, &row.id);
    spool::create(path.clone(), app.spool_key.clone()).await?;
    let inserted = upload_insert(app, caller, &row).await;
    if inserted.is_err() {
        spool::remove(path).await?;
    }
    inserted.map(|()| row)
}

async fn upload_insert(app: &App, caller: &Caller, row: &Model) -> Result<()> {
    let tx = app.db.write().await?;
    if rows::upload_count(&*tx, row.created_at, row.team_id).await? >= MAX_OPEN {
        return Err(Error::Invalid(format!(
            "your team has {MAX_OPEN} uploads that no image was made of; use or delete one, or wait until they expire"
        )));
    }
    rows::upload_insert(&*tx, row.clone()).await?;
    let event = Event::done("upload.create", "upload", &row.id);
    let event = event.with(serde_json::json!({ "length": row.length_bytes }));
    events::record_in_tx(&*tx, row.created_at, &caller.who, event).await?;
    tx.commit().await
}

/// How far an upload is, and what it is.
pub async fn upload_get(app: &App, caller: &Caller, id: &str) -> Result<Model> {
    caller.require(SCOPE)?;
    let mut row = upload_load(app, caller, id).await?;
    if row.completed_at.is_none() {
        let file = spool::length(spool::path(&app.data, &row.id), app.spool_key.clone()).await?;
        row.offset_bytes = signed(true_offset(unsigned(row.offset_bytes), file))?;
    }
    Ok(row)
}

/// The caller's upload, where it is on this server.
pub(super) async fn upload_load(app: &App, caller: &Caller, id: &str) -> Result<Model> {
    let row = rows::upload_get(app.db.conn(), app.clock.now(), caller.team_id, id)
        .await?
        .ok_or(Error::NotFound)?;
    if row.node != app.node {
        return Err(Error::Unavailable(
            "this upload was begun on another server of this installation; go on there, or begin anew".into(),
        ));
    }
    Ok(row)
}

/// Ends an upload and frees its room.
pub async fn upload_delete(app: &App, caller: &Caller, id: &str) -> Result<(), Refusal> {
    caller.require(SCOPE)?;
    upload_load(app, caller, id).await?;
    // Whoever deletes it does not want the rest of it.
    let _turn = app.turns.take(id).await?;
    let path = spool::path(&app.data, id);
    let _lock = Locked::open(path.clone(), None).await?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let row = rows::upload_get(&*tx, now, caller.team_id, id)
        .await?
        .ok_or(Error::NotFound)?;
    if row.used_by.is_some() {
        return Err(used().into());
    }
    rows::upload_delete(&*tx, id).await?;
    let event = Event::done("upload.delete", "upload", id);
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    spool::remove(path).await?;
    Ok(())
}

/// Gives a complete upload to the image `image_id`, in the transaction that makes the image. Call
/// [`upload_done`] when the image's job has ended, well or not.
pub async fn upload_take_in_tx(
    app: &App,
    tx: &Tx,
    caller: &Caller,
    id: &str,
    image_id: i64,
) -> Result<Taken> {
    caller.require(SCOPE)?;
    let now = app.clock.now();
    let row = rows::upload_get(&**tx, now, caller.team_id, id)
        .await?
        .ok_or_else(|| {
            Error::invalid(format!(
                "there is no upload `{}`; it may have expired. Upload the file again",
                shown(id)
            ))
        })?;
    if row.completed_at.is_none() {
        let length = row.length_bytes.map_or_else(|| "?".to_owned(), |n| n.to_string());
        return Err(Error::invalid(format!(
            "upload `{id}` is not complete: it has {} of {length} bytes. Send the rest, then try again",
            row.offset_bytes
        )));
    }
    if row.length_bytes == Some(0) {
        return Err(Error::invalid(format!("upload `{id}` is empty")));
    }
    if !rows::upload_use(&**tx, id, image_id, now + USE_LIFE).await? {
        return Err(used());
    }
    Ok(Taken {
        length: unsigned(row.offset_bytes),
        node: row.node,
    })
}

/// The file of an upload that this node has.
pub fn upload_path(app: &App, id: &str) -> PathBuf {
    spool::path(&app.data, id)
}

/// Forgets an upload whose image's job has ended, and frees its room. Harmless when repeated.
pub async fn upload_done(app: &App, id: &str) -> Result<()> {
    let tx = app.db.write().await?;
    rows::upload_delete(&*tx, id).await?;
    tx.commit().await?;
    spool::remove(spool::path(&app.data, id)).await
}

/// Removes what is over, and files that belong to no upload; returns how many files went.
pub async fn upload_sweep(app: &App) -> Result<usize> {
    let tx = app.db.write().await?;
    rows::upload_forget(&*tx, app.clock.now(), &app.node).await?;
    tx.commit().await?;
    let old = spool::old_names(&app.data, ORPHAN_AGE).await?;
    let known = rows::upload_ids(app.db.conn(), &app.node).await?;
    let mut gone = 0;
    for name in old.into_iter().filter(|name| !known.contains(name)) {
        let path = spool::path(&app.data, &name);
        // Locked means that a request is still writing; the next sweep finds it.
        let Ok(_lock) = Locked::try_open(path.clone(), None).await else {
            continue;
        };
        spool::remove(path).await?;
        gone += 1;
    }
    Ok(gone)
}

/// Sweeps now and then until `stop`.
pub async fn upload_sweeper(app: App, stop: CancellationToken) {
    loop {
        match upload_sweep(&app).await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "removed uploads that are over"),
            Err(error) => tracing::warn!(error = error.chain(), "could not sweep the uploads"),
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

pub(super) fn check_size(app: &App, length: u64) -> Result<()> {
    let max = app.config.upload.max_bytes;
    if length > max {
        return Err(Error::TooLarge(format!(
            "an upload has at most {max} bytes here, this one would have {length}; compress the file, or ask the \
             operator to raise `upload.max_bytes`"
        )));
    }
    Ok(())
}

fn used() -> Error {
    Error::Conflict("an image is being made of this upload already".into())
}

pub(super) fn expiry(app: &App) -> TimeDelta {
    TimeDelta::hours(i64::try_from(app.config.upload.expiry_hours).unwrap_or(24))
}

/// An id as it may be repeated in a message.
fn shown(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(64).collect()
}

pub(super) fn signed(bytes: u64) -> Result<i64> {
    i64::try_from(bytes).map_err(|_| Error::BadRequest("a number of bytes is too large".into()))
}

/// The rows hold nothing negative.
pub(super) fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
