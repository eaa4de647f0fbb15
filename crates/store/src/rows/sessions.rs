//! Sessions, with what they pin.

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _,
};
use uuid::Uuid;

use super::entities::{session, session_pin, session_root, session_state};
use crate::digest::Digest;
use crate::tree::TreeRoot;

pub(crate) async fn session_insert(db: &impl ConnectionTrait, row: session::Model) -> Result<(), DbErr> {
    session::Entity::insert(session::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// The session, as long as it is its writer's.
fn open(id: Uuid, fence: Uuid) -> Condition {
    Condition::all()
        .add(session::Column::Id.eq(id))
        .add(session::Column::Fence.eq(fence))
        .add(session::Column::State.eq(session_state::OPEN))
}

/// The session, if it is still open under this fence; locked against being taken away until we end.
pub(crate) async fn session_hold(
    db: &impl ConnectionTrait,
    id: Uuid,
    fence: Uuid,
) -> Result<Option<session::Model>, DbErr> {
    session::Entity::find()
        .filter(open(id, fence))
        .lock_shared()
        .one(db)
        .await
}

/// Extends the lease; false when the session is no longer ours.
pub(crate) async fn session_extend(
    db: &impl ConnectionTrait,
    id: Uuid,
    fence: Uuid,
    until_us: i64,
) -> Result<bool, DbErr> {
    let result = session::Entity::update_many()
        .col_expr(session::Column::LeaseUntilUs, Expr::value(until_us))
        .filter(open(id, fence))
        .exec(db)
        .await?;
    Ok(result.rows_affected == 1)
}

/// Moves an open session to another state; false when it was not open (any more) under this fence.
pub(crate) async fn session_end(
    db: &impl ConnectionTrait,
    id: Uuid,
    fence: Uuid,
    state: i16,
    now_us: i64,
) -> Result<bool, DbErr> {
    let result = session::Entity::update_many()
        .col_expr(session::Column::State, Expr::value(state))
        .col_expr(session::Column::EndedUs, Expr::value(now_us))
        .filter(open(id, fence))
        .exec(db)
        .await?;
    Ok(result.rows_affected == 1)
}

/// Takes every session whose lease is over from its writer.
pub(crate) async fn sessions_take(db: &impl ConnectionTrait, store: i32, now_us: i64) -> Result<u64, DbErr> {
    let result = session::Entity::update_many()
        .col_expr(session::Column::State, Expr::value(session_state::EXPIRED))
        .col_expr(session::Column::EndedUs, Expr::value(now_us))
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN))
        .filter(session::Column::LeaseUntilUs.lt(now_us))
        .exec(db)
        .await?;
    Ok(result.rows_affected)
}

/// Sessions in `state` that ended before `before_us`.
pub(crate) async fn sessions_ended(
    db: &impl ConnectionTrait,
    store: i32,
    state: i16,
    before_us: i64,
) -> Result<Vec<session::Model>, DbErr> {
    session::Entity::find()
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(state))
        .filter(session::Column::EndedUs.lt(before_us))
        .all(db)
        .await
}

/// Removes a session with its pins and roots.
pub(crate) async fn session_delete(db: &impl ConnectionTrait, id: Uuid) -> Result<(), DbErr> {
    session_unpin(db, id).await?;
    session::Entity::delete_by_id(id).exec(db).await.map(drop)
}

/// Removes what a session keeps alive.
pub(crate) async fn session_unpin(db: &impl ConnectionTrait, id: Uuid) -> Result<(), DbErr> {
    session_pin::Entity::delete_many()
        .filter(session_pin::Column::Session.eq(id))
        .exec(db)
        .await?;
    session_root::Entity::delete_many()
        .filter(session_root::Column::Session.eq(id))
        .exec(db)
        .await
        .map(drop)
}

/// When the leases of the open sessions are over.
pub(crate) async fn sessions_leases(db: &impl ConnectionTrait, store: i32) -> Result<Vec<i64>, DbErr> {
    session::Entity::find()
        .select_only()
        .column(session::Column::LeaseUntilUs)
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN))
        .into_tuple()
        .all(db)
        .await
}

/// Writes one pin row: digests that the session counts on and did not write itself.
pub(crate) async fn pin_insert(
    db: &impl ConnectionTrait,
    session: Uuid,
    digests: &[Digest],
) -> Result<(), DbErr> {
    let row = session_pin::ActiveModel {
        id: NotSet,
        session: Set(session),
        digests: Set(digests.iter().flat_map(|digest| digest.0).collect()),
    };
    session_pin::Entity::insert(row)
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// Pins a whole tree for the session.
pub(crate) async fn session_root_insert(
    db: &impl ConnectionTrait,
    session: Uuid,
    root: &TreeRoot,
) -> Result<(), DbErr> {
    let row = session_root::ActiveModel {
        session: Set(session),
        domain: Set(root.domain),
        digest: Set(root.digest.0.to_vec()),
        level: Set(i16::from(root.level)),
    };
    let conflict = OnConflict::columns([
        session_root::Column::Session,
        session_root::Column::Domain,
        session_root::Column::Digest,
    ])
    .do_nothing()
    .to_owned();
    session_root::Entity::insert(row)
        .on_conflict(conflict)
        .exec_without_returning(db)
        .await
        .map(drop)
}
