//! The `upload` table.

use sea_orm::QuerySelect;
use sea_orm::entity::prelude::*;

use crate::platform::clock::Time;

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "upload")]
pub struct Model {
    /// A UUID.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub team_id: i64,
    /// `None` until the client says it (creation-defer-length).
    pub length_bytes: Option<i64>,
    /// Bytes that are durable.
    pub offset_bytes: i64,
    /// `Upload-Metadata` as it came.
    pub metadata: Option<String>,
    /// The server whose spool has the file.
    pub node: String,
    /// The image that is made of it.
    pub used_by: Option<i64>,
    pub created_at: DateTimeUtc,
    pub expires_at: DateTimeUtc,
    pub completed_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub async fn upload_insert(conn: &impl ConnectionTrait, row: Model) -> Result<(), DbErr> {
    let row: ActiveModel = row.into();
    Entity::insert(row.reset_all())
        .exec_without_returning(conn)
        .await?;
    Ok(())
}

/// An upload of this team that is not over.
pub async fn upload_get(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    id: &str,
) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id.to_owned())
        .filter(Column::TeamId.eq(team_id))
        .filter(Column::ExpiresAt.gt(now))
        .one(conn)
        .await
}

/// How many uploads of this team take room.
pub async fn upload_count(conn: &impl ConnectionTrait, now: Time, team_id: i64) -> Result<u64, DbErr> {
    Entity::find()
        .filter(Column::TeamId.eq(team_id))
        .filter(Column::UsedBy.is_null())
        .filter(Column::ExpiresAt.gt(now))
        .count(conn)
        .await
}

/// Writes how far an upload is. False where the row is gone, or an image has it.
pub async fn upload_advance(conn: &impl ConnectionTrait, row: &Model) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::OffsetBytes, Expr::value(row.offset_bytes))
        .col_expr(Column::LengthBytes, Expr::value(row.length_bytes))
        .col_expr(Column::ExpiresAt, Expr::value(row.expires_at))
        .col_expr(Column::CompletedAt, Expr::value(row.completed_at))
        .filter(Column::Id.eq(row.id.as_str()))
        .filter(Column::UsedBy.is_null())
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Gives a complete upload to an image. False where another has it.
pub async fn upload_use(
    conn: &impl ConnectionTrait,
    id: &str,
    image_id: i64,
    expires_at: Time,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::UsedBy, Expr::value(image_id))
        .col_expr(Column::ExpiresAt, Expr::value(expires_at))
        .filter(Column::Id.eq(id))
        .filter(Column::UsedBy.is_null())
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

pub async fn upload_delete(conn: &impl ConnectionTrait, id: &str) -> Result<(), DbErr> {
    Entity::delete_by_id(id.to_owned()).exec(conn).await?;
    Ok(())
}

/// Forgets what is over on this node; returns how many.
pub async fn upload_forget(conn: &impl ConnectionTrait, now: Time, node: &str) -> Result<u64, DbErr> {
    let done = Entity::delete_many()
        .filter(Column::Node.eq(node))
        .filter(Column::ExpiresAt.lte(now))
        .exec(conn)
        .await?;
    Ok(done.rows_affected)
}

/// The ids of all uploads of this node.
pub async fn upload_ids(conn: &impl ConnectionTrait, node: &str) -> Result<Vec<String>, DbErr> {
    Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Node.eq(node))
        .into_tuple()
        .all(conn)
        .await
}
