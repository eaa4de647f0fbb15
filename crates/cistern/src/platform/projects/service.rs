//! What can be done with projects.

use sea_orm::{ConnectionTrait, SqlErr};
use serde_json::json;

use super::model::{Change, MAX_RESOURCES, change_check, default_project, urn_parse};
use super::rows::{self, project, resource};
use crate::app::App;
use crate::platform::accounts::{Caller, service::team_lock_in_tx};
use crate::platform::clock::Time;
use crate::platform::db::{Tx, conflict};
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};
use crate::platform::random;
use crate::platform::resources::{KINDS, Resource, resources_existing};

/// How a project is named in a path.
#[derive(Clone, Debug)]
pub enum Which {
    /// The team's default project.
    Default,
    /// By its UUID.
    Uuid(String),
}

/// How an assignment ended, in DigitalOcean's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is in the project now.
    Assigned,
    /// It was already.
    AlreadyAssigned,
    /// There is no such thing, or it is not the caller's to see.
    NotFound,
}

/// A thing that was to be assigned.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Which.
    pub resource: Resource,
    /// When it came into the project, where it did.
    pub at: Option<Time>,
    /// How it ended.
    pub status: Status,
}

/// The team's projects, oldest first.
pub async fn project_list(app: &App, caller: &Caller, page: Page) -> Result<Listed<project::Model>> {
    default_ensure(app, caller).await?;
    Ok(rows::project_list(app.db.conn(), caller.team_id, page).await?)
}

/// A project of the team.
pub async fn project_get(app: &App, caller: &Caller, which: &Which) -> Result<project::Model> {
    if let Which::Default = which {
        return default_ensure(app, caller).await;
    }
    find(app.db.conn(), caller.team_id, which).await
}

/// A transaction that changes the team's projects: one at a time, because which of them is the default, and whether one
/// is there and empty, must not change between the look and the write.
async fn write_in_turn(app: &App, caller: &Caller) -> Result<Tx> {
    let tx = app.db.write().await?;
    team_lock_in_tx(&*tx, caller.team_id).await?;
    Ok(tx)
}

