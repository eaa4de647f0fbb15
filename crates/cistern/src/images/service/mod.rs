//! What can be done with images.

mod deletion;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use sea_orm::ConnectionTrait;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::checksum;
use super::jobs::{self, Input, Payload};
use super::model::{self, Change, Filter, ImportSource, Kind, NewImport, Status};
use super::rows::{self, Model, NewRow, Published};
use super::spool;
use super::uploads::service as uploads;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::actions::{self, ActionRow, service::Followed};
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::jobs as engine;
use crate::platform::net::Guard;
use crate::platform::paging::{Listed, Page};
use crate::platform::projects;
use crate::platform::regions::region_find;
use crate::platform::resources::Owner;
use crate::platform::secrets::{self, Secrets};
use crate::platform::storage::space;
use crate::platform::tags::service as tags;

use deletion::is_importing;
pub use deletion::{
    deleted_is_any, deleted_list, deleted_purge, image_delete, image_import_cancel, image_restore,
    image_sweep,
};

/// How often the sweeper looks.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_mins(1);
/// Why an import that was cancelled, or whose image was deleted, made no image.
pub const CANCELLED: &str = "The import was cancelled.";
/// Why an import made no image whose server's database was lost meanwhile.
const LOST: &str = "The server's database was lost before this import had ended. Import it again.";
/// Attempts of an import before it fails for good.
const IMPORT_ATTEMPTS: i32 = 5;

/// Starts the import of an image: its row, its action and its job, in one transaction of the caller's. Wake the
/// queue after the commit.
pub async fn image_import_in_tx(
    app: &App,
    tx: &Tx,
    caller: &Caller,
    new: &NewImport,
) -> Result<(Model, ActionRow)> {
    space::room_check(app)?;
    let now = app.clock.now();
    let row = image_insert(app, tx, caller, new).await?;
    let (input, node) = match &new.source {
        ImportSource::Url { .. } => (Input::Url, None),
        ImportSource::Upload { id } => {
            let id = id.to_string();
            let taken = uploads::upload_take_in_tx(app, tx, caller, &id, row.id).await?;
            (Input::Upload { id }, Some(taken.node))
        }
        ImportSource::Local { id } => (Input::Local { id: *id }, Some(app.node.clone())),
    };
    let action = actions::NewAction {
        team_id: caller.team_id,
        kind: "create",
        resource_type: "image",
        resource_id: Some(row.id),
        region: Some(&new.region),
    };
    let action = actions::action_create_in_tx(&**tx, now, &action).await?;
    let job = engine::NewJob {
        kind: jobs::IMPORT,
        payload: json!(Payload {
            image_id: row.id,
            input
        }),
        team_id: Some(caller.team_id),
        action_id: Some(action.id),
        // An uploaded or handed-over file is on one node and nowhere else.
        node,
        priority: 0,
    };
    let job = engine::job_enqueue_in_tx(&**tx, now, job, IMPORT_ATTEMPTS).await?;
    rows::image_set_job(&**tx, row.id, job, action.id).await?;
    let detail = json!({ "name": row.name, "source": row.source });
    let event = Event::done("image.create", "image", row.id).with(detail);
    events::record_in_tx(&**tx, now, &caller.who, event).await?;
    let row = Model {
        job_id: Some(job),
        action_id: Some(action.id),
        ..row
    };
    Ok((row, action))
}

