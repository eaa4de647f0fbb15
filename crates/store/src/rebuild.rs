//! Brings the index of chunks back from the packs alone (docs/store-format.md §4): each names in its footer what it
//! holds. For an index that was lost or damaged, and for a database that is made anew.
//!
//! Nobody may write meanwhile. The store's row is not *ready* from the first change to the last, so that a run that
//! was cut off is noticed by whoever opens the store, and does no harm but to be done again: gc never sees an index
//! that lacks something. Every pack becomes live and every chunk the oldest there is; what nobody needs the next gc
//! finds. Memory is 16 bytes a pack, and the footers of those that are damaged so that nothing proves which team's they
//! are.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use sea_orm::DatabaseConnection;
use uuid::Uuid;

use crate::backend::{Backend, Listed};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::header::DedupDomain;
use crate::heal::wanted::Wanted;
use crate::object::{Algorithm, Hasher, ObjectName, whole_entry};
use crate::pack::{self, Entry, HEADER_BYTES, TRAILER_BYTES};
use crate::rows::{self, Location, ObjectFound, object_kind};
use crate::store::{Opening, Options, Store, pack_key};
use crate::verify::VerifyProgress;

/// Packs whose footers are read at the same time.
const PACKS_AT_ONCE: usize = 8;
/// Packs whose rows are written in one transaction.
const PACKS_A_TRANSACTION: usize = 16;
/// What is read of a pack's end at first: enough for nearly every footer.
const TAIL_BYTES: u64 = 64 << 10;
/// Bytes of a whole object that are read at once.
pub(crate) const PIECE_BYTES: u64 = 4 << 20;
/// Packs that are named in the result, of each kind.
const NAMED: usize = 100;

/// How far a rebuild is, for those who watch it.
#[derive(Debug, Default)]
pub struct RebuildProgress {
    /// Packs and whole objects read.
    pub objects: AtomicU64,
}

/// What a rebuild found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs whose chunks are in the index.
    pub packs: u64,
    /// Whole objects that something names.
    pub whole: u64,
    /// Bytes of both.
    pub stored_bytes: u64,
    /// Different chunks and tree nodes.
    pub chunks: u64,
    /// Packs whose footer is damaged, and of which every frame that is whole was found (the first of them, with the
    /// reason).
    pub salvaged: Vec<String>,
    /// Packs of which nothing could be read (the first of them, with the reason).
    pub unreadable: Vec<String>,
    /// Disks and whole objects that need something which was not found.
    pub damaged_roots: u64,
}

/// An object as it was found.
pub(crate) enum Found {
    Whole(ObjectFound),
    Salvaged(ObjectFound, String),
    /// What is whole of a pack of which nothing proves whose it is: the domain is what its header says, if that.
    Unplaced(ObjectFound, String),
    Unreadable(String),
}

impl Store {
    /// Opens the store in `backend` to rebuild its index, also where the database does not know it yet or an earlier
    /// rebuild was cut off. From now on nobody else opens it until [`Store::rebuild_index`] is done.
    pub async fn open_to_rebuild(
        backend: Arc<dyn Backend>,
        db: &DatabaseConnection,
        options: Options,
    ) -> Result<Self> {
        let store = Self::open_for(backend, db, options, Opening::Rebuild).await?;
        store.inner.header.writable()?;
        let now_us = store.inner.options.world.now_us();
        let context = |error| Error::db("cannot begin to rebuild the index", error);
        let tx = rows::begin(&store.inner.db).await.map_err(context)?;
        if rows::writers_alive(&tx, store.inner.number, now_us)
            .await
            .map_err(context)?
        {
            let text = "a server is writing to this store: stop every server that uses it, wait two minutes, then try again";
            return Err(Error::new(Kind::Invalid, text));
        }
        rows::index_clear(&tx, store.inner.number)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(store)
    }

