//! What was read when, and the record of damage.

use std::collections::HashMap;

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement,
};

use super::Database;
use super::entities::{chunk, chunk_state, damage, object, object_state};
use super::judged::AHEAD_US;
use crate::verify::Damage;

/// Rows in one statement.
const ROWS_A_STATEMENT: usize = 500;

impl damage::Model {
    pub(crate) fn told(self) -> Damage {
        Damage {
            range: self.from_byte.cast_unsigned()..self.to_byte.cast_unsigned(),
            kind: self.kind,
            owner: self.owner,
            reason: self.reason,
        }
    }
}

/// Published objects that were read before `due_us`, what was read longest ago first.
pub(crate) async fn objects_due(
    db: &impl ConnectionTrait,
    store: i32,
    due_us: i64,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    objects_read(db, store, object::Column::VerifiedUs.lt(due_us), limit).await
}

/// Published objects that were read by a clock that was wrong: at a time that at `now_us` is still to come.
pub(crate) async fn objects_ahead(
    db: &impl ConnectionTrait,
    store: i32,
    now_us: i64,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    let is_ahead = object::Column::VerifiedUs.gte(now_us + AHEAD_US);
    objects_read(db, store, is_ahead, limit).await
}

async fn objects_read(
    db: &impl ConnectionTrait,
    store: i32,
    when: Expr,
    limit: u64,
) -> Result<Vec<object::Model>, DbErr> {
    object::Entity::find()
        .filter(object::Column::Store.eq(store))
        .filter(object::Column::State.eq(object_state::LIVE))
        .filter(when)
        .order_by_asc(object::Column::VerifiedUs)
        .order_by_asc(object::Column::Id)
        .limit(limit)
        .all(db)
        .await
}

/// When the published object that was read longest ago was read.
pub(crate) async fn objects_oldest(db: &impl ConnectionTrait, store: i32) -> Result<Option<i64>, DbErr> {
    objects_when(db, store, Expr::col(object::Column::VerifiedUs).min()).await
}

/// When the published object that was read last was read.
pub(crate) async fn objects_last_read(db: &impl ConnectionTrait, store: i32) -> Result<Option<i64>, DbErr> {
    objects_when(db, store, Expr::col(object::Column::VerifiedUs).max()).await
}

/// One time of all published objects. Of an index that is one entry, where only one is asked for.
async fn objects_when(db: &impl ConnectionTrait, store: i32, which: Expr) -> Result<Option<i64>, DbErr> {
    let found: Option<Option<i64>> = object::Entity::find()
        .select_only()
        .expr(which)
        .filter(object::Column::Store.eq(store))
        .filter(object::Column::State.eq(object_state::LIVE))
        .into_tuple()
        .one(db)
        .await?;
    Ok(found.flatten())
}

/// Whether any chunk is marked as damaged.
pub(crate) async fn chunks_any_damaged(db: &impl ConnectionTrait, store: i32) -> Result<bool, DbErr> {
    let one = chunk::Entity::find()
        .filter(chunk::Column::Store.eq(store))
        // Written out: a parameter could not use the index of the damaged.
        .filter(Expr::cust(format!("state = {}", chunk_state::DAMAGED)))
        .one(db)
        .await?;
    Ok(one.is_some())
}

/// Which chunks are marked as damaged, in short: how many, and sums over their places. Other marks give other sums, but
/// for a coincidence that nothing depends on for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DamageMarks([i64; 4]);

/// What is marked now. Reads the rows of the damaged chunks and no others.
pub(crate) async fn damage_marks(db: &impl ConnectionTrait, store: i32) -> Result<DamageMarks, DbErr> {
    let place = "CAST(\"offset\" / 64 AS bigint)";
    let sql = format!(
        "SELECT count(*), CAST(coalesce(sum(object), 0) AS bigint), CAST(coalesce(sum(\"offset\"), 0) AS bigint), \
         CAST(coalesce(sum({place} * {place}), 0) AS bigint) FROM store_chunk WHERE store = $1 AND state = {}",
        chunk_state::DAMAGED
    );
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [store.into()]);
    let row = db.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("a count".into()))?;
    let mut marks = [0; 4];
    for (index, mark) in marks.iter_mut().enumerate() {
        *mark = row.try_get_by_index(index)?;
    }
    Ok(DamageMarks(marks))
}

