//! Statements about sign-in links and signed-in browsers.

use sea_orm::Set;
use sea_orm::entity::prelude::*;

use super::sign_in;
use crate::platform::clock::Time;

pub async fn sign_in_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    kind: &str,
    hash: &str,
    (user_id, team_id): (i64, i64),
    expires_at: Time,
) -> Result<(), DbErr> {
    let row = sign_in::ActiveModel {
        kind: Set(kind.to_owned()),
        hash: Set(hash.to_owned()),
        user_id: Set(user_id),
        team_id: Set(team_id),
        expires_at: Set(expires_at),
        created_at: Set(now),
        ..Default::default()
    };
    sign_in::Entity::insert(row).exec_without_returning(conn).await?;
    Ok(())
}

/// A sign-in that is not over.
pub async fn sign_in_get(
    conn: &impl ConnectionTrait,
    now: Time,
    kind: &str,
    hash: &str,
) -> Result<Option<sign_in::Model>, DbErr> {
    sign_in::Entity::find()
        .filter(sign_in::Column::Hash.eq(hash))
        .filter(sign_in::Column::Kind.eq(kind))
        .filter(sign_in::Column::UsedAt.is_null())
        .filter(sign_in::Column::ExpiresAt.gt(now))
        .one(conn)
        .await
}

/// Marks a sign-in as used (a link) or ended (a browser); returns false where it was already.
pub async fn sign_in_end(conn: &impl ConnectionTrait, now: Time, id: i64) -> Result<bool, DbErr> {
    let done = sign_in::Entity::update_many()
        .col_expr(sign_in::Column::UsedAt, Expr::value(now))
        .filter(sign_in::Column::Id.eq(id))
        .filter(sign_in::Column::UsedAt.is_null())
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Ends every sign-in of a user, links too.
pub async fn sign_in_end_all(conn: &impl ConnectionTrait, now: Time, user_id: i64) -> Result<(), DbErr> {
    sign_in::Entity::update_many()
        .col_expr(sign_in::Column::UsedAt, Expr::value(now))
        .filter(sign_in::Column::UserId.eq(user_id))
        .filter(sign_in::Column::UsedAt.is_null())
        .exec(conn)
        .await?;
    Ok(())
}

/// Ends every sign-in of a user in one team.
pub async fn sign_in_end_team(
    conn: &impl ConnectionTrait,
    now: Time,
    user_id: i64,
    team_id: i64,
) -> Result<(), DbErr> {
    sign_in::Entity::update_many()
        .col_expr(sign_in::Column::UsedAt, Expr::value(now))
        .filter(sign_in::Column::UserId.eq(user_id))
        .filter(sign_in::Column::TeamId.eq(team_id))
        .filter(sign_in::Column::UsedAt.is_null())
        .exec(conn)
        .await?;
    Ok(())
}

/// Forgets sign-ins that were over before `before`; returns how many.
pub async fn sign_in_forget(conn: &impl ConnectionTrait, before: Time) -> Result<u64, DbErr> {
    Ok(sign_in::Entity::delete_many()
        .filter(sign_in::Column::ExpiresAt.lt(before))
        .exec(conn)
        .await?
        .rows_affected)
}
