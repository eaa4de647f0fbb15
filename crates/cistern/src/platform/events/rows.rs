//! The `event` table.

use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::{Event, Who};
use crate::platform::clock::Time;

/// An event as it was written.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Serialize)]
#[sea_orm(table_name = "event")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub at: DateTimeUtc,
    pub what: String,
    pub outcome: String,
    pub team_id: Option<i64>,
    pub user_id: Option<i64>,
    pub token_id: Option<i64>,
    pub address: Option<String>,
    pub request_id: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub detail: Option<Json>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub async fn event_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    who: &Who,
    event: Event,
) -> Result<(), DbErr> {
    let row = ActiveModel {
        at: Set(now),
        what: Set(event.what.to_owned()),
        outcome: Set(event.outcome.as_str().to_owned()),
        team_id: Set(who.team_id),
        user_id: Set(who.user_id),
        token_id: Set(who.token_id),
        address: Set(who.address.clone()),
        request_id: Set(who.request_id.clone()),
        resource_type: Set(event.resource_type.map(str::to_owned)),
        resource_id: Set(event.resource_id),
        detail: Set(event.detail),
        ..Default::default()
    };
    Entity::insert(row).exec_without_returning(conn).await?;
    Ok(())
}

/// Events newest first, of one team or (for operators) of all; `before` continues after the last id seen.
pub async fn event_list(
    conn: &impl ConnectionTrait,
    team_id: Option<i64>,
    before: Option<i64>,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    let mut select = Entity::find().order_by_desc(Column::Id).limit(limit);
    if let Some(team_id) = team_id {
        select = select.filter(Column::TeamId.eq(team_id));
    }
    if let Some(before) = before {
        select = select.filter(Column::Id.lt(before));
    }
    select.all(conn).await
}

/// Forgets events older than `before`; returns how many.
pub async fn event_forget(conn: &impl ConnectionTrait, before: Time) -> Result<u64, DbErr> {
    Ok(Entity::delete_many()
        .filter(Column::At.lt(before))
        .exec(conn)
        .await?
        .rows_affected)
}
