//! Garbage collection: what it marks from, what it condemns and buries, and what it moves.

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbBackend, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement, Value,
};
use uuid::Uuid;

use super::entities::{
    chunk, chunk_state, object_kind, object_state, root, session, session_pin, session_root, session_state,
};
use super::{Digests, is_condemned};
use crate::digest::Digest;
use crate::pack::{ENTRY_BYTES, HEADER_BYTES, TRAILER_BYTES};

/// The lowest epoch of an open session; `None` where there is none. With a time, of those alone whose lease is not over
/// by then.
pub(crate) async fn sessions_oldest(
    tx: &impl ConnectionTrait,
    store: i32,
    alive_us: Option<i64>,
) -> Result<Option<i64>, DbErr> {
    let mut oldest = session::Entity::find()
        .select_only()
        .expr(Expr::col(session::Column::StartEpoch).min())
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN));
    if let Some(alive_us) = alive_us {
        oldest = oldest.filter(session::Column::LeaseUntilUs.gte(alive_us));
    }
    oldest.into_tuple().one(tx).await.map(Option::flatten)
}

/// The top of something that is kept: domain, digest, level.
pub(crate) type Top = (i64, Vec<u8>, i16);

/// Different trees that roots name, after the last one of the page before; those too that are only kept to be restored,
/// where they are wanted.
pub(crate) async fn tops_page(
    tx: &impl ConnectionTrait,
    store: i32,
    after: Option<&Top>,
    (limit, with_restorable): (u64, bool),
) -> Result<Vec<Top>, DbErr> {
    use root::Column::{Digest, Domain, Level, Restorable, Store};
    let mut query = root::Entity::find()
        .select_only()
        .columns([Domain, Digest, Level])
        .distinct()
        .filter(Store.eq(store));
    if !with_restorable {
        query = query.filter(Restorable.eq(false));
    }
    if let Some((domain, digest, level)) = after {
        let place = Expr::tuple([Domain, Digest, Level].map(Expr::col));
        query = query.filter(place.gt(Expr::tuple([
            Expr::value(*domain),
            Expr::value(digest.clone()),
            Expr::value(*level),
        ])));
    }
    query
        .order_by_asc(Domain)
        .order_by_asc(Digest)
        .order_by_asc(Level)
        .limit(limit)
        .into_tuple()
        .all(tx)
        .await
}

/// The trees that sessions keep.
pub(crate) async fn session_tops(tx: &impl ConnectionTrait) -> Result<Vec<Top>, DbErr> {
    use session_root::Column::{Digest, Domain, Level};
    session_root::Entity::find()
        .select_only()
        .columns([Domain, Digest, Level])
        .distinct()
        .into_tuple()
        .all(tx)
        .await
}

/// Pins after number `after`, with their numbers and domains.
pub(crate) async fn pins_after(
    tx: &impl ConnectionTrait,
    after: i64,
    limit: u64,
) -> Result<Vec<(i64, i64, Vec<u8>)>, DbErr> {
    let pins = session_pin::Entity::find()
        .filter(session_pin::Column::Id.gt(after))
        .order_by_asc(session_pin::Column::Id)
        .limit(limit)
        .all(tx)
        .await?;
    let mut sessions: Vec<Uuid> = pins.iter().map(|pin| pin.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let domains: Vec<(Uuid, i64)> = session::Entity::find()
        .select_only()
        .columns([session::Column::Id, session::Column::Domain])
        .filter(session::Column::Id.is_in(sessions))
        .into_tuple()
        .all(tx)
        .await?;
    let domain = |id| {
        domains
            .iter()
            .find(|(session, _)| *session == id)
            .map(|(_, domain)| *domain)
    };
    Ok(pins
        .into_iter()
        .filter_map(|pin| Some((pin.id, domain(pin.session)?, pin.digests)))
        .collect())
}

/// The lowest domain above `after` that has chunks.
pub(crate) async fn domain_after(
    db: &impl ConnectionTrait,
    store: i32,
    after: i64,
) -> Result<Option<i64>, DbErr> {
    chunk::Entity::find()
        .select_only()
        .column(chunk::Column::Domain)
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::Domain.gt(after))
        .order_by_asc(chunk::Column::Domain)
        .limit(1)
        .into_tuple()
        .one(db)
        .await
}

