//! The tables `team`, `user_account`, `team_member`, `api_token` and `sign_in`.

use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::model::{Role, Scopes};
use crate::platform::clock::Time;

/// A team: everything belongs to one.
pub mod team {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Serialize)]
    #[sea_orm(table_name = "team")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub uuid: String,
        pub name: String,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A person.
pub mod user {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "user_account")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub uuid: String,
        pub email: String,
        pub name: String,
        pub password_hash: Option<String>,
        pub is_operator: bool,
        pub disabled_at: Option<DateTimeUtc>,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A user's role in a team.
pub mod member {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "team_member")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub team_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub user_id: i64,
        pub role: String,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An API token; only its hash is kept.
pub mod token {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "api_token")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub team_id: i64,
        pub user_id: i64,
        pub name: String,
        pub hash: String,
        pub hint: String,
        pub scopes: Json,
        pub expires_at: Option<DateTimeUtc>,
        pub last_used_at: Option<DateTimeUtc>,
        pub revoked_at: Option<DateTimeUtc>,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A one-time sign-in link (`link`) or a signed-in browser (`browser`); only a hash is kept.
pub mod sign_in {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "sign_in")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub kind: String,
        pub hash: String,
        pub user_id: i64,
        pub team_id: i64,
        pub expires_at: DateTimeUtc,
        pub used_at: Option<DateTimeUtc>,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

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

pub async fn user_by_email(conn: &impl ConnectionTrait, email: &str) -> Result<Option<user::Model>, DbErr> {
    user::Entity::find()
        .filter(user::Column::Email.eq(email))
        .one(conn)
        .await
}

/// All users, oldest first.
pub async fn user_list(conn: &impl ConnectionTrait) -> Result<Vec<user::Model>, DbErr> {
    user::Entity::find()
        .order_by_asc(user::Column::Id)
        .all(conn)
        .await
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

/// A team's tokens, newest first.
pub async fn token_list(conn: &impl ConnectionTrait, team_id: i64) -> Result<Vec<token::Model>, DbErr> {
    token::Entity::find()
        .filter(token::Column::TeamId.eq(team_id))
        .order_by_desc(token::Column::Id)
        .limit(1000)
        .all(conn)
        .await
}

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

/// Ends every browser sign-in of a user.
pub async fn sign_in_end_all(conn: &impl ConnectionTrait, now: Time, user_id: i64) -> Result<(), DbErr> {
    sign_in::Entity::update_many()
        .col_expr(sign_in::Column::UsedAt, Expr::value(now))
        .filter(sign_in::Column::UserId.eq(user_id))
        .filter(sign_in::Column::UsedAt.is_null())
        .exec(conn)
        .await?;
    Ok(())
}
