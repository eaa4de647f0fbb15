//! Users: people of the installation. Operators make, change and disable them; nobody is deleted, so that events keep
//! their meaning.

use std::collections::HashMap;

use serde_json::json;

use super::{check_email, check_name, rows};
use crate::app::App;
use crate::platform::accounts::role::Role;
use crate::platform::db::{Tx, conflict};
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};
use crate::platform::random;

/// A user to be.
pub struct UserNew<'a> {
    /// For signing in; unique.
    pub email: &'a str,
    /// For people; the address where there is none.
    pub name: Option<&'a str>,
    /// The first team, and the role in it.
    pub team: (i64, Role),
    /// Whether they may run the installation.
    pub is_operator: bool,
}

/// What is to be different; none leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// For signing in; unique.
    pub email: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Whether they may run the installation.
    pub is_operator: Option<bool>,
    /// Whether they may do nothing for now.
    pub is_disabled: Option<bool>,
}

/// Makes a user and a member of a team.
#[cfg(test)]
pub async fn user_create(
    app: &App,
    who: &Who,
    email: &str,
    team_id: i64,
    role: Role,
    is_operator: bool,
) -> Result<rows::user::Model> {
    let new = UserNew {
        email,
        name: None,
        team: (team_id, role),
        is_operator,
    };
    user_create_as(app, who, &new).await
}

/// Makes a user with a name, and a member of a team.
pub async fn user_create_as(app: &App, who: &Who, new: &UserNew<'_>) -> Result<rows::user::Model> {
    let email = check_email(new.email)?;
    let name = new.name.unwrap_or(&email);
    check_name("a name", name)?;
    let (team_id, role) = new.team;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    if rows::team_lock(&*tx, team_id).await?.is_none() {
        return Err(Error::invalid(format!(
            "there is no team {team_id}; GET /v2/teams lists them"
        )));
    }
    let uuid = random::uuid().to_string();
    let user = rows::user_insert(&*tx, now, &uuid, &email, name, new.is_operator)
        .await
        .map_err(|e| conflict(e, format!("there is a user `{email}` already")))?;
    rows::member_insert(&*tx, now, team_id, user.id, role).await?;
    let event = Event::done("user.create", "user", user.id).with(json!({
        "email": email, "in_team": team_id, "role": role, "is_operator": new.is_operator,
    }));
    events::record_in_tx(&*tx, now, who, event).await?;
    tx.commit().await?;
    Ok(user)
}

/// All users, oldest first.
pub async fn user_list(app: &App, page: Page) -> Result<Listed<rows::user::Model>> {
    Ok(rows::user_page(app.db.conn(), page).await?)
}

/// Addresses by user.
pub async fn user_emails(app: &App, ids: &[i64]) -> Result<HashMap<i64, String>> {
    let users = rows::user_list_of(app.db.conn(), ids).await?;
    Ok(users.into_iter().map(|u| (u.id, u.email)).collect())
}

/// A user.
pub async fn user_get(app: &App, id: i64) -> Result<rows::user::Model> {
    rows::user_get(app.db.conn(), id).await?.ok_or(Error::NotFound)
}

/// The user of this address, with a sentence where there is none.
pub async fn user_by_email(app: &App, email: &str) -> Result<rows::user::Model> {
    rows::user_by_email(app.db.conn(), &email.to_lowercase())
        .await?
        .ok_or_else(|| {
            Error::invalid(format!(
                "there is no user `{email}`; `cistern user list` shows them"
            ))
        })
}

/// The first of those who run the installation.
pub async fn operator_first(app: &App) -> Result<rows::user::Model> {
    rows::operator_first(app.db.conn()).await?.ok_or_else(|| {
        Error::Precondition("nobody runs this installation yet; `cistern serve` makes the first user".into())
    })
}

/// Changes a user. The last operator stays one; a disabled user's sign-ins end.
pub async fn user_change(app: &App, who: &Who, id: i64, change: &UserChange) -> Result<rows::user::Model> {
    let tx = app.db.write().await?;
    // The operators before the user: two who make each other none would otherwise wait for each other.
    let operators = match (change.is_operator, change.is_disabled) {
        (Some(false), _) | (_, Some(true)) => rows::operator_list_locked(&*tx).await?,
        _ => Vec::new(),
    };
    let old = rows::user_lock(&*tx, id).await?.ok_or(Error::NotFound)?;
    let email = change
        .email
        .as_deref()
        .map_or(Ok(old.email.clone()), check_email)?;
    let name = change.name.clone().unwrap_or_else(|| old.name.clone());
    check_name("a name", &name)?;
    let is_operator = change.is_operator.unwrap_or(old.is_operator);
    let is_disabled = change.is_disabled.unwrap_or(old.disabled_at.is_some());
    if old.is_operator && (!is_operator || is_disabled) {
        refuse_last_operator(&operators, id)?;
    }
    rows::user_update(&*tx, id, &email, &name, is_operator)
        .await
        .map_err(|e| conflict(e, format!("there is a user `{email}` already")))?;
    if is_disabled != old.disabled_at.is_some() {
        set_disabled(app, &tx, who, id, is_disabled).await?;
    }
    if (&email, &name, is_operator) != (&old.email, &old.name, old.is_operator) {
        let event = Event::done("user.update", "user", id)
            .with(json!({ "email": email, "name": name, "is_operator": is_operator }));
        events::record_in_tx(&*tx, app.clock.now(), who, event).await?;
    }
    let new = rows::user_get(&*tx, id).await?.ok_or(Error::NotFound)?;
    tx.commit().await?;
    Ok(new)
}

/// Disables a user, or lets them in again.
pub async fn user_set_disabled(app: &App, who: &Who, id: i64, is_disabled: bool) -> Result<()> {
    let change = UserChange {
        is_disabled: Some(is_disabled),
        ..UserChange::default()
    };
    user_change(app, who, id, &change).await.map(drop)
}

async fn set_disabled(app: &App, tx: &Tx, who: &Who, id: i64, is_disabled: bool) -> Result<()> {
    let now = app.clock.now();
    rows::user_set_disabled(&**tx, id, is_disabled.then_some(now)).await?;
    if is_disabled {
        rows::sign_in_end_all(&**tx, now, id).await?;
    }
    let what = if is_disabled {
        "user.disable"
    } else {
        "user.enable"
    };
    events::record_in_tx(&**tx, now, who, Event::done(what, "user", id)).await
}

/// Somebody must be able to run the installation.
fn refuse_last_operator(operators: &[rows::user::Model], id: i64) -> Result<()> {
    let is_last = operators.iter().any(|u| u.id == id) && operators.len() == 1;
    if is_last {
        return Err(Error::Conflict(
            "this is the last operator; make another user one first".into(),
        ));
    }
    Ok(())
}
