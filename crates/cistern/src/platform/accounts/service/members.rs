//! Members of a team. Owners change roles and remove members; only operators add users, who are the installation's, so
//! that no owner can find out who else there is. A team always keeps one owner who can sign in.

use serde_json::json;

use super::rows;
use crate::app::App;
use crate::platform::accounts::role::Role;
use crate::platform::clock::Time;
use crate::platform::db::{Tx, conflict};
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};

/// A member of a team.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// The user.
    pub user: rows::user::Model,
    /// Their role.
    pub role: Role,
    /// Since when.
    pub since: Time,
}

/// A team's members.
pub async fn member_list(app: &App, team_id: i64, page: Page) -> Result<Listed<MemberView>> {
    let listed = rows::member_page(app.db.conn(), team_id, page).await?;
    let views: Result<Vec<MemberView>> = listed.rows.into_iter().map(|(m, u)| view(&m, u)).collect();
    Ok(Listed {
        rows: views?,
        total: listed.total,
    })
}

/// The first owner of a team who is not disabled, for the installation's own command.
pub async fn team_owner(app: &App, team: &rows::team::Model) -> Result<rows::user::Model> {
    let conn = app.db.conn();
    for member in rows::member_list(conn, team.id).await? {
        if member.role != Role::Owner.as_str() {
            continue;
        }
        let user = rows::user_get(conn, member.user_id).await?;
        if let Some(user) = user.filter(|u| u.disabled_at.is_none()) {
            return Ok(user);
        }
    }
    Err(Error::Precondition(format!(
        "the team `{0}` has no owner who is not disabled; `cistern team member add EMAIL --team '{0}' --role owner`",
        team.name
    )))
}

/// Makes a user a member of a team.
pub async fn member_add(app: &App, who: &Who, team_id: i64, user_id: i64, role: Role) -> Result<MemberView> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let team = rows::team_lock(&*tx, team_id).await?.ok_or(Error::NotFound)?;
    let user = rows::user_get(&*tx, user_id)
        .await?
        .ok_or_else(|| Error::invalid(format!("there is no user {user_id}; GET /v2/users lists them")))?;
    rows::member_insert(&*tx, now, team_id, user_id, role)
        .await
        .map_err(|e| {
            conflict(
                e,
                format!("`{}` is a member of `{}` already", user.email, team.name),
            )
        })?;
    let event =
        Event::done("member.create", "user", user_id).with(json!({ "in_team": team_id, "role": role }));
    events::record_in_tx(&*tx, now, &in_team(who, team_id), event).await?;
    tx.commit().await?;
    Ok(MemberView {
        user,
        role,
        since: now,
    })
}

/// Changes a member's role; from the next request on nothing of theirs can do more.
pub async fn member_set_role(
    app: &App,
    who: &Who,
    team_id: i64,
    user_id: i64,
    role: Role,
) -> Result<MemberView> {
    let tx = app.db.write().await?;
    let (member, user) = member_locked(&tx, team_id, user_id).await?;
    if role < Role::Owner {
        refuse_last_owner(&tx, &member).await?;
    }
    rows::member_set_role(&*tx, team_id, user_id, role).await?;
    let event = Event::done("member.update", "user", user_id)
        .with(json!({ "in_team": team_id, "role": role, "was": member.role }));
    events::record_in_tx(&*tx, app.clock.now(), &in_team(who, team_id), event).await?;
    tx.commit().await?;
    Ok(MemberView {
        user,
        role,
        since: member.created_at,
    })
}

/// Removes a member: their tokens and sign-ins of this team end at once.
pub async fn member_remove(app: &App, who: &Who, team_id: i64, user_id: i64) -> Result<()> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let (member, _) = member_locked(&tx, team_id, user_id).await?;
    refuse_last_owner(&tx, &member).await?;
    rows::member_delete(&*tx, team_id, user_id).await?;
    // A later return to the team must not wake old tokens.
    rows::token_revoke_all(&*tx, now, team_id, user_id).await?;
    rows::sign_in_end_team(&*tx, now, user_id, team_id).await?;
    let event =
        Event::done("member.delete", "user", user_id).with(json!({ "in_team": team_id, "was": member.role }));
    events::record_in_tx(&*tx, now, &in_team(who, team_id), event).await?;
    tx.commit().await
}

async fn member_locked(
    tx: &Tx,
    team_id: i64,
    user_id: i64,
) -> Result<(rows::member::Model, rows::user::Model)> {
    rows::team_lock(&**tx, team_id).await?.ok_or(Error::NotFound)?;
    let member = rows::member_get(&**tx, team_id, user_id)
        .await?
        .ok_or(Error::NotFound)?;
    let user = rows::user_get(&**tx, user_id).await?.ok_or(Error::NotFound)?;
    Ok((member, user))
}

async fn refuse_last_owner(tx: &Tx, member: &rows::member::Model) -> Result<()> {
    if member.role != Role::Owner.as_str() {
        return Ok(());
    }
    if rows::owner_count_without(&**tx, member.team_id, member.user_id).await? == 0 {
        return Err(Error::Conflict(
            "this is the team's last owner; make another member an owner first".into(),
        ));
    }
    Ok(())
}

fn view(member: &rows::member::Model, user: rows::user::Model) -> Result<MemberView> {
    Ok(MemberView {
        role: member.role.parse()?,
        since: member.created_at,
        user,
    })
}

/// The event belongs to the team it changes, also when an operator of another one did it.
fn in_team(who: &Who, team_id: i64) -> Who {
    Who {
        team_id: Some(team_id),
        ..who.clone()
    }
}
