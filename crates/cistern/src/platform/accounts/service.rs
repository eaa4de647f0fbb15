//! What can be done with accounts: tokens, users, teams, sign-ins.

use chrono::TimeDelta;
use sha2::{Digest, Sha256};

use super::model::{Caller, Role, Scopes};
use super::rows;
use crate::app::App;
use crate::platform::clock::Time;
use crate::platform::db::{Tx, conflict};
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::random;

/// How DigitalOcean's personal access tokens begin; secret scanners know it.
const TOKEN_PREFIX: &str = "dop_v1_";
/// How often `last_used_at` is written at most.
const TOUCH_EVERY: TimeDelta = TimeDelta::seconds(60);
/// How long a one-time sign-in link works.
const LINK_LIFE: TimeDelta = TimeDelta::hours(24);

/// A new token. The text is shown once and kept nowhere.
pub struct TokenMade {
    /// Its id.
    pub id: i64,
    /// `dop_v1_` and 64 hex digits.
    pub text: String,
}

/// What a new token is to be.
pub struct TokenSpec<'a> {
    /// The team it acts in.
    pub team_id: i64,
    /// The user it acts for.
    pub user_id: i64,
    /// A name for people.
    pub name: &'a str,
    /// What it may do at most.
    pub scopes: Scopes,
    /// When it ends, if ever.
    pub expires_at: Option<Time>,
}

/// What the very first start made; shown once.
pub struct FirstStart {
    /// An API token that may do everything.
    pub token: String,
    /// The secret of a one-time sign-in link.
    pub sign_in: String,
    /// The first owner's name for signing in.
    pub email: &'static str,
}

/// The first owner's e-mail address until they change it.
const FIRST_EMAIL: &str = "owner@localhost";
/// The first team.
const FIRST_TEAM: &str = "My Team";

/// Where there is no user yet: makes the first team and its owner, who is also the operator, in one transaction.
pub async fn first_start(app: &App) -> Result<Option<FirstStart>> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    if rows::user_any(&*tx).await? {
        return Ok(None);
    }
    let who = Who::default();
    let team = rows::team_insert(&*tx, now, &random::uuid().to_string(), FIRST_TEAM).await?;
    let user = rows::user_insert(&*tx, now, &random::uuid().to_string(), FIRST_EMAIL, "Owner", true).await?;
    rows::member_insert(&*tx, now, team.id, user.id, Role::Owner).await?;
    let spec = TokenSpec {
        team_id: team.id,
        user_id: user.id,
        name: "first start",
        scopes: Scopes::all(),
        expires_at: None,
    };
    let token = token_create_in_tx(app, &tx, &who, &spec).await?;
    let sign_in = sign_in_link_in_tx(app, &tx, &who, user.id, team.id).await?;
    tx.commit().await?;
    Ok(Some(FirstStart {
        token: token.text,
        sign_in,
        email: FIRST_EMAIL,
    }))
}

/// The caller behind a token's text, or [`Error::Unauthenticated`].
pub async fn authenticate(app: &App, text: &str, who: Who) -> Result<Caller> {
    // A token has a fixed shape; anything else is not worth a query.
    if text.len() != TOKEN_PREFIX.len() + 64 || !text.starts_with(TOKEN_PREFIX) {
        return Err(Error::Unauthenticated);
    }
    let Some(found) = rows::token_find(app.db.conn(), &secret_hash(text)).await? else {
        return Err(Error::Unauthenticated);
    };
    let now = app.clock.now();
    let over = found.token.expires_at.is_some_and(|at| at <= now);
    let (Some(role), None, None, false) = (found.role, found.token.revoked_at, found.user.disabled_at, over)
    else {
        return Err(Error::Unauthenticated);
    };
    if found.token.last_used_at.is_none_or(|at| now - at >= TOUCH_EVERY) {
        rows::token_touch(app.db.conn(), found.token.id, now).await?;
    }
    let (team_id, user_id, token_id) = (found.token.team_id, found.user.id, found.token.id);
    Ok(Caller {
        team_id,
        user_id,
        token_id: Some(token_id),
        role: role.parse()?,
        is_operator: found.user.is_operator,
        scopes: serde_json::from_value(found.token.scopes)
            .map_err(|e| Error::internal("a token's scopes", e))?,
        who: Who {
            team_id: Some(team_id),
            user_id: Some(user_id),
            token_id: Some(token_id),
            ..who
        },
    })
}