    /// Fills the index from packs and whole objects. The store must have been opened by [`Store::open_to_rebuild`];
    /// afterwards it can be opened as usual. The roots must be there: they tell which whole objects are needed.
    pub async fn rebuild_index(&self, progress: &RebuildProgress) -> Result<Rebuilt> {
        let (mut rebuilt, mut unplaced) = (Rebuilt::default(), Vec::new());
        let (mut listed, gone) = (HashSet::new(), Mutex::default());
        for kind in [object_kind::PACK, object_kind::BLOB] {
            let prefix = if kind == object_kind::PACK { "p/" } else { "b/" };
            let found = self
                .inner
                .backend
                .list(prefix)
                .try_filter_map(|item| {
                    let id = crate::gc::id_of(&item.key);
                    listed.extend(id);
                    async move { Ok(id.map(|id| (id, item))) }
                })
                .map(|item| async { self.find(kind, item?, &gone).await })
                .buffered(PACKS_AT_ONCE)
                .try_chunks(PACKS_A_TRANSACTION);
            let mut found = std::pin::pin!(found);
            while let Some(found) = found.try_next().await.map_err(|error| error.1)? {
                progress.objects.fetch_add(found.len() as u64, Relaxed);
                let is_unplaced = |found: &Found| matches!(found, Found::Unplaced(..));
                let (later, now) = found.into_iter().partition(is_unplaced);
                unplaced.extend(later);
                self.found_write(now, &mut rebuilt).await?;
            }
        }
        self.unplaced_write(unplaced, &mut rebuilt).await?;
        for id in gone.into_inner().unwrap_or_else(PoisonError::into_inner) {
            listed.remove(&id);
        }
        self.all_listed(&listed).await?;
        // The index does not know what it lacks; the trees do.
        self.damage_doubt();
        match self.damage_update().await {
            Err(error) if error.retryable() => return Err(error),
            // A root that makes no sense is no reason to bring nothing back.
            Err(error) => tracing::error!(%error, "could not look which disks lack something"),
            Ok(()) => {}
        }
        rebuilt.damaged_roots = self.damaged_roots().await?;
        let (db, number) = (&self.inner.db, self.inner.number);
        rows::index_ready(db, number)
            .await
            .map_err(|error| Error::db("cannot finish the index", error))?;
        Ok(rebuilt)
    }

    /// Reads an object that was listed. One that is not there is noted: the store may have gone away.
    async fn find(&self, kind: i16, (id, item): (Uuid, Listed), gone: &Mutex<Vec<Uuid>>) -> Result<Found> {
        let key = item.key.clone();
        let found = match kind {
            object_kind::PACK => self.pack_find((id, item)).await,
            _ => self.whole_find((id, item)).await,
        };
        match found {
            Err(error) if error.kind() == Kind::NotFound => {
                gone.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                Ok(Found::Unreadable(format!("{key}: {error}")))
            }
            found => found,
        }
    }

    /// Fails where the store went away, for good or a little while, so that a listing had nothing, or not all, or what
    /// was listed could not be read. The index is then not finished, and nobody opens the store with it.
    async fn all_listed(&self, listed: &HashSet<Uuid>) -> Result<()> {
        self.there_check().await?;
        for prefix in ["p/", "b/"] {
            let mut now = self.inner.backend.list(prefix);
            while let Some(item) = now.try_next().await? {
                if crate::gc::id_of(&item.key).is_some_and(|id| !listed.contains(&id)) {
                    let text = format!(
                        "`{}` was not there while it was read, or is written to ({}): do it again",
                        self.describe(),
                        item.key
                    );
                    return Err(Error::new(Kind::StoreAway, text));
                }
            }
        }
        self.there_check().await
    }

