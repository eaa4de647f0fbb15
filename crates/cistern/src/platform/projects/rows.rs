//! The tables `project` and `project_resource`.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{QueryOrder, QuerySelect, Set};

use super::model::Change;
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};
use crate::platform::resources::Resource;

/// A project of a team.
pub mod project {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "project")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub uuid: String,
        pub team_id: i64,
        pub default_of: Option<i64>,
        pub name: String,
        pub description: String,
        pub purpose: String,
        pub environment: Option<String>,
        pub created_at: DateTimeUtc,
        pub updated_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A thing in a project; it is in one.
pub mod resource {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "project_resource")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub project_id: i64,
        pub resource_type: String,
        pub resource_id: String,
        pub assigned_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

fn new_row(now: Time, team_id: i64, uuid: String, new: Change) -> project::ActiveModel {
    let default_of = new.is_default.unwrap_or(false).then_some(team_id);
    project::ActiveModel {
        uuid: Set(uuid),
        team_id: Set(team_id),
        default_of: Set(default_of),
        name: Set(new.name.unwrap_or_default()),
        description: Set(new.description.unwrap_or_default()),
        purpose: Set(new.purpose.unwrap_or_default()),
        environment: Set(environment(new.environment.unwrap_or_default())),
        created_at: Set(now),
        updated_at: Set(now),
        ..Default::default()
    }
}

/// An empty text is none.
fn environment(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub async fn project_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    uuid: String,
    new: Change,
) -> Result<project::Model, DbErr> {
    new_row(now, team_id, uuid, new).insert(conn).await
}

/// Makes the default project unless another transaction has made it; returns whether it was made.
pub async fn default_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    uuid: String,
    new: Change,
) -> Result<bool, DbErr> {
    let there = OnConflict::column(project::Column::DefaultOf)
        .do_nothing()
        .to_owned();
    let inserted = project::Entity::insert(new_row(now, team_id, uuid, new))
        .on_conflict(there)
        .exec_without_returning(conn)
        .await?;
    Ok(inserted == 1)
}

/// Makes the project of this name the default one of a team that has none; none where there is no such project.
pub async fn default_adopt(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    name: &str,
) -> Result<Option<project::Model>, DbErr> {
    let named = project::Entity::find()
        .filter(project::Column::TeamId.eq(team_id))
        .filter(project::Column::Name.eq(name))
        .one(conn)
        .await?;
    let Some(row) = named else { return Ok(None) };
    let change = Change {
        is_default: Some(true),
        ..Change::default()
    };
    project_update(conn, now, row, change).await.map(Some)
}

pub async fn default_get(conn: &impl ConnectionTrait, team_id: i64) -> Result<Option<project::Model>, DbErr> {
    project::Entity::find()
        .filter(project::Column::DefaultOf.eq(team_id))
        .one(conn)
        .await
}

pub async fn project_get(
    conn: &impl ConnectionTrait,
    team_id: i64,
    uuid: &str,
) -> Result<Option<project::Model>, DbErr> {
    project::Entity::find()
        .filter(project::Column::Uuid.eq(uuid))
        .filter(project::Column::TeamId.eq(team_id))
        .one(conn)
        .await
}

/// Oldest first.
pub async fn project_list(
    conn: &impl ConnectionTrait,
    team_id: i64,
    page: Page,
) -> Result<Listed<project::Model>, DbErr> {
    let select = project::Entity::find().filter(project::Column::TeamId.eq(team_id));
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(project::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

pub async fn project_update(
    conn: &impl ConnectionTrait,
    now: Time,
    row: project::Model,
    change: Change,
) -> Result<project::Model, DbErr> {
    let team_id = row.team_id;
    let mut row: project::ActiveModel = row.into();
    row.updated_at = Set(now);
    if let Some(name) = change.name {
        row.name = Set(name);
    }
    if let Some(description) = change.description {
        row.description = Set(description);
    }
    if let Some(purpose) = change.purpose {
        row.purpose = Set(purpose);
    }
    if let Some(text) = change.environment {
        row.environment = Set(environment(text));
    }
    if change.is_default == Some(true) {
        row.default_of = Set(Some(team_id));
    }
    row.update(conn).await
}

/// Makes way for another default project, in the same transaction.
pub async fn default_clear(conn: &impl ConnectionTrait, now: Time, team_id: i64) -> Result<(), DbErr> {
    project::Entity::update_many()
        .col_expr(project::Column::DefaultOf, Expr::value(Option::<i64>::None))
        .col_expr(project::Column::UpdatedAt, Expr::value(now))
        .filter(project::Column::DefaultOf.eq(team_id))
        .exec(conn)
        .await?;
    Ok(())
}

/// Fails with a foreign key violation where something belongs to it.
pub async fn project_delete(conn: &impl ConnectionTrait, id: i64) -> Result<bool, DbErr> {
    Ok(project::Entity::delete_by_id(id).exec(conn).await?.rows_affected == 1)
}

/// The things of a project that are of these kinds, in the order in which they came.
pub async fn resource_list(
    conn: &impl ConnectionTrait,
    project_id: i64,
    kinds: &[&str],
    page: Page,
) -> Result<Listed<resource::Model>, DbErr> {
    let select = resource::Entity::find()
        .filter(resource::Column::ProjectId.eq(project_id))
        .filter(resource::Column::ResourceType.is_in(kinds.iter().copied()));
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(resource::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

pub async fn resource_any(conn: &impl ConnectionTrait, project_id: i64) -> Result<bool, DbErr> {
    let one = resource::Entity::find()
        .filter(resource::Column::ProjectId.eq(project_id))
        .one(conn)
        .await?;
    Ok(one.is_some())
}

pub async fn resource_get(
    conn: &impl ConnectionTrait,
    thing: &Resource,
) -> Result<Option<resource::Model>, DbErr> {
    resource::Entity::find()
        .filter(resource::Column::ResourceType.eq(thing.kind.name))
        .filter(resource::Column::ResourceId.eq(thing.id.as_str()))
        .one(conn)
        .await
}

/// Puts a thing into a project, taking it out of another.
pub async fn resource_assign(
    conn: &impl ConnectionTrait,
    now: Time,
    project_id: i64,
    resource_type: &str,
    resource_id: &str,
) -> Result<(), DbErr> {
    let row = resource::ActiveModel {
        project_id: Set(project_id),
        resource_type: Set(resource_type.to_owned()),
        resource_id: Set(resource_id.to_owned()),
        assigned_at: Set(now),
        ..Default::default()
    };
    let moved = OnConflict::columns([resource::Column::ResourceType, resource::Column::ResourceId])
        .update_columns([resource::Column::ProjectId, resource::Column::AssignedAt])
        .to_owned();
    resource::Entity::insert(row)
        .on_conflict(moved)
        .exec_without_returning(conn)
        .await?;
    Ok(())
}

pub async fn resource_forget(
    conn: &impl ConnectionTrait,
    resource_type: &str,
    resource_id: &str,
) -> Result<(), DbErr> {
    resource::Entity::delete_many()
        .filter(resource::Column::ResourceType.eq(resource_type))
        .filter(resource::Column::ResourceId.eq(resource_id))
        .exec(conn)
        .await?;
    Ok(())
}