/// A chunk row, as a sweep sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scanned {
    pub(crate) digest: Digest,
    pub(crate) state: i16,
    pub(crate) length: u32,
}

/// Rows of a domain in the order of their digests, after `after`: those older than `epoch`, and the condemned ones.
///
/// A page comes as one value: a million rows one by one cost the driver more than everything else of a sweep.
pub(crate) async fn chunks_scan(
    db: &impl ConnectionTrait,
    (store, domain): (i32, i64),
    after: &[u8],
    epoch: i64,
    limit: u32,
) -> Result<Vec<Scanned>, DbErr> {
    let backend = db.get_database_backend();
    let page = match backend {
        DbBackend::Sqlite => "SELECT group_concat(hex(digest) || state || printf('%08x', length), '')",
        _ => "SELECT string_agg(digest || substring(int2send(state) from 2) || int4send(length), ''::bytea)",
    };
    let sql = format!(
        "{page} FROM (SELECT digest, state, length FROM store_chunk WHERE store = $1 AND domain = $2 \
         AND digest > $3 AND (epoch < $4 OR state = 2) ORDER BY digest LIMIT $5) AS page"
    );
    let values: [Value; 5] = [
        store.into(),
        domain.into(),
        after.to_vec().into(),
        epoch.into(),
        i64::from(limit).into(),
    ];
    let row = db
        .query_one_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?;
    let Some(row) = row else { return Ok(Vec::new()) };
    let rows: Option<Vec<Scanned>> = if backend == DbBackend::Sqlite {
        let text: Option<String> = row.try_get_by_index(0)?;
        text.unwrap_or_default()
            .as_bytes()
            .chunks_exact(73)
            .map(from_text)
            .collect()
    } else {
        let bytes: Option<Vec<u8>> = row.try_get_by_index(0)?;
        bytes
            .unwrap_or_default()
            .chunks_exact(37)
            .map(from_bytes)
            .collect()
    };
    let mut rows = rows.ok_or_else(|| DbErr::Type("a page of chunks cannot be read".into()))?;
    // The databases promise no order of what they put together.
    rows.sort_unstable();
    Ok(rows)
}

fn from_text(text: &[u8]) -> Option<Scanned> {
    let mut digest = [0; 32];
    hex::decode_to_slice(&text[..64], &mut digest).ok()?;
    let length = std::str::from_utf8(&text[65..]).ok()?;
    Some(Scanned {
        digest: Digest(digest),
        state: i16::from(text[64].checked_sub(b'0')?),
        length: u32::from_str_radix(length, 16).ok()?,
    })
}

fn from_bytes(bytes: &[u8]) -> Option<Scanned> {
    Some(Scanned {
        digest: Digest::from_slice(&bytes[..32])?,
        state: i16::from(bytes[32]),
        length: u32::from_be_bytes(bytes[33..].try_into().ok()?),
    })
}

/// Condemns those that are live and older than `before`; a damaged one that old goes at once. The row's epoch becomes
/// that of the run, which tells when it was condemned. Gives how many were condemned and how many went.
pub(crate) async fn chunks_condemn(
    tx: &impl ConnectionTrait,
    some: Digests<'_>,
    before: i64,
    epoch: i64,
) -> Result<(u64, u64), DbErr> {
    let condemned = chunk::Entity::update_many()
        .col_expr(chunk::Column::State, Expr::value(chunk_state::CONDEMNED))
        .col_expr(chunk::Column::Epoch, Expr::value(epoch))
        .filter(some.filter(tx.get_database_backend()))
        .filter(chunk::Column::State.eq(chunk_state::LIVE))
        .filter(chunk::Column::Epoch.lt(before))
        .exec(tx)
        .await?;
    let gone = chunk::Entity::delete_many()
        .filter(some.filter(tx.get_database_backend()))
        .filter(chunk::Column::State.eq(chunk_state::DAMAGED))
        .filter(chunk::Column::Epoch.lt(before))
        .exec(tx)
        .await?;
    Ok((condemned.rows_affected, gone.rows_affected))
}

