//! The store's only SQL: entities and queries, on whatever connection or transaction they are given.
//!
//! Rows that move together are named in the crate's protocol (see the crate documentation); the order of
//! locks is always gate, then session, then everything else.

use std::collections::HashMap;

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict, Query};
use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::{NotSet, Set},
    ColumnTrait as _, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};
use uuid::Uuid;

use crate::digest::Digest;
use crate::pack::Entry;
use crate::tree::TreeRoot;

/// States of a session row.
pub(crate) mod session_state {
    /// A writer holds it.
    pub(crate) const OPEN: i16 = 1;
    /// Committed while a gc ran: its pins must outlive that gc.
    pub(crate) const ENDED: i16 = 2;
    /// Taken from its writer (or given up); its unpublished objects wait to be removed.
    pub(crate) const EXPIRED: i16 = 3;
}

/// States of an object row.
pub(crate) mod object_state {
    /// The row is there, the object perhaps: nothing refers to it yet.
    pub(crate) const INTENT: i16 = 1;
    /// Published.
    pub(crate) const LIVE: i16 = 2;
    /// Never to be read again; the object is being deleted.
    pub(crate) const DEAD: i16 = 4;
}

/// Kinds of objects.
pub(crate) mod object_kind {
    /// A pack of frames at `p/xx/<uuid>`.
    pub(crate) const PACK: i16 = 1;
}

/// States of a chunk row: live, condemned (gc found no root, a hit brings it back), gone for good, damaged.
pub(crate) mod chunk_state {
    /// May be hit and read.
    pub(crate) const LIVE: i16 = 1;
    /// Found by no gc root; still readable, and live again when it is hit.
    pub(crate) const CONDEMNED: i16 = 2;
    /// Terminal: its bytes are going. A new publish of the digest takes the row over.
    pub(crate) const GONE: i16 = 3;
    /// Its bytes were found damaged: still read where they are, as they may come back, but never hit. A new publish of
    /// the digest takes the row over, which heals every disk that has the chunk.
    pub(crate) const DAMAGED: i16 = 4;
}

macro_rules! entity {
    ($name:ident, $table:literal, { $($body:tt)* }) => {
        #[expect(unreachable_pub, reason = "SeaORM derives public items")]
        pub(crate) mod $name {
            use sea_orm::entity::prelude::*;

            #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
            #[sea_orm(table_name = $table)]
            pub struct Model { $($body)* }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

entity!(meta, "store_meta", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub store_id: Uuid,
    pub ready: bool,
    pub format: i32,
    pub digest_key_id: String,
    pub epoch: i64,
    pub gc_fence: Option<Uuid>,
    pub created_us: i64,
});

entity!(session, "store_session", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub store: i32,
    pub domain: i64,
    pub owner: String,
    pub fence: Uuid,
    pub state: i16,
    pub start_epoch: i64,
    pub lease_until_us: i64,
    pub created_us: i64,
    pub ended_us: i64,
});

entity!(session_pin, "store_session_pin", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub session: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub epoch: i64,
    pub digests: Vec<u8>,
});

entity!(session_root, "store_session_root", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub session: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub domain: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    pub level: i16,
});

entity!(object, "store_object", {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub store: i32,
    pub key: Uuid,
    pub kind: i16,
    pub state: i16,
    pub session: Option<Uuid>,
    pub bytes: i64,
    pub frames: i32,
    pub created_us: i64,
    pub changed_us: i64,
});

entity!(chunk, "store_chunk", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub domain: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    pub object: i64,
    pub offset: i32,
    pub length: i32,
    pub kind: i16,
    pub state: i16,
    pub epoch: i64,
});

entity!(root, "store_root", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner: String,
    pub domain: i64,
    pub digest: Vec<u8>,
    pub level: i16,
    pub virtual_bytes: i64,
    pub allocated_bytes: i64,
    pub epoch: i64,
    pub created_us: i64,
});

