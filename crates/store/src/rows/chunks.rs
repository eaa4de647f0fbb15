//! Chunks: which digest lies where.

use std::collections::HashMap;

use sea_orm::sea_query::{Expr, ExprTrait as _, LockType, OnConflict, Query};
use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
};

use super::entities::{chunk, chunk_state};
use super::object_damaged;
use crate::digest::Digest;
use crate::pack::Entry;

/// Rows in one statement: few enough bound values for SQLite (32,766) and PostgreSQL (65,535).
pub(super) const ROWS_A_STATEMENT: usize = 1000;
/// Digests in one look-up. Always padded to this many, so that one prepared statement serves all.
pub(crate) const LOOKUP: usize = 128;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) object: i64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// A chunk row, as a look-up sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) location: Location,
    pub(crate) state: i16,
    pub(crate) epoch: i64,
}

/// Chunks of one domain, named by their digests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digests<'a> {
    pub(crate) store: i32,
    pub(crate) domain: i64,
    pub(crate) names: &'a [Digest],
}

impl Digests<'_> {
    /// Finds each by its digest, whatever the database knows of the table.
    ///
    /// To PostgreSQL without statistics (it gathers the first a minute after the rows came) every condition on the
    /// domain promises a row or two: given a list of digests it reads the whole domain and compares them. So it gets
    /// them as a table to join with: the series in what is selected keeps it from being taken apart, so that nothing is
    /// known but that all three columns are equal. SQLite takes the list, and would read everything for a join.
    pub(crate) fn filter(&self, backend: DbBackend) -> Condition {
        let digests = self.names.iter().map(|digest| digest.0.to_vec());
        match backend {
            DbBackend::Sqlite => Condition::all()
                .add(chunk::Column::Store.eq(self.store))
                .add(chunk::Column::Domain.eq(self.domain))
                .add(chunk::Column::Digest.is_in(digests)),
            _ => Condition::all().add(Expr::cust_with_values(
                "(store, domain, digest) IN (SELECT $1, $2, \
                 substring($3 FROM 32 * generate_series(0, octet_length($3) / 32 - 1) + 1 FOR 32))",
                [
                    sea_orm::Value::from(self.store),
                    self.domain.into(),
                    digests.flatten().collect::<Vec<u8>>().into(),
                ],
            )),
        }
    }
}

/// Looks digests up.
pub(crate) async fn chunks_get(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    digests: &[Digest],
) -> Result<HashMap<Digest, Hit>, DbErr> {
    type Row = (Vec<u8>, i64, i32, i32, i16, i64);
    let mut found = HashMap::with_capacity(digests.len());
    for batch in digests.chunks(LOOKUP) {
        let padding = LOOKUP - batch.len();
        let padded: Vec<Digest> = batch
            .iter()
            .chain(std::iter::repeat_n(&batch[0], padding))
            .copied()
            .collect();
        let some = Digests {
            store,
            domain,
            names: &padded,
        };
        let rows: Vec<Row> = chunk::Entity::find()
            .select_only()
            .columns([
                chunk::Column::Digest,
                chunk::Column::Object,
                chunk::Column::Offset,
            ])
            .columns([chunk::Column::Length, chunk::Column::State, chunk::Column::Epoch])
            .filter(some.filter(db.get_database_backend()))
            .into_tuple()
            .all(db)
            .await?;
        for (digest, object, offset, length, state, epoch) in rows {
            let Some(digest) = Digest::from_slice(&digest) else {
                continue;
            };
            let location = Location {
                object,
                offset: offset.cast_unsigned(),
                length: length.cast_unsigned(),
            };
            found.insert(
                digest,
                Hit {
                    location,
                    state,
                    epoch,
                },
            );
        }
    }
    Ok(found)
}

/// For statements that name their chunks: written so that SQLite finds these by their digests, and does not go through
/// all condemned ones by the index of those, which a plain comparison makes it do.
pub(crate) fn is_condemned() -> Expr {
    Expr::cust(format!("state + 0 = {}", chunk_state::CONDEMNED))
}

/// Brings condemned chunks back to life.
pub(crate) async fn chunks_resurrect(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    digests: &[Digest],
) -> Result<(), DbErr> {
    for digests in digests.chunks(ROWS_A_STATEMENT) {
        let some = Digests {
            store,
            domain,
            names: digests,
        };
        // Two that bring the same ones back at the same time would otherwise wait for each other.
        if db.get_database_backend() != DbBackend::Sqlite {
            let _: Vec<Vec<u8>> = chunk::Entity::find()
                .select_only()
                .column(chunk::Column::Digest)
                .filter(some.filter(db.get_database_backend()))
                .filter(is_condemned())
                .order_by_asc(chunk::Column::Digest)
                .lock(LockType::Update)
                .into_tuple()
                .all(db)
                .await?;
        }
        chunk::Entity::update_many()
            .col_expr(chunk::Column::State, Expr::value(chunk_state::LIVE))
            .filter(some.filter(db.get_database_backend()))
            .filter(is_condemned())
            .exec(db)
            .await?;
    }
    Ok(())
}

/// A chunk of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) domain: i64,
    pub(crate) digest: Digest,
    pub(crate) kind: i16,
    pub(crate) state: i16,
    pub(crate) location: Location,
}

