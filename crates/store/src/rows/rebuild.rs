//! What rebuilding the index writes.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::NotSet, ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DbErr,
    EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};
use uuid::Uuid;

use super::chunks::chunks_insert;
use super::entities::{
    chunk, meta, object, object_state, orphan, root, session, session_pin, session_root, session_state,
};
use crate::digest::Digest;
use crate::pack::Entry;

/// The epoch of everything that a rebuild finds: lower than that of any session.
const OLDEST: i64 = 1;

/// An object that is in the backend.
#[derive(Debug, Clone)]
pub(crate) struct ObjectFound {
    pub(crate) kind: i16,
    pub(crate) id: Uuid,
    pub(crate) bytes: u64,
    /// As [`crate::Listed::modified_us`].
    pub(crate) modified_us: i64,
    /// What is in it, by dedup domain.
    pub(crate) entries: Vec<(i64, Vec<Entry>)>,
}

impl ObjectFound {
    /// Number of frames.
    pub(crate) fn frames(&self) -> usize {
        self.entries.iter().map(|(_, entries)| entries.len()).sum()
    }
}

/// Whether a session is open whose writer may be alive.
pub(crate) async fn writers_alive(db: &impl ConnectionTrait, store: i32, now_us: i64) -> Result<bool, DbErr> {
    let open = session::Entity::find()
        .filter(session::Column::Store.eq(store))
        .filter(session::Column::State.eq(session_state::OPEN))
        .filter(session::Column::LeaseUntilUs.gte(now_us))
        .one(db)
        .await?;
    Ok(open.is_some())
}

/// Marks the store as being rebuilt, and removes every row that a rebuild makes anew or that belonged to a writer.
pub(crate) async fn index_clear(db: &impl ConnectionTrait, store: i32) -> Result<(), DbErr> {
    meta::Entity::update_many()
        .col_expr(meta::Column::Ready, Expr::value(false))
        .col_expr(meta::Column::GcFence, Expr::value(Option::<Uuid>::None))
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await?;
    session_pin::Entity::delete_many().exec(db).await?;
    session_root::Entity::delete_many().exec(db).await?;
    session::Entity::delete_many().exec(db).await?;
    orphan::Entity::delete_many().exec(db).await?;
    chunk::Entity::delete_many()
        .filter(chunk::Column::Store.eq(store))
        .exec(db)
        .await?;
    object::Entity::delete_many()
        .filter(object::Column::Store.eq(store))
        .exec(db)
        .await
        .map(drop)
}

/// The dedup domains that roots are of.
pub(crate) async fn root_domains(db: &impl ConnectionTrait, store: i32) -> Result<Vec<i64>, DbErr> {
    root::Entity::find()
        .select_only()
        .column(root::Column::Domain)
        .distinct()
        .filter(root::Column::Store.eq(store))
        .into_tuple()
        .all(db)
        .await
}

/// Of these names of whole objects, those that roots are of, with their domains.
pub(crate) async fn names_kept(
    db: &impl ConnectionTrait,
    store: i32,
    names: &[Digest],
) -> Result<Vec<(i64, Digest)>, DbErr> {
    let rows: Vec<(i64, Vec<u8>)> = root::Entity::find()
        .select_only()
        .columns([root::Column::Domain, root::Column::Digest])
        .distinct()
        .filter(root::Column::Store.eq(store))
        .filter(root::Column::Level.eq(super::WHOLE_LEVEL))
        .filter(root::Column::Digest.is_in(names.iter().map(|name| name.0.to_vec())))
        .into_tuple()
        .all(db)
        .await?;
    let known = |(domain, digest): (i64, Vec<u8>)| Some((domain, Digest::from_slice(&digest)?));
    Ok(rows.into_iter().filter_map(known).collect())
}

/// Writes the rows of an object, as old as they can be; where another has a chunk already, that one's row stays. Gives
/// the object's number, and how many of its chunks are new.
pub(crate) async fn found_insert(
    db: &impl ConnectionTrait,
    store: i32,
    found: &ObjectFound,
    now_us: i64,
) -> Result<(i64, u64), DbErr> {
    let row = object::ActiveModel {
        id: NotSet,
        store: Set(store),
        key: Set(found.id),
        kind: Set(found.kind),
        state: Set(object_state::LIVE),
        session: Set(None),
        bytes: Set(found.bytes.cast_signed()),
        frames: Set(i32::try_from(found.frames()).unwrap_or(i32::MAX)),
        // Their numbers are in the order of a listing: this alone tells which are the newest.
        created_us: Set(found.modified_us),
        changed_us: Set(now_us),
        // Only its footer was read: it is the first that a scrub reads.
        verified_us: Set(0),
        damaged: Set(false),
    };
    let id = row.insert(db).await?.id;
    let mut written = 0;
    for (domain, entries) in &found.entries {
        let entries: Vec<_> = entries.iter().map(|entry| (id, *entry)).collect();
        written += chunks_insert(db, store, *domain, OLDEST, &entries).await?;
    }
    Ok((id, written))
}

/// Corrects what the row of a published object says of its size. False where it is not published any more. What is in
/// it and in no index gets no row here: an object never gets one that it did not have when it was published, so that gc
/// may delete what it found empty.
pub(crate) async fn found_correct(
    db: &impl ConnectionTrait,
    object: i64,
    found: &ObjectFound,
) -> Result<bool, DbErr> {
    let corrected = object::Entity::update_many()
        .col_expr(object::Column::Bytes, Expr::value(found.bytes.cast_signed()))
        .col_expr(
            object::Column::Frames,
            Expr::value(i32::try_from(found.frames()).unwrap_or(i32::MAX)),
        )
        .filter(object::Column::Id.eq(object))
        .filter(object::Column::State.eq(object_state::LIVE))
        .exec(db)
        .await?;
    Ok(corrected.rows_affected == 1)
}

/// Marks the store as ready, at an epoch above all that its rows know.
pub(crate) async fn index_ready(db: &impl ConnectionTrait, store: i32) -> Result<(), DbErr> {
    let newest: Option<i64> = root::Entity::find()
        .select_only()
        .column(root::Column::Epoch)
        .filter(root::Column::Store.eq(store))
        .order_by_desc(root::Column::Epoch)
        .into_tuple()
        .one(db)
        .await?;
    let own = super::gate::epoch_get(db, store).await?;
    meta::Entity::update_many()
        .col_expr(meta::Column::Ready, Expr::value(true))
        .col_expr(
            meta::Column::Epoch,
            Expr::value(own.max(newest.unwrap_or(OLDEST)) + 1),
        )
        .filter(meta::Column::Id.eq(store))
        .exec(db)
        .await
        .map(drop)
}
