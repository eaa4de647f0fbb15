//! Teams. Operators make them; a team is never deleted, because everything belongs to one.

use sea_orm::ConnectionTrait;
use serde_json::json;

use super::{check_name, rows};
use crate::app::App;
use crate::platform::accounts::{Caller, Role};
use crate::platform::db::conflict;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};
use crate::platform::random;

/// The caller's user and team.
pub async fn account_get(app: &App, caller: &Caller) -> Result<(rows::user::Model, rows::team::Model)> {
    let user = rows::user_get(app.db.conn(), caller.user_id).await?;
    let team = rows::team_get(app.db.conn(), caller.team_id).await?;
    user.zip(team).ok_or(Error::NotFound)
}

/// The caller's team.
pub async fn team_of(app: &App, caller: &Caller) -> Result<rows::team::Model> {
    rows::team_get(app.db.conn(), caller.team_id)
        .await?
        .ok_or(Error::NotFound)
}

/// A team's name, for those who may know every team; empty where it is gone.
pub async fn team_name(app: &App, id: i64) -> Result<String> {
    let team = rows::team_get(app.db.conn(), id).await?;
    Ok(team.map(|team| team.name).unwrap_or_default())
}

/// Has transactions that change what a team has one of take turns, on PostgreSQL; with SQLite all writers do.
pub async fn team_lock_in_tx(conn: &impl ConnectionTrait, id: i64) -> Result<()> {
    rows::team_lock(conn, id).await?;
    Ok(())
}

/// Makes a team, with its first owner.
pub async fn team_create(app: &App, who: &Who, name: &str, owner: i64) -> Result<rows::team::Model> {
    check_name("a team's name", name)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let team = rows::team_insert(&*tx, now, &random::uuid().to_string(), name)
        .await
        .map_err(|e| conflict(e, format!("there is a team `{name}` already")))?;
    rows::member_insert(&*tx, now, team.id, owner, Role::Owner).await?;
    let event = Event::done("team.create", "team", team.id).with(json!({ "name": name, "owner": owner }));
    events::record_in_tx(&*tx, now, who, event).await?;
    tx.commit().await?;
    Ok(team)
}

/// All teams, oldest first.
pub async fn team_list(app: &App, page: Page) -> Result<Listed<rows::team::Model>> {
    Ok(rows::team_page(app.db.conn(), page).await?)
}

/// Gives a team another name.
pub async fn team_rename(app: &App, who: &Who, id: i64, name: &str) -> Result<rows::team::Model> {
    check_name("a team's name", name)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    rows::team_lock(&*tx, id).await?.ok_or(Error::NotFound)?;
    rows::team_rename(&*tx, id, name)
        .await
        .map_err(|e| conflict(e, format!("there is a team `{name}` already")))?;
    let event = Event::done("team.update", "team", id).with(json!({ "name": name }));
    events::record_in_tx(&*tx, now, who, event).await?;
    let team = rows::team_get(&*tx, id).await?.ok_or(Error::NotFound)?;
    tx.commit().await?;
    Ok(team)
}

/// The team of this name, or the first one; for the installation's own command.
pub async fn team_find(app: &App, name: Option<&str>) -> Result<rows::team::Model> {
    match name {
        Some(name) => rows::team_by_name(app.db.conn(), name).await?.ok_or_else(|| {
            Error::invalid(format!(
                "there is no team `{name}`; `cistern team list` shows them"
            ))
        }),
        None => rows::team_list(app.db.conn())
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| {
                Error::Precondition(
                    "there is no team yet; `cistern serve` makes the first when it starts".into(),
                )
            }),
    }
}
