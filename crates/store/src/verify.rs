//! Finds damage and says which disks and which of their bytes it hits.
//!
//! Chunks that cannot be read are marked: no import relies on them any more, and one that brings the same content
//! stores it anew, which heals every disk that has it. Nothing else is changed. That is done object by object, as each
//! is read ([`step`]).
//!
//! Each pack is looked at once and, when data is read, every frame of it is decoded and hashed once,
//! whatever number of disks use it. Then the trees are walked; a chunk in a pack that has something wrong
//! with it is read just as a reader would. An error of the backend that is not damage (no answer, say) ends
//! the run, because it proves nothing.

mod step;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::object::{Algorithm, Hasher};
use crate::pack;
use crate::reader::packs::Caching;
use crate::rows::{self, Location, Placed, chunk_state, object_state};
use crate::store::{Store, pack_key};
use crate::walk::{Judge, Walk};
use step::Step;

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

/// How a verification goes.
#[derive(Debug, Clone, Copy)]
struct How {
    /// Every byte is read and hashed.
    reads_data: bool,
    /// What is found is marked.
    marks: bool,
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
    /// How many bytes are there; `None` where it is missing.
    there: Option<u64>,
}

impl Fault {
    /// Why one frame of it cannot be read. Frames with the same fault are told in the same words: what stands in the
    /// message of a read that failed for all of them (where it ended, say) would tell them apart.
    fn of_frame(&self, at: Location, error: &Error) -> String {
        let end = u64::from(at.offset) + u64::from(at.length);
        if error.kind() != Kind::Damaged || self.there.is_some_and(|there| end > there) {
            return self.reason.clone();
        }
        format!("pack `{}` is damaged ({error})", self.key)
    }
}

impl Store {
    /// Verifies every published pack, every root, the headers and the journal. Without `read_data` packs are looked up
    /// and their sizes compared, and trees are read; with it every frame is decoded and hashed, which spares the scrub
    /// that for a while.
    pub async fn verify(&self, read_data: bool, progress: &VerifyProgress) -> Result<Vec<Damage>> {
        let how = How {
            reads_data: read_data,
            marks: true,
        };
        let faults = self.packs_verify(how, progress).await?;
        let damage = self.damage_find(faults, how, progress).await?;
        self.damage_update().await?;
        Ok(damage)
    }

    /// The same where the database cannot be written: nothing is marked or noted.
    pub async fn verify_unmarked(&self, read_data: bool, progress: &VerifyProgress) -> Result<Vec<Damage>> {
        let how = How {
            reads_data: read_data,
            marks: false,
        };
        let faults = self.packs_verify(how, progress).await?;
        self.damage_find(faults, how, progress).await
    }

    /// What is damaged of roots, by what is wrong with packs, and what else is.
    async fn damage_find(
        &self,
        mut faults: HashMap<i64, Fault>,
        how: How,
        progress: &VerifyProgress,
    ) -> Result<Vec<Damage>> {
        self.faults_look(&mut faults, how).await?;
        let (mut damage, mut named, is_cut) = self.trees_walk(&faults, progress).await?;
        self.faults_look(&mut faults, how).await?;
        damage.extend(self.objects_walk(&faults, &mut named, progress).await?);
        let mut unnamed: Vec<_> = faults
            .iter()
            .filter(|(object, _)| !named.contains(*object))
            .collect();
        unnamed.sort_by_key(|(object, _)| **object);
        damage.extend(unnamed.into_iter().map(|(_, fault)| Damage {
            kind: "store".into(),
            owner: fault.key.clone(),
            range: 0..fault.bytes,
            reason: if is_cut {
                format!(
                    "{}; whether a disk needs it is not known while the trees that would tell are damaged",
                    fault.reason
                )
            } else {
                // What a disk needed of it and was imported again lies elsewhere now; what is whole gc takes to another
                // pack.
                let kept = match fault.there {
                    Some(_) => "gc keeps what is whole of it in another pack, and removes it",
                    None => "gc forgets it",
                };
                format!(
                    "{}; no disk needs what is damaged of it (any more): {kept}",
                    fault.reason
                )
            },
        }));
        damage.extend(self.alone_verify(how.reads_data).await?);
        Ok(damage)
    }

    /// Leaves out what was healed or deleted since it was found, and looks once more at what has come back.
    async fn faults_look(&self, faults: &mut HashMap<i64, Fault>, how: How) -> Result<()> {
        let ids: Vec<i64> = faults.keys().copied().collect();
        let rows = rows::objects_get(&self.inner.db, &ids).await;
        let rows = rows.map_err(|error| Error::db("cannot look objects up", error))?;
        let mut found = std::mem::take(faults);
        for row in rows {
            let (id, Some(fault)) = (row.id, found.remove(&row.id)) else {
                continue;
            };
            // Who found it whole has taken the note from it.
            if row.state != object_state::LIVE || (how.marks && !row.damaged) {
                continue;
            }
            let is_as_found = !fault.gone || self.inner.backend.stat(&fault.key).await? == fault.there;
            let fault = if is_as_found {
                Some(fault)
            } else {
                let marked = self.chunks_marked(id..=id).await?;
                let again = VerifyProgress::default();
                match self.object_look(row, marked, how, &again).await? {
                    Step::Written(fault) => fault,
                    Step::Fine => None,
                }
            };
            faults.extend(fault.map(|fault| (id, fault)));
        }
        Ok(())
    }

