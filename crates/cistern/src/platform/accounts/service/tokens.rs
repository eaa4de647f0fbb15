//! API tokens. Everyone manages their own; an owner also sees and revokes those of the team's other members.

use chrono::TimeDelta;
use serde_json::json;

use super::authenticate::token_refused;
use super::{check_name, rows, secret_hash};
use crate::app::App;
use crate::platform::accounts::model::{Caller, Scopes};
use crate::platform::accounts::role::Role;
use crate::platform::accounts::scopes::{scopes_check, scopes_idle};
use crate::platform::clock::Time;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};
use crate::platform::random;

/// How DigitalOcean's personal access tokens begin; secret scanners know it.
pub(super) const TOKEN_PREFIX: &str = "dop_v1_";

/// A new token. The text is shown once and kept nowhere.
pub struct TokenMade {
    /// Its id.
    pub id: i64,
    /// `dop_v1_` and 64 hex digits.
    pub text: String,
    /// A sentence for each of its scopes that its user's rights do not reach.
    pub warnings: Vec<String>,
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

/// A token as its owner sees it.
#[derive(Clone, Debug)]
pub struct TokenView {
    /// Its id.
    pub id: i64,
    /// The team it acts in.
    pub team_id: i64,
    /// The user it acts for.
    pub user_id: i64,
    /// That user's address.
    pub email: String,
    /// For people.
    pub name: String,
    /// The last four characters of its text.
    pub hint: String,
    /// What it may do at most.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Time,
    /// When it ends, if ever.
    pub expires_at: Option<Time>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Time>,
}

/// What a token says of itself.
pub struct TokenInfo {
    /// The user it acts for.
    pub user_id: i64,
    /// What it may do at most.
    pub scopes: Scopes,
    /// Seconds until it ends, if ever.
    pub expires_in_seconds: Option<i64>,
    /// When it was made.
    pub created_at: Time,
}

/// The scopes that somebody asks for, such as `image:read,tag:*`.
pub fn scopes_parse(text: &str) -> Result<Scopes> {
    let scopes = Scopes::parse(text)?;
    scopes_check(&scopes, crate::routes::scopes_asked())?;
    Ok(scopes)
}

/// Makes a token for a member of a team, for whoever runs the installation's own command.
pub async fn token_create(app: &App, who: &Who, spec: &TokenSpec<'_>) -> Result<TokenMade> {
    let tx = app.db.write().await?;
    let made = token_create_in_tx(app, &tx, who, spec).await?;
    tx.commit().await?;
    Ok(made)
}

/// Makes a token for the caller. It never allows more, nor for longer, than what the caller uses now: no `scopes` means
/// the caller's, and it ends with the caller's token at the latest. Returns its text too, which is kept nowhere.
pub async fn token_create_by(
    app: &App,
    caller: &Caller,
    name: &str,
    scopes: Option<Scopes>,
    lifetime: Option<TimeDelta>,
) -> Result<(TokenView, TokenMade)> {
    caller.require("token:create")?;
    let now = app.clock.now();
    let scopes = scopes.unwrap_or_else(|| caller.scopes.clone());
    if !caller.scopes.cover(&scopes) {
        return Err(Error::invalid(
            "a token cannot allow more than the token that makes it; leave out the scopes that yours does not have",
        ));
    }
    let tx = app.db.write().await?;
    let bound = match caller.token_id {
        Some(id) => {
            rows::token_get(&*tx, caller.team_id, id)
                .await?
                .ok_or(Error::Unauthenticated)?
                .expires_at
        }
        None => None,
    };
    let wanted = lifetime.map(|l| now + l);
    let expires_at = match (wanted, bound) {
        (Some(wanted), Some(bound)) => Some(wanted.min(bound)),
        (wanted, bound) => wanted.or(bound),
    };
    let spec = TokenSpec {
        team_id: caller.team_id,
        user_id: caller.user_id,
        name,
        scopes,
        expires_at,
    };
    let made = token_create_in_tx(app, &tx, &caller.who, &spec).await?;
    let row = rows::token_get(&*tx, caller.team_id, made.id)
        .await?
        .ok_or_else(|| Error::bug("a token vanished in the transaction that made it"))?;
    tx.commit().await?;
    Ok((view(app, row).await?, made))
}

pub(super) async fn token_create_in_tx(
    app: &App,
    tx: &Tx,
    who: &Who,
    spec: &TokenSpec<'_>,
) -> Result<TokenMade> {
    check_name("a token's name", spec.name)?;
    let now = app.clock.now();
    let warnings = idle_in_tx(tx, spec).await?;
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
    let row = rows::token_insert(&**tx, now, &new).await?;
    let who = in_team(who, spec.team_id);
    let event = Event::done("token.create", "token", row.id).with(json!({
        "name": spec.name,
        "for_user": spec.user_id,
        "scopes": spec.scopes,
        "expires_at": spec.expires_at,
    }));
    events::record_in_tx(&**tx, now, &who, event).await?;
    Ok(TokenMade {
        id: row.id,
        text,
        warnings,
    })
}

/// What of a new token's scopes its user's present rights do not reach; refuses who is no member.
async fn idle_in_tx(tx: &Tx, spec: &TokenSpec<'_>) -> Result<Vec<String>> {
    // Whoever removes the member revokes the tokens that there are: a new one comes before that, or not at all.
    rows::team_keep(&**tx, spec.team_id).await?;
    let Some(member) = rows::member_get(&**tx, spec.team_id, spec.user_id).await? else {
        return Err(Error::invalid(
            "that user is not a member of the team; `cistern team member add` makes them one",
        ));
    };
    let user = rows::user_get(&**tx, spec.user_id).await?;
    let is_operator = user.is_some_and(|user| user.is_operator);
    Ok(scopes_idle(&spec.scopes, member.role.parse()?, is_operator))
}

/// The caller's tokens; an owner's list has those of everyone in the team. Revoked ones are not shown.
pub async fn token_list(app: &App, caller: &Caller, page: Page) -> Result<Listed<TokenView>> {
    caller.require("token:read")?;
    let user = (caller.role < Role::Owner).then_some(caller.user_id);
    let listed = rows::token_page(app.db.conn(), Some(caller.team_id), user, page).await?;
    Ok(Listed {
        total: listed.total,
        rows: views(app, listed.rows).await?,
    })
}

/// Every team's tokens or one team's, for the installation's own command.
pub async fn token_list_all(app: &App, team_id: Option<i64>, page: Page) -> Result<Listed<TokenView>> {
    let listed = rows::token_page(app.db.conn(), team_id, None, page).await?;
    Ok(Listed {
        total: listed.total,
        rows: views(app, listed.rows).await?,
    })
}

/// A token that the caller may see.
pub async fn token_get(app: &App, caller: &Caller, id: i64) -> Result<TokenView> {
    caller.require("token:read")?;
    let row = visible(caller, rows::token_get(app.db.conn(), caller.team_id, id).await?)?;
    view(app, row).await
}

/// Revokes a token of the caller's team: one's own, or as owner anyone's.
pub async fn token_revoke(app: &App, caller: &Caller, id: i64) -> Result<()> {
    caller.require("token:delete")?;
    let tx = app.db.write().await?;
    visible(caller, rows::token_get(&*tx, caller.team_id, id).await?)?;
    token_revoke_in_tx(app, &tx, &caller.who, caller.team_id, id).await?;
    tx.commit().await
}

/// Revokes a token of any team, for the installation's own command.
pub async fn token_revoke_local(app: &App, who: &Who, id: i64) -> Result<()> {
    let tx = app.db.write().await?;
    let Some(row) = rows::token_get_any(&*tx, id).await? else {
        return Err(Error::invalid(format!(
            "there is no token {id}; `cistern token list` shows them"
        )));
    };
    if row.revoked_at.is_some() {
        return Err(Error::invalid(format!("token {id} is revoked already")));
    }
    token_revoke_in_tx(app, &tx, who, row.team_id, id).await?;
    tx.commit().await
}

/// Revokes the token of this text: who has it may end it, whatever its scopes. One that is over already stays so; one
/// that never was is [`Error::Unauthenticated`].
pub async fn token_revoke_self(app: &App, who: &Who, text: &str) -> Result<()> {
    let tx = app.db.write().await?;
    let Some(found) = rows::token_find(&*tx, &secret_hash(text)).await? else {
        drop(tx);
        return Err(token_refused(app, who, "unknown").await);
    };
    if found.token.revoked_at.is_some() {
        return Ok(());
    }
    let who = Who {
        user_id: Some(found.user.id),
        token_id: Some(found.token.id),
        ..who.clone()
    };
    token_revoke_in_tx(app, &tx, &who, found.token.team_id, found.token.id).await?;
    tx.commit().await
}

/// What the caller's own token says of itself.
pub async fn token_info(app: &App, caller: &Caller) -> Result<TokenInfo> {
    let id = caller.token_id.ok_or(Error::Unauthenticated)?;
    let row = rows::token_get(app.db.conn(), caller.team_id, id)
        .await?
        .ok_or(Error::Unauthenticated)?;
    Ok(TokenInfo {
        user_id: row.user_id,
        scopes: caller.scopes.clone(),
        expires_in_seconds: row
            .expires_at
            .map(|at| (at - app.clock.now()).num_seconds().max(0)),
        created_at: row.created_at,
    })
}

async fn token_revoke_in_tx(app: &App, tx: &Tx, who: &Who, team_id: i64, id: i64) -> Result<()> {
    let now = app.clock.now();
    if !rows::token_revoke(&**tx, now, team_id, id).await? {
        return Err(Error::NotFound);
    }
    let who = in_team(who, team_id);
    events::record_in_tx(&**tx, now, &who, Event::done("token.revoke", "token", id)).await
}

/// Not yours is not there.
fn visible(caller: &Caller, row: Option<rows::token::Model>) -> Result<rows::token::Model> {
    row.filter(|t| t.revoked_at.is_none())
        .filter(|t| t.user_id == caller.user_id || caller.role >= Role::Owner)
        .ok_or(Error::NotFound)
}

/// A local command acts for no team; its events belong to the team it acts on.
fn in_team(who: &Who, team_id: i64) -> Who {
    Who {
        team_id: who.team_id.or(Some(team_id)),
        ..who.clone()
    }
}

async fn view(app: &App, row: rows::token::Model) -> Result<TokenView> {
    let view = views(app, vec![row]).await?.pop();
    view.ok_or_else(|| Error::bug("one row has one view"))
}

async fn views(app: &App, rows: Vec<rows::token::Model>) -> Result<Vec<TokenView>> {
    let ids: Vec<i64> = rows.iter().map(|t| t.user_id).collect();
    let users = rows::user_list_of(app.db.conn(), &ids).await?;
    let email = |id| users.iter().find(|u| u.id == id).map_or("", |u| u.email.as_str());
    rows.into_iter()
        .map(|row| {
            Ok(TokenView {
                id: row.id,
                team_id: row.team_id,
                user_id: row.user_id,
                email: email(row.user_id).to_owned(),
                scopes: serde_json::from_value(row.scopes)
                    .map_err(|e| Error::internal("a token's scopes", e))?,
                name: row.name,
                hint: row.hint,
                created_at: row.created_at,
                expires_at: row.expires_at,
                last_used_at: row.last_used_at,
            })
        })
        .collect()
}
