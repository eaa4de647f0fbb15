//! Sessions: one writer's right to publish, held by a lease and checked by a fence.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use sea_orm::ConnectionTrait;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::group_commit::Group;
use crate::ingest::Ingest;
use crate::rows::{self, chunk_state, object_state, session_state};
use crate::store::Store;
use crate::tree::TreeRoot;

/// Packs that are looked up at the same time.
const PACKS_AT_ONCE: usize = 16;

/// One writer. Dropping it without [`Session::commit_in_tx`] gives it up: the lease runs out and
/// [`Store::sessions_expire`] removes what was not published.
#[derive(Debug)]
pub struct Session {
    pub(crate) inner: Arc<SessionInner>,
    heartbeat: JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct SessionInner {
    pub(crate) store: Store,
    pub(crate) id: Uuid,
    pub(crate) domain: i64,
    pub(crate) start_epoch: i64,
    fence: Uuid,
    lost: AtomicBool,
    /// Writes whose end nobody saw: while there are any, their objects may still appear.
    pub(crate) puts: AtomicUsize,
    pub(crate) group: Group,
    /// Packs that it was seen to have hit, and whether they are there whole.
    packs: Mutex<HashMap<i64, bool>>,
    /// Trees that this session keeps alive, with their allocated bytes: only these can be committed.
    trees: Mutex<HashMap<TreeRoot, u64>>,
    /// Whole objects that it keeps alive, by the digests of their names.
    objects: Mutex<HashSet<Digest>>,
}

/// What a root is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) domain: i64,
    pub(crate) digest: Digest,
    pub(crate) level: i16,
    pub(crate) virtual_bytes: u64,
    pub(crate) allocated_bytes: u64,
}

/// What [`Store::sessions_expire`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Sessions whose lease was over and that were taken from their writers.
    pub taken: u64,
    /// Sessions removed for good, with everything they had not published.
    pub removed: u64,
    /// Objects deleted.
    pub objects: u64,
}

impl Store {
    /// Opens a session in the installation's dedup domain. `owner` says for whom, in lists and logs.
    pub async fn session_open(&self, owner: &str) -> Result<Session> {
        self.session_open_in(owner, 0).await
    }

    /// Opens a session in a dedup domain of its own (a team's number, where the store has domain `team`).
    pub async fn session_open_in(&self, owner: &str, domain: i64) -> Result<Session> {
        self.inner.header.writable()?;
        let world = &self.inner.options.world;
        let (id, fence, now_us) = (world.uuid(), world.uuid(), world.now_us());
        let context = |error| Error::db("cannot open a session", error);
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let start_epoch = rows::epoch_raise(&tx, self.inner.number).await.map_err(context)?;
        let row = rows::session::Model {
            id,
            store: self.inner.number,
            domain,
            owner: owner.to_owned(),
            fence,
            state: session_state::OPEN,
            start_epoch,
            lease_until_us: now_us + micros(self.inner.options.lease),
            created_us: now_us,
            ended_us: 0,
        };
        rows::session_insert(&tx, row).await.map_err(context)?;
        tx.commit().await.map_err(context)?;
        let inner = Arc::new(SessionInner {
            store: self.clone(),
            id,
            domain,
            start_epoch,
            fence,
            lost: AtomicBool::new(false),
            puts: AtomicUsize::new(0),
            group: Group::default(),
            packs: Mutex::default(),
            trees: Mutex::default(),
            objects: Mutex::default(),
        });
        self.inner.writers.fetch_add(1, Ordering::Relaxed);
        let heartbeat = tokio::spawn(Arc::clone(&inner).heartbeat());
        Ok(Session { inner, heartbeat })
    }

    /// Takes sessions whose lease is over from their writers, and removes what sessions taken earlier than
    /// the grace had not published. Call it every few minutes; a crash leaves nothing that it does not find.
    pub async fn sessions_expire(&self) -> Result<Expired> {
        let now_us = self.inner.options.world.now_us();
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot look for expired sessions", error);
        let tx = rows::begin(db).await.map_err(context)?;
        let taken = rows::sessions_take(&tx, number, now_us).await.map_err(context)?;
        tx.commit().await.map_err(context)?;
        let mut done = Expired {
            taken,
            ..Expired::default()
        };
        let before_us = now_us - micros(self.inner.options.expired_grace);
        for state in [session_state::EXPIRED, session_state::ENDED] {
            for row in rows::sessions_ended(db, number, state, before_us)
                .await
                .map_err(context)?
            {
                done.objects += self.session_clear(row.id).await?;
                done.removed += u64::from(self.session_remove(row.id, state).await?);
            }
        }
        Ok(done)
    }