/// Rows in one statement: few enough bound values for SQLite (32,766) and PostgreSQL (65,535).
const ROWS_A_STATEMENT: usize = 1000;
/// Digests in one look-up. Always padded to this many, so that one prepared statement serves all.
pub(crate) const LOOKUP: usize = 128;

/// Begins a writing transaction: IMMEDIATE on SQLite, where a deferred one fails when two writers meet.
pub(crate) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        isolation_level: None,
        access_mode: None,
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
    };
    db.begin_with_options(options).await
}

// --- the store's own row, which is also the gate -------------------------------------------------------

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

/// Takes the gate shared: no gc transaction that condemns can run until ours ends.
pub(crate) async fn gate_shared(db: &impl ConnectionTrait, store: i32) -> Result<Option<meta::Model>, DbErr> {
    meta::Entity::find_by_id(store).lock_shared().one(db).await
}

/// Takes the gate alone and raises the epoch; gives the new one.
pub(crate) async fn epoch_raise(db: &impl ConnectionTrait, store: i32) -> Result<i64, DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::Epoch, Expr::col(meta::Column::Epoch).add(1))
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await?;
    let row = meta::Entity::find_by_id(store).one(db).await?;
    row.map(|row| row.epoch)
        .ok_or_else(|| DbErr::RecordNotFound("store_meta".into()))
}

// --- sessions --------------------------------------------------------------------------------------------

pub(crate) async fn session_insert(db: &impl ConnectionTrait, row: session::Model) -> Result<(), DbErr> {
    session::Entity::insert(session::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// The session, if it is still open under this fence; locked against being taken away until we end.
pub(crate) async fn session_hold(
    db: &impl ConnectionTrait,
    id: Uuid,
    fence: Uuid,
) -> Result<Option<session::Model>, DbErr> {
    session::Entity::find_by_id(id)
        .filter(session::Column::Fence.eq(fence))
        .filter(session::Column::State.eq(session_state::OPEN))
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
        .filter(session::Column::Id.eq(id))
        .filter(session::Column::Fence.eq(fence))
        .filter(session::Column::State.eq(session_state::OPEN))
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
        .filter(session::Column::Id.eq(id))
        .filter(session::Column::Fence.eq(fence))
        .filter(session::Column::State.eq(session_state::OPEN))
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
    session_pin::Entity::delete_many()
        .filter(session_pin::Column::Session.eq(id))
        .exec(db)
        .await?;
    session_root::Entity::delete_many()
        .filter(session_root::Column::Session.eq(id))
        .exec(db)
        .await?;
    session::Entity::delete_by_id(id).exec(db).await.map(drop)
}

pub(crate) async fn sessions_open(db: &impl ConnectionTrait, store: i32) -> Result<u64, DbErr> {
    let ids: Vec<Uuid> = session::Entity::find()
        .select_only()
        .column(session::Column::Id)
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN))
        .into_tuple()
        .all(db)
        .await?;
    Ok(ids.len() as u64)
}

