//! The `action` table.

use std::collections::HashMap;

use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::{COMPLETED, ERRORED, IN_PROGRESS, NewAction};
use crate::platform::clock::Time;
use crate::platform::jobs::rows as jobs;
use crate::platform::paging::{Listed, Page};

/// An action.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "action")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub team_id: i64,
    pub kind: String,
    pub status: String,
    pub resource_type: String,
    pub resource_id: Option<i64>,
    pub resource_uuid: Option<String>,
    pub region: Option<String>,
    pub error: Option<String>,
    pub started_at: DateTimeUtc,
    pub completed_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub async fn action_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    new: &NewAction<'_>,
) -> Result<Model, DbErr> {
    let row = ActiveModel {
        team_id: Set(new.team_id),
        kind: Set(new.kind.to_owned()),
        status: Set(IN_PROGRESS.to_owned()),
        resource_type: Set(new.resource_type.to_owned()),
        resource_id: Set(new.resource_id),
        region: Set(new.region.map(str::to_owned)),
        started_at: Set(now),
        ..Default::default()
    };
    row.insert(conn).await
}

pub async fn action_end(
    conn: &impl ConnectionTrait,
    now: Time,
    id: i64,
    error: Option<&str>,
) -> Result<(), DbErr> {
    let status = if error.is_some() { ERRORED } else { COMPLETED };
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(status))
        .col_expr(Column::CompletedAt, Expr::value(now))
        .col_expr(Column::Error, Expr::value(error.map(str::to_owned)))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.eq(IN_PROGRESS))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn action_get(conn: &impl ConnectionTrait, team_id: i64, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id)
        .filter(Column::TeamId.eq(team_id))
        .one(conn)
        .await
}

/// Newest first; `resource` narrows to one thing.
pub async fn action_list(
    conn: &impl ConnectionTrait,
    team_id: i64,
    resource: Option<(&str, i64)>,
    page: Page,
) -> Result<Listed<Model>, DbErr> {
    let mut select = Entity::find().filter(Column::TeamId.eq(team_id));
    if let Some((kind, id)) = resource {
        select = select
            .filter(Column::ResourceType.eq(kind))
            .filter(Column::ResourceId.eq(id));
    }
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_desc(Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

/// What the jobs behind these actions last said of their progress.
pub async fn progress_of(conn: &impl ConnectionTrait, actions: &[i64]) -> Result<HashMap<i64, Json>, DbErr> {
    let rows: Vec<(Option<i64>, Option<Json>)> = jobs::Entity::find()
        .select_only()
        .columns([jobs::Column::ActionId, jobs::Column::Progress])
        .filter(jobs::Column::ActionId.is_in(actions.iter().copied()))
        .into_tuple()
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, progress)| id.zip(progress))
        .collect())
}
