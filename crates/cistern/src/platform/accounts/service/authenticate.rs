//! Who is it? By a token's text or by a browser's session.
//!
//! Role, disabled and operator are read each time, so that what was taken from a user is gone with the next request.

use chrono::TimeDelta;
use serde_json::json;

use super::tokens::TOKEN_PREFIX;
use super::{rows, secret_hash};
use crate::app::App;
use crate::platform::accounts::model::{Caller, Scopes};
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};

/// How often `last_used_at` is written at most.
const TOUCH_EVERY: TimeDelta = TimeDelta::seconds(60);

/// The caller behind a token's text, or [`Error::Unauthenticated`] and an event that says why.
pub async fn authenticate(app: &App, text: &str, who: Who) -> Result<Caller> {
    // A token has a fixed shape; anything else is not worth a query.
    let found = if text.len() == TOKEN_PREFIX.len() + 64 && text.starts_with(TOKEN_PREFIX) {
        rows::token_find(app.db.conn(), &secret_hash(text)).await?
    } else {
        None
    };
    let Some(found) = found else {
        return Err(token_refused(app, &who, "unknown").await);
    };
    let now = app.clock.now();
    let (team_id, user_id, token_id) = (found.token.team_id, found.user.id, found.token.id);
    let who = Who {
        team_id: Some(team_id),
        user_id: Some(user_id),
        token_id: Some(token_id),
        ..who
    };
    let refusal = if found.token.revoked_at.is_some() {
        Some("revoked")
    } else if found.token.expires_at.is_some_and(|at| at <= now) {
        Some("expired")
    } else if found.user.disabled_at.is_some() {
        Some("the user is disabled")
    } else if found.role.is_none() {
        Some("the user is not a member of the team")
    } else {
        None
    };
    let (None, Some(role)) = (refusal, found.role) else {
        return Err(token_refused(app, &who, refusal.unwrap_or_default()).await);
    };
    if found.token.last_used_at.is_none_or(|at| now - at >= TOUCH_EVERY) {
        // On a full disk a reader goes on reading.
        if let Err(error) = rows::token_touch(app.db.conn(), token_id, now).await {
            tracing::warn!(%error, "could not note a token's last use");
        }
    }
    Ok(Caller {
        team_id,
        user_id,
        token_id: Some(token_id),
        role: role.parse()?,
        is_operator: found.user.is_operator,
        scopes: serde_json::from_value(found.token.scopes)
            .map_err(|e| Error::internal("a token's scopes", e))?,
        who,
    })
}

/// Writes that a token was no good, and gives the refusal.
pub(super) async fn token_refused(app: &App, who: &Who, reason: &str) -> Error {
    let event = Event::refused("token.use").with(json!({ "reason": reason }));
    events::record_refusal(app, who, event).await;
    Error::Unauthenticated
}

/// The caller behind a signed-in browser's secret; none where it is over.
pub async fn session_caller(app: &App, secret: &str, who: Who) -> Result<Option<Caller>> {
    let conn = app.db.conn();
    let hash = secret_hash(secret);
    let Some(session) = rows::sign_in_get(conn, app.clock.now(), "browser", &hash).await? else {
        return Ok(None);
    };
    let (user_id, team_id) = (session.user_id, session.team_id);
    let user = rows::user_get(conn, user_id).await?;
    let member = rows::member_get(conn, team_id, user_id).await?;
    let (Some(user), Some(member)) = (user.filter(|u| u.disabled_at.is_none()), member) else {
        return Ok(None);
    };
    Ok(Some(Caller {
        team_id,
        user_id,
        token_id: None,
        role: member.role.parse()?,
        is_operator: user.is_operator,
        scopes: Scopes::all(),
        who: Who {
            team_id: Some(team_id),
            user_id: Some(user_id),
            token_id: None,
            ..who
        },
    }))
}