async fn image_insert(app: &App, tx: &Tx, caller: &Caller, new: &NewImport) -> Result<Model> {
    caller.require("image:create")?;
    model::name_check(&new.name)?;
    let description = new.description.as_deref().unwrap_or_default();
    model::description_check(description)?;
    tags::tag_names_check(&new.tags)?;
    if !new.tags.is_empty() {
        caller.require("tag:create")?;
    }
    region_check(&new.region)?;
    let expected = new
        .expected_sha256
        .as_deref()
        .map(model::sha256_check)
        .transpose()?;
    let (source, url) = match &new.source {
        ImportSource::Url { url } => {
            Guard::new(&app.config).url_check(url).map_err(Error::invalid)?;
            (model::url_shown(url), Some(url.as_str()))
        }
        ImportSource::Upload { .. } => ("upload".to_owned(), None),
        ImportSource::Local { .. } => ("file".to_owned(), None),
    };
    let row = NewRow {
        team_id: caller.team_id,
        kind: Kind::Custom,
        name: &new.name,
        distribution: model::distribution(new.distribution.as_deref()),
        description,
        region: &new.region,
        source: Some(&source),
        expected_sha256: expected.as_deref(),
    };
    let row = rows::image_insert(&**tx, app.clock.now(), &row).await?;
    if let Some(url) = url {
        let sealed = app.secrets.seal(source_url_place(row.id), url)?;
        rows::image_set_source_url(&**tx, row.id, Some(&sealed)).await?;
    }
    tags_set_in_tx(app, tx, &row, &new.tags).await?;
    Ok(row)
}

/// Where the address of an import stands, sealed: it may hold credentials.
fn source_url_place(id: i64) -> secrets::Place {
    secrets::Place {
        table: "image",
        column: "source_url",
        id,
    }
}

/// The address that an image's import fetches from, while it has not ended.
pub fn source_url(app: &App, row: &Model) -> Result<Option<String>> {
    let sealed = row.source_url.as_deref();
    sealed
        .map(|sealed| app.secrets.open(source_url_place(row.id), sealed))
        .transpose()
}

/// Seals the addresses that an older version kept in clear.
pub async fn source_urls_seal(secrets: &Secrets, tx: &Tx) -> Result<()> {
    for (id, url) in rows::image_list_fetched(&**tx).await? {
        if !secrets::is_sealed(&url) {
            let text = secrets.seal(source_url_place(id), &url)?;
            rows::image_set_source_url(&**tx, id, Some(&text)).await?;
        }
    }
    Ok(())
}

fn region_check(slug: &str) -> Result<()> {
    if region_find(slug).is_none() {
        return Err(Error::invalid(format!(
            "`{slug}` is not a region; `GET /v2/regions` lists them"
        )));
    }
    Ok(())
}

async fn tags_set_in_tx(app: &App, tx: &Tx, row: &Model, names: &[String]) -> Result<()> {
    tags::tags_set_in_tx(
        &**tx,
        app.clock.now(),
        row.team_id,
        names,
        "image",
        &row.id.to_string(),
    )
    .await
}

/// Takes the tags off an image that was deleted, and remembers them for its return.
async fn tags_keep_in_tx(app: &App, tx: &Tx, row: &Model) -> Result<()> {
    let id = row.id.to_string();
    let mut tags = tags::tags_of(&**tx, row.team_id, "image", std::slice::from_ref(&id)).await?;
    let Some(names) = tags.remove(&id) else {
        return Ok(());
    };
    rows::image_keep_tags(&**tx, row.id, &names).await?;
    tags_set_in_tx(app, tx, row, &[]).await
}

/// The tags of images, by their ids; none where the caller may not read tags.
pub async fn image_tags(app: &App, caller: &Caller, rows: &[Model]) -> Result<HashMap<String, Vec<String>>> {
    if !caller.may("tag:read") {
        return Ok(HashMap::new());
    }
    let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
    tags::tags_of(app.db.conn(), caller.team_id, "image", &ids).await
}

/// Tells tags and projects which images there are.
pub fn resource_owner() -> Owner {
    Owner {
        kind: "image",
        existing: |tx, team_id, ids| {
            Box::pin(async move {
                let numbers: Vec<i64> = ids.iter().filter_map(|id| id.parse().ok()).collect();
                let existing = rows::image_existing(&**tx, team_id, &numbers).await?;
                Ok(existing.into_iter().map(|id| id.to_string()).collect())
            })
        },
    }
}

