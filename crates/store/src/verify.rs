//! Finds damage and says which disks and which of their bytes it hits.
//!
//! Chunks that cannot be read are marked: no import relies on them any more, and one that brings the same content
//! stores it anew, which heals every disk that has it. Nothing else is changed.
//!
//! Each pack is looked at once and, when data is read, every frame of it is decoded and hashed once,
//! whatever number of disks use it. Then the trees are walked; a chunk in a pack that has something wrong
//! with it is read just as a reader would. An error of the backend that is not damage (no answer, say) ends
//! the run, because it proves nothing.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::object::{Algorithm, Hasher};
use crate::pack;
use crate::reader::packs::Caching;
use crate::rows::{self, Location, chunk_state, object_kind, object_state};
use crate::store::{Store, pack_key};
use crate::walk::{Judge, Walk};

const PAGE: u64 = 256;
/// Bytes of a whole object that are read at once.
const PIECE_BYTES: usize = 4 << 20;
/// Packs in memory at once.
const PACKS_AT_ONCE: usize = 2;

/// Why a chunk that is marked in the index is damaged.
pub(crate) const FOUND_DAMAGED: &str = "its stored bytes were found damaged";

/// A damaged part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Kind of the root, or `store` for what no disk feels: a pack, a header, an object of the journal.
    pub kind: String,
    /// Owner of the root, or the object's key.
    pub owner: String,
    /// The disk's (or the object's) bytes.
    pub range: Range<u64>,
    /// Why, for people.
    pub reason: String,
}

/// Counters of a running verification.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Packs looked at so far.
    pub packs: AtomicU64,
    /// Bytes of packs read so far.
    pub bytes: AtomicU64,
    /// Roots walked so far.
    pub roots: AtomicU64,
}

/// What is wrong with a pack or a whole object.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    key: String,
    bytes: u64,
    /// What is wrong with all of it.
    reason: String,
    /// Nothing of it can be read; otherwise each frame has to be tried.
    gone: bool,
    /// How many bytes are there, where these are not as many as there should be.
    cut: Option<u64>,
}

impl Fault {
    /// Why one frame of it cannot be read. Frames with the same fault are told in the same words: what stands in the message of a
    /// read that failed for all of them (where it ended, say) would tell them apart.
    fn of_frame(&self, at: Location, error: &Error) -> String {
        let end = u64::from(at.offset) + u64::from(at.length);
        if error.kind() != Kind::Damaged || self.cut.is_some_and(|there| end > there) {
            return self.reason.clone();
        }
        format!("pack `{}` is damaged ({error})", self.key)
    }
}

impl Store {
    /// Verifies every published pack, every root, the headers and the journal. Without `read_data` packs are looked up and their sizes
    /// compared, and trees are read; with it every frame is decoded and hashed, which spares the scrub that for a while.
    pub async fn verify(&self, read_data: bool, progress: &VerifyProgress) -> Result<Vec<Damage>> {
        let faults = self.packs_verify(read_data, read_data, progress).await?;
        self.chunks_mark(&faults).await?;
        if read_data {
            self.chunks_mend(&faults).await?;
        }
        let damage = self.damage_find(&faults, read_data, progress).await?;
        self.damage_update().await?;
        Ok(damage)
    }

    /// The same where the database cannot be written: nothing is marked or noted.
    pub async fn verify_unmarked(&self, read_data: bool, progress: &VerifyProgress) -> Result<Vec<Damage>> {
        let faults = self.packs_verify(read_data, false, progress).await?;
        self.damage_find(&faults, read_data, progress).await
    }

