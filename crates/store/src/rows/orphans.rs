//! Objects in the backend that have no row.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _};

use super::entities::orphan;

/// Objects without a row that an earlier run has seen.
pub(crate) async fn orphans_list(db: &impl ConnectionTrait, store: i32) -> Result<Vec<orphan::Model>, DbErr> {
    orphan::Entity::find()
        .filter(orphan::Column::Store.eq(store))
        .all(db)
        .await
}

/// Remembers an object without a row. One that another run has seen meanwhile, which has begun while this one is at
/// work, keeps the time at which that was.
pub(crate) async fn orphan_insert(db: &impl ConnectionTrait, row: orphan::Model) -> Result<(), DbErr> {
    let conflict = OnConflict::columns([orphan::Column::Store, orphan::Column::Key])
        .do_nothing()
        .to_owned();
    orphan::Entity::insert(orphan::ActiveModel::from(row))
        .on_conflict(conflict)
        .exec_without_returning(db)
        .await
        .map(drop)
}

pub(crate) async fn orphan_delete(db: &impl ConnectionTrait, store: i32, key: &str) -> Result<(), DbErr> {
    orphan::Entity::delete_by_id((store, key.to_owned()))
        .exec(db)
        .await
        .map(drop)
}
