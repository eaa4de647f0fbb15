//! The `image_checksum` table.

use sea_orm::Set;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;

use super::Sum;
use crate::platform::clock::Time;

/// The digest of an image in one format.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "image_checksum")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub image_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub format: String,
    /// Of which bytes.
    pub etag: String,
    /// 64 hex digits.
    pub sha256: String,
    pub length_bytes: i64,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Writes a checksum, over an older one.
pub async fn checksum_set(
    conn: &impl ConnectionTrait,
    now: Time,
    image_id: i64,
    sum: &Sum,
) -> Result<(), DbErr> {
    let row = ActiveModel {
        image_id: Set(image_id),
        format: Set(sum.format.as_str().to_owned()),
        etag: Set(sum.etag.clone()),
        sha256: Set(sum.sha256.clone()),
        length_bytes: Set(i64::try_from(sum.length).unwrap_or(i64::MAX)),
        created_at: Set(now),
    };
    let on_conflict = OnConflict::columns([Column::ImageId, Column::Format])
        .update_columns([
            Column::Etag,
            Column::Sha256,
            Column::LengthBytes,
            Column::CreatedAt,
        ])
        .to_owned();
    Entity::insert(row)
        .on_conflict(on_conflict)
        .exec_without_returning(conn)
        .await?;
    Ok(())
}

pub async fn checksum_get(
    conn: &impl ConnectionTrait,
    image_id: i64,
    etag: &str,
) -> Result<Option<Model>, DbErr> {
    Entity::find()
        .filter(Column::ImageId.eq(image_id))
        .filter(Column::Etag.eq(etag))
        .one(conn)
        .await
}

pub async fn checksum_list(conn: &impl ConnectionTrait, image_ids: &[i64]) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::ImageId.is_in(image_ids.iter().copied()))
        .all(conn)
        .await
}

pub async fn checksum_forget(conn: &impl ConnectionTrait, image_id: i64) -> Result<(), DbErr> {
    Entity::delete_many()
        .filter(Column::ImageId.eq(image_id))
        .exec(conn)
        .await?;
    Ok(())
}
