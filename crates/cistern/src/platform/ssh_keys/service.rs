//! What can be done with SSH keys.

use super::model::{identifier_parse, key_parse, name_check};
use super::rows;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::db::is_duplicate;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::paging::{Listed, Page};

/// The team's keys, oldest first.
pub async fn key_list(app: &App, caller: &Caller, page: Page) -> Result<Listed<rows::Model>> {
    Ok(rows::key_list(app.db.conn(), caller.team_id, page).await?)
}

/// A key of the team by its id or fingerprint.
pub async fn key_get(app: &App, caller: &Caller, which: &str) -> Result<rows::Model> {
    let key = rows::key_get(app.db.conn(), caller.team_id, &identifier_parse(which)).await?;
    key.ok_or(Error::NotFound)
}

/// Adds a public key to the team; a team has each key once.
pub async fn key_create(app: &App, caller: &Caller, name: &str, public_key: &str) -> Result<rows::Model> {
    name_check(name)?;
    let key = key_parse(public_key)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let row = rows::key_insert(&*tx, now, caller.team_id, name, key)
        .await
        .map_err(|e| {
            if is_duplicate(&e) {
                Error::invalid("SSH Key is already in use on your account")
            } else {
                e.into()
            }
        })?;
    let event = Event::done("ssh_key.create", "ssh_key", row.id)
        .with(serde_json::json!({ "name": row.name, "fingerprint": row.fingerprint }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    Ok(row)
}

/// Gives a key another name; without one it stays as it is.
pub async fn key_update(app: &App, caller: &Caller, which: &str, name: Option<&str>) -> Result<rows::Model> {
    let Some(name) = name else {
        return key_get(app, caller, which).await;
    };
    name_check(name)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let Some(mut row) = rows::key_get(&*tx, caller.team_id, &identifier_parse(which)).await? else {
        return Err(Error::NotFound);
    };
    if !rows::key_rename(&*tx, row.id, name).await? {
        return Err(Error::NotFound);
    }
    let event = Event::done("ssh_key.update", "ssh_key", row.id).with(serde_json::json!({ "name": name }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    name.clone_into(&mut row.name);
    Ok(row)
}

/// Removes a key. Droplets that have it keep it.
pub async fn key_delete(app: &App, caller: &Caller, which: &str) -> Result<()> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let Some(row) = rows::key_get(&*tx, caller.team_id, &identifier_parse(which)).await? else {
        return Err(Error::NotFound);
    };
    if !rows::key_delete(&*tx, row.id).await? {
        return Err(Error::NotFound);
    }
    let event = Event::done("ssh_key.delete", "ssh_key", row.id)
        .with(serde_json::json!({ "name": row.name, "fingerprint": row.fingerprint }));
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await
}
