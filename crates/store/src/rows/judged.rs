//! What a reading of an object says of it: which of its chunks are damaged, and when it was read.
//!
//! Several may read an object at the same time, and it may be written anew meanwhile. What was read before that must
//! not be written after what was read since. So a judgement names the time of the one before it, as its reader found
//! that before it began, and counts only where that is still the last one: `verified_us` moves on with each.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
};

use super::chunks::ROWS_A_STATEMENT;
use super::entities::{chunk, chunk_state, object, object_state};
use super::{Digests, Location, Placed, object_damaged};
use crate::digest::Digest;

/// Microseconds by which a note may be ahead of the clock and still be from now: each that is written at the same time
/// is one further. One that is further ahead is from a clock that was wrong.
pub(crate) const AHEAD_US: i64 = 1_000_000;

/// What was read of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged<'a> {
    /// Its row from before it was read.
    pub(crate) object: &'a object::Model,
    /// Whether anything of it is damaged, needed or not.
    pub(crate) is_faulty: bool,
    /// Chunks that cannot be read where they lie.
    pub(crate) damaged: &'a [Placed],
    /// Chunks that were marked before they were read, and can be read where they lie.
    pub(crate) whole: &'a [Placed],
    /// When all of it was read; `None` where it was only looked at.
    pub(crate) read_us: Option<i64>,
}

/// Marks what is damaged, takes the marks from what is whole, and notes that the object was read. False, with nothing
/// done, where it was judged since the row was read, or is not published any more. To be called in a transaction.
pub(crate) async fn object_judge(tx: &impl ConnectionTrait, judged: &Judged<'_>) -> Result<bool, DbErr> {
    let object = judged.object;
    // Holds the row: the judgements of an object come one after the other.
    let noted = object::Entity::update_many()
        .col_expr(
            object::Column::VerifiedUs,
            Expr::value(moved_on(object.verified_us, judged.read_us)),
        )
        .filter(object::Column::Id.eq(object.id))
        .filter(object::Column::State.eq(object_state::LIVE))
        .filter(object::Column::VerifiedUs.eq(object.verified_us))
        .exec(tx)
        .await?;
    if noted.rows_affected == 0 {
        return Ok(false);
    }
    let unmarked = [chunk_state::LIVE, chunk_state::CONDEMNED];
    states_set(tx, object.store, judged.damaged, &unmarked, chunk_state::DAMAGED).await?;
    let marked = [chunk_state::DAMAGED];
    states_set(tx, object.store, judged.whole, &marked, chunk_state::LIVE).await?;
    if judged.is_faulty {
        object_damaged(tx, object.id).await?;
    } else if chunks_marked(tx, object.store, object.id..=object.id)
        .await?
        .is_empty()
    {
        object::Entity::update_many()
            .col_expr(object::Column::Damaged, Expr::value(false))
            .filter(object::Column::Id.eq(object.id))
            .filter(object::Column::Damaged.eq(true))
            .exec(tx)
            .await?;
    }
    Ok(true)
}

/// The time of the judgement after the one at `before`.
fn moved_on(before: i64, read_us: Option<i64>) -> i64 {
    match read_us {
        Some(now_us) if !(now_us..now_us + AHEAD_US).contains(&before) => now_us,
        _ => before + 1,
    }
}

/// Notes that objects were read of which nothing else is to be written.
pub(crate) async fn objects_verified(
    db: &impl ConnectionTrait,
    ids: Vec<i64>,
    now_us: i64,
) -> Result<(), DbErr> {
    let is_before = object::Column::VerifiedUs.lt(now_us);
    let is_wrong = object::Column::VerifiedUs.gte(now_us + AHEAD_US);
    object::Entity::update_many()
        .col_expr(object::Column::VerifiedUs, Expr::value(now_us))
        .filter(object::Column::Id.is_in(ids))
        // Never back to the time of a judgement before.
        .filter(Condition::any().add(is_before).add(is_wrong))
        .exec(db)
        .await
        .map(drop)
}

/// The damaged chunks of objects with these numbers. Reads the rows of damaged chunks and no others.
pub(crate) async fn chunks_marked(
    db: &impl ConnectionTrait,
    store: i32,
    objects: RangeInclusive<i64>,
) -> Result<Vec<Placed>, DbErr> {
    let rows = chunk::Entity::find()
        .filter(chunk::Column::Store.eq(store))
        // Written out: a parameter could not use the index of the damaged.
        .filter(Expr::cust(format!("state = {}", chunk_state::DAMAGED)))
        .filter(chunk::Column::Object.between(*objects.start(), *objects.end()))
        .all(db)
        .await?;
    Ok(rows.iter().filter_map(Placed::of).collect())
}

/// Gives chunks that are in one of the states `from`, and still lie where they did, another one. To be called in a
/// transaction.
///
/// In the order of the digests: two that write the same ones at the same time would otherwise wait for each other.
async fn states_set(
    tx: &impl ConnectionTrait,
    store: i32,
    chunks: &[Placed],
    from: &[i16],
    to: i16,
) -> Result<(), DbErr> {
    let mut by_domain: BTreeMap<i64, BTreeMap<Digest, Location>> = BTreeMap::new();
    for chunk in chunks {
        let of_it = by_domain.entry(chunk.domain).or_default();
        of_it.insert(chunk.digest, chunk.location);
    }
    for (domain, places) in by_domain {
        let digests: Vec<Digest> = places.keys().copied().collect();
        for names in digests.chunks(ROWS_A_STATEMENT) {
            let some = Digests { store, domain, names };
            let mut query = chunk::Entity::find()
                .filter(some.filter(tx.get_database_backend()))
                .order_by_asc(chunk::Column::Digest);
            if tx.get_database_backend() != DbBackend::Sqlite {
                query = query.lock(LockType::Update);
            }
            let rows = query.all(tx).await?;
            let rows = rows.iter().filter(|row| from.contains(&row.state));
            let is_there = |row: &Placed| places.get(&row.digest) == Some(&row.location);
            let rows = rows.filter_map(Placed::of).filter(is_there);
            let names: Vec<Digest> = rows.map(|row| row.digest).collect();
            if names.is_empty() {
                continue;
            }
            let some = Digests {
                store,
                domain,
                names: &names,
            };
            chunk::Entity::update_many()
                .col_expr(chunk::Column::State, Expr::value(to))
                .filter(some.filter(tx.get_database_backend()))
                .exec(tx)
                .await?;
        }
    }
    Ok(())
}
