//! The `ssh_key` table.

use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::model::{Identifier, Key};
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};

/// A public key of a team.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "ssh_key")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub team_id: i64,
    pub fingerprint: String,
    pub public_key: String,
    pub name: String,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub async fn key_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    name: &str,
    key: Key,
) -> Result<Model, DbErr> {
    let row = ActiveModel {
        team_id: Set(team_id),
        fingerprint: Set(key.fingerprint),
        public_key: Set(key.line),
        name: Set(name.to_owned()),
        created_at: Set(now),
        ..Default::default()
    };
    row.insert(conn).await
}

pub async fn key_get(
    conn: &impl ConnectionTrait,
    team_id: i64,
    which: &Identifier,
) -> Result<Option<Model>, DbErr> {
    let by = match which {
        Identifier::Id(id) => Column::Id.eq(*id),
        Identifier::Fingerprint(text) => Column::Fingerprint.eq(text.as_str()),
    };
    Entity::find()
        .filter(Column::TeamId.eq(team_id))
        .filter(by)
        .one(conn)
        .await
}

/// Oldest first.
pub async fn key_list(conn: &impl ConnectionTrait, team_id: i64, page: Page) -> Result<Listed<Model>, DbErr> {
    let select = Entity::find().filter(Column::TeamId.eq(team_id));
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

/// Returns false where it was not there any more.
pub async fn key_rename(conn: &impl ConnectionTrait, id: i64, name: &str) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Name, Expr::value(name))
        .filter(Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Returns false where it was not there any more.
pub async fn key_delete(conn: &impl ConnectionTrait, id: i64) -> Result<bool, DbErr> {
    Ok(Entity::delete_by_id(id).exec(conn).await?.rows_affected == 1)
}