/// Starts an import and wakes the workers.
pub async fn image_import(app: &App, caller: &Caller, new: &NewImport) -> Result<(Model, ActionRow)> {
    let tx = app.db.write().await?;
    let made = image_import_in_tx(app, &tx, caller, new).await?;
    tx.commit().await?;
    app.queue.wake();
    Ok(made)
}

/// A page of the images that the caller can see, newest first.
pub async fn image_list(app: &App, caller: &Caller, filter: &Filter, page: Page) -> Result<Listed<Model>> {
    caller.require("image:read")?;
    let listings = filter.listings(caller.team_id);
    Ok(match &filter.tag_name {
        None => rows::image_list(app.db.conn(), &listings, page).await?,
        Some(tag) => rows::image_list_tagged(app.db.conn(), &listings, (caller.team_id, tag), page).await?,
    })
}

/// An image by its number, or a public one by its slug. A deleted one answers as long as its row is kept: Terraform
/// takes the status `deleted`, but not a 404, for "gone".
pub async fn image_get(app: &App, caller: &Caller, id_or_slug: &str) -> Result<Model> {
    caller.require("image:read")?;
    let row = match id_or_slug.parse() {
        Ok(id) => rows::image_get(app.db.conn(), id).await?,
        Err(_) => rows::image_by_slug(app.db.conn(), id_or_slug).await?,
    };
    row.filter(|row| row.public || row.team_id == caller.team_id)
        .ok_or(Error::NotFound)
}

/// Changes an image's name, distribution, description or protection.
pub async fn image_update(app: &App, caller: &Caller, id: i64, change: Change) -> Result<Model> {
    caller.require("image:update")?;
    if let Some(name) = &change.name {
        model::name_check(name)?;
    }
    if let Some(text) = &change.description {
        model::description_check(text)?;
    }
    let change = Change {
        distribution: change
            .distribution
            .map(|d| model::distribution(Some(&d)).to_owned()),
        ..change
    };
    let tx = app.db.write().await?;
    let row = image_own(&*tx, caller, id).await?;
    if row.status == Status::Deleted.as_str() {
        return Err(Error::NotFound);
    }
    let event = Event::done("image.update", "image", id).with(change.told());
    rows::image_update(&*tx, id, change).await?;
    events::record_in_tx(&*tx, app.clock.now(), &caller.who, event).await?;
    let row = image_own(&*tx, caller, id).await?;
    tx.commit().await?;
    Ok(row)
}

/// Does what `POST /v2/images/{id}/actions` asks for, in DigitalOcean's words: `transfer` to a region, or `convert`.
///
/// Every region is answered by this installation's store, so a transfer moves nothing: it adds the region to the
/// image's, and its action is completed at once. Where the image is there already, that is so too: clients send a
/// request again whose answer they lost. `convert` makes a snapshot of a backup (the specification's `Convert an Image
/// to a Snapshot`), and of nothing else.
pub async fn image_act(
    app: &App,
    caller: &Caller,
    id: i64,
    kind: &str,
    region: Option<&str>,
) -> Result<Followed> {
    caller.require("image:update")?;
    let tx = app.db.write().await?;
    let row = image_own(&*tx, caller, id).await?;
    let region = match kind {
        "transfer" => transfer_check(&row, region)?,
        "convert" => return Err(convert_refusal(&row)),
        _ => return Err(Error::invalid("`type` is `convert` or `transfer`.")),
    };
    rows::image_add_region(&*tx, id, region).await?;
    let action = image_transferred_in_tx(app, &tx, caller, id, region).await?;
    tx.commit().await?;
    actions::service::action_get(app, caller, action).await
}

/// The region that an image can be transferred to.
fn transfer_check<'a>(row: &Model, region: Option<&'a str>) -> Result<&'a str> {
    let region = region.ok_or_else(|| {
        Error::invalid("`region` is missing: name the one to transfer to; `GET /v2/regions` lists them")
    })?;
    region_check(region)?;
    if row.status == Status::Deleted.as_str() {
        return Err(Error::NotFound);
    }
    if row.status != Status::Available.as_str() {
        return Err(Error::invalid(format!(
            "Image {} is still being imported. Transfer it when its `status` is `available`.",
            row.id
        )));
    }
    Ok(region)
}