    /// Deletes what a session that cannot publish any more left unpublished.
    async fn session_clear(&self, session: Uuid) -> Result<u64> {
        let db = &self.inner.db;
        let context = |error| Error::db("cannot remove an unpublished object", error);
        let mut removed = 0;
        for object in rows::objects_unpublished(db, session).await.map_err(context)? {
            let now_us = self.inner.options.world.now_us();
            if object.state == object_state::INTENT {
                let (from, to) = (object_state::INTENT, object_state::DEAD);
                rows::object_move(db, object.id, from, to, now_us)
                    .await
                    .map_err(context)?;
            }
            self.inner.backend.delete(&object.object_key()).await?;
            rows::object_delete(db, object.id).await.map_err(context)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes a session's rows. What committed while a gc ran keeps its pins until that gc has ended.
    async fn session_remove(&self, session: Uuid, state: i16) -> Result<bool> {
        let context = |error| Error::db("cannot remove a session", error);
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let gate = rows::gate_shared(&tx, self.inner.number).await.map_err(context)?;
        let gc_runs = gate.is_none_or(|row| row.gc_fence.is_some());
        if state == session_state::ENDED && gc_runs {
            return Ok(false);
        }
        rows::session_delete(&tx, session).await.map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(true)
    }
}

impl Session {
    /// The session's identity, for logs.
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Whether another took the session away. What is running fails at its next step.
    pub fn is_lost(&self) -> bool {
        self.inner.lost.load(Ordering::SeqCst)
    }

    /// Begins to take a disk of `virtual_bytes`. With a `parent`, what is not given is the parent's; a parent
    /// must belong to a root (or to this session) and is kept alive until the session ends.
    pub async fn ingest(&self, virtual_bytes: u64, parent: Option<TreeRoot>) -> Result<Ingest> {
        let parent = match parent {
            Some(root) => Some((root, self.parent_pin(&root).await?)),
            None => None,
        };
        Ingest::start(Arc::clone(&self.inner), virtual_bytes, parent)
    }

    /// Keeps the parent alive and gives its allocated bytes.
    async fn parent_pin(&self, parent: &TreeRoot) -> Result<u64> {
        let inner = &self.inner;
        if parent.domain != inner.domain {
            return Err(Error::new(
                Kind::Invalid,
                "the parent belongs to another dedup domain",
            ));
        }
        if parent.digest == Digest::EMPTY {
            return Ok(0);
        }
        if let Some(allocated_bytes) = inner.trees().get(parent) {
            return Ok(*allocated_bytes);
        }
        let context = |error| Error::db("cannot keep the parent", error);
        let tx = rows::begin(&inner.store.inner.db).await.map_err(context)?;
        inner.hold(&tx).await?;
        let Some(row) = rows::root_hold(&tx, inner.store.inner.number, parent)
            .await
            .map_err(context)?
        else {
            return Err(Error::new(
                Kind::NotFound,
                "the parent was deleted: make a full copy instead",
            ));
        };
        rows::session_root_insert(&tx, inner.id, parent)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(row.allocated_bytes.cast_unsigned())
    }

    /// Publishes one disk under `kind` and `owner` and ends the session, in the caller's transaction: all of
    /// it happens when that commits, none of it otherwise, and then this may be called again.
    pub async fn commit_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        kind: &str,
        owner: &str,
        tree: TreeRoot,
    ) -> Result<()> {
        self.commit_all_in_tx(tx, &[(kind, owner, tree)]).await
    }

    /// Publishes several disks at once, for example all of a droplet.
    pub async fn commit_all_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        disks: &[(&str, &str, TreeRoot)],
    ) -> Result<()> {
        let mut kept = Vec::with_capacity(disks.len());
        for (kind, owner, tree) in disks {
            let Some(allocated_bytes) = self.inner.trees().get(tree).copied() else {
                return Err(Error::new(
                    Kind::Invalid,
                    "the disk was not taken in by this session",
                ));
            };
            let disk = Kept {
                domain: tree.domain,
                digest: tree.digest,
                level: i16::from(tree.level),
                virtual_bytes: tree.virtual_bytes,
                allocated_bytes,
            };
            kept.push((*kind, *owner, disk));
        }
        self.commit_kept_in_tx(tx, &kept).await
    }

