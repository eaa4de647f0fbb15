//! The `action` table, and `action_count` beside it: how many actions of a team have an id in each block.

use std::collections::HashMap;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Query, SelectStatement};
use sea_orm::{Order, QueryOrder, QuerySelect, Select, Set};

use super::{COMPLETED, ERRORED, IN_PROGRESS, NewAction};
use crate::platform::blocks::rows::Counts;
use crate::platform::blocks::{self, Place};
use crate::platform::clock::Time;
use crate::platform::jobs::rows as jobs;
use crate::platform::paging::{Listed, Page};

/// How many actions of a team there are; a listing is a team. Actions are never removed.
pub const COUNTS: Counts = Counts("action_count");

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
    let row = row.insert(conn).await?;
    COUNTS.add(conn, row.team_id, row.id, 1).await?;
    Ok(row)
}

/// Counts the actions that there are anew.
pub async fn action_count_all(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let all = Query::select()
        .expr_as(Expr::col(Column::TeamId), "listing")
        .column(Column::Id)
        .from(Entity)
        .to_owned();
    COUNTS.clear(conn).await?;
    COUNTS.count_all(conn, all).await
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

/// Ends every action that has not ended, with a reason.
pub async fn action_end_all(conn: &impl ConnectionTrait, now: Time, error: &str) -> Result<u64, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Status, Expr::value(ERRORED))
        .col_expr(Column::CompletedAt, Expr::value(now))
        .col_expr(Column::Error, Expr::value(error))
        .filter(Column::Status.eq(IN_PROGRESS))
        .exec(conn)
        .await?;
    Ok(done.rows_affected)
}

pub async fn action_get(conn: &impl ConnectionTrait, team_id: i64, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id)
        .filter(Column::TeamId.eq(team_id))
        .one(conn)
        .await
}

/// The actions of a team, newest first.
pub async fn action_list(
    conn: &impl ConnectionTrait,
    team_id: i64,
    page: Page,
) -> Result<Listed<Model>, DbErr> {
    let blocks = COUNTS.blocks(conn, &[team_id]).await?;
    let total = blocks::total(&blocks);
    let rows = match blocks::place(&blocks, page) {
        Some(place) => newest(of_team(team_id, &place), page.size).all(conn).await?,
        None => Vec::new(),
    };
    Ok(Listed { rows, total })
}

/// The actions of a team on one thing, newest first. These are counted: they are as many as what was done to it.
pub async fn action_list_of(
    conn: &impl ConnectionTrait,
    team_id: i64,
    (resource_type, resource_id): (&str, i64),
    page: Page,
) -> Result<Listed<Model>, DbErr> {
    let total = Entity::find()
        .filter(Column::TeamId.eq(team_id))
        .filter(Column::ResourceType.eq(resource_type))
        .filter(Column::ResourceId.eq(resource_id))
        .count(conn)
        .await?;
    let ids = of_resource(team_id, resource_type, resource_id)
        .offset(page.offset())
        .to_owned();
    let rows = newest(ids, page.size).all(conn).await?;
    Ok(Listed { rows, total })
}

fn of_team(team_id: i64, place: &Place) -> SelectStatement {
    Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::TeamId.eq(team_id))
        .and_where(Column::Id.between(place.first_id, place.last_id))
        .offset(place.skip)
        .to_owned()
}

fn of_resource(team_id: i64, resource_type: &str, resource_id: i64) -> SelectStatement {
    Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::ResourceType.eq(resource_type))
        .and_where(Column::ResourceId.eq(resource_id))
        .and_where(Column::TeamId.eq(team_id))
        .to_owned()
}

/// The newest of these. The ids come from an index alone; only the rows of the page are read.
fn newest(mut ids: SelectStatement, size: u64) -> Select<Entity> {
    let ids = ids.order_by(Column::Id, Order::Desc).limit(size).to_owned();
    Entity::find()
        .filter(Column::Id.in_subquery(ids))
        .order_by_desc(Column::Id)
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

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, QueryTrait};

    use super::*;
    use crate::platform::db::rows::sqlite_plan;
    use crate::platform::db::tests::fresh;

    #[tokio::test]
    async fn a_page_comes_from_an_index_in_its_order() {
        let (db, _dir) = fresh().await;
        let place = Place {
            first_id: 4096,
            last_id: 8191,
            skip: 20,
        };
        for (ids, by) in [
            (of_team(7, &place), "(team_id=? AND id>? AND id<?)"),
            (
                of_resource(7, "image", 1),
                "(resource_type=? AND resource_id=? AND team_id=?)",
            ),
        ] {
            let plan = sqlite_plan(db.conn(), newest(ids, 20).build(DbBackend::Sqlite)).await;
            let with = |word: &str| plan.iter().filter(|step| step.contains(word)).count();
            assert_eq!(with("SCAN") + with("TEMP B-TREE"), 0, "{plan:?}");
            assert_eq!(with("COVERING INDEX"), 1, "{plan:?}");
            assert_eq!(with(by), 1, "{plan:?}");
        }
    }
}
