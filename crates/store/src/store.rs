//! The store's handle: roots, figures, where things lie. It is made and opened in [`opening`]; whether it is there, and
//! no older copy of it, is asked in [`presence`].

mod opening;
mod presence;

pub(crate) use opening::headers_missing;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sea_orm::ConnectionTrait;
use tokio::sync::RwLock;
use uuid::Uuid;

use crate::backend::{self, Backend, Probe, Requests};
use crate::cache::{CacheOptions, CacheStats, PackCache};
use crate::digest::{Digest, FrameKind, Keys};
use crate::doubt::Doubt;
use crate::error::{Error, Kind, Result};
use crate::header::{DedupDomain, Header};
use crate::keys::WrappingKey;
use crate::memory::Memory;
use crate::pack;
use crate::reader::ahead::Budget;
use crate::reader::decoded::MemoryStats;
use crate::reader::leaves::Leaves;
use crate::reader::packs::{Caching, Source};
use crate::rows::{self, Hit, Location, WHOLE_LEVEL, object_kind};
use crate::scrub::Inputs;
use crate::tree::TreeRoot;
use crate::world::World;
use crate::writers::Writers;

/// How a store is made and run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Clock and randomness.
    pub world: World,
    /// Who shares chunks with whom. Only read when a store is made.
    pub dedup_domain: DedupDomain,
    /// The installation's digest key. Only read when a store is made; a fresh one where absent.
    pub digest_key: Option<[u8; 32]>,
    /// Whether the store is to be encrypted. Only read when a store is made; then `key` is its first wrapping key.
    pub encrypt: bool,
    /// What opens an encrypted store: one of its wrapping keys. A store in clear is refused with it, as whoever gives
    /// a key relies on encryption.
    pub key: Option<WrappingKey>,
    /// What all of this process that write to an SQLite database take before they do, so that they stand in line rather
    /// than look whether it is free. One of the store's own where absent.
    pub write_turn: Option<Arc<tokio::sync::Mutex<()>>>,
    /// Bytes of chunks that small reads leave decoded in memory at most, for all disks of the store together, until
    /// [`Store::memory_tidy`] finds that none came for a while. To read one again takes a microsecond, and a tenth of a
    /// millisecond otherwise.
    pub decoded_bytes: u64,
    /// How long a session lives after its last heartbeat.
    pub lease: Duration,
    /// How long the objects of an expired session are left alone, in case its writer still writes.
    pub expired_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            world: World::system(),
            dedup_domain: DedupDomain::default(),
            digest_key: None,
            encrypt: false,
            key: None,
            write_turn: None,
            decoded_bytes: 32 << 20,
            lease: Duration::from_mins(2),
            expired_grace: Duration::from_mins(30),
        }
    }
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Reading and writing.
    Use,
    /// Its index is made anew.
    Rebuild,
}

/// A store: objects in a backend, their index in a database. Clones share everything.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) db: rows::Database,
    pub(crate) options: Options,
    pub(crate) header: Header,
    /// The newest header that was seen: the one that was opened, or one of later, when keys were changed.
    pub(crate) newest_header: Mutex<Header>,
    /// The highest number that this process has claimed for a header that says the same as the one that was lost,
    /// whether it could be written or not.
    pub(crate) header_claimed: AtomicU32,
    pub(crate) keys: Keys,
    /// The store's number in the rows.
    pub(crate) number: i32,
    pub(crate) memory: Arc<Memory>,
    pub(crate) read_ahead: Budget,
    pub(crate) leaves: Leaves,
    /// Whether files can be asked for what the system has of them in memory.
    pub(crate) has_nowait: AtomicBool,
    /// What is found damaged, or healed, is not in the record of damage yet.
    pub(crate) damage_is_stale: AtomicBool,
    pub(crate) doubt: Doubt,
    /// When the store was last seen to be there by who could not read something.
    there_looked: Mutex<Option<Duration>>,
    /// Held for reading by who writes an object of the journal and does not know yet whether it went into this store,
    /// and for writing by who takes such an object for a proof that the store is there.
    pub(crate) unproven: RwLock<()>,
    /// What the record of damage was made from, by this process.
    pub(crate) damage_recorded: Mutex<Option<Inputs>>,
    pub(crate) cache: OnceLock<Arc<PackCache>>,
    /// Sessions of this process that are open.
    pub(crate) writers: AtomicUsize,
    /// Objects by number.
    objects: Mutex<HashMap<i64, Stored>>,
}

