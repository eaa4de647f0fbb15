//! Signing in to the console: by password, or by a link that works once; and the sessions of browsers.
//!
//! Every sign-in draws a new secret, so that nobody can plant one (session fixation). What is kept is a hash.

use chrono::TimeDelta;
use serde_json::json;

use super::{rows, secret_hash};
use crate::app::App;
use crate::platform::accounts::model::Caller;
use crate::platform::accounts::password;
use crate::platform::clock::Time;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::random;

/// How long a one-time sign-in link works.
const LINK_LIFE: TimeDelta = TimeDelta::hours(24);
/// How long a browser stays signed in.
pub const SESSION_LIFE: TimeDelta = TimeDelta::days(7);

/// A sign-in link's secret; the link is `/sign-in/SECRET` on the console.
pub struct Link {
    /// 64 hex digits.
    pub secret: String,
    /// When it ends.
    pub expires_at: Time,
}

/// A browser that is signed in.
pub struct Session {
    /// 64 hex digits, for the cookie.
    pub secret: String,
}

/// A link that signs this user in once, within a day.
pub async fn link_create(app: &App, who: &Who, user_id: i64, team_id: Option<i64>) -> Result<Link> {
    let tx = app.db.write().await?;
    let user = rows::user_keep(&*tx, user_id).await?.ok_or(Error::NotFound)?;
    if user.disabled_at.is_some() {
        return Err(Error::Conflict(format!(
            "`{}` is disabled; enable them first",
            user.email
        )));
    }
    let team_id = match team_id {
        Some(id) => id,
        None => first_team(&tx, user_id).await?.ok_or_else(|| {
            Error::Conflict(format!(
                "`{}` is not a member of any team; add them to one first",
                user.email
            ))
        })?,
    };
    let link = link_create_in_tx(app, &tx, who, user_id, team_id).await?;
    tx.commit().await?;
    Ok(link)
}

pub(super) async fn link_create_in_tx(
    app: &App,
    tx: &Tx,
    who: &Who,
    user_id: i64,
    team_id: i64,
) -> Result<Link> {
    let secret = hex::encode(random::bytes::<32>());
    let now = app.clock.now();
    let expires_at = now + LINK_LIFE;
    rows::sign_in_insert(
        &**tx,
        now,
        "link",
        &secret_hash(&secret),
        (user_id, team_id),
        expires_at,
    )
    .await?;
    events::record_in_tx(&**tx, now, who, Event::done("sign_in.link", "user", user_id)).await?;
    Ok(Link { secret, expires_at })
}

/// Whether a link would work; does not use it up.
pub async fn link_check(app: &App, secret: &str) -> Result<bool> {
    let found = rows::sign_in_get(app.db.conn(), app.clock.now(), "link", &secret_hash(secret)).await?;
    Ok(found.is_some())
}

/// Uses a link up. None where it was used, is over, or never was.
pub async fn link_use(app: &App, who: &Who, secret: &str) -> Result<Option<Session>> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let Some(link) = rows::sign_in_get(&*tx, now, "link", &secret_hash(secret)).await? else {
        drop(tx);
        events::record_refusal(
            app,
            who,
            Event::refused("sign_in.create").with(json!({ "by": "link" })),
        )
        .await;
        return Ok(None);
    };
    let who = acting(who, link.user_id, link.team_id);
    // Whoever disables the user or removes the member ends the sign-ins that there are: this one is among them, or not
    // made.
    let user = rows::user_keep(&*tx, link.user_id).await?;
    rows::team_keep(&*tx, link.team_id).await?;
    let member = rows::member_get(&*tx, link.team_id, link.user_id).await?;
    let is_welcome = user.is_some_and(|u| u.disabled_at.is_none()) && member.is_some();
    if !is_welcome || !rows::sign_in_end(&*tx, now, link.id).await? {
        drop(tx);
        events::record_refusal(
            app,
            &who,
            Event::refused("sign_in.create").with(json!({ "by": "link" })),
        )
        .await;
        return Ok(None);
    }
    let session = session_create_in_tx(app, &tx, &who, "link").await?;
    tx.commit().await?;
    Ok(Some(session))
}

/// Signs in by e-mail address and password; none where either is wrong. Takes as long for an unknown user as for a
/// known one, and tells the same.
pub async fn sign_in_password(app: &App, who: &Who, email: &str, password: &str) -> Result<Option<Session>> {
    let address = who.address.as_deref();
    if let Err(error) = app.sign_ins.attempts.take(app.clock.now(), email, address) {
        let event =
            Event::refused("sign_in.create").with(json!({ "by": "password", "reason": "too many attempts" }));
        events::record_refusal(app, who, event).await;
        return Err(error);
    }
    let conn = app.db.conn();
    let user = rows::user_by_email(conn, &email.to_lowercase()).await?;
    let hash = user.as_ref().and_then(|u| u.password_hash.as_deref());
    let is_right = app.sign_ins.hasher.verify(password, hash).await?;
    let mut who = who.clone();
    let mut team_id = None;
    if let Some(user) = &user {
        team_id = rows::member_of(conn, user.id).await?.first().map(|m| m.team_id);
        who = Who {
            user_id: Some(user.id),
            team_id,
            ..who
        };
    }
    let user = user.filter(|u| is_right && u.disabled_at.is_none());
    let (Some(user), Some(team_id)) = (user, team_id) else {
        // Not the address that was typed: people type passwords into the wrong field.
        let event = Event::refused("sign_in.create").with(json!({ "by": "password" }));
        events::record_refusal(app, &who, event).await;
        return Ok(None);
    };
    app.sign_ins.attempts.forgive(email, address);
    let tx = app.db.write().await?;
    // The password may have been changed, or the user disabled, while this one was checked.
    let now_user = rows::user_keep(&*tx, user.id).await?;
    if now_user.is_none_or(|u| u.disabled_at.is_some() || u.password_hash != user.password_hash) {
        return Ok(None);
    }
    rows::team_keep(&*tx, team_id).await?;
    if rows::member_get(&*tx, team_id, user.id).await?.is_none() {
        return Ok(None);
    }
    let session = session_create_in_tx(app, &tx, &acting(&who, user.id, team_id), "password").await?;
    tx.commit().await?;
    Ok(Some(session))
}