/// How many disks and whole objects are in the record.
pub(crate) async fn damage_roots(db: &impl ConnectionTrait, store: i32) -> Result<u64, DbErr> {
    let roots: Vec<(String, String)> = damage::Entity::find()
        .select_only()
        .columns([damage::Column::Kind, damage::Column::Owner])
        .distinct()
        .filter(damage::Column::Store.eq(store))
        .into_tuple()
        .all(db)
        .await?;
    Ok(roots.len() as u64)
}

/// Objects that hold something damaged which is needed, and the sum of their bytes: what nothing needs of it gc forgets
/// at once. Reads the rows of the damaged chunks and of their objects.
pub(crate) async fn objects_holding_damage(
    db: &impl ConnectionTrait,
    store: i32,
) -> Result<(u64, u64), DbErr> {
    let sql = format!(
        "SELECT count(*), CAST(coalesce(sum(bytes), 0) AS bigint) FROM store_object WHERE id IN \
         (SELECT object FROM store_chunk WHERE store = $1 AND state = {})",
        chunk_state::DAMAGED
    );
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [store.into()]);
    let row = db.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("a count".into()))?;
    let (count, bytes): (i64, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
    Ok((count.cast_unsigned(), bytes.cast_unsigned()))
}

/// The record of one disk or whole object, by place.
pub(crate) async fn damage_get(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
) -> Result<Vec<damage::Model>, DbErr> {
    damage::Entity::find()
        .filter(damage::Column::Store.eq(store))
        .filter(damage::Column::Kind.eq(kind))
        .filter(damage::Column::Owner.eq(owner))
        .order_by_asc(damage::Column::FromByte)
        .all(db)
        .await
}

/// Which of these owners are in the record. Each once, without the ranges, of which one that is damaged all over has a
/// thousand.
pub(crate) async fn damage_owners(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owners: &[&str],
) -> Result<Vec<String>, DbErr> {
    let mut found = Vec::new();
    for owners in owners.chunks(ROWS_A_STATEMENT) {
        let some: Vec<String> = damage::Entity::find()
            .select_only()
            .column(damage::Column::Owner)
            .distinct()
            .filter(damage::Column::Store.eq(store))
            .filter(damage::Column::Kind.eq(kind))
            .filter(damage::Column::Owner.is_in(owners.iter().copied()))
            .order_by_asc(damage::Column::Owner)
            .into_tuple()
            .all(db)
            .await?;
        found.extend(some);
    }
    Ok(found)
}

/// Puts a new record in the place of the old one. What is damaged as before keeps the time at which that was found.
pub(crate) async fn damage_replace(
    db: &Database,
    store: i32,
    now_us: i64,
    found: &[Damage],
) -> Result<(), DbErr> {
    let tx = super::begin(db).await?;
    let before = damage::Entity::find()
        .filter(damage::Column::Store.eq(store))
        .all(&tx)
        .await?;
    damage::Entity::delete_many()
        .filter(damage::Column::Store.eq(store))
        .exec(&tx)
        .await?;
    let known: HashMap<_, _> = before
        .iter()
        .map(|row| ((&row.kind, &row.owner, row.from_byte), row.found_us))
        .collect();
    let row = |damage: &Damage| {
        let from_byte = damage.range.start.cast_signed();
        let known = known.get(&(&damage.kind, &damage.owner, from_byte));
        damage::ActiveModel::from(damage::Model {
            store,
            kind: damage.kind.clone(),
            owner: damage.owner.clone(),
            from_byte,
            to_byte: damage.range.end.cast_signed(),
            reason: damage.reason.clone(),
            found_us: known.copied().unwrap_or(now_us),
        })
    };
    for batch in found.chunks(ROWS_A_STATEMENT) {
        damage::Entity::insert_many(batch.iter().map(row))
            .exec_without_returning(&tx)
            .await?;
    }
    tx.commit().await
}
