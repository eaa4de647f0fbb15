//! Statements about teams, users and members.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{LockType, Query};
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::{member, team, user};
use crate::platform::accounts::role::Role;
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};

pub async fn team_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    uuid: &str,
    name: &str,
) -> Result<team::Model, DbErr> {
    let row = team::ActiveModel {
        uuid: Set(uuid.to_owned()),
        name: Set(name.to_owned()),
        created_at: Set(now),
        ..Default::default()
    };
    row.insert(conn).await
}

pub async fn team_get(conn: &impl ConnectionTrait, id: i64) -> Result<Option<team::Model>, DbErr> {
    team::Entity::find_by_id(id).one(conn).await
}

pub async fn team_by_name(conn: &impl ConnectionTrait, name: &str) -> Result<Option<team::Model>, DbErr> {
    team::Entity::find()
        .filter(team::Column::Name.eq(name))
        .one(conn)
        .await
}

/// All teams, oldest first.
pub async fn team_list(conn: &impl ConnectionTrait) -> Result<Vec<team::Model>, DbErr> {
    team::Entity::find()
        .order_by_asc(team::Column::Id)
        .all(conn)
        .await
}

/// A page of all teams, oldest first.
pub async fn team_page(conn: &impl ConnectionTrait, page: Page) -> Result<Listed<team::Model>, DbErr> {
    let select = team::Entity::find();
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(team::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

/// Reads a team and, on PostgreSQL, keeps other transactions from changing its members until this one ends.
pub async fn team_lock(conn: &impl ConnectionTrait, id: i64) -> Result<Option<team::Model>, DbErr> {
    team::Entity::find_by_id(id)
        .lock(LockType::Update)
        .one(conn)
        .await
}

/// Reads a team and, on PostgreSQL, keeps who is a member of it until this transaction ends. Others may do the same.
pub async fn team_keep(conn: &impl ConnectionTrait, id: i64) -> Result<Option<team::Model>, DbErr> {
    team::Entity::find_by_id(id).lock_shared().one(conn).await
}

pub async fn team_rename(conn: &impl ConnectionTrait, id: i64, name: &str) -> Result<(), DbErr> {
    team::Entity::update_many()
        .col_expr(team::Column::Name, Expr::value(name))
        .filter(team::Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn user_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    uuid: &str,
    email: &str,
    name: &str,
    is_operator: bool,
) -> Result<user::Model, DbErr> {
    let row = user::ActiveModel {
        uuid: Set(uuid.to_owned()),
        email: Set(email.to_owned()),
        name: Set(name.to_owned()),
        is_operator: Set(is_operator),
        created_at: Set(now),
        ..Default::default()
    };
    row.insert(conn).await
}

/// Whether there is any user.
pub async fn user_any(conn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    Ok(user::Entity::find().one(conn).await?.is_some())
}

pub async fn user_get(conn: &impl ConnectionTrait, id: i64) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find_by_id(id).one(conn).await
}

/// Reads a user and, on PostgreSQL, keeps other transactions from changing them until this one ends.
pub async fn user_lock(conn: &impl ConnectionTrait, id: i64) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find_by_id(id).lock_exclusive().one(conn).await
}

/// The same for who only relies on them: several may.
pub async fn user_keep(conn: &impl ConnectionTrait, id: i64) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find_by_id(id).lock_shared().one(conn).await
}

pub async fn user_by_email(conn: &impl ConnectionTrait, email: &str) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find()
        .filter(user::Column::Email.eq(email))
        .one(conn)
        .await
}

/// A page of all users, oldest first.
pub async fn user_page(conn: &impl ConnectionTrait, page: Page) -> Result<Listed<user::Model>, DbErr> {
    let select = user::Entity::find();
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(user::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

/// Users by their ids, in no order.
pub async fn user_list_of(conn: &impl ConnectionTrait, ids: &[i64]) -> Result<Vec<user::Model>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    user::Entity::find()
        .filter(user::Column::Id.is_in(ids.iter().copied()))
        .all(conn)
        .await
}

/// The oldest operator who is not disabled.
pub async fn operator_first(conn: &impl ConnectionTrait) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find()
        .filter(user::Column::IsOperator.eq(true))
        .filter(user::Column::DisabledAt.is_null())
        .order_by_asc(user::Column::Id)
        .one(conn)
        .await
}

/// Operators who are not disabled; on PostgreSQL they stay locked until the transaction ends. In one order, so that two
/// that lock them do not wait for each other.
pub async fn operator_list_locked(conn: &impl ConnectionTrait) -> Result<Vec<user::Model>, DbErr> {
    user::Entity::find()
        .filter(user::Column::IsOperator.eq(true))
        .filter(user::Column::DisabledAt.is_null())
        .order_by_asc(user::Column::Id)
        .lock(LockType::Update)
        .all(conn)
        .await
}