/// Signs a browser out.
pub async fn session_end(app: &App, caller: &Caller, secret: &str) -> Result<()> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    if let Some(session) = rows::sign_in_get(&*tx, now, "browser", &secret_hash(secret)).await? {
        rows::sign_in_end(&*tx, now, session.id).await?;
        events::record_in_tx(
            &*tx,
            now,
            &caller.who,
            Event::done("sign_in.delete", "user", session.user_id),
        )
        .await?;
    }
    tx.commit().await
}

/// Sets a user's password, for operators and the installation's own command. All their sign-ins end.
pub async fn password_set(app: &App, who: &Who, user_id: i64, password: &str) -> Result<()> {
    let hash = app.sign_ins.hasher.hash(password).await?;
    let tx = app.db.write().await?;
    password_set_in_tx(app, &tx, who, user_id, &hash).await?;
    tx.commit().await
}

/// A signed-in user's new password; whoever has one must know it. All their sign-ins end, and this browser gets a new
/// one.
pub async fn password_change(app: &App, caller: &Caller, current: &str, new: &str) -> Result<Session> {
    password::check(new)?;
    let user = rows::user_get(app.db.conn(), caller.user_id)
        .await?
        .ok_or(Error::NotFound)?;
    if let Some(hash) = &user.password_hash {
        let address = caller.who.address.as_deref();
        if let Err(error) = app.sign_ins.attempts.take(app.clock.now(), &user.email, address) {
            let event = Event::refused("user.password").with(json!({ "reason": "too many attempts" }));
            events::record_refusal(app, &caller.who, event).await;
            return Err(error);
        }
        if !app.sign_ins.hasher.verify(current, Some(hash)).await? {
            events::record_refusal(app, &caller.who, Event::refused("user.password")).await;
            return Err(Error::invalid(
                "the current password is wrong; whoever has forgotten it asks an operator for a sign-in link (`cistern user \
                 link`)",
            ));
        }
        app.sign_ins.attempts.forgive(&user.email, address);
    }
    let hash = app.sign_ins.hasher.hash(new).await?;
    let tx = app.db.write().await?;
    // What was checked above may have been replaced since, by an operator whose word stands.
    let now_user = rows::user_lock(&*tx, caller.user_id).await?;
    if now_user.is_none_or(|u| u.password_hash != user.password_hash) {
        return Err(Error::Conflict(
            "the password was changed by somebody else at this moment; sign in again".into(),
        ));
    }
    password_set_in_tx(app, &tx, &caller.who, caller.user_id, &hash).await?;
    let session = session_create_in_tx(app, &tx, &caller.who, "new password").await?;
    tx.commit().await?;
    Ok(session)
}

/// Forgets sign-ins that have been over for a day; returns how many.
pub async fn sign_in_forget(app: &App) -> Result<u64> {
    let before = app.clock.now() - TimeDelta::days(1);
    Ok(rows::sign_in_forget(app.db.conn(), before).await?)
}

async fn password_set_in_tx(app: &App, tx: &Tx, who: &Who, user_id: i64, hash: &str) -> Result<()> {
    let now = app.clock.now();
    rows::user_set_password(&**tx, user_id, hash).await?;
    rows::sign_in_end_all(&**tx, now, user_id).await?;
    events::record_in_tx(&**tx, now, who, Event::done("user.password", "user", user_id)).await
}

/// `who` names the user and the team.
async fn session_create_in_tx(app: &App, tx: &Tx, who: &Who, by: &str) -> Result<Session> {
    let (Some(user_id), Some(team_id)) = (who.user_id, who.team_id) else {
        return Err(Error::bug("a session of nobody"));
    };
    let secret = hex::encode(random::bytes::<32>());
    let now = app.clock.now();
    let hash = secret_hash(&secret);
    rows::sign_in_insert(
        &**tx,
        now,
        "browser",
        &hash,
        (user_id, team_id),
        now + SESSION_LIFE,
    )
    .await?;
    let event = Event::done("sign_in.create", "user", user_id).with(json!({ "by": by }));
    events::record_in_tx(&**tx, now, who, event).await?;
    Ok(Session { secret })
}

async fn first_team(tx: &Tx, user_id: i64) -> Result<Option<i64>> {
    Ok(rows::member_of(&**tx, user_id).await?.first().map(|m| m.team_id))
}

fn acting(who: &Who, user_id: i64, team_id: i64) -> Who {
    Who {
        user_id: Some(user_id),
        team_id: Some(team_id),
        ..who.clone()
    }
}
