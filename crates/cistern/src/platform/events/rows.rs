//! The `event` table.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{Order, QueryOrder, QuerySelect, Set};

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

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of one team; none means all.
    pub team_id: Option<i64>,
    /// `resource.verb`, or `resource` for all of its verbs.
    pub what: Option<String>,
    /// How they ended.
    pub outcome: Option<String>,
    /// Not older than this.
    pub since: Option<Time>,
    /// Only ids below this one, newest first.
    pub before: Option<i64>,
    /// Only ids above this one, oldest first.
    pub after: Option<i64>,
}

/// Events, newest first unless `after` is given.
pub async fn event_list(
    conn: &impl ConnectionTrait,
    filter: &Filter,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    let order = if filter.after.is_some() {
        Order::Asc
    } else {
        Order::Desc
    };
    let mut select = Entity::find().order_by(Column::Id, order).limit(limit);
    if let Some(team_id) = filter.team_id {
        select = select.filter(Column::TeamId.eq(team_id));
    }
    match &filter.what {
        Some(what) if what.contains('.') => select = select.filter(Column::What.eq(what)),
        Some(what) => select = select.filter(Column::What.starts_with(format!("{what}."))),
        None => {}
    }
    if let Some(outcome) = &filter.outcome {
        select = select.filter(Column::Outcome.eq(outcome));
    }
    if let Some(since) = filter.since {
        select = select.filter(Column::At.gte(since));
    }
    if let Some(before) = filter.before {
        select = select.filter(Column::Id.lt(before));
    }
    if let Some(after) = filter.after {
        select = select.filter(Column::Id.gt(after));
    }
    select.all(conn).await
}

/// Forgets at most `limit` events older than `before`; returns how many.
pub async fn event_forget(conn: &impl ConnectionTrait, before: Time, limit: u64) -> Result<u64, DbErr> {
    let old = Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::At.lt(before))
        .limit(limit)
        .to_owned();
    Ok(Entity::delete_many()
        .filter(Column::Id.in_subquery(old))
        .exec(conn)
        .await?
        .rows_affected)
}