impl Placed {
    pub(super) fn of(row: &chunk::Model) -> Option<Self> {
        Some(Self {
            domain: row.domain,
            digest: Digest::from_slice(&row.digest)?,
            kind: row.kind,
            state: row.state,
            location: Location {
                object: row.object,
                offset: row.offset.cast_unsigned(),
                length: row.length.cast_unsigned(),
            },
        })
    }
}

/// The chunks that lie in an object. Goes through the whole index: only for objects that
/// have something wrong with them.
pub(crate) async fn chunks_of(
    db: &impl ConnectionTrait,
    store: i32,
    object: i64,
) -> Result<Vec<Placed>, DbErr> {
    let rows = chunk::Entity::find()
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::Object.eq(object))
        .all(db)
        .await?;
    Ok(rows.iter().filter_map(Placed::of).collect())
}

/// Marks a chunk as damaged, if it still lies there, and the object with it.
pub(crate) async fn chunk_damage(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    digest: Digest,
    at: Location,
) -> Result<(), DbErr> {
    chunk::Entity::update_many()
        .col_expr(chunk::Column::State, Expr::value(chunk_state::DAMAGED))
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::Domain.eq(domain))
        .filter(chunk::Column::Digest.eq(digest.0.to_vec()))
        .filter(chunk::Column::Object.eq(at.object))
        .filter(chunk::Column::State.is_in([chunk_state::LIVE, chunk_state::CONDEMNED]))
        .exec(db)
        .await?;
    object_damaged(db, at.object).await
}

/// Marks an object and every chunk of it as damaged. Goes through the whole index.
pub(crate) async fn chunks_damage_all(
    db: &impl ConnectionTrait,
    store: i32,
    object: i64,
) -> Result<u64, DbErr> {
    let done = chunk::Entity::update_many()
        .col_expr(chunk::Column::State, Expr::value(chunk_state::DAMAGED))
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::Object.eq(object))
        .filter(chunk::Column::State.is_in([chunk_state::LIVE, chunk_state::CONDEMNED]))
        .exec(db)
        .await?;
    object_damaged(db, object).await?;
    Ok(done.rows_affected)
}

/// Writes the rows of published packs: what is in them, each with the number of its pack. A digest that another pack
/// has keeps its row; one that is damaged there is taken over. Gives the number of rows that are now ours.
///
/// In the order of the digests: two that write the same ones at the same time would otherwise wait for each other.
pub(crate) async fn chunks_insert(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    epoch: i64,
    entries: &[(i64, Entry)],
) -> Result<u64, DbErr> {
    use chunk::Column::{Digest, Domain, Epoch, Kind, Length, Object, Offset, State, Store};
    let mut written = 0;
    let conflict = OnConflict::columns([Store, Domain, Digest])
        .update_columns([Object, Offset, Length, Kind, State])
        // The row may be younger than this session, for one that began later and counts on that.
        .value(
            Epoch,
            Expr::cust(
                "CASE WHEN excluded.epoch > store_chunk.epoch THEN excluded.epoch ELSE store_chunk.epoch END",
            ),
        )
        .action_and_where(Expr::col((chunk::Entity, State)).eq(chunk_state::DAMAGED))
        .to_owned();
    let mut entries = entries.to_vec();
    entries.sort_unstable_by_key(|(object, entry)| (entry.digest, *object, entry.offset));
    // One statement must not name a digest twice.
    entries.dedup_by_key(|(_, entry)| entry.digest);
    for batch in entries.chunks(ROWS_A_STATEMENT) {
        let mut insert = Query::insert();
        insert
            .into_table(chunk::Entity)
            .columns([Store, Domain, Digest, Object, Offset, Length, Kind, State, Epoch]);
        for (object, entry) in batch {
            insert.values_panic([
                store.into(),
                domain.into(),
                entry.digest.0.to_vec().into(),
                (*object).into(),
                entry.offset.cast_signed().into(),
                entry.length.cast_signed().into(),
                (entry.kind as i16).into(),
                chunk_state::LIVE.into(),
                epoch.into(),
            ]);
        }
        written += db
            .execute(insert.on_conflict(conflict.clone()))
            .await?
            .rows_affected();
    }
    Ok(written)
}

/// Number of chunk rows and the bytes of their frames; of all, or of those that are condemned.
pub(crate) async fn chunks_sum(
    db: &impl ConnectionTrait,
    store: i32,
    condemned: bool,
) -> Result<(u64, u64), DbErr> {
    let query = Query::select()
        .expr(Expr::col(chunk::Column::Digest).count())
        .expr(Expr::col(chunk::Column::Length).sum().cast_as("bigint"))
        .from(chunk::Entity)
        .and_where(chunk::Column::Store.eq(store))
        // Written out: a parameter could not use the index of the condemned.
        .and_where_option(condemned.then(|| Expr::cust("state = 2")))
        .to_owned();
    let Some(row) = db.query_one(&query).await? else {
        return Ok((0, 0));
    };
    let count: i64 = row.try_get_by_index(0)?;
    let bytes: Option<i64> = row.try_get_by_index(1)?;
    Ok((count.cast_unsigned(), bytes.unwrap_or_default().cast_unsigned()))
}
