//! Deleting images, bringing them back, and giving their disks up in the end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::TimeDelta;
use serde_json::json;

use super::{CANCELLED, image_own, own_check, tags_keep_in_tx, tags_set_in_tx};
use crate::app::App;
use crate::images::checksum;
use crate::images::jobs;
use crate::images::model::Status;
use crate::images::rows::{self, Model};
use crate::platform::accounts::{Caller, service as accounts};
use crate::platform::clock::{Time, wire};
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::jobs as engine;
use crate::platform::projects;
use crate::platform::storage::gc::model::GivenUp;

/// How long a deleted image can be restored.
const RESTORE_FOR: TimeDelta = TimeDelta::hours(24);
/// How long the row of a deleted image still answers after that.
const TOMBSTONE_FOR: TimeDelta = TimeDelta::days(30);
/// Why a disk was given up when its time was over, as its event says.
const OVER: &str = "its time to be restored was over";
/// Why it was before: a server begins such a gc by itself where its disk is nearly full.
const EARLY: &str =
    "room was needed: a gc with purge ran, which somebody asked for or a nearly full disk began";
/// What Terraform looks for in the answer to a second delete.
const DELETED_ALREADY: &str = "Image Can not delete an already deleted image.";

/// Deletes an image: out of the lists at once, its disk kept for a day so that it can be restored. With `purge` the
/// disk is given up now. What is being imported is cancelled.
pub async fn image_delete(app: &App, caller: &Caller, id: i64, purge: bool) -> Result<()> {
    caller.require("image:delete")?;
    if purge {
        // Who looks at a store that is not there at the moment may think that nothing is left to be given up.
        app.store.there_check().await?;
    }
    let tx = app.db.write().await?;
    let row = image_own_stopped(app, &tx, caller, id).await?;
    delete_in_tx(app, caller, &tx, &row, purge).await?;
    tx.commit().await?;
    app.queue.wake();
    Ok(())
}

/// Cancels an import while it runs, for whoever began it: that needs no permission to delete images. One that has
/// ended is left as it is.
pub async fn image_import_cancel(app: &App, caller: &Caller, id: i64) -> Result<()> {
    let tx = app.db.write().await?;
    let row = image_own_stopped(app, &tx, caller, id).await?;
    if !is_importing(&row) {
        return Ok(());
    }
    delete_in_tx(app, caller, &tx, &row, true).await?;
    tx.commit().await?;
    app.queue.wake();
    Ok(())
}

/// An image that is to be deleted, and the job that imports it asked to end: the job first, because in that order it
/// ends both, and on PostgreSQL the two would otherwise wait for each other.
async fn image_own_stopped(app: &App, tx: &Tx, caller: &Caller, id: i64) -> Result<Model> {
    let seen = own_check(rows::image_get(&**tx, id).await?, caller)?;
    if let (true, Some(job)) = (is_importing(&seen), seen.job_id) {
        engine::job_cancel_in_tx(&**tx, app.clock.now(), job).await?;
    }
    image_own(&**tx, caller, id).await
}

pub(super) fn is_importing(row: &Model) -> bool {
    [Status::New, Status::Pending]
        .iter()
        .any(|s| s.as_str() == row.status)
}

async fn delete_in_tx(app: &App, caller: &Caller, tx: &Tx, row: &Model, purge: bool) -> Result<()> {
    let (id, now) = (row.id, app.clock.now());
    if row.protected {
        return Err(Error::invalid(format!(
            "Image {id} is protected. First take that away (PUT with protected: false, or cistern image update {id} \
             --protected false), then delete it."
        )));
    }
    let is_available = row.status == Status::Available.as_str();
    let keep = is_available && !purge;
    let purge_at = if keep { now + RESTORE_FOR } else { now };
    // The job will end later, and finds the image as it is left here.
    let reason = (!is_available).then_some(CANCELLED);
    let hidden = rows::image_hide(&**tx, now, row, purge_at, reason).await?;
    if hidden {
        tags_keep_in_tx(app, tx, row).await?;
        // A project must not be held by what nobody sees any more.
        projects::service::resource_forget_in_tx(&**tx, "image", &id.to_string()).await?;
    }
    if hidden && keep {
        restorable_in_tx(app, tx, id, true).await?;
    }
    let given_up = purge && disk_forget_in_tx(app, tx, id, None).await?;
    if !hidden && !given_up {
        return Err(Error::invalid(DELETED_ALREADY));
    }
    let event = Event::done("image.delete", "image", id).with(json!({ "name": row.name, "purge": purge }));
    events::record_in_tx(&**tx, now, &caller.who, event).await
}

/// Brings a deleted image back within a day.
pub async fn image_restore(app: &App, caller: &Caller, id: i64) -> Result<Model> {
    caller.require("image:update")?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let row = image_own(&*tx, caller, id).await?;
    if row.status != Status::Deleted.as_str() {
        return Err(Error::invalid(format!("Image {id} is not deleted.")));
    }
    if !rows::image_unhide(&*tx, now, &row).await? {
        return Err(Error::invalid(format!(
            "Image {id} cannot be restored: its data is gone. Deleted images are kept for a day, or less where the disk gets \
             nearly full, or where they are purged. Import it again."
        )));
    }
    restorable_in_tx(app, &tx, id, false).await?;
    let kept: Vec<String> = row
        .kept_tags
        .clone()
        .and_then(|k| serde_json::from_value(k).ok())
        .unwrap_or_default();
    tags_set_in_tx(app, &tx, &row, &kept).await?;
    events::record_in_tx(&*tx, now, &caller.who, Event::done("image.restore", "image", id)).await?;
    let row = image_own(&*tx, caller, id).await?;
    tx.commit().await?;
    Ok(row)
}