/// Makes a token for a member of a team.
pub async fn token_create(app: &App, who: &Who, spec: &TokenSpec<'_>) -> Result<TokenMade> {
    let tx = app.db.write().await?;
    let made = token_create_in_tx(app, &tx, who, spec).await?;
    tx.commit().await?;
    Ok(made)
}

async fn token_create_in_tx(app: &App, tx: &Tx, who: &Who, spec: &TokenSpec<'_>) -> Result<TokenMade> {
    let text = format!("{TOKEN_PREFIX}{}", hex::encode(random::bytes::<32>()));
    let hash = secret_hash(&text);
    let new = rows::NewToken {
        team_id: spec.team_id,
        user_id: spec.user_id,
        name: spec.name,
        hash: &hash,
        hint: &text[text.len() - 4..],
        scopes: &spec.scopes,
        expires_at: spec.expires_at,
    };
    let now = app.clock.now();
    if rows::member_get(&**tx, spec.team_id, spec.user_id)
        .await?
        .is_none()
    {
        return Err(Error::invalid("that user is not a member of the team"));
    }
    let row = rows::token_insert(&**tx, now, &new).await?;
    let event = Event::done("token.create", "token", row.id).with(serde_json::json!({ "name": spec.name }));
    events::record_in_tx(&**tx, now, who, event).await?;
    Ok(TokenMade { id: row.id, text })
}

/// Revokes a token of the caller's team: one's own, or as owner anyone's.
pub async fn token_revoke(app: &App, caller: &Caller, id: i64) -> Result<()> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    if !rows::token_revoke(&*tx, now, caller.team_id, id).await? {
        return Err(Error::NotFound);
    }
    events::record_in_tx(&*tx, now, &caller.who, Event::done("token.revoke", "token", id)).await?;
    tx.commit().await
}

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

/// Makes a team.
pub async fn team_create(app: &App, who: &Who, name: &str) -> Result<rows::team::Model> {
    check_name("a team's name", name)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let team = rows::team_insert(&*tx, now, &random::uuid().to_string(), name)
        .await
        .map_err(|e| conflict(e, format!("there is a team `{name}` already")))?;
    events::record_in_tx(&*tx, now, who, Event::done("team.create", "team", team.id)).await?;
    tx.commit().await?;
    Ok(team)
}

/// Makes a user and a member of a team.
pub async fn user_create(
    app: &App,
    who: &Who,
    email: &str,
    team_id: i64,
    role: Role,
    is_operator: bool,
) -> Result<rows::user::Model> {
    let email = check_email(email)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let user = rows::user_insert(
        &*tx,
        now,
        &random::uuid().to_string(),
        &email,
        &email,
        is_operator,
    )
    .await
    .map_err(|e| conflict(e, format!("there is a user `{email}` already")))?;
    rows::member_insert(&*tx, now, team_id, user.id, role).await?;
    events::record_in_tx(&*tx, now, who, Event::done("user.create", "user", user.id)).await?;
    tx.commit().await?;
    Ok(user)
}

/// A link that signs this user in once, within a day. Returns its secret.
pub async fn sign_in_link_create(app: &App, who: &Who, user_id: i64, team_id: i64) -> Result<String> {
    let tx = app.db.write().await?;
    let secret = sign_in_link_in_tx(app, &tx, who, user_id, team_id).await?;
    tx.commit().await?;
    Ok(secret)
}

async fn sign_in_link_in_tx(app: &App, tx: &Tx, who: &Who, user_id: i64, team_id: i64) -> Result<String> {
    let secret = hex::encode(random::bytes::<32>());
    let now = app.clock.now();
    let hash = secret_hash(&secret);
    rows::sign_in_insert(&**tx, now, "link", &hash, (user_id, team_id), now + LINK_LIFE).await?;
    events::record_in_tx(&**tx, now, who, Event::done("sign_in.link", "user", user_id)).await?;
    Ok(secret)
}

/// The hash under which a secret of high entropy is kept: plain SHA-256 is enough for 256 random bits.
pub fn secret_hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "{what} has 1 to 255 printable characters"
        )));
    }
    Ok(())
}

fn check_email(email: &str) -> Result<String> {
    let valid = email.len() <= 254
        && email
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        && !email.chars().any(|c| c.is_control() || c.is_whitespace());
    if valid {
        Ok(email.to_lowercase())
    } else {
        Err(Error::invalid(format!("`{email}` is not an e-mail address")))
    }
}