    pub(crate) async fn commit_kept_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        kept: &[(&str, &str, Kept)],
    ) -> Result<()> {
        let inner = &self.inner;
        let (store, now_us) = (&inner.store.inner, inner.store.inner.options.world.now_us());
        let context = |error| Error::db("cannot publish what was stored", error);
        let gate = inner.hold(tx).await?;
        for (kind, owner, kept) in kept {
            let row = rows::root::Model {
                store: store.number,
                kind: (*kind).to_owned(),
                owner: (*owner).to_owned(),
                domain: kept.domain,
                digest: kept.digest.0.to_vec(),
                level: kept.level,
                virtual_bytes: kept.virtual_bytes.cast_signed(),
                allocated_bytes: kept.allocated_bytes.cast_signed(),
                epoch: gate.epoch,
                created_us: now_us,
                restorable: false,
            };
            rows::root_insert(tx, row).await.map_err(context)?;
        }
        let ended = session_state::ENDED;
        if !rows::session_end(tx, inner.id, inner.fence, ended, now_us)
            .await
            .map_err(context)?
        {
            return Err(lease_lost());
        }
        let leftovers = rows::objects_unpublished(tx, inner.id).await.map_err(context)?;
        match gate.gc_fence {
            // What it pinned has to outlive that gc.
            Some(_) => Ok(()),
            None if leftovers.is_empty() => rows::session_delete(tx, inner.id).await.map_err(context),
            None => rows::session_unpin(tx, inner.id).await.map_err(context),
        }
    }

    /// Gives the session up and removes what it had not published.
    pub async fn abort(self) -> Result<()> {
        let inner = &self.inner;
        self.heartbeat.abort();
        let store = &inner.store;
        let now_us = store.inner.options.world.now_us();
        let expired = session_state::EXPIRED;
        rows::session_end(&store.inner.db, inner.id, inner.fence, expired, now_us)
            .await
            .map_err(|error| Error::db("cannot give a session up", error))?;
        if inner.puts.load(Ordering::SeqCst) > 0 {
            return Ok(()); // A write may still land: `sessions_expire` comes after the grace.
        }
        store.session_clear(inner.id).await?;
        store.session_remove(inner.id, expired).await.map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.inner.store.inner.writers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SessionInner {
    async fn heartbeat(self: Arc<Self>) {
        let options = &self.store.inner.options;
        loop {
            options.world.sleep(options.lease / 4).await;
            let until_us = options.world.now_us() + micros(options.lease);
            match rows::session_extend(&self.store.inner.db, self.id, self.fence, until_us).await {
                Ok(true) => {}
                Ok(false) => {
                    // Also so after the commit; then nobody asks any more.
                    self.lost.store(true, Ordering::SeqCst);
                    return;
                }
                Err(error) => tracing::warn!(session = %self.id, %error, "cannot extend a store session"),
            }
        }
    }

    /// Takes the gate shared and holds the session open until the transaction ends; gives the store's row.
    pub(crate) async fn hold(&self, tx: &impl ConnectionTrait) -> Result<rows::meta::Model> {
        let context = |error| Error::db("cannot check the session", error);
        let gate = rows::gate_shared(tx, self.store.inner.number)
            .await
            .map_err(context)?;
        let gate = gate.ok_or_else(|| Error::new(Kind::Incompatible, "the store's row is gone"))?;
        let row = rows::session_hold(tx, self.id, self.fence)
            .await
            .map_err(context)?;
        let now_us = self.store.inner.options.world.now_us();
        match row {
            Some(row) if row.lease_until_us > now_us => Ok(gate),
            _ => {
                self.lost.store(true, Ordering::SeqCst);
                Err(lease_lost())
            }
        }
    }

    /// Why something could not be read: when the session was taken away, gc may have freed what it kept, and that is no
    /// damage.
    pub(crate) async fn cause(&self, error: Error) -> Error {
        if !matches!(error.kind(), Kind::Damaged | Kind::NotFound) {
            return error;
        }
        let Ok(tx) = rows::begin(&self.store.inner.db).await else {
            return error;
        };
        match self.hold(&tx).await {
            Err(lost) if lost.kind() == Kind::LeaseLost => lost.with_source(error),
            _ => error,
        }
    }

    /// Looks digests up and, in the same transaction, pins those that older sessions wrote. Gives the hits.
    pub(crate) async fn lookup_and_pin(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let context = |error| Error::db("cannot look chunks up", error);
        let store = &self.store.inner;
        // New data hits nothing, and need not wait for the transactions of others: what is stored twice does no harm.
        let found = rows::chunks_get(&store.db, store.number, self.domain, digests)
            .await
            .map_err(context)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let digests: Vec<_> = found.into_keys().collect();
        let tx = rows::begin(&store.db).await.map_err(context)?;
        self.hold(&tx).await?;
        let mut hits = rows::chunks_get(&tx, store.number, self.domain, &digests)
            .await
            .map_err(context)?;
        hits.retain(|_, hit| hit.state != chunk_state::DAMAGED);
        let condemned: Vec<_> = hits
            .iter()
            .filter(|(_, hit)| hit.state == chunk_state::CONDEMNED)
            .map(|(digest, _)| *digest)
            .collect();
        rows::chunks_resurrect(&tx, store.number, self.domain, &condemned)
            .await
            .map_err(context)?;
        // What is as young as this session is safe from every gc that could run before its commit.
        let mut pins: Vec<_> = hits
            .iter()
            .filter(|(_, hit)| hit.epoch < self.start_epoch)
            .map(|(digest, _)| *digest)
            .collect();
        pins.sort_unstable();
        self.pin(&tx, &pins).await?;
        tx.commit().await.map_err(context)?;
        let packs = hits.values().map(|hit| hit.location.object).collect();
        self.packs_look(packs).await?;
        let packs = self.packs();
        hits.retain(|_, hit| packs.get(&hit.location.object) == Some(&true));
        Ok(hits.into_keys().collect())
    }

    /// Looks at packs that this session hits for the first time: what the rows say of one that is not there, or not
    /// whole, does not count any more. What is in them is not read: that is for [`Store::verify`].
    async fn packs_look(&self, mut packs: HashSet<i64>) -> Result<()> {
        packs.retain(|pack| !self.packs().contains_key(pack));
        if packs.is_empty() {
            return Ok(());
        }
        let context = |error| Error::db("cannot look packs up", error);
        let store = &self.store.inner;
        let asked: Vec<i64> = packs.into_iter().collect();
        let rows = rows::objects_get(&store.db, &asked).await.map_err(context)?;
        let mut looks = futures::stream::iter(rows)
            .map(|row| async move {
                let found = store.backend.stat(&row.object_key()).await?;
                Ok::<_, Error>((row.id, found == Some(row.bytes.cast_unsigned())))
            })
            .buffer_unordered(PACKS_AT_ONCE);
        while let Some((pack, is_whole)) = looks.try_next().await? {
            if !is_whole {
                let chunks = rows::chunks_damage_all(&store.db, store.number, pack).await;
                let chunks = chunks.map_err(context)?;
                tracing::error!(
                    pack,
                    chunks,
                    "a pack is missing or cut: what is imported again is stored anew"
                );
            }
            self.packs().insert(pack, is_whole);
        }
        Ok(())
    }

    fn packs(&self) -> MutexGuard<'_, HashMap<i64, bool>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins digests, in a transaction that holds the gate.
    pub(crate) async fn pin(&self, tx: &impl ConnectionTrait, digests: &[Digest]) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        rows::pin_insert(tx, self.id, digests)
            .await
            .map_err(|error| Error::db("cannot pin chunks", error))
    }

    /// Writes an object. It stays counted where the write may still land although nobody is there to see it, and after
    /// an error that does not tell whether it will.
    pub(crate) async fn put(&self, write: impl Future<Output = Result<()>>) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let written = write.await;
        if !written.as_ref().is_err_and(Error::retryable) {
            self.puts.fetch_sub(1, Ordering::SeqCst);
        }
        written
    }

    /// Remembers a whole object, so that it can be committed.
    pub(crate) fn object_keep(&self, digest: Digest) {
        self.objects().insert(digest);
    }

    pub(crate) fn has_object(&self, digest: Digest) -> bool {
        self.objects().contains(&digest)
    }

    fn objects(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a finished tree, so that it can be committed or be a parent.
    pub(crate) fn tree_keep(&self, tree: TreeRoot, allocated_bytes: u64) {
        self.trees().insert(tree, allocated_bytes);
    }

    fn trees(&self) -> MutexGuard<'_, HashMap<TreeRoot, u64>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn lease_lost() -> Error {
    Error::new(Kind::LeaseLost, "the session's lease is over: begin again")
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
