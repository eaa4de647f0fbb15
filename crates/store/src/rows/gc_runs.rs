//! Runs of gc, one after the other by their fence, and what they and heals have moved that nobody was told yet.

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, QueryTrait as _,
};
use uuid::Uuid;

use super::entities::{gc, meta, session, session_pin, session_state};
use super::epoch_raise;

/// Runs of which the report is kept.
const RUNS_KEPT: i64 = 100;

/// In the place of a run's report, until it has ended.
const MOVED: &str = "moved";
/// The same in a row that is no run's: a heal has stored, or is about to store, chunks anew.
const HEALED: &str = "healed";

/// Begins a run: the gate is taken alone, the epoch rises, and whoever ran before holds the fence no longer. Gives the
/// run's epoch, and the number of the newest pin: nobody who pins is at work now, so that every later pin has a higher
/// one.
pub(crate) async fn gc_begin(
    tx: &impl ConnectionTrait,
    store: i32,
    fence: Uuid,
    now_us: i64,
) -> Result<(i64, i64), DbErr> {
    let epoch = epoch_raise(tx, store).await?;
    meta::Entity::update_many()
        .col_expr(meta::Column::GcFence, Expr::value(fence))
        .filter(meta::Column::Id.eq(store))
        .exec(tx)
        .await?;
    let row = gc::Model {
        store,
        epoch,
        started_us: now_us,
        ended_us: 0,
        report: String::new(),
    };
    gc::Entity::insert(gc::ActiveModel::from(row))
        .exec_without_returning(tx)
        .await?;
    let newest: Option<Option<i64>> = session_pin::Entity::find()
        .select_only()
        .expr(Expr::col(session_pin::Column::Id).max())
        .into_tuple()
        .one(tx)
        .await?;
    Ok((epoch, newest.flatten().unwrap_or(0)))
}

/// Notes that a run has moved chunks; with `is_told` that its caller has heard of it.
pub(crate) async fn gc_moved(
    db: &impl ConnectionTrait,
    store: i32,
    epoch: i64,
    is_told: bool,
) -> Result<(), DbErr> {
    let note = if is_told { "" } else { MOVED };
    gc::Entity::update_many()
        .col_expr(gc::Column::Report, Expr::value(note))
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::Epoch.eq(epoch))
        .filter(gc::Column::EndedUs.eq(0))
        .exec(db)
        .await
        .map(drop)
}

/// Notes that a heal is about to store chunks anew, under a session that began with this epoch.
pub(crate) async fn heal_note(
    db: &impl ConnectionTrait,
    store: i32,
    epoch: i64,
    now_us: i64,
) -> Result<(), DbErr> {
    let row = gc::Model {
        store,
        epoch,
        started_us: now_us,
        ended_us: 0,
        report: HEALED.to_owned(),
    };
    gc::Entity::insert(gc::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// The notes of heals that store nothing any more: those whose session is over.
pub(crate) async fn heals_over(db: &impl ConnectionTrait, store: i32) -> Result<Vec<i64>, DbErr> {
    let open = session::Entity::find()
        .select_only()
        .column(session::Column::StartEpoch)
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN))
        .into_query();
    gc::Entity::find()
        .select_only()
        .column(gc::Column::Epoch)
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::Report.eq(HEALED))
        .filter(gc::Column::Epoch.not_in_subquery(open))
        .into_tuple()
        .all(db)
        .await
}

/// Removes notes of heals that somebody has heard of.
pub(crate) async fn heals_told(db: &impl ConnectionTrait, store: i32, epochs: &[i64]) -> Result<(), DbErr> {
    if epochs.is_empty() {
        return Ok(());
    }
    gc::Entity::delete_many()
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::Report.eq(HEALED))
        .filter(gc::Column::Epoch.is_in(epochs.iter().copied()))
        .exec(db)
        .await
        .map(drop)
}