    async fn found_write(&self, found: Vec<Found>, rebuilt: &mut Rebuilt) -> Result<()> {
        let context = |error| Error::db("cannot write a part of the index", error);
        let now_us = self.inner.options.world.now_us();
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let mut doubles = Vec::new();
        for object in found {
            let object = match object {
                Found::Whole(pack) => pack,
                Found::Salvaged(pack, reason) => {
                    name(&mut rebuilt.salvaged, reason);
                    pack
                }
                Found::Unplaced(_, reason) | Found::Unreadable(reason) => {
                    name(&mut rebuilt.unreadable, reason);
                    continue;
                }
            };
            let (number, new) = rows::found_insert(&tx, self.inner.number, &object, now_us)
                .await
                .map_err(context)?;
            if object.kind == object_kind::PACK {
                rebuilt.packs += 1;
                rebuilt.chunks += new;
            } else {
                rebuilt.whole += u64::from(new > 0);
            }
            rebuilt.stored_bytes += object.bytes;
            if object.kind == object_kind::PACK && new < object.frames() as u64 {
                doubles.push((number, object));
            }
        }
        tx.commit().await.map_err(context)?;
        for (number, object) in doubles {
            for (domain, entries) in object.entries {
                self.doubles_settle(number, domain, &entries).await?;
            }
        }
        Ok(())
    }

    /// Packs of which nothing proves whose they are: the disks tell. Each goes to the team that its header names, where
    /// a disk of that team lacks something of it; where no header is believed any more, to the team that lacks most of
    /// it. What nobody lacks stays out of the index: it must not become another team's.
    async fn unplaced_write(&self, mut unplaced: Vec<Found>, rebuilt: &mut Rebuilt) -> Result<()> {
        while !unplaced.is_empty() {
            let wanted = self.wanted(&VerifyProgress::default()).await?;
            let domains: Vec<i64> = wanted.by_domain().into_keys().collect();
            let (mut placed, mut rest) = place(unplaced, |found| {
                let claimed = found.entries.first().map(|(domain, _)| *domain)?;
                (lacking(&wanted, claimed, found) > 0).then_some(claimed)
            });
            if placed.is_empty() {
                (placed, rest) = place(rest, |found| {
                    let by_need = |domain: &i64| lacking(&wanted, *domain, found);
                    domains
                        .iter()
                        .copied()
                        .filter(|domain| by_need(domain) > 0)
                        .max_by_key(by_need)
                });
            }
            if placed.is_empty() {
                return self.found_write(rest, rebuilt).await;
            }
            while !placed.is_empty() {
                let some = placed.drain(..placed.len().min(PACKS_A_TRANSACTION)).collect();
                self.found_write(some, rebuilt).await?;
            }
            unplaced = rest;
        }
        Ok(())
    }