/// Some chunks that were condemned by the run of `epoch` or one before it: domain and digest.
pub(crate) async fn condemned_some(
    db: &impl ConnectionTrait,
    store: i32,
    epoch: i64,
    limit: u64,
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    chunk::Entity::find()
        .select_only()
        .columns([chunk::Column::Domain, chunk::Column::Digest])
        .filter(chunk::Column::Store.eq(store))
        // Written out: a prepared statement with a parameter here could not use the index of the condemned.
        .filter(Expr::cust("state = 2"))
        .filter(chunk::Column::Epoch.lte(epoch))
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// Removes the rows of those that are condemned, by the run of `epoch` or one before it.
pub(crate) async fn chunks_bury(
    tx: &impl ConnectionTrait,
    some: Digests<'_>,
    epoch: i64,
) -> Result<u64, DbErr> {
    let done = chunk::Entity::delete_many()
        .filter(some.filter(tx.get_database_backend()))
        .filter(is_condemned())
        .filter(chunk::Column::Epoch.lte(epoch))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

/// Published objects that no chunk names: up to `limit`. Goes through the whole index.
pub(crate) async fn objects_empty(
    db: &impl ConnectionTrait,
    store: i32,
    limit: u32,
) -> Result<Vec<i64>, DbErr> {
    let sql = "SELECT o.id FROM store_object o LEFT JOIN \
               (SELECT DISTINCT object FROM store_chunk WHERE store = $1) u ON u.object = o.id \
               WHERE o.store = $1 AND o.state = $2 AND u.object IS NULL ORDER BY o.id LIMIT $3";
    let values: [Value; 3] = [store.into(), object_state::LIVE.into(), i64::from(limit).into()];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let rows = db.query_all_raw(statement).await?;
    rows.into_iter().map(|row| row.try_get_by_index(0)).collect()
}

/// A published pack that is to be written anew.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sparse {
    pub(crate) object: i64,
    pub(crate) key: Uuid,
    pub(crate) bytes: i64,
    /// Of all its chunks.
    pub(crate) domain: i64,
}

/// Packs behind number `after` that would shrink below `percent` of their bytes without their garbage, or of which
/// something was found damaged; not those of which nothing else is left. One look at both tables. Goes through the
/// whole index.
pub(crate) async fn packs_sparse(
    db: &impl ConnectionTrait,
    store: i32,
    (after, percent): (i64, u8),
    limit: u32,
) -> Result<Vec<Sparse>, DbErr> {
    // What a pack takes beside its frames: header and trailer, and an entry of the footer for each.
    let fixed = HEADER_BYTES + TRAILER_BYTES;
    let damaged = chunk_state::DAMAGED;
    let sql = format!(
        "SELECT o.id, o.key, o.bytes, u.domain \
         FROM store_object o JOIN (SELECT object, min(domain) AS domain, count(*) AS chunks, \
         sum(CASE WHEN state = {damaged} THEN 0 ELSE 1 END) AS whole, CAST(sum(length) AS bigint) AS chunk_bytes \
         FROM store_chunk WHERE store = $1 GROUP BY object) u ON u.object = o.id \
         WHERE o.store = $1 AND o.state = $2 AND o.kind = $3 AND o.id > $6 AND u.whole > 0 AND (o.damaged OR \
         (u.chunk_bytes + u.chunks * {ENTRY_BYTES} + {fixed}) * 100 < o.bytes * $4) ORDER BY o.id LIMIT $5"
    );
    let values: [Value; 6] = [
        store.into(),
        object_state::LIVE.into(),
        object_kind::PACK.into(),
        i64::from(percent).into(),
        i64::from(limit).into(),
        after.into(),
    ];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let sparse = |row: sea_orm::QueryResult| {
        Ok(Sparse {
            object: row.try_get_by_index(0)?,
            key: row.try_get_by_index(1)?,
            bytes: row.try_get_by_index(2)?,
            domain: row.try_get_by_index(3)?,
        })
    };
    db.query_all_raw(statement)
        .await?
        .into_iter()
        .map(sparse)
        .collect()
}

/// A published object, and the chunks that are in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) object: i64,
    pub(crate) kind: i16,
    pub(crate) bytes: u64,
    /// Something of it was found damaged.
    pub(crate) is_damaged: bool,
    pub(crate) chunks: u64,
    pub(crate) chunk_bytes: u64,
    /// Those of them that are damaged.
    pub(crate) damaged: u64,
    pub(crate) damaged_bytes: u64,
}