/// What never changes of a published object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) bytes: u64,
}

/// Figures of a store. Bytes are what they take in the backend unless the name says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Disks and others that keep data alive.
    pub roots: u64,
    /// Sum of the sizes of all disks.
    pub virtual_bytes: u64,
    /// Sum of what is not zero in them, as if nothing were shared or compressed.
    pub logical_bytes: u64,
    /// Packs that are published.
    pub packs: u64,
    /// Whole objects that are published.
    pub objects: u64,
    /// Bytes of both.
    pub stored_bytes: u64,
    /// Different chunks and tree nodes in the index.
    pub chunks: u64,
    /// Bytes of their frames.
    pub chunk_bytes: u64,
    /// Bytes of packs that nothing needs, as far as gc has found out: it frees them, or parts of them, in time.
    pub garbage_bytes: u64,
    /// Packs and whole objects in which something damaged is that was needed when gc looked last. They stay until that
    /// is healed.
    pub damaged_objects: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// Disks that are only kept so that they can be restored.
    pub restorable_roots: u64,
    /// Sum of what is not zero in them: no more than that is freed when they are purged.
    pub restorable_bytes: u64,
    /// Sessions that are open.
    pub open_sessions: u64,
    /// Which of them are at work, and which are heard of no more.
    pub writers: Writers,
}

/// A root: what keeps a disk's tree alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What owns it: `image`, `snapshot`, …
    pub kind: String,
    /// Which one of that kind.
    pub owner: String,
    /// The disk.
    pub tree: TreeRoot,
    /// Bytes of the disk that are not zero, in whole chunks.
    pub allocated_bytes: u64,
    /// Whether it is only kept so that its owner can be restored.
    pub restorable: bool,
}

impl Store {
    /// Says that something was found damaged or may have been healed, so that the record of damage is to be brought up
    /// to date ([`Store::damage_update`]) soon.
    pub fn damage_look(&self) {
        self.inner.damage_is_stale.store(true, Ordering::Relaxed);
    }

    /// Whether [`Store::damage_look`] was called since the last time that this was asked; a reader that finds damage
    /// does so.
    pub fn damage_looked_for(&self) -> bool {
        self.inner.damage_is_stale.swap(false, Ordering::Relaxed)
    }

    /// The store's identity.
    pub fn id(&self) -> Uuid {
        self.inner.header.store_id
    }

    /// The store's header document.
    pub fn header(&self) -> &Header {
        &self.inner.header
    }

    /// Names the backend for people.
    pub fn describe(&self) -> String {
        self.inner.backend.describe()
    }

    /// Tests what the store relies on. Meant for every start; takes a few small objects under `probe/`.
    pub async fn probe_backend(&self) -> Result<Probe> {
        backend::probe(&*self.inner.backend, &self.inner.options.world).await
    }

    /// The root of `kind` and `owner`, if it is there.
    pub async fn root_get(&self, kind: &str, owner: &str) -> Result<Option<Root>> {
        let row = rows::root_get(&self.inner.db, self.inner.number, kind, owner).await;
        row.map_err(|error| Error::db("cannot read a root", error))?
            .filter(|row| row.level != WHOLE_LEVEL)
            .map(root_from_row)
            .transpose()
    }

    /// Every root of a disk, by kind and owner.
    pub async fn root_list(&self) -> Result<Vec<Root>> {
        let rows = rows::roots_list(&self.inner.db, self.inner.number).await;
        let rows = rows.map_err(|error| Error::db("cannot read the roots", error))?;
        rows.into_iter()
            .filter(|row| row.level != WHOLE_LEVEL)
            .map(root_from_row)
            .collect()
    }

