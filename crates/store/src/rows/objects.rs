//! Objects: packs, from the intent to write one to its deletion.

use sea_orm::sea_query::{Expr, ExprTrait as _, Query};
use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::{NotSet, Set},
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
};
use uuid::Uuid;

use super::chunks::ROWS_A_STATEMENT;
use super::entities::{object, object_state};
use crate::store::key_of;

impl object::Model {
    /// Its key in the backend.
    pub(crate) fn object_key(&self) -> String {
        key_of(self.kind, self.key)
    }
}

/// An object about to be written.
pub(crate) struct Intent {
    pub(crate) store: i32,
    pub(crate) key: Uuid,
    pub(crate) kind: i16,
    pub(crate) session: Uuid,
    pub(crate) bytes: u64,
    pub(crate) frames: usize,
    pub(crate) now_us: i64,
}

/// Writes an object's row, before the object itself, and gives its number.
pub(crate) async fn object_insert(db: &impl ConnectionTrait, intent: &Intent) -> Result<i64, DbErr> {
    let row = object::ActiveModel {
        id: NotSet,
        store: Set(intent.store),
        key: Set(intent.key),
        kind: Set(intent.kind),
        state: Set(object_state::INTENT),
        session: Set(Some(intent.session)),
        bytes: Set(intent.bytes.cast_signed()),
        frames: Set(i32::try_from(intent.frames).unwrap_or(i32::MAX)),
        created_us: Set(intent.now_us),
        changed_us: Set(intent.now_us),
        // Everything is decoded and hashed before it is written.
        verified_us: Set(intent.now_us),
        damaged: Set(false),
    };
    row.insert(db).await.map(|row| row.id)
}

/// Moves an object from one state to another; false when it was not in the first.
pub(crate) async fn object_move(
    db: &impl ConnectionTrait,
    id: i64,
    from: i16,
    to: i16,
    now_us: i64,
) -> Result<bool, DbErr> {
    let result = object::Entity::update_many()
        .col_expr(object::Column::State, Expr::value(to))
        .col_expr(object::Column::ChangedUs, Expr::value(now_us))
        .filter(object::Column::Id.eq(id))
        .filter(object::Column::State.eq(from))
        .exec(db)
        .await?;
    Ok(result.rows_affected == 1)
}

/// Publishes an object with its size; false when it does not wait for that.
pub(crate) async fn object_publish(
    db: &impl ConnectionTrait,
    id: i64,
    bytes: u64,
    now_us: i64,
) -> Result<bool, DbErr> {
    let result = object::Entity::update_many()
        .col_expr(object::Column::State, Expr::value(object_state::LIVE))
        .col_expr(object::Column::Bytes, Expr::value(bytes.cast_signed()))
        .col_expr(object::Column::ChangedUs, Expr::value(now_us))
        .filter(object::Column::Id.eq(id))
        .filter(object::Column::State.eq(object_state::INTENT))
        .exec(db)
        .await?;
    Ok(result.rows_affected == 1)
}

/// Notes that something of an object was found damaged. Also where that is noted: whoever is about to take the note
/// away, because nothing is marked that far, holds the row, and is waited for.
pub(crate) async fn object_damaged(db: &impl ConnectionTrait, id: i64) -> Result<(), DbErr> {
    object::Entity::update_many()
        .col_expr(object::Column::Damaged, Expr::value(true))
        .filter(object::Column::Id.eq(id))
        .exec(db)
        .await
        .map(drop)
}

pub(crate) async fn object_delete(db: &impl ConnectionTrait, id: i64) -> Result<(), DbErr> {
    object::Entity::delete_by_id(id).exec(db).await.map(drop)
}

/// Objects of a session that were never published, or whose deletion is not finished.
pub(crate) async fn objects_unpublished(
    db: &impl ConnectionTrait,
    session: Uuid,
) -> Result<Vec<object::Model>, DbErr> {
    object::Entity::find()
        .filter(object::Column::Session.eq(session))
        .filter(object::Column::State.is_in([object_state::INTENT, object_state::DEAD]))
        .all(db)
        .await
}

/// Objects whose deletion is not finished and that belong to no session.
pub(crate) async fn objects_dead(
    db: &impl ConnectionTrait,
    store: i32,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    object::Entity::find()
        .filter(object::Column::Store.eq(store))
        .filter(object::Column::State.eq(object_state::DEAD))
        .limit(limit)
        .all(db)
        .await
}

/// Objects by number.
pub(crate) async fn objects_get(db: &impl ConnectionTrait, ids: &[i64]) -> Result<Vec<object::Model>, DbErr> {
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(ROWS_A_STATEMENT) {
        let rows = object::Entity::find()
            .filter(object::Column::Id.is_in(ids.iter().copied()))
            .all(db)
            .await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Published objects after number `after`, in order: a page.
pub(crate) async fn objects_page(
    db: &impl ConnectionTrait,
    store: i32,
    after: i64,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    object::Entity::find()
        .filter(object::Column::Store.eq(store))
        .filter(object::Column::State.eq(object_state::LIVE))
        .filter(object::Column::Id.gt(after))
        .order_by_asc(object::Column::Id)
        .limit(limit)
        .all(db)
        .await
}

/// The published objects that were written last: so many by their numbers, and so many by the clock. Neither alone is
/// enough: an index that was made anew numbers them as they are listed, and a clock may have been wrong.
pub(crate) async fn objects_newest(
    db: &impl ConnectionTrait,
    store: i32,
    since_us: i64,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    let mut newest = Vec::new();
    for by in [object::Column::Id, object::Column::CreatedUs] {
        let found = object::Entity::find()
            .filter(object::Column::Store.eq(store))
            .filter(object::Column::State.eq(object_state::LIVE))
            .filter(object::Column::ChangedUs.gte(since_us))
            .order_by_desc(by)
            .limit(limit)
            .all(db)
            .await?;
        newest.extend(found);
    }
    newest.sort_unstable_by_key(|object| std::cmp::Reverse(object.id));
    newest.dedup_by_key(|object| object.id);
    Ok(newest)
}

/// Sums over the published objects of a kind: number, bytes, frames.
pub(crate) async fn objects_sum(
    db: &impl ConnectionTrait,
    store: i32,
    kind: i16,
) -> Result<(u64, u64, u64), DbErr> {
    let query = Query::select()
        .expr(Expr::col(object::Column::Id).count())
        .expr(Expr::col(object::Column::Bytes).sum().cast_as("bigint"))
        .expr(Expr::col(object::Column::Frames).sum().cast_as("bigint"))
        .from(object::Entity)
        .and_where(object::Column::Store.eq(store))
        .and_where(object::Column::State.eq(object_state::LIVE))
        .and_where(object::Column::Kind.eq(kind))
        .to_owned();
    let Some(row) = db.query_one(&query).await? else {
        return Ok((0, 0, 0));
    };
    let number = |index: usize| -> Result<u64, DbErr> {
        let value: Option<i64> = row.try_get_by_index(index)?;
        Ok(value.unwrap_or_default().cast_unsigned())
    };
    Ok((number(0)?, number(1)?, number(2)?))
}
