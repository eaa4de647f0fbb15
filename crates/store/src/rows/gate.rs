//! The store's own row, which is also the gate between writers and gc.

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
};

use super::entities::meta;

pub(crate) async fn meta_list(db: &impl ConnectionTrait) -> Result<Vec<meta::Model>, DbErr> {
    meta::Entity::find().order_by_asc(meta::Column::Id).all(db).await
}

pub(crate) async fn meta_insert(db: &impl ConnectionTrait, row: meta::Model) -> Result<(), DbErr> {
    meta::Entity::insert(meta::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

pub(crate) async fn meta_ready(db: &impl ConnectionTrait, store: i32, key_id: &str) -> Result<(), DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::Ready, Expr::value(true))
        .col_expr(meta::Column::DigestKeyId, Expr::value(key_id))
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await
        .map(drop)
}

/// Claims `count` header numbers above `above` and above all that were claimed before; gives the first, and the highest
/// that a header may have had before.
pub(crate) async fn header_claim(
    db: &impl ConnectionTrait,
    store: i32,
    above: i32,
    count: i32,
) -> Result<(i32, i32), DbErr> {
    let lifted = meta::Entity::update_many()
        .col_expr(meta::Column::HeaderNumber, Expr::value(above))
        .filter(meta::Column::Id.eq(store))
        .filter(meta::Column::HeaderNumber.lt(above));
    lifted.exec(db).await?;
    meta::Entity::update_many()
        .col_expr(
            meta::Column::HeaderNumber,
            Expr::col(meta::Column::HeaderNumber).add(count),
        )
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await?;
    let row = meta::Entity::find_by_id(store).one(db).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("store_meta".into()))?;
    header_last_set(db, store, (row.header_last, row.header_number)).await?;
    Ok((row.header_number - count + 1, Ord::max(row.header_last, above)))
}

/// Sets the highest number that a header may have, where it is `from`. No number is claimed twice for that.
pub(crate) async fn header_last_set(
    db: &impl ConnectionTrait,
    store: i32,
    (from, to): (i32, i32),
) -> Result<(), DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::HeaderLast, Expr::value(to))
        .filter(meta::Column::Id.eq(store))
        .filter(meta::Column::HeaderLast.eq(from))
        .exec(db)
        .await
        .map(drop)
}

/// The highest number that a header may have, of those that were claimed; 0 where none was.
pub(crate) async fn header_last(db: &impl ConnectionTrait, store: i32) -> Result<i32, DbErr> {
    let row = meta::Entity::find_by_id(store).one(db).await?;
    Ok(row.map_or(0, |row| row.header_last))
}

/// Takes the gate shared: no gc transaction that condemns can run until ours ends.
pub(crate) async fn gate_shared(db: &impl ConnectionTrait, store: i32) -> Result<Option<meta::Model>, DbErr> {
    meta::Entity::find_by_id(store).lock_shared().one(db).await
}

/// The epoch as it is.
pub(crate) async fn epoch_get(db: &impl ConnectionTrait, store: i32) -> Result<i64, DbErr> {
    let row = meta::Entity::find_by_id(store).one(db).await?;
    row.map(|row| row.epoch)
        .ok_or_else(|| DbErr::RecordNotFound("store_meta".into()))
}

/// Takes the gate alone and raises the epoch; gives the new one.
pub(crate) async fn epoch_raise(db: &impl ConnectionTrait, store: i32) -> Result<i64, DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::Epoch, Expr::col(meta::Column::Epoch).add(1))
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await?;
    epoch_get(db, store).await
}