    /// A chunk that lies in another pack as well: one of the two may be damaged, and the other what healed it. The row
    /// is to name one that is whole.
    async fn doubles_settle(&self, number: i64, domain: i64, entries: &[Entry]) -> Result<()> {
        let digests: Vec<Digest> = entries.iter().map(|entry| entry.digest).collect();
        let known = rows::chunks_get(&self.inner.db, self.inner.number, domain, &digests).await;
        let known = known.map_err(|error| Error::db("cannot look chunks up", error))?;
        let mut moved = Vec::new();
        for entry in entries {
            let Some(at) = known.get(&entry.digest).map(|hit| hit.location) else {
                continue;
            };
            if at.object == number || self.frame_is_whole(at, entry).await? {
                continue;
            }
            let own = Location {
                object: number,
                offset: entry.offset,
                length: entry.length,
            };
            if self.frame_is_whole(own, entry).await? {
                moved.push((entry.digest, at.object, entry.offset, entry.length));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let context = |error| Error::db("cannot write a part of the index", error);
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        rows::chunks_move(&tx, (self.inner.number, domain), number, &moved)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)
    }

    async fn frame_is_whole(&self, at: Location, entry: &Entry) -> Result<bool> {
        let pack = self.stored(at.object).await?.id;
        let range = u64::from(at.offset)..u64::from(at.offset) + u64::from(at.length);
        let read = self.inner.backend.get_range(&pack_key(pack), range).await;
        let opened =
            read.and_then(|frame| pack::frame_open(&self.inner.keys, pack, entry.kind, entry.digest, &frame));
        match opened {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a pack that was listed holds, as far as it can be read; [`Kind::NotFound`] where it is not there.
    pub(crate) async fn pack_find(&self, (id, item): (Uuid, Listed)) -> Result<Found> {
        let reason = match self.pack_index(id, &item).await {
            Ok(pack) => return Ok(Found::Whole(pack)),
            Err(error) if is_of_the_pack(&error) => error,
            Err(error) => return Err(error),
        };
        match self.pack_salvage(id, &item).await {
            Ok((_, pack)) if pack.frames() == 0 => Ok(Found::Unreadable(format!("{}: {reason}", item.key))),
            Ok((is_proven, pack)) => {
                let text = format!("{}: {reason}; {} frames are whole", item.key, pack.frames());
                Ok(if is_proven {
                    Found::Salvaged(pack, text)
                } else {
                    Found::Unplaced(pack, text + ", and nothing tells whose they are")
                })
            }
            Err(error) if is_of_the_pack(&error) => Ok(Found::Unreadable(format!("{}: {error}", item.key))),
            Err(error) => Err(error),
        }
    }

    /// What a pack's footer says.
    pub(crate) async fn pack_index(&self, id: Uuid, item: &Listed) -> Result<ObjectFound> {
        let backend = &self.inner.backend;
        if item.bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(Error::new(Kind::Damaged, "the pack was cut short"));
        }
        let tail_at = item.bytes.saturating_sub(TAIL_BYTES);
        let tail = backend.get_range(&item.key, tail_at..item.bytes).await?;
        let header = backend.get_range(&item.key, 0..HEADER_BYTES as u64).await?;
        let trailer = &tail[tail.len() - TRAILER_BYTES..];
        pack::pack_format_check(&header, trailer)?;
        let footer = pack::footer_range(item.bytes, trailer)?;
        let footer = match footer.start.checked_sub(tail_at).map(usize::try_from) {
            Some(Ok(at)) => tail.slice(at..),
            _ => backend.get_range(&item.key, footer).await?,
        };
        let entries = pack::index_open(&self.inner.keys, id, &header, &footer)?;
        let domain = pack::domain(&header)?;
        Ok(found(id, item, domain, entries))
    }

    /// What the frames of a pack with a damaged footer or header say, which describe themselves; and whether it is
    /// proven whose it is.
    async fn pack_salvage(&self, id: Uuid, item: &Listed) -> Result<(bool, ObjectFound)> {
        if item.bytes > pack::LIMIT_BYTES as u64 {
            return Err(Error::new(Kind::Damaged, "the object is larger than any pack"));
        }
        let data = self.inner.backend.get(&item.key).await?;
        let (keys, read) = (self.inner.keys.clone(), data.clone());
        let world = &self.inner.options.world;
        let entries = world.compute(move || pack::salvage(&keys, id, &read)).await?;
        // There may be only one; what the header says is not to be trusted where its code does not match.
        let (domain, is_proven) = match self.inner.header.dedup_domain {
            DedupDomain::Installation => (0, true),
            DedupDomain::Team => {
                let claimed = pack::domain(&data).unwrap_or_default();
                let proven = self.domain_prove(id, data, claimed).await?;
                (proven.unwrap_or(claimed), proven.is_some())
            }
        };
        Ok((is_proven, found(id, item, domain, entries)))
    }

    async fn domain_prove(&self, id: Uuid, data: Bytes, claimed: i64) -> Result<Option<i64>> {
        let domains = rows::root_domains(&self.inner.db, self.inner.number).await;
        let mut domains = domains.map_err(|error| Error::db("cannot read the roots", error))?;
        domains.push(claimed);
        let (keys, store_id) = (self.inner.keys.clone(), self.inner.header.store_id);
        let world = &self.inner.options.world;
        let prove = move || Ok(pack::domain_prove(&keys, (id, store_id), &data, &domains));
        world.compute(prove).await
    }
}

impl Store {
    /// A whole object says nothing of itself: it is what its bytes hash to. One that no root names is garbage, and gc
    /// finds it by its row.
    pub(crate) async fn whole_find(&self, (id, item): (Uuid, Listed)) -> Result<Found> {
        let mut found = ObjectFound {
            kind: object_kind::BLOB,
            id,
            bytes: item.bytes,
            modified_us: item.modified_us,
            entries: Vec::new(),
        };
        let names = match self.whole_names(id, &item).await {
            Ok(names) => names,
            Err(error) if is_of_the_pack(&error) => {
                return Ok(Found::Unreadable(format!("{}: {error}", item.key)));
            }
            Err(error) => return Err(error),
        };
        let digests = names.map(|name| self.name_digest(&name));
        let kept = rows::names_kept(&self.inner.db, self.inner.number, &digests).await;
        let kept = kept.map_err(|error| Error::db("cannot look roots up", error))?;
        let entry = |digest| whole_entry(digest, item.bytes);
        found.entries = kept
            .into_iter()
            .map(|(domain, digest)| (domain, vec![entry(digest)]))
            .collect();
        Ok(Found::Whole(found))
    }

    /// The names that an object can be known by.
    pub(crate) async fn whole_names(&self, id: Uuid, item: &Listed) -> Result<[ObjectName; 2]> {
        let mut hashers = [Algorithm::Sha256, Algorithm::Sha512].map(Hasher::new);
        let bytes = self.plain_bytes(item.bytes)?;
        let mut at = 0;
        while at < bytes {
            let end = bytes.min(at + PIECE_BYTES);
            let piece = self.whole_range(id, bytes, at..end).await?;
            let hashed = self.inner.options.world.compute(move || {
                for hasher in &mut hashers {
                    hasher.update(&piece);
                }
                Ok(hashers)
            });
            hashers = hashed.await?;
            at = end;
        }
        Ok(hashers.map(Hasher::finish))
    }
}

pub(crate) fn found(id: Uuid, item: &Listed, domain: i64, entries: Vec<Entry>) -> ObjectFound {
    ObjectFound {
        kind: object_kind::PACK,
        id,
        bytes: item.bytes,
        modified_us: item.modified_us,
        entries: vec![(domain, entries)],
    }
}

/// Parts packs into those that a domain was found for, with that, and the others.
fn place(unplaced: Vec<Found>, domain_of: impl Fn(&ObjectFound) -> Option<i64>) -> (Vec<Found>, Vec<Found>) {
    let (mut placed, mut rest) = (Vec::new(), Vec::new());
    for found in unplaced {
        let Found::Unplaced(mut pack, reason) = found else {
            continue;
        };
        let Some(domain) = domain_of(&pack) else {
            rest.push(Found::Unplaced(pack, reason));
            continue;
        };
        for (of, _) in &mut pack.entries {
            *of = domain;
        }
        placed.push(Found::Salvaged(pack, reason));
    }
    (placed, rest)
}

/// How much of what a domain's disks lack is in a pack.
fn lacking(wanted: &Wanted, domain: i64, pack: &ObjectFound) -> usize {
    let entries = pack.entries.iter().flat_map(|(_, entries)| entries);
    let is_lacking = |entry: &&Entry| wanted.frames.contains(&(domain, entry.digest));
    entries.filter(is_lacking).count()
}

/// Whether a failure is this pack's own, and the others may be fine. One that the disk or the bucket does not give away
/// now may be whole: without it the index would lack what is there, and gc would take the pack for garbage.
fn is_of_the_pack(error: &Error) -> bool {
    error.kind() == Kind::Damaged
}

fn name(list: &mut Vec<String>, reason: String) {
    tracing::warn!(reason, "a pack is damaged");
    if list.len() < NAMED {
        list.push(reason);
    }
}

/// The row that a store which is to be rebuilt has, and no other: it was ready once, or its key is known before.
pub(crate) fn is_being_rebuilt(row: &rows::meta::Model) -> bool {
    !row.ready && !row.digest_key_id.is_empty()
}

/// What whoever opens a store in this state is told.
pub(crate) fn unfinished() -> Error {
    Error::new(
        Kind::Incompatible,
        "rebuilding the store's index was cut off: run `cistern store rebuild-index` (or `cistern recover`) again",
    )
}