    /// What is damaged of disks, the objects whose damage hits one, and whether there is a tree of which not all could
    /// be read.
    async fn trees_walk(
        &self,
        faults: &HashMap<i64, Fault>,
        progress: &VerifyProgress,
    ) -> Result<(Vec<Damage>, HashSet<i64>, bool)> {
        let suspects = Suspects {
            faults,
            tried: HashMap::new(),
            gone: HashMap::new(),
            named: HashSet::new(),
            is_cut: false,
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
        let (named, is_cut) = match walk.judge {
            Judge::Suspects(suspects) => (suspects.named, suspects.is_cut),
            Judge::Marks => (HashSet::new(), false),
        };
        Ok((damage, named, is_cut))
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

    /// What is wrong with packs and whole objects.
    async fn packs_verify(&self, how: How, progress: &VerifyProgress) -> Result<HashMap<i64, Fault>> {
        self.there_check().await?;
        let mut faults = HashMap::new();
        let mut after = 0;
        loop {
            let page = rows::objects_page(&self.inner.db, self.inner.number, after, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot list the packs", error))?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else {
                return Ok(faults);
            };
            after = last.id;
            let mut marked: HashMap<i64, Vec<Placed>> = HashMap::new();
            if how.marks && how.reads_data {
                for chunk in self.chunks_marked(first.id..=last.id).await? {
                    marked.entry(chunk.location.object).or_default().push(chunk);
                }
            }
            let mut steps = futures::stream::iter(page)
                .map(|object| {
                    let (id, marked) = (object.id, marked.remove(&object.id).unwrap_or_default());
                    async move { Ok((id, self.object_look(object, marked, how, progress).await?)) }
                })
                .buffered(PACKS_AT_ONCE);
            let mut fine = Vec::new();
            while let Some((id, step)) = steps.try_next().await? {
                match step {
                    Step::Fine => fine.push(id),
                    Step::Written(fault) => faults.extend(fault.map(|fault| (id, fault))),
                }
            }
            drop(steps);
            if how.marks && how.reads_data {
                self.objects_note(fine).await?;
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
        let there = self.inner.backend.stat(&key).await?;
        let fault = |reason: String| {
            Some(Fault {
                key: key.clone(),
                bytes: expected,
                reason,
                gone: true,
                there,
            })
        };
        match there {
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

    async fn pack_verify(
        &self,
        object: &rows::object::Model,
        read_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Option<Fault>> {
        let backend = &self.inner.backend;
        let key = pack_key(object.key);
        let expected = object.bytes.cast_unsigned();
        let there = backend.stat(&key).await?;
        let fault = |reason: String| Fault {
            key: key.clone(),
            bytes: expected,
            reason,
            gone: there.is_none(),
            there,
        };
        match there {
            None => return Ok(Some(fault(format!("pack `{key}` is missing")))),
            Some(bytes) if bytes != expected => {
                let text = format!("pack `{key}` has {bytes} bytes instead of {expected}");
                return Ok(Some(fault(text)));
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
    /// Objects of which nothing could be read, and whether that is still so.
    gone: HashMap<i64, bool>,
    /// Objects whose damage was found to hit a disk.
    named: HashSet<i64>,
    /// A node could not be read, so that what it names is not known.
    is_cut: bool,
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
        if fault.gone && self.is_gone(store, at.object, fault).await? {
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

    /// Looks once more at an object of which nothing could be read: it may have come back.
    async fn is_gone(&mut self, store: &Store, object: i64, fault: &Fault) -> Result<bool> {
        if let Some(known) = self.gone.get(&object) {
            return Ok(*known);
        }
        let is_gone = store.inner.backend.stat(&fault.key).await? == fault.there;
        self.gone.insert(object, is_gone);
        Ok(is_gone)
    }

    /// Remembers that the pack of an unreadable node was found to hit a disk. Gives what is wrong with that where
    /// nothing of it can be read.
    pub(crate) async fn name(
        &mut self,
        store: &Store,
        domain: i64,
        digest: Digest,
    ) -> Result<Option<String>> {
        self.is_cut = true;
        let places = store.locate(domain, &[digest]).await?;
        let Some(at) = places.get(&digest) else {
            return Ok(None);
        };
        self.named.insert(at.object);
        let fault = self.faults.get(&at.object).filter(|fault| fault.gone);
        Ok(fault.map(|fault| fault.reason.clone()))
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