pub async fn user_update(
    conn: &impl ConnectionTrait,
    id: i64,
    email: &str,
    name: &str,
    is_operator: bool,
) -> Result<(), DbErr> {
    user::Entity::update_many()
        .col_expr(user::Column::Email, Expr::value(email))
        .col_expr(user::Column::Name, Expr::value(name))
        .col_expr(user::Column::IsOperator, Expr::value(is_operator))
        .filter(user::Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn user_set_password(conn: &impl ConnectionTrait, id: i64, hash: &str) -> Result<(), DbErr> {
    user::Entity::update_many()
        .col_expr(user::Column::PasswordHash, Expr::value(hash))
        .filter(user::Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn user_set_disabled(conn: &impl ConnectionTrait, id: i64, at: Option<Time>) -> Result<(), DbErr> {
    user::Entity::update_many()
        .col_expr(user::Column::DisabledAt, Expr::value(at))
        .filter(user::Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn member_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    user_id: i64,
    role: Role,
) -> Result<(), DbErr> {
    let row = member::ActiveModel {
        team_id: Set(team_id),
        user_id: Set(user_id),
        role: Set(role.as_str().to_owned()),
        created_at: Set(now),
    };
    member::Entity::insert(row).exec_without_returning(conn).await?;
    Ok(())
}

pub async fn member_get(
    conn: &impl ConnectionTrait,
    team_id: i64,
    user_id: i64,
) -> Result<Option<member::Model>, DbErr> {
    member::Entity::find_by_id((team_id, user_id)).one(conn).await
}

/// The members of a team with their roles.
pub async fn member_list(conn: &impl ConnectionTrait, team_id: i64) -> Result<Vec<member::Model>, DbErr> {
    member::Entity::find()
        .filter(member::Column::TeamId.eq(team_id))
        .order_by_asc(member::Column::UserId)
        .all(conn)
        .await
}

/// The teams of a user, oldest membership first.
pub async fn member_of(conn: &impl ConnectionTrait, user_id: i64) -> Result<Vec<member::Model>, DbErr> {
    member::Entity::find()
        .filter(member::Column::UserId.eq(user_id))
        .order_by_asc(member::Column::TeamId)
        .all(conn)
        .await
}

/// A page of a team's members with their users, oldest user first.
pub async fn member_page(
    conn: &impl ConnectionTrait,
    team_id: i64,
    page: Page,
) -> Result<Listed<(member::Model, user::Model)>, DbErr> {
    let select = member::Entity::find().filter(member::Column::TeamId.eq(team_id));
    let total = select.clone().count(conn).await?;
    let members = select
        .order_by_asc(member::Column::UserId)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    let ids: Vec<i64> = members.iter().map(|m| m.user_id).collect();
    let mut users: std::collections::HashMap<i64, user::Model> = user_list_of(conn, &ids)
        .await?
        .into_iter()
        .map(|u| (u.id, u))
        .collect();
    let rows = members
        .into_iter()
        .filter_map(|m| users.remove(&m.user_id).map(|u| (m, u)))
        .collect();
    Ok(Listed { rows, total })
}

/// How many owners a team has, other than `except`, who can sign in.
pub async fn owner_count_without(
    conn: &impl ConnectionTrait,
    team_id: i64,
    except: i64,
) -> Result<u64, DbErr> {
    let disabled = Query::select()
        .column(user::Column::Id)
        .from(user::Entity)
        .and_where(user::Column::DisabledAt.is_not_null())
        .to_owned();
    member::Entity::find()
        .filter(member::Column::TeamId.eq(team_id))
        .filter(member::Column::Role.eq(Role::Owner.as_str()))
        .filter(member::Column::UserId.ne(except))
        .filter(member::Column::UserId.not_in_subquery(disabled))
        .count(conn)
        .await
}

pub async fn member_set_role(
    conn: &impl ConnectionTrait,
    team_id: i64,
    user_id: i64,
    role: Role,
) -> Result<bool, DbErr> {
    let done = member::Entity::update_many()
        .col_expr(member::Column::Role, Expr::value(role.as_str()))
        .filter(member::Column::TeamId.eq(team_id))
        .filter(member::Column::UserId.eq(user_id))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

pub async fn member_delete(conn: &impl ConnectionTrait, team_id: i64, user_id: i64) -> Result<bool, DbErr> {
    let done = member::Entity::delete_by_id((team_id, user_id))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}
