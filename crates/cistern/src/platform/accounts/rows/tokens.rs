//! Statements about API tokens.

use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::{member_get, token, user, user_get};
use crate::platform::accounts::model::Scopes;
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};

/// A new token's row.
pub struct NewToken<'a> {
    pub team_id: i64,
    pub user_id: i64,
    pub name: &'a str,
    pub hash: &'a str,
    pub hint: &'a str,
    pub scopes: &'a Scopes,
    pub expires_at: Option<Time>,
}

/// A token with the user behind it, and their role in the token's team.
pub struct Found {
    pub token: token::Model,
    pub user: user::Model,
    pub role: Option<String>,
}

pub async fn token_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    new: &NewToken<'_>,
) -> Result<token::Model, DbErr> {
    let row = token::ActiveModel {
        team_id: Set(new.team_id),
        user_id: Set(new.user_id),
        name: Set(new.name.to_owned()),
        hash: Set(new.hash.to_owned()),
        hint: Set(new.hint.to_owned()),
        scopes: Set(serde_json::json!(new.scopes)),
        expires_at: Set(new.expires_at),
        created_at: Set(now),
        ..Default::default()
    };
    row.insert(conn).await
}

/// The token of this hash, whoever's, with its user and role.
pub async fn token_find(conn: &impl ConnectionTrait, hash: &str) -> Result<Option<Found>, DbErr> {
    let Some(token) = token::Entity::find()
        .filter(token::Column::Hash.eq(hash))
        .one(conn)
        .await?
    else {
        return Ok(None);
    };
    let Some(user) = user_get(conn, token.user_id).await? else {
        return Ok(None);
    };
    let role = member_get(conn, token.team_id, token.user_id)
        .await?
        .map(|m| m.role);
    Ok(Some(Found { token, user, role }))
}

pub async fn token_touch(conn: &impl ConnectionTrait, id: i64, now: Time) -> Result<(), DbErr> {
    token::Entity::update_many()
        .col_expr(token::Column::LastUsedAt, Expr::value(now))
        .filter(token::Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

/// Revokes a token of a team; returns false where it is not there or revoked already.
pub async fn token_revoke(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    id: i64,
) -> Result<bool, DbErr> {
    let done = token::Entity::update_many()
        .col_expr(token::Column::RevokedAt, Expr::value(now))
        .filter(token::Column::Id.eq(id))
        .filter(token::Column::TeamId.eq(team_id))
        .filter(token::Column::RevokedAt.is_null())
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Revokes every token of a user in a team.
pub async fn token_revoke_all(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    user_id: i64,
) -> Result<(), DbErr> {
    token::Entity::update_many()
        .col_expr(token::Column::RevokedAt, Expr::value(now))
        .filter(token::Column::TeamId.eq(team_id))
        .filter(token::Column::UserId.eq(user_id))
        .filter(token::Column::RevokedAt.is_null())
        .exec(conn)
        .await?;
    Ok(())
}

/// A token of a team.
pub async fn token_get(
    conn: &impl ConnectionTrait,
    team_id: i64,
    id: i64,
) -> Result<Option<token::Model>, DbErr> {
    token::Entity::find_by_id(id)
        .filter(token::Column::TeamId.eq(team_id))
        .one(conn)
        .await
}

/// Whether any token was ever used.
pub async fn token_any_used(conn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let used = token::Entity::find().filter(token::Column::LastUsedAt.is_not_null());
    Ok(used.one(conn).await?.is_some())
}

/// A token of any team.
pub async fn token_get_any(conn: &impl ConnectionTrait, id: i64) -> Result<Option<token::Model>, DbErr> {
    token::Entity::find_by_id(id).one(conn).await
}

/// A page of tokens that are not revoked, newest first; of one team or all, of one user or all.
pub async fn token_page(
    conn: &impl ConnectionTrait,
    team_id: Option<i64>,
    user_id: Option<i64>,
    page: Page,
) -> Result<Listed<token::Model>, DbErr> {
    let mut select = token::Entity::find().filter(token::Column::RevokedAt.is_null());
    if let Some(team_id) = team_id {
        select = select.filter(token::Column::TeamId.eq(team_id));
    }
    if let Some(user_id) = user_id {
        select = select.filter(token::Column::UserId.eq(user_id));
    }
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_desc(token::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}