/// Makes a project.
pub async fn project_create(app: &App, caller: &Caller, new: Change) -> Result<project::Model> {
    let new = change_check(new)?;
    let now = app.clock.now();
    let tx = write_in_turn(app, caller).await?;
    // The default project first, so that a new one cannot take its name.
    default_in_tx(&*tx, now, caller.team_id).await?;
    if new.is_default == Some(true) {
        rows::default_clear(&*tx, now, caller.team_id).await?;
    }
    let row = rows::project_insert(&*tx, now, caller.team_id, random::uuid().to_string(), new)
        .await
        .map_err(|e| conflict(e, NAME_TAKEN))?;
    let event = Event::done("project.create", "project", &row.uuid).with(json!({ "name": row.name }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    Ok(row)
}

const NAME_TAKEN: &str = "there is a project of that name already; choose another name";

/// Changes a project. Making one the default takes that from the one that was.
pub async fn project_update(
    app: &App,
    caller: &Caller,
    which: &Which,
    change: Change,
) -> Result<project::Model> {
    let change = change_check(change)?;
    if let Which::Default = which {
        default_ensure(app, caller).await?;
    }
    let now = app.clock.now();
    let tx = write_in_turn(app, caller).await?;
    let row = find(&*tx, caller.team_id, which).await?;
    if change.is_default == Some(false) && row.default_of.is_some() {
        return Err(Error::invalid(
            "a team always has a default project; make another project the default instead",
        ));
    }
    if change.is_default == Some(true) && row.default_of.is_none() {
        default_in_tx(&*tx, now, caller.team_id).await?;
        rows::default_clear(&*tx, now, caller.team_id).await?;
    }
    let row = rows::project_update(&*tx, now, row, change)
        .await
        .map_err(|e| conflict(e, NAME_TAKEN))?;
    let detail = json!({ "name": row.name, "is_default": row.default_of.is_some() });
    let event = Event::done("project.update", "project", &row.uuid).with(detail);
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    Ok(row)
}

/// Deletes an empty project that is not the default.
pub async fn project_delete(app: &App, caller: &Caller, which: &Which) -> Result<()> {
    let now = app.clock.now();
    let tx = write_in_turn(app, caller).await?;
    let row = find(&*tx, caller.team_id, which).await?;
    if rows::resource_any(&*tx, row.id).await? {
        return Err(not_empty());
    }
    if row.default_of.is_some() {
        return Err(Error::Precondition(
            "cannot delete the default project. make another project the default first".into(),
        ));
    }
    let deleted = rows::project_delete(&*tx, row.id)
        .await
        .map_err(|e| match e.sql_err() {
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => not_empty(),
            _ => e.into(),
        })?;
    if !deleted {
        return Err(Error::NotFound);
    }
    let event = Event::done("project.delete", "project", &row.uuid).with(json!({ "name": row.name }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await
}

/// DigitalOcean's words.
fn not_empty() -> Error {
    Error::Precondition("cannot delete a project with resources. move or remove the resources first".into())
}

/// The things of a project that the caller may read.
pub async fn resource_list(
    app: &App,
    caller: &Caller,
    which: &Which,
    page: Page,
) -> Result<Listed<resource::Model>> {
    let row = project_get(app, caller, which).await?;
    let kinds: Vec<&str> = KINDS
        .iter()
        .filter(|kind| kind.may(caller, "read"))
        .map(|kind| kind.name)
        .collect();
    Ok(rows::resource_list(app.db.conn(), row.id, &kinds, page).await?)
}

/// Puts things into a project, taking them out of theirs. Answers for each how it ended; what the caller may not read
/// does not exist for them.
pub async fn resource_assign(
    app: &App,
    caller: &Caller,
    which: &Which,
    urns: &[String],
) -> Result<Vec<Assigned>> {
    if urns.len() > MAX_RESOURCES {
        return Err(Error::invalid(format!(
            "{MAX_RESOURCES} resources at most can be assigned by one request; send several"
        )));
    }
    let wanted = urns
        .iter()
        .map(|urn| urn_parse(urn))
        .collect::<Result<Vec<_>>>()?;
    if let Which::Default = which {
        default_ensure(app, caller).await?;
    }
    let readable: Vec<Resource> = wanted
        .iter()
        .filter(|r| r.kind.may(caller, "read"))
        .cloned()
        .collect();
    let now = app.clock.now();
    let tx = write_in_turn(app, caller).await?;
    let row = find(&*tx, caller.team_id, which).await?;
    let existing = resources_existing(&tx, caller.team_id, &readable).await?;
    let mut out = Vec::with_capacity(wanted.len());
    for resource in wanted {
        let assigned = if existing.contains(&resource) {
            assign_one(&tx, now, &caller.who, &row, resource).await?
        } else {
            Assigned {
                resource,
                at: None,
                status: Status::NotFound,
            }
        };
        out.push(assigned);
    }
    tx.commit().await?;
    Ok(out)
}

async fn assign_one(
    tx: &Tx,
    now: Time,
    who: &Who,
    project: &project::Model,
    resource: Resource,
) -> Result<Assigned> {
    if let Some(row) = rows::resource_get(&**tx, &resource).await?
        && row.project_id == project.id
    {
        return Ok(Assigned {
            resource,
            at: Some(row.assigned_at),
            status: Status::AlreadyAssigned,
        });
    }
    rows::resource_assign(&**tx, now, project.id, resource.kind.name, &resource.id).await?;
    let event = Event::done("project.assign", resource.kind.name, &resource.id)
        .with(json!({ "project": project.uuid }));
    events::record_in_tx(&**tx, now, who, event).await?;
    Ok(Assigned {
        resource,
        at: Some(now),
        status: Status::Assigned,
    })
}

/// Takes a thing out of its project, on the transaction that deletes it.
pub async fn resource_forget_in_tx(
    conn: &impl ConnectionTrait,
    resource_type: &str,
    resource_id: &str,
) -> Result<()> {
    Ok(rows::resource_forget(conn, resource_type, resource_id).await?)
}

async fn find(conn: &impl ConnectionTrait, team_id: i64, which: &Which) -> Result<project::Model> {
    let found = match which {
        Which::Default => rows::default_get(conn, team_id).await?,
        Which::Uuid(uuid) => rows::project_get(conn, team_id, uuid).await?,
    };
    found.ok_or(Error::NotFound)
}

/// The default project, made where there is none.
async fn default_ensure(app: &App, caller: &Caller) -> Result<project::Model> {
    if let Some(row) = rows::default_get(app.db.conn(), caller.team_id).await? {
        return Ok(row);
    }
    let tx = write_in_turn(app, caller).await?;
    let row = default_in_tx(&*tx, app.clock.now(), caller.team_id).await?;
    tx.commit().await?;
    Ok(row)
}

/// It is the system that makes or picks it, also when a reading request was the first to need it.
async fn default_in_tx(conn: &impl ConnectionTrait, now: Time, team_id: i64) -> Result<project::Model> {
    if let Some(row) = rows::default_get(conn, team_id).await? {
        return Ok(row);
    }
    let who = Who {
        team_id: Some(team_id),
        ..Who::default()
    };
    let new = default_project();
    // A version that did not lock could lose the mark of the default project, and the name is still taken.
    if let Some(row) =
        rows::default_adopt(conn, now, team_id, new.name.as_deref().unwrap_or_default()).await?
    {
        let event = Event::done("project.update", "project", &row.uuid)
            .with(json!({ "name": row.name, "is_default": true }));
        events::record_in_tx(conn, now, &who, event).await?;
        return Ok(row);
    }
    let uuid = random::uuid().to_string();
    if rows::default_insert(conn, now, team_id, uuid.clone(), new).await? {
        events::record_in_tx(conn, now, &who, Event::done("project.create", "project", uuid)).await?;
    }
    rows::default_get(conn, team_id)
        .await?
        .ok_or_else(|| Error::bug("a team's default project was just made and is not there"))
}