    /// What is damaged of roots, by what is wrong with packs, and what else is.
    async fn damage_find(
        &self,
        faults: &HashMap<i64, Fault>,
        read_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Vec<Damage>> {
        let suspects = Suspects {
            faults,
            tried: HashMap::new(),
            named: HashSet::new(),
        };
        let mut walk = Walk::new(self, Judge::Suspects(suspects), usize::MAX);
        let mut hurt = Vec::new();
        for root in self.root_list().await? {
            let told = walk.damage.len();
            walk.root(&root).await?;
            if walk.damage.len() > told {
                hurt.push(root);
            }
            progress.roots.fetch_add(1, Ordering::Relaxed);
        }
        let mut damage = walk.damage;
        // One that was deleted meanwhile may have lost chunks to gc, which is no damage.
        let gone = self.roots_gone(&hurt).await?;
        damage.retain(|one| !gone.contains(&(&one.kind, &one.owner)));
        let mut named = match walk.judge {
            Judge::Suspects(suspects) => suspects.named,
            Judge::Marks => HashSet::new(),
        };
        damage.extend(self.objects_walk(faults, &mut named, progress).await?);
        let mut unnamed: Vec<_> = faults
            .iter()
            .filter(|(object, _)| !named.contains(*object))
            .collect();
        unnamed.sort_by_key(|(object, _)| **object);
        damage.extend(unnamed.into_iter().map(|(_, fault)| Damage {
            kind: "store".into(),
            owner: fault.key.clone(),
            range: 0..fault.bytes,
            // What a disk needed of it and was imported again lies elsewhere now; what is whole gc takes to another pack.
            reason: format!(
                "{}; no disk needs what is damaged of it (any more): gc removes it",
                fault.reason
            ),
        }));
        damage.extend(self.alone_verify(read_data).await?);
        Ok(damage)
    }

    /// The whole objects that are damaged.
    async fn objects_walk(
        &self,
        faults: &HashMap<i64, Fault>,
        named: &mut HashSet<i64>,
        progress: &VerifyProgress,
    ) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let rows = rows::roots_list(&self.inner.db, self.inner.number).await;
        for row in rows.map_err(|error| Error::db("cannot read the roots", error))? {
            let Some(of) = row.object() else { continue };
            let places = self.locate(of.domain, &[of.digest]).await?;
            let fault = match places.get(&of.digest) {
                Some(at) => faults
                    .get(&at.object)
                    .map(|fault| (Some(at.object), fault.reason.clone())),
                None => Some((None, "the object is in no index".to_owned())),
            };
            progress.roots.fetch_add(1, Ordering::Relaxed);
            let Some((object, reason)) = fault else { continue };
            named.extend(object);
            if self.object_get(&row.kind, &row.owner).await? == Some(of) {
                damage.push(Damage {
                    kind: row.kind,
                    owner: row.owner,
                    range: 0..of.bytes,
                    reason,
                });
            }
        }
        Ok(damage)
    }