/// Whether [`deleted_purge`] would give up anything.
pub async fn deleted_is_any(app: &App) -> Result<bool> {
    Ok(rows::image_any_deleted(app.db.conn()).await?)
}

/// The deleted images that could still be restored.
pub async fn deleted_list(app: &App) -> Result<Vec<GivenUp>> {
    let restorable = restorable_list(app, app.clock.now()).await?;
    told(app, restorable).await
}

/// The rows of the deleted images that can be restored after `now`, however long: one that was deleted while the clock
/// was ahead can be for longer than others.
async fn restorable_list(app: &App, now: Time) -> Result<Vec<Model>> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(0, |row: &Model| row.id);
        let rows = rows::image_list_restorable(app.db.conn(), now, after, 100).await?;
        if rows.is_empty() {
            return Ok(all);
        }
        all.extend(rows);
    }
}

/// Gives up the disks of all deleted images, also where they could still be restored; gives those that could. What is
/// deleted, or restored and deleted again, after this has begun is left.
pub async fn deleted_purge(app: &App) -> Result<Vec<GivenUp>> {
    let now = app.clock.now();
    let restorable = restorable_list(app, now).await?;
    purge_due(app, now).await?;
    let mut purged = Vec::new();
    for row in restorable {
        let until = row.purge_at.unwrap_or(now);
        if purge_one(app, &row, until).await? {
            purged.push(row);
        }
    }
    told(app, purged).await
}

/// What is told of deleted images that are given up.
async fn told(app: &App, rows: Vec<Model>) -> Result<Vec<GivenUp>> {
    let mut teams: HashMap<i64, String> = HashMap::new();
    for row in &rows {
        if let Entry::Vacant(unknown) = teams.entry(row.team_id) {
            unknown.insert(accounts::team_name(app, row.team_id).await?);
        }
    }
    let size = |bytes: Option<i64>| bytes.unwrap_or(0).unsigned_abs();
    let one = |row: Model| GivenUp {
        kind: "image".into(),
        id: row.id,
        team: teams.get(&row.team_id).cloned().unwrap_or_default(),
        team_id: row.team_id,
        deleted_at: row.deleted_at.map(wire),
        restorable_until: row.purge_at.map(wire),
        virtual_bytes: size(row.virtual_bytes),
        logical_bytes: size(row.logical_bytes),
        name: row.name,
    };
    Ok(rows.into_iter().map(one).collect())
}

/// Gives up the disks of deleted images that could be restored until `due` at most.
async fn purge_due(app: &App, due: Time) -> Result<()> {
    loop {
        let rows = rows::image_list_due(app.db.conn(), due, 100).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            purge_one(app, &row, due).await?;
        }
    }
}

/// Gives up the disk of a deleted image that can be restored until `due` at most. False, with nothing done, where it
/// can be for longer by now, or is kept no more.
async fn purge_one(app: &App, row: &Model, due: Time) -> Result<bool> {
    let tx = app.db.write().await?;
    if !disk_forget_in_tx(app, &tx, row.id, Some(due)).await? {
        return Ok(false);
    }
    let who = events::Who {
        team_id: Some(row.team_id),
        ..events::Who::default()
    };
    let now = app.clock.now();
    let reason = if row.purge_at.is_some_and(|until| until > now) {
        EARLY
    } else {
        OVER
    };
    let detail = json!({ "name": row.name, "reason": reason });
    let event = Event::done("image.purge", "image", row.id).with(detail);
    events::record_in_tx(&*tx, now, &who, event).await?;
    tx.commit().await?;
    Ok(true)
}

/// Gives up the disks whose time to be restored is over, and removes rows that nobody asks for any more.
pub async fn image_sweep(app: &App) -> Result<()> {
    let now = app.clock.now();
    purge_due(app, now).await?;
    loop {
        let tx = app.db.write().await?;
        let before = now - TOMBSTONE_FOR;
        let old = rows::image_list_old(&*tx, before, 100).await?;
        if old.is_empty() {
            return Ok(());
        }
        rows::image_remove(&*tx, before, &old).await?;
        tx.commit().await?;
    }
}

/// Says whether an image's disk is only kept so that the image can be restored.
async fn restorable_in_tx(app: &App, tx: &Tx, id: i64, restorable: bool) -> Result<()> {
    app.store
        .root_restorable_in_tx(&**tx, jobs::ROOT_KIND, &id.to_string(), restorable)
        .await?;
    Ok(())
}

/// Lets go of a deleted image's disk: garbage collection may free it. False where it was let go before, or, with `due`,
/// where the image was not due then.
async fn disk_forget_in_tx(app: &App, tx: &Tx, id: i64, due: Option<Time>) -> Result<bool> {
    if !rows::image_forget_disk(&**tx, id, due).await? {
        return Ok(false);
    }
    checksum::checksum_forget_in_tx(&**tx, id).await?;
    app.store
        .root_delete_in_tx(&**tx, jobs::ROOT_KIND, &id.to_string())
        .await?;
    Ok(true)
}