/// Writes one pin row: the digests that the session counts on and did not write itself.
pub(crate) async fn pin_insert(
    db: &impl ConnectionTrait,
    session: Uuid,
    number: i64,
    epoch: i64,
    digests: &[Digest],
) -> Result<(), DbErr> {
    let digests = digests.iter().flat_map(|digest| digest.0).collect();
    let row = session_pin::Model {
        session,
        number,
        epoch,
        digests,
    };
    session_pin::Entity::insert(session_pin::ActiveModel::from(row))
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

// --- objects -----------------------------------------------------------------------------------------------

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

/// Objects by number.
pub(crate) async fn objects_get(db: &impl ConnectionTrait, ids: &[i64]) -> Result<Vec<object::Model>, DbErr> {
    object::Entity::find()
        .filter(object::Column::Id.is_in(ids.iter().copied()))
        .all(db)
        .await
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

// --- chunks ------------------------------------------------------------------------------------------------

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

/// Looks digests up that may be read: all but those gone for good.
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
        let padded = batch.iter().chain(std::iter::repeat_n(&batch[0], padding));
        let rows: Vec<Row> = chunk::Entity::find()
            .select_only()
            .columns([
                chunk::Column::Digest,
                chunk::Column::Object,
                chunk::Column::Offset,
            ])
            .columns([chunk::Column::Length, chunk::Column::State, chunk::Column::Epoch])
            .filter(chunk::Column::Store.eq(store))
            .filter(chunk::Column::Domain.eq(domain))
            .filter(chunk::Column::Digest.is_in(padded.map(|digest| digest.0.to_vec())))
            .into_tuple()
            .all(db)
            .await?;
        for (digest, object, offset, length, state, epoch) in rows {
            let (Some(digest), true) = (Digest::from_slice(&digest), state != chunk_state::GONE) else {
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

/// Brings condemned chunks back to life.
pub(crate) async fn chunks_resurrect(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    digests: &[Digest],
) -> Result<(), DbErr> {
    for batch in digests.chunks(ROWS_A_STATEMENT) {
        chunk::Entity::update_many()
            .col_expr(chunk::Column::State, Expr::value(chunk_state::LIVE))
            .filter(chunk::Column::Store.eq(store))
            .filter(chunk::Column::Domain.eq(domain))
            .filter(chunk::Column::Digest.is_in(batch.iter().map(|digest| digest.0.to_vec())))
            .filter(chunk::Column::State.eq(chunk_state::CONDEMNED))
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
    pub(crate) location: Location,
}

/// The chunks that lie in an object and are not gone for good. Goes through the whole index: only for objects that
/// have something wrong with them.
pub(crate) async fn chunks_of(
    db: &impl ConnectionTrait,
    store: i32,
    object: i64,
) -> Result<Vec<Placed>, DbErr> {
    let rows = chunk::Entity::find()
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::Object.eq(object))
        .filter(chunk::Column::State.ne(chunk_state::GONE))
        .all(db)
        .await?;
    let placed = |row: chunk::Model| {
        Some(Placed {
            domain: row.domain,
            digest: Digest::from_slice(&row.digest)?,
            kind: row.kind,
            location: Location {
                object,
                offset: row.offset.cast_unsigned(),
                length: row.length.cast_unsigned(),
            },
        })
    };
    Ok(rows.into_iter().filter_map(placed).collect())
}

/// Marks a chunk as damaged, if it still lies there.
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
        .await
        .map(drop)
}

/// Marks every chunk of an object as damaged. Goes through the whole index.
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
    Ok(done.rows_affected)
}

/// Marks damaged chunks as live again, but for those in these objects. Goes through the whole index.
pub(crate) async fn chunks_mend(
    db: &impl ConnectionTrait,
    store: i32,
    still_faulty: &[i64],
) -> Result<u64, DbErr> {
    let done = chunk::Entity::update_many()
        .col_expr(chunk::Column::State, Expr::value(chunk_state::LIVE))
        .filter(chunk::Column::Store.eq(store))
        .filter(chunk::Column::State.eq(chunk_state::DAMAGED))
        .filter(chunk::Column::Object.is_not_in(still_faulty.iter().copied()))
        .exec(db)
        .await?;
    Ok(done.rows_affected)
}

/// Writes the rows of a published pack. A digest that another pack has live keeps its row; a row that is
/// gone for good or damaged is taken over. Gives the number of rows that are now ours.
pub(crate) async fn chunks_insert(
    db: &impl ConnectionTrait,
    store: i32,
    domain: i64,
    object: i64,
    epoch: i64,
    entries: &[Entry],
) -> Result<u64, DbErr> {
    use chunk::Column::{Digest, Domain, Epoch, Kind, Length, Object, Offset, State, Store};
    let mut written = 0;
    let conflict = OnConflict::columns([Store, Domain, Digest])
        .update_columns([Object, Offset, Length, Kind, State, Epoch])
        .action_and_where(Expr::col((chunk::Entity, State)).is_in([chunk_state::GONE, chunk_state::DAMAGED]))
        .to_owned();
    for batch in entries.chunks(ROWS_A_STATEMENT) {
        let mut insert = Query::insert();
        insert
            .into_table(chunk::Entity)
            .columns([Store, Domain, Digest, Object, Offset, Length, Kind, State, Epoch]);
        for entry in batch {
            insert.values_panic([
                store.into(),
                domain.into(),
                entry.digest.0.to_vec().into(),
                object.into(),
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

// --- roots -------------------------------------------------------------------------------------------------

impl root::Model {
    pub(crate) fn tree(&self) -> Option<TreeRoot> {
        Some(TreeRoot {
            digest: Digest::from_slice(&self.digest)?,
            level: u8::try_from(self.level).ok()?,
            virtual_bytes: self.virtual_bytes.cast_unsigned(),
            domain: self.domain,
        })
    }
}

pub(crate) async fn root_insert(db: &impl ConnectionTrait, row: root::Model) -> Result<(), DbErr> {
    root::Entity::insert(root::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// Removes a root; false when there was none.
pub(crate) async fn root_delete(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
) -> Result<bool, DbErr> {
    let key = (store, kind.to_owned(), owner.to_owned());
    Ok(root::Entity::delete_by_id(key).exec(db).await?.rows_affected == 1)
}

pub(crate) async fn root_get(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
) -> Result<Option<root::Model>, DbErr> {
    root::Entity::find_by_id((store, kind.to_owned(), owner.to_owned()))
        .one(db)
        .await
}

pub(crate) async fn roots_list(db: &impl ConnectionTrait, store: i32) -> Result<Vec<root::Model>, DbErr> {
    root::Entity::find()
        .filter(root::Column::Store.eq(store))
        .order_by_asc(root::Column::Kind)
        .order_by_asc(root::Column::Owner)
        .all(db)
        .await
}

/// Some root with this tree; it cannot be deleted until the transaction ends.
pub(crate) async fn root_hold(
    db: &impl ConnectionTrait,
    store: i32,
    tree: &TreeRoot,
) -> Result<Option<root::Model>, DbErr> {
    root::Entity::find()
        .filter(root::Column::Store.eq(store))
        .filter(root::Column::Domain.eq(tree.domain))
        .filter(root::Column::Digest.eq(tree.digest.0.to_vec()))
        .lock_shared()
        .one(db)
        .await
}

// --- figures -----------------------------------------------------------------------------------------------

/// Sums over the published objects: number, bytes, frames.
pub(crate) async fn objects_sum(db: &impl ConnectionTrait, store: i32) -> Result<(u64, u64, u64), DbErr> {
    let query = Query::select()
        .expr(Expr::col(object::Column::Id).count())
        .expr(Expr::col(object::Column::Bytes).sum().cast_as("bigint"))
        .expr(Expr::col(object::Column::Frames).sum().cast_as("bigint"))
        .from(object::Entity)
        .and_where(object::Column::Store.eq(store))
        .and_where(object::Column::State.eq(object_state::LIVE))
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

/// Number of live chunk rows and the bytes of their frames.
pub(crate) async fn chunks_sum(db: &impl ConnectionTrait, store: i32) -> Result<(u64, u64), DbErr> {
    let query = Query::select()
        .expr(Expr::col(chunk::Column::Digest).count())
        .expr(Expr::col(chunk::Column::Length).sum().cast_as("bigint"))
        .from(chunk::Entity)
        .and_where(chunk::Column::Store.eq(store))
        .to_owned();
    let Some(row) = db.query_one(&query).await? else {
        return Ok((0, 0));
    };
    let count: i64 = row.try_get_by_index(0)?;
    let bytes: Option<i64> = row.try_get_by_index(1)?;
    Ok((count.cast_unsigned(), bytes.unwrap_or_default().cast_unsigned()))
}
