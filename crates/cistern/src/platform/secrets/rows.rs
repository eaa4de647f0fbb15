//! The `secrets_key` table.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveModelTrait, Set};

const ROW: i32 = 1;

/// Which key secrets are sealed with.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "secrets_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub fingerprint: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The fingerprint, where a key was ever used.
pub async fn fingerprint_get(conn: &impl ConnectionTrait) -> Result<Option<String>, DbErr> {
    let row = Entity::find_by_id(ROW).one(conn).await?;
    Ok(row.map(|row| row.fingerprint))
}

/// Remembers the first key.
pub async fn fingerprint_insert(conn: &impl ConnectionTrait, fingerprint: &str) -> Result<(), DbErr> {
    let row = ActiveModel {
        id: Set(ROW),
        fingerprint: Set(fingerprint.to_owned()),
    };
    row.insert(conn).await.map(drop)
}

/// Forgets the key; false where there was none.
pub async fn fingerprint_delete(conn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let gone = Entity::delete_by_id(ROW).exec(conn).await?;
    Ok(gone.rows_affected > 0)
}