/// When the first began of what moved chunks and was cut off, or is still at work, before its caller heard of it:
/// heals, and runs for which none that ended has stood since. In microseconds since 1970.
pub(crate) async fn untold_since(db: &impl ConnectionTrait, store: i32) -> Result<Option<i64>, DbErr> {
    let ended = gc::Entity::find()
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::EndedUs.gt(0))
        .order_by_desc(gc::Column::Epoch)
        .one(db)
        .await?;
    let run = gc::Column::Report
        .eq(MOVED)
        .and(gc::Column::Epoch.gt(ended.map_or(0, |row| row.epoch)));
    gc::Entity::find()
        .select_only()
        .expr(Expr::col(gc::Column::StartedUs).min())
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::EndedUs.eq(0))
        .filter(run.or(gc::Column::Report.eq(HEALED)))
        .into_tuple()
        .one(db)
        .await
        .map(Option::flatten)
}

/// Takes the gate alone; false when another run holds the fence.
pub(crate) async fn gc_hold(tx: &impl ConnectionTrait, store: i32, fence: Uuid) -> Result<bool, DbErr> {
    let row = meta::Entity::find_by_id(store).lock_exclusive().one(tx).await?;
    Ok(row.is_some_and(|row| row.gc_fence == Some(fence)))
}

/// Ends a run, in a transaction that holds the gate for it: what sessions left for it goes.
pub(crate) async fn gc_end(
    tx: &impl ConnectionTrait,
    store: i32,
    epoch: i64,
    now_us: i64,
    report: &str,
) -> Result<(), DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::GcFence, Expr::value(None::<Uuid>))
        .filter(meta::Column::Id.eq(store))
        .exec(tx)
        .await?;
    gc::Entity::update_many()
        .col_expr(gc::Column::EndedUs, Expr::value(now_us))
        .col_expr(gc::Column::Report, Expr::value(report))
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::Epoch.eq(epoch))
        .exec(tx)
        .await?;
    // The newest run that ended is what waiting times are counted from: only older ones go.
    let oldest = gc::Entity::find()
        .filter(gc::Column::Store.eq(store))
        .order_by_desc(gc::Column::Epoch)
        .offset(RUNS_KEPT.cast_unsigned())
        .one(tx)
        .await?;
    if let Some(oldest) = oldest {
        gc::Entity::delete_many()
            .filter(gc::Column::Store.eq(store))
            .filter(gc::Column::Epoch.lte(oldest.epoch))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// The epoch of the newest run that had ended at `before_us`.
pub(crate) async fn gc_ended(
    db: &impl ConnectionTrait,
    store: i32,
    before_us: i64,
) -> Result<Option<i64>, DbErr> {
    let row = gc::Entity::find()
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::EndedUs.gt(0))
        .filter(gc::Column::EndedUs.lte(before_us))
        .order_by_desc(gc::Column::Epoch)
        .one(db)
        .await?;
    Ok(row.map(|row| row.epoch))
}

/// Whether a run has begun with this epoch or a later one.
pub(crate) async fn gc_begun(db: &impl ConnectionTrait, store: i32, epoch: i64) -> Result<bool, DbErr> {
    let row = gc::Entity::find()
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::Epoch.gte(epoch))
        .filter(gc::Column::Report.ne(HEALED))
        .limit(1)
        .one(db)
        .await?;
    Ok(row.is_some())
}

/// Lets go of the fence and keeps the run as one that did not end.
pub(crate) async fn gc_free(tx: &impl ConnectionTrait, store: i32) -> Result<(), DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::GcFence, Expr::value(None::<Uuid>))
        .filter(meta::Column::Id.eq(store))
        .exec(tx)
        .await
        .map(drop)
}

/// The newest run that was told to have ended.
pub(crate) async fn gc_last(db: &impl ConnectionTrait, store: i32) -> Result<Option<gc::Model>, DbErr> {
    gc::Entity::find()
        .filter(gc::Column::Store.eq(store))
        .filter(gc::Column::EndedUs.gt(0))
        .order_by_desc(gc::Column::Epoch)
        .one(db)
        .await
}