fn convert_refusal(row: &Model) -> Error {
    Error::invalid(format!(
        "Only a backup can be converted, into a snapshot. Image {} is a {} image: it is kept until you delete it.",
        row.id,
        Kind::of(&row.kind).as_str()
    ))
}

/// Records a transfer that is done, and returns the number of its action.
async fn image_transferred_in_tx(app: &App, tx: &Tx, caller: &Caller, id: i64, region: &str) -> Result<i64> {
    let now = app.clock.now();
    let action = actions::NewAction {
        team_id: caller.team_id,
        kind: "transfer",
        resource_type: "image",
        resource_id: Some(id),
        region: Some(region),
    };
    let action = actions::action_create_in_tx(&**tx, now, &action).await?;
    actions::action_end_in_tx(&**tx, now, action.id, None).await?;
    let event = Event::done("image.transfer", "image", id).with(json!({ "region": region }));
    events::record_in_tx(&**tx, now, &caller.who, event).await?;
    Ok(action.id)
}

/// How far the import of an image is, while it runs.
pub async fn image_progress(app: &App, row: &Model) -> Result<Option<serde_json::Value>> {
    let (true, Some(job)) = (is_importing(row), row.job_id) else {
        return Ok(None);
    };
    let job = engine::job_find(app, job).await?;
    Ok(job.and_then(|job| job.progress))
}

/// Shows an image as being imported; `None` where it no longer is to be.
pub async fn import_begin_in_tx(tx: &Tx, id: i64) -> Result<Option<Model>> {
    rows::image_set_status(&**tx, id, Status::New, Status::Pending).await?;
    let row = rows::image_get(&**tx, id).await?;
    Ok(row.filter(|row| row.status == Status::Pending.as_str()))
}

/// Writes down what an import stored, in the transaction that publishes the disk; false where the image is no longer
/// wanted. It stays `pending` until the journal has this.
pub async fn import_keep_in_tx(tx: &Tx, row: &Model, found: Published) -> Result<bool> {
    let regions: Vec<String> = row.region_wanted.iter().cloned().collect();
    Ok(rows::image_keep(&**tx, row.id, &regions, found).await?)
}

/// Makes an image available whose disk is kept and journaled, and has its checksums made; `None` where it is no longer
/// wanted.
pub async fn import_finish_in_tx(app: &App, tx: &Tx, id: i64) -> Result<Option<Model>> {
    if !rows::image_set_status(&**tx, id, Status::Pending, Status::Available).await? {
        return Ok(None);
    }
    let Some(row) = rows::image_get(&**tx, id).await? else {
        return Ok(None);
    };
    let who = events::Who {
        team_id: Some(row.team_id),
        ..events::Who::default()
    };
    // Its team reads this: what it added would tell what others have.
    let stats = json!({ "virtual_bytes": row.virtual_bytes });
    let event = Event::done("image.import", "image", id).with(stats);
    events::record_in_tx(&**tx, app.clock.now(), &who, event).await?;
    checksum::checksum_enqueue_in_tx(&**tx, app.clock.now(), row.team_id, id).await?;
    Ok(Some(row))
}

/// Puts images in order that were brought back from the journal: a disk that is kept makes its image available, and
/// what was still being imported has ended. Gives how many those are.
pub async fn images_settle_in_tx(app: &App, tx: &Tx) -> Result<u64> {
    let mut ended = 0;
    for row in rows::image_list_importing(&**tx).await? {
        let is_kept = row.root_digest.is_some() && import_finish_in_tx(app, tx, row.id).await?.is_some();
        if !is_kept {
            image_fail_in_tx(app, tx, row.id, LOST).await?;
            ended += 1;
        }
        if let Some(action) = row.action_id {
            let error = (!is_kept).then_some(LOST);
            actions::action_end_in_tx(&**tx, app.clock.now(), action, error).await?;
        }
    }
    rows::image_recount(&**tx).await?;
    Ok(ended)
}