/// Published objects behind number `after`, up to `limit`. Goes through the whole index.
pub(crate) async fn objects_filled(
    db: &impl ConnectionTrait,
    store: i32,
    after: i64,
    limit: u32,
) -> Result<Vec<Filled>, DbErr> {
    let damaged = chunk_state::DAMAGED;
    let sql = format!(
        "SELECT o.id, o.kind, o.bytes, o.damaged, COALESCE(u.chunks, 0), COALESCE(u.chunk_bytes, 0), COALESCE(u.damaged, 0), \
         COALESCE(u.damaged_bytes, 0) FROM store_object o LEFT JOIN (SELECT object, count(*) AS chunks, \
         CAST(sum(length) AS bigint) AS chunk_bytes, CAST(sum(CASE WHEN state = {damaged} THEN 1 ELSE 0 END) AS bigint) AS damaged, \
         CAST(sum(CASE WHEN state = {damaged} THEN length ELSE 0 END) AS bigint) AS damaged_bytes \
         FROM store_chunk WHERE store = $1 GROUP BY object) u ON u.object = o.id \
         WHERE o.store = $1 AND o.state = $2 AND o.id > $3 ORDER BY o.id LIMIT $4"
    );
    let values: [Value; 4] = [
        store.into(),
        object_state::LIVE.into(),
        after.into(),
        i64::from(limit).into(),
    ];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let filled = |row: sea_orm::QueryResult| {
        let number = |index: usize| row.try_get_by_index(index).map(i64::cast_unsigned);
        Ok(Filled {
            object: row.try_get_by_index(0)?,
            kind: row.try_get_by_index(1)?,
            bytes: number(2)?,
            is_damaged: row.try_get_by_index(3)?,
            chunks: number(4)?,
            chunk_bytes: number(5)?,
            damaged: number(6)?,
            damaged_bytes: number(7)?,
        })
    };
    db.query_all_raw(statement)
        .await?
        .into_iter()
        .map(filled)
        .collect()
}

/// A chunk that moves: its digest, the object that it is in, and its place in the new one.
pub(crate) type Moved = (Digest, i64, u32, u32);

/// Moves chunks from one object to another. One that does not lie in the old object any more stays where it is. Gives
/// how many moved.
pub(crate) async fn chunks_move(
    tx: &impl ConnectionTrait,
    of: (i32, i64),
    to: i64,
    moved: &[Moved],
) -> Result<u64, DbErr> {
    let mut done = 0;
    for batch in moved.chunks(256) {
        let statement = move_statement(tx.get_database_backend(), of, to, batch);
        done += tx.execute_raw(statement).await?.rows_affected();
    }
    Ok(done)
}

/// Store and domain are in each row for the reason that [`Digests::filter`] gives.
pub(super) fn move_statement(
    backend: DbBackend,
    (store, domain): (i32, i64),
    to: i64,
    batch: &[Moved],
) -> Statement {
    let mut values: Vec<Value> = vec![store.into(), domain.into(), to.into()];
    let mut rows = Vec::with_capacity(batch.len());
    let casts = match backend {
        DbBackend::Sqlite => ["", "", "", "", "", ""],
        _ => ["::int", "::bigint", "::bytea", "::bigint", "::int", "::int"],
    };
    for (digest, from, offset, length) in batch {
        let first = values.len() + 1;
        let row: Vec<String> = [1, 2]
            .into_iter()
            .chain(first..)
            .zip(casts)
            .map(|(number, cast)| format!("${number}{cast}"))
            .collect();
        rows.push(format!("({})", row.join(", ")));
        values.extend([
            Value::from(digest.0.to_vec()),
            (*from).into(),
            offset.cast_signed().into(),
            length.cast_signed().into(),
        ]);
    }
    // Both databases call the columns of VALUES so.
    let sql = format!(
        "UPDATE store_chunk SET object = $3, \"offset\" = v.column5, length = v.column6 FROM (VALUES {}) AS v \
         WHERE store = v.column1 AND domain = v.column2 AND digest = v.column3 AND object = v.column4",
        rows.join(", ")
    );
    Statement::from_sql_and_values(backend, sql, values)
}

/// Keys of these objects that have a row, in whatever state.
pub(crate) async fn keys_known(db: &impl ConnectionTrait, keys: &[Uuid]) -> Result<Vec<Uuid>, DbErr> {
    use super::entities::object;
    object::Entity::find()
        .select_only()
        .column(object::Column::Key)
        .filter(object::Column::Key.is_in(keys.iter().copied()))
        .into_tuple()
        .all(db)
        .await
}