    /// Those of these roots, by kind and owner, that are not there (any more) as they are here. One look, however many
    /// they are.
    pub(crate) async fn roots_gone<'a>(
        &self,
        roots: &'a [Root],
    ) -> Result<HashSet<(&'a String, &'a String)>> {
        if roots.is_empty() {
            return Ok(HashSet::new());
        }
        let kept = self.root_list().await?;
        let kept: HashMap<_, _> = kept
            .iter()
            .map(|root| ((&root.kind, &root.owner), root))
            .collect();
        let gone = roots
            .iter()
            .filter(|root| kept.get(&(&root.kind, &root.owner)) != Some(root));
        Ok(gone.map(|root| (&root.kind, &root.owner)).collect())
    }

    /// Removes a root in the caller's transaction: gc may free what it kept. False when it was not there.
    pub async fn root_delete_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        kind: &str,
        owner: &str,
    ) -> Result<bool> {
        rows::root_delete(tx, self.inner.number, kind, owner)
            .await
            .map_err(|error| Error::db("cannot delete a root", error))
    }

    /// Says in the caller's transaction whether a root is only kept so that its owner can be restored. Such a one is
    /// kept like every other; it is told apart in figures, and by a dry run of gc.
    pub async fn root_restorable_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        kind: &str,
        owner: &str,
        restorable: bool,
    ) -> Result<bool> {
        rows::root_restorable(tx, self.inner.number, kind, owner, restorable)
            .await
            .map_err(|error| Error::db("cannot change a root", error))
    }

    /// Figures of the whole store.
    pub async fn stats(&self) -> Result<Stats> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot read the store's figures", error);
        let roots = self.root_list().await?;
        let sum = async |kind| rows::objects_sum(db, number, kind).await.map_err(context);
        let (packs, pack_bytes, _) = sum(object_kind::PACK).await?;
        let (objects, object_bytes, _) = sum(object_kind::BLOB).await?;
        let (chunks, chunk_bytes) = rows::chunks_sum(db, number, false).await.map_err(context)?;
        let (condemned, condemned_bytes) = rows::chunks_sum(db, number, true).await.map_err(context)?;
        let needed_bytes = (chunk_bytes - condemned_bytes)
            + (chunks - condemned) * pack::ENTRY_BYTES as u64
            + packs * (pack::HEADER_BYTES + pack::TRAILER_BYTES) as u64;
        let restorable = || roots.iter().filter(|root| root.restorable);
        let leases = rows::sessions_leases(db, number).await.map_err(context)?;
        let holding = rows::objects_holding_damage(db, number).await;
        let (damaged_objects, damaged_bytes) = holding.map_err(context)?;
        let options = &self.inner.options;
        Ok(Stats {
            roots: roots.len() as u64,
            virtual_bytes: roots.iter().map(|root| root.tree.virtual_bytes).sum(),
            logical_bytes: roots.iter().map(|root| root.allocated_bytes).sum(),
            packs,
            objects,
            stored_bytes: pack_bytes + object_bytes,
            chunks,
            chunk_bytes,
            garbage_bytes: (pack_bytes + object_bytes).saturating_sub(needed_bytes),
            damaged_objects,
            damaged_bytes,
            restorable_roots: restorable().count() as u64,
            restorable_bytes: restorable().map(|root| root.allocated_bytes).sum(),
            open_sessions: leases.len() as u64,
            writers: Writers::new(&leases, options.lease, options.world.now_us()),
        })
    }

    /// Where these digests lie; those that are not in the result are in no index.
    pub(crate) async fn locate(&self, domain: i64, digests: &[Digest]) -> Result<HashMap<Digest, Location>> {
        let hits = rows::chunks_get(&self.inner.db, self.inner.number, domain, digests)
            .await
            .map_err(|error| Error::db("cannot look chunks up", error))?;
        Ok(hits
            .into_iter()
            .map(|(digest, Hit { location, .. })| (digest, location))
            .collect())
    }

    /// Id and size of an object, from memory or the database.
    pub(crate) async fn stored(&self, object: i64) -> Result<Stored> {
        let known = self.objects().get(&object).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = rows::objects_get(&self.inner.db, &[object])
            .await
            .map_err(|error| Error::db("cannot look an object up", error))?;
        let Some(row) = found.first() else {
            return Err(Error::new(
                Kind::NotFound,
                format!("object number {object} is not in the database any more"),
            ));
        };
        let stored = Stored {
            id: row.key,
            bytes: row.bytes.cast_unsigned(),
        };
        self.objects().insert(object, stored);
        Ok(stored)
    }

    /// An object was deleted: nothing of it need be remembered.
    pub(crate) fn object_forget(&self, object: i64, id: Uuid) {
        self.objects().remove(&object);
        if let Some(cache) = self.inner.cache.get() {
            cache.forget(id);
        }
    }

    /// Reads by way of a cache of packs from now on. No other process may use its folder.
    pub fn cache_use(&self, options: &CacheOptions) -> Result<()> {
        let cache = Arc::new(PackCache::open(options)?);
        self.inner
            .cache
            .set(cache)
            .map_err(|_| Error::new(Kind::Exists, "the store has a cache already"))
    }

    /// What the cache of packs did, where there is one.
    pub fn cache_stats(&self) -> Option<CacheStats> {
        self.inner.cache.get().map(|cache| cache.stats())
    }

    /// What the bucket was asked since this process opened it; `None` where the backend has no requests.
    pub fn requests(&self) -> Option<Requests> {
        self.inner.backend.requests()
    }

    /// Gives back what small reads left decoded in memory, where none came since this was called last.
    pub fn memory_tidy(&self) {
        self.inner.memory.tidy();
    }

    /// What small reads found decoded in memory.
    pub fn memory_stats(&self) -> MemoryStats {
        self.inner.memory.decoded_stats()
    }

    /// Empties the cache of packs, where there is one: its disk is full.
    pub fn cache_clear(&self) {
        if let Some(cache) = self.inner.cache.get() {
            cache.clear();
        }
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Stored>> {
        self.inner.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the frame of a digest, wherever it lies: gc may move it between the look into the index and the read.
    pub(crate) async fn frame_find(
        &self,
        kind: FrameKind,
        domain: i64,
        digest: Digest,
        caching: Caching,
    ) -> Result<Vec<u8>> {
        let mut gone = None;
        for _ in 0..2 {
            let found = self.locate(domain, &[digest]).await?;
            let Some(at) = found.get(&digest) else {
                let text = format!("what has the digest {digest} is in no index");
                return Err(gone.unwrap_or_else(|| Error::new(Kind::Damaged, text)));
            };
            match self.frame_load(kind, digest, *at, caching).await {
                Err(error) if error.kind() == Kind::NotFound => gone = Some(error),
                loaded => return loaded,
            }
        }
        Err(gone.unwrap_or_else(|| Error::new(Kind::Damaged, "nothing was read")))
    }

    /// Reads one frame and gives its plain bytes, checked.
    pub(crate) async fn frame_load(
        &self,
        kind: FrameKind,
        digest: Digest,
        at: Location,
        caching: Caching,
    ) -> Result<Vec<u8>> {
        let pack = self.stored(at.object).await?;
        self.frame_of(pack, (kind, digest), at, caching)
            .await
            .map_err(|error| error.context(pack_key(pack.id)))
    }

    /// The same of a pack that is known, which the error does not name.
    pub(crate) async fn frame_of(
        &self,
        pack: Stored,
        (kind, digest): (FrameKind, Digest),
        at: Location,
        caching: Caching,
    ) -> Result<Vec<u8>> {
        let range = u64::from(at.offset)..u64::from(at.offset) + u64::from(at.length);
        let keys = self.inner.keys.clone();
        let bytes = range.clone();
        let open = move |from: &Source<'_>| {
            from.read(bytes.clone(), |frame| {
                pack::frame_open(&keys, pack.id, kind, digest, frame)
            })
        };
        self.pack_read(pack, range, (caching, true), open).await
    }
}

/// The key of an object of this kind.
pub(crate) fn key_of(kind: i16, id: Uuid) -> String {
    match kind {
        object_kind::BLOB => {
            let text = id.to_string();
            format!("b/{}/{text}", &text[..2])
        }
        _ => pack_key(id),
    }
}

/// The key of a pack.
pub(crate) fn pack_key(id: Uuid) -> String {
    let text = id.to_string();
    format!("p/{}/{text}", &text[..2])
}

fn root_from_row(row: rows::root::Model) -> Result<Root> {
    let Some(tree) = row.tree() else {
        let text = format!(
            "the root of {} {} is not readable in the database",
            row.kind, row.owner
        );
        return Err(Error::new(Kind::Damaged, text));
    };
    let allocated_bytes = row.allocated_bytes.cast_unsigned();
    Ok(Root {
        kind: row.kind,
        owner: row.owner,
        tree,
        allocated_bytes,
        restorable: row.restorable,
    })
}