/// The actions of an image, newest first.
pub async fn image_actions(app: &App, caller: &Caller, id: i64, page: Page) -> Result<Listed<Followed>> {
    let row = image_get(app, caller, &id.to_string()).await?;
    actions::service::action_list(app, caller, Some(("image", row.id)), page).await
}

/// One action of an image.
pub async fn image_action(app: &App, caller: &Caller, id: i64, action: i64) -> Result<Followed> {
    image_get(app, caller, &id.to_string()).await?;
    let action = actions::service::action_get(app, caller, action).await?;
    if action.row.resource_type != "image" || action.row.resource_id != Some(id) {
        return Err(Error::NotFound);
    }
    Ok(action)
}

/// Which of these images need stored data that is known to be damaged.
pub async fn images_damaged(app: &App, ids: &[i64]) -> Result<HashSet<i64>> {
    let owners: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    let damaged = app.store.damaged_among(jobs::ROOT_KIND, &owners).await?;
    Ok(damaged.iter().filter_map(|owner| owner.parse().ok()).collect())
}

/// The ranges of an image's disk that are known to be damaged, in order, those that touch as one; the first hundred.
pub async fn image_damage(app: &App, id: i64) -> Result<Vec<Range<u64>>> {
    let damage = app.store.damage_of(jobs::ROOT_KIND, &id.to_string()).await?;
    let mut ranges: Vec<Range<u64>> = damage.into_iter().map(|damage| damage.range).collect();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined.truncate(100);
    Ok(joined)
}

/// Ends an import that failed or was cancelled: the image is `deleted` and says why.
pub async fn image_fail_in_tx(app: &App, tx: &Tx, id: i64, reason: &str) -> Result<()> {
    let now = app.clock.now();
    let Some(row) = rows::image_lock(&**tx, id).await? else {
        return Ok(());
    };
    if !rows::image_hide(&**tx, now, &row, now, Some(reason)).await? {
        // A user deleted it first; their delete stands as it is.
        return Ok(());
    }
    tags_keep_in_tx(app, tx, &row).await?;
    projects::service::resource_forget_in_tx(&**tx, "image", &id.to_string()).await?;
    let who = events::Who {
        team_id: Some(row.team_id),
        ..events::Who::default()
    };
    let event = Event::done("image.import", "image", id)
        .ended(events::Outcome::Failed)
        .with(json!({ "name": row.name, "reason": reason }));
    events::record_in_tx(&**tx, now, &who, event).await
}

/// Removes the working files of imports that have ended.
pub async fn spool_sweep(app: &App) -> Result<()> {
    for job in spool::jobs(&app.data) {
        let row = engine::job_find(app, job).await?;
        let is_open = row.is_some_and(|row| row.finished_at.is_none());
        if !is_open && let Ok(files) = spool::Spool::open(&app.data, job) {
            files.remove();
        }
    }
    Ok(())
}

/// Sweeps now and every minute until `stop` fires.
pub async fn sweeper(app: App, stop: CancellationToken) {
    loop {
        for swept in [spool_sweep(&app).await, image_sweep(&app).await] {
            if let Err(error) = swept {
                tracing::error!(error = error.chain(), "could not clean up after images");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// An image of the caller's team, which stays as it is read until the transaction changes it.
async fn image_own(conn: &impl ConnectionTrait, caller: &Caller, id: i64) -> Result<Model> {
    own_check(rows::image_lock(conn, id).await?, caller)
}

/// One of everyone's images can be seen, but not changed.
fn own_check(row: Option<Model>, caller: &Caller) -> Result<Model> {
    let row = row.ok_or(Error::NotFound)?;
    match (row.team_id == caller.team_id, row.public) {
        (true, _) => Ok(row),
        (false, true) => Err(Error::forbidden(
            "This is everyone's image, and only the team that it belongs to changes it.",
        )),
        (false, false) => Err(Error::NotFound),
    }
}