    /// What is wrong with packs and whole objects. With `is_noted` it is noted that they were read.
    async fn packs_verify(
        &self,
        read_data: bool,
        is_noted: bool,
        progress: &VerifyProgress,
    ) -> Result<HashMap<i64, Fault>> {
        let mut faults = HashMap::new();
        let mut after = 0;
        loop {
            let page = rows::objects_page(&self.inner.db, self.inner.number, after, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot list the packs", error))?;
            let Some(last) = page.last() else {
                return Ok(faults);
            };
            after = last.id;
            let ids = page.iter().map(|object| object.id).collect();
            let mut found = futures::stream::iter(page)
                .map(|object| async move {
                    let fault = self.fault_find(&object, read_data, progress).await?;
                    progress.packs.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Error>(fault.map(|fault| (object.id, fault)))
                })
                .buffered(PACKS_AT_ONCE);
            while let Some(fault) = found.try_next().await? {
                faults.extend(fault);
            }
            drop(found);
            if is_noted {
                let noted =
                    rows::objects_verified(&self.inner.db, ids, self.inner.options.world.now_us()).await;
                noted.map_err(|error| Error::db("cannot note what was read", error))?;
            }
        }
    }

    /// Looks a whole object up, and hashes it where data is to be read: its digest is its name.
    async fn blob_verify(
        &self,
        object: &rows::object::Model,
        read_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Option<Fault>> {
        let (key, expected) = (object.object_key(), object.bytes.cast_unsigned());
        let fault = |reason: String| {
            Some(Fault {
                key: key.clone(),
                bytes: expected,
                reason,
                gone: true,
                cut: None,
            })
        };
        match self.inner.backend.stat(&key).await? {
            None => return Ok(fault(format!("object `{key}` is missing"))),
            Some(bytes) if bytes != expected => {
                return Ok(fault(format!(
                    "object `{key}` has {bytes} bytes instead of {expected}"
                )));
            }
            Some(_) if !read_data => return Ok(None),
            Some(_) => {}
        }
        let bytes = match self.plain_bytes(expected) {
            Err(error) if damaging(&error) => return Ok(fault(error.to_string())),
            bytes => bytes?,
        };
        let mut hashers = [Algorithm::Sha256, Algorithm::Sha512].map(Hasher::new);
        for start in (0..bytes).step_by(PIECE_BYTES) {
            let piece = start..bytes.min(start + PIECE_BYTES as u64);
            let data = match self.whole_range(object.key, bytes, piece).await {
                Err(error) if damaging(&error) => {
                    return Ok(fault(format!("object `{key}` cannot be read ({error})")));
                }
                data => data?,
            };
            progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            let hashed = self.inner.options.world.compute(move || {
                for hasher in &mut hashers {
                    hasher.update(&data);
                }
                Ok(hashers)
            });
            hashers = hashed.await?;
        }
        let digests = hashers.map(|hasher| self.name_digest(&hasher.finish()));
        let known = rows::chunks_of(&self.inner.db, self.inner.number, object.id).await;
        let known = known.map_err(|error| Error::db("cannot look an object up", error))?;
        // One that another was faster than has no row.
        if known.iter().all(|row| digests.contains(&row.digest)) {
            return Ok(None);
        }
        Ok(fault(format!("object `{key}` does not match its digest")))
    }

    async fn is_live(&self, object: i64) -> Result<bool> {
        let rows = rows::objects_get(&self.inner.db, &[object]).await;
        let rows = rows.map_err(|error| Error::db("cannot look a pack up", error))?;
        Ok(rows.iter().any(|row| row.state == object_state::LIVE))
    }

    /// Takes the mark from what can be read again.
    async fn chunks_mend(&self, faults: &HashMap<i64, Fault>) -> Result<()> {
        let bad = faults.keys().copied().collect();
        let mended = rows::chunks_mend(&self.inner.db, self.inner.number, &bad).await;
        mended
            .map(drop)
            .map_err(|error| Error::db("cannot mark mended chunks", error))
    }

    /// Reads one object whole and marks what is damaged of it; whether anything is.
    pub(crate) async fn object_verify(
        &self,
        object: &rows::object::Model,
        progress: &VerifyProgress,
    ) -> Result<bool> {
        let Some(fault) = self.fault_find(object, true, progress).await? else {
            let mended = rows::chunks_mend_of(&self.inner.db, self.inner.number, object.id).await;
            mended.map_err(|error| Error::db("cannot mark mended chunks", error))?;
            return Ok(false);
        };
        tracing::error!(object = fault.key, reason = fault.reason, "damage was found");
        self.chunks_mark(&HashMap::from([(object.id, fault)])).await?;
        Ok(true)
    }

    /// Whether anything is wrong with an object; nothing is marked.
    pub(crate) async fn is_damaged(
        &self,
        object: &rows::object::Model,
        progress: &VerifyProgress,
    ) -> Result<bool> {
        Ok(self.fault_find(object, true, progress).await?.is_some())
    }

    /// What is wrong with an object that is still published, if anything.
    async fn fault_find(
        &self,
        object: &rows::object::Model,
        read_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Option<Fault>> {
        let fault = match object.kind {
            object_kind::BLOB => self.blob_verify(object, read_data, progress).await?,
            _ => self.pack_verify(object, read_data, progress).await?,
        };
        // Gc may have deleted it since it was listed.
        if fault.is_some() && !self.is_live(object.id).await? {
            return Ok(None);
        }
        Ok(fault)
    }

    /// Marks what cannot be read of faulty objects, and takes the mark from what can.
    async fn chunks_mark(&self, faults: &HashMap<i64, Fault>) -> Result<()> {
        let context = |error| Error::db("cannot mark damaged chunks", error);
        let (db, number) = (&self.inner.db, self.inner.number);
        let mut in_order: Vec<_> = faults.iter().collect();
        in_order.sort_by_key(|(object, _)| **object);
        for (object, fault) in in_order {
            if fault.gone {
                rows::chunks_damage_all(db, number, *object)
                    .await
                    .map_err(context)?;
                continue;
            }
            // Also where no chunk that anybody needs is: gc writes the rest anew.
            rows::object_damaged(db, *object).await.map_err(context)?;
            for chunk in rows::chunks_of(db, number, *object).await.map_err(context)? {
                let code = u8::try_from(chunk.kind).ok();
                let kind = code.and_then(FrameKind::from_code).unwrap_or(FrameKind::Data);
                match self
                    .frame_load(kind, chunk.digest, chunk.location, Caching::Pass)
                    .await
                {
                    Ok(_) if chunk.state == chunk_state::DAMAGED => {
                        rows::chunk_mend(db, number, chunk.domain, chunk.digest, chunk.location)
                            .await
                            .map_err(context)?;
                    }
                    Ok(_) => {}
                    Err(error) if damaging(&error) => {
                        rows::chunk_damage(db, number, chunk.domain, chunk.digest, chunk.location)
                            .await
                            .map_err(context)?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn pack_verify(
        &self,
        object: &rows::object::Model,
        read_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Option<Fault>> {
        let backend = &self.inner.backend;
        let key = pack_key(object.key);
        let expected = object.bytes.cast_unsigned();
        let fault = |reason: String| Fault {
            key: key.clone(),
            bytes: expected,
            reason,
            gone: false,
            cut: None,
        };
        match backend.stat(&key).await? {
            None => {
                return Ok(Some(Fault {
                    gone: true,
                    ..fault(format!("pack `{key}` is missing"))
                }));
            }
            Some(bytes) if bytes != expected => {
                return Ok(Some(Fault {
                    cut: Some(bytes),
                    ..fault(format!("pack `{key}` has {bytes} bytes instead of {expected}"))
                }));
            }
            Some(_) if !read_data => return Ok(None),
            Some(_) => {}
        }
        let data = match backend.get(&key).await {
            // A bad sector: the rest of the pack may still be readable, frame by frame.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged | Kind::Io) => {
                return Ok(Some(fault(format!("pack `{key}` cannot be read ({error})"))));
            }
            data => data?,
        };
        progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        let (keys, id) = (self.inner.keys.clone(), object.key);
        let judged = self
            .inner
            .options
            .world
            .compute(move || Ok(pack::faults(&keys, id, &data)))
            .await?;
        Ok(judged.map(|faults| fault(format!("pack `{key}` is damaged ({faults})"))))
    }
}

/// What is wrong with packs, and what was found out of their chunks.
pub(crate) struct Suspects<'a> {
    faults: &'a HashMap<i64, Fault>,
    /// Chunks of suspect packs, and why they cannot be read.
    tried: HashMap<(i64, Digest), Option<String>>,
    /// Objects whose damage was found to hit a disk.
    named: HashSet<i64>,
}

impl Suspects<'_> {
    /// Those of these chunks that cannot be read, with the reason.
    pub(crate) async fn bad(
        &mut self,
        store: &Store,
        domain: i64,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, String>> {
        let hits = rows::chunks_get(&store.inner.db, store.inner.number, domain, digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        let mut bad = HashMap::new();
        for digest in digests {
            let reason = match hits.get(digest) {
                // What was found damaged before is damaged, also for who does not read it now.
                Some(hit) => self
                    .chunk(store, *digest, hit.location)
                    .await?
                    .or_else(|| (hit.state == chunk_state::DAMAGED).then(|| FOUND_DAMAGED.to_owned())),
                None => Some("the chunk is in no index".to_owned()),
            };
            bad.extend(reason.map(|reason| (*digest, reason)));
        }
        Ok(bad)
    }

    /// Why a chunk cannot be read, if so.
    async fn chunk(&mut self, store: &Store, digest: Digest, at: Location) -> Result<Option<String>> {
        let Some(fault) = self.faults.get(&at.object) else {
            return Ok(None);
        };
        if fault.gone {
            self.named.insert(at.object);
            return Ok(Some(fault.reason.clone()));
        }
        if let Some(known) = self.tried.get(&(at.object, digest)) {
            return Ok(known.clone());
        }
        let read = async {
            let pack = store.stored(at.object).await?;
            let frame = (FrameKind::Data, digest);
            store.frame_of(pack, frame, at, Caching::Pass).await
        };
        let reason = match read.await {
            Ok(_) => None,
            Err(error) if damaging(&error) => {
                self.named.insert(at.object);
                Some(fault.of_frame(at, &error))
            }
            Err(error) => return Err(error),
        };
        self.tried.insert((at.object, digest), reason.clone());
        Ok(reason)
    }

    /// Remembers that the pack of an unreadable node was found to hit a disk.
    pub(crate) async fn name(&mut self, store: &Store, domain: i64, digest: Digest) -> Result<()> {
        let places = store.locate(domain, &[digest]).await?;
        self.named.extend(places.values().map(|at| at.object));
        Ok(())
    }
}

/// An error that says something about stored bytes goes in; another ends the work, because it proves nothing.
pub(crate) fn tolerated<T>(read: Result<T>) -> Result<Result<T>> {
    match read {
        Err(error) if !damaging(&error) => Err(error),
        read => Ok(read),
    }
}

/// Whether an error says something about stored bytes, and not about the way to them.
pub(crate) fn damaging(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Io)
}
