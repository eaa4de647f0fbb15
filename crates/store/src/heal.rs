//! Brings what is damaged or missing of a store back from a copy of it.
//!
//! A copy is nearly always older than the store, so nothing is taken from it as it is: the database says which objects
//! there are to be, each that is found damaged is looked for in the copy under its key, verified there by itself, and
//! written in the place of the damaged one. Objects never change and no key is used twice, so what is whole there is
//! what was damaged here. What disks need and still lack after that lies under other keys in the copy, if it has it:
//! from before gc wrote its pack anew, or in a pack that no row knows since a recovery. It is stored anew
//! ([`content`]), by the protocol of every other writer: a key that has no row may be one that a gc is about to delete,
//! and a pack that has lost its last row one that a gc has found empty.
//!
//! Headers and journal are not touched: those a server writes anew by itself. It can run beside servers and gc, and be
//! cut off and repeated.

mod content;
pub(crate) mod wanted;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use uuid::Uuid;

use crate::backend::{Backend, Listed};
use crate::copy::object::{object_replace, object_write};
use crate::error::{Error, Kind, Result};
use crate::pack;
use crate::rebuild::{Found, found};
use crate::rows::{self, ObjectFound, object, object_kind};
use crate::session::Session;
use crate::store::Store;
use crate::verify::{VerifyProgress, damaging};
use wanted::Wanted;

/// Owner of the sessions under which content is stored anew.
const HEAL: &str = "heal";
/// Objects that are listed at once.
const PAGE: u64 = 256;
/// The reason why an object that is not in the copy does not come back.
const ABSENT: &str = "the copy does not have it";
/// What is told by name.
const NAMED: usize = 100;

/// Counters of a running heal.
#[derive(Debug, Default)]
pub struct HealProgress {
    /// What was read of the store itself.
    pub own: VerifyProgress,
    /// Bytes of the copy's packs that were looked through for what lies there under another key. Little of them is
    /// read.
    pub copy_bytes: AtomicU64,
}

/// What was healed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healed {
    /// Objects that were damaged or missing and are whole again.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks, tree nodes and whole objects that the copy had under another key, and that were stored anew.
    pub chunks: u64,
    /// Bytes of the packs and objects that were written for them.
    pub chunk_bytes: u64,
    /// Chunks, tree nodes and whole objects that disks need and that stay damaged, or are nowhere; of those below an
    /// unreadable node nobody knows.
    pub lost: u64,
    /// Objects that hold some of those, as far as they are known.
    pub left: u64,
    /// Those of them that the copy does not have under their key.
    pub absent: u64,
    /// The first of those objects, each with the reason why its own bytes did not come back.
    pub named: Vec<String>,
}

/// An object that is whole in the copy.
struct Whole {
    found: ObjectFound,
    /// Its bytes, where it is a pack; others are read piece by piece.
    pack: Option<Bytes>,
}

/// An object that did not come back under its key.
struct Left {
    object: i64,
    key: String,
    /// Why; nothing where the copy does not have it.
    reason: Option<String>,
}

impl Store {
    /// Reads every published object, as [`Store::verify`] does, and replaces those that are damaged or missing by what
    /// there is of them in `copy`, a copy of this store; what disks still lack then is taken from whatever pack of the
    /// copy has it. The copy is opened with the keys of this store: it may be older than a change of keys. Fails with
    /// [`Kind::NotFound`] or [`Kind::Incompatible`] where `copy` holds no store, or another.
    pub async fn heal_from(&self, copy: Arc<dyn Backend>, progress: &HealProgress) -> Result<Healed> {
        self.inner.header.writable()?;
        let copy = self.elsewhere(copy).await?;
        let mut healed = Healed::default();
        let left = self.objects_heal(&copy, progress, &mut healed).await?;
        let lost = self.content_heal(&copy, progress, &mut healed).await?;
        self.left_tell(&left, &lost, &mut healed).await?;
        if healed.objects + healed.chunks > 0 {
            // What was in no index had no mark either.
            self.damage_doubt();
        }
        self.damage_update().await?;
        Ok(healed)
    }

    /// Object by object, each by what the copy has under its key. Gives those that did not come back.
    async fn objects_heal(
        &self,
        copy: &Self,
        progress: &HealProgress,
        healed: &mut Healed,
    ) -> Result<Vec<Left>> {
        let (mut left, mut after) = (Vec::new(), 0);
        loop {
            let page = rows::objects_page(&self.inner.db, self.inner.number, after, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot list the packs", error))?;
            let Some(last) = page.last() else { return Ok(left) };
            after = last.id;
            for object in &page {
                if let Err(reason) = self.object_heal(copy, object, &progress.own, healed).await? {
                    left.push(Left {
                        object: object.id,
                        key: object.object_key(),
                        reason: Some(reason).filter(|reason| reason != ABSENT),
                    });
                }
                progress.own.packs.fetch_add(1, Relaxed);
            }
        }
    }

    /// Heals one object; or says why it stays damaged.
    async fn object_heal(
        &self,
        copy: &Self,
        object: &object::Model,
        progress: &VerifyProgress,
        healed: &mut Healed,
    ) -> Result<std::result::Result<(), String>> {
        if !self.object_verify(object, progress).await? {
            return Ok(Ok(()));
        }
        let key = object.object_key();
        let whole = match copy.whole_of(object).await? {
            Ok(whole) => whole,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.object_take(copy, &key, &whole).await {
            Err(error) if error.kind() == Kind::NoSpace => return Err(error),
            Err(error) if damaging(&error) => {
                return Ok(Err(format!("it could not be written ({error})")));
            }
            written => written?,
        }
        let found = whole.found;
        if !self.object_correct(object, &found).await? {
            // Gc has deleted it meanwhile, so that nobody needs it; what was written is nobody's.
            self.inner.backend.delete(&key).await?;
            return Ok(Ok(()));
        }
        // Which also takes the marks from what is in it, and outdates what others read before it was written.
        if self.object_verify(object, &VerifyProgress::default()).await? {
            return Ok(Err("it was written and cannot be read".to_owned()));
        }
        tracing::info!(object = key, "what was damaged came back from a copy");
        healed.objects += 1;
        healed.bytes += found.bytes;
        Ok(Ok(()))
    }

    /// A session that stores what lies elsewhere in the copy; that it may is noted first.
    async fn heal_session(&self, domain: i64) -> Result<Session> {
        let session = self.session_open_in(HEAL, domain).await?;
        let (number, now_us) = (self.inner.number, self.inner.options.world.now_us());
        rows::heal_note(&self.inner.db, number, session.inner.start_epoch, now_us)
            .await
            .map_err(|error| Error::db("cannot note that chunks are stored anew", error))?;
        Ok(session)
    }

    /// Notes of heals that store nothing any more and that nobody was told of yet: for [`Store::heals_told`], once
    /// something tells the store from a copy from before.
    pub async fn heals_over(&self) -> Result<Vec<i64>> {
        let over = rows::heals_over(&self.inner.db, self.inner.number).await;
        over.map_err(|error| Error::db("cannot look for heals", error))
    }

    /// Removes those notes.
    pub async fn heals_told(&self, notes: &[i64]) -> Result<()> {
        let told = rows::heals_told(&self.inner.db, self.inner.number, notes).await;
        told.map_err(|error| Error::db("cannot note that a heal was told", error))
    }

    /// Writes an object of the copy in the place of ours.
    async fn object_take(&self, copy: &Self, key: &str, whole: &Whole) -> Result<()> {
        let (from, to) = (&*copy.inner.backend, &*self.inner.backend);
        if let Some(data) = &whole.pack {
            return object_replace(to, key, data.clone()).await;
        }
        let item = Listed {
            key: key.to_owned(),
            bytes: whole.found.bytes,
            modified_us: 0,
        };
        object_write(from, to, &item, true).await?.map(drop)
    }

    /// The size that the row has of an object may have been read from what was damaged. False where it is not published
    /// any more.
    async fn object_correct(&self, object: &object::Model, found: &ObjectFound) -> Result<bool> {
        let corrected = rows::found_correct(&self.inner.db, object.id, found).await;
        let corrected =
            corrected.map_err(|error| Error::db("cannot correct an object that was healed", error))?;
        self.object_forget(object.id, object.key);
        Ok(corrected)
    }

    /// Tells the objects that hold what stays lost. What is damaged of the others no disk needs (any more), and gc
    /// removes it.
    async fn left_tell(&self, left: &[Left], lost: &Wanted, healed: &mut Healed) -> Result<()> {
        let mut holders = HashSet::new();
        for (domain, digests) in lost.by_domain() {
            let places = self.locate(domain, &digests).await?;
            holders.extend(places.values().map(|at| at.object));
        }
        // What an unreadable node names nobody knows: then it may be in any of them.
        let is_needed = |left: &&Left| lost.is_cut || holders.contains(&left.object);
        for left in left.iter().filter(is_needed) {
            healed.left += 1;
            healed.absent += u64::from(left.reason.is_none());
            if healed.named.len() < NAMED {
                let reason = left.reason.as_deref().unwrap_or(ABSENT);
                healed.named.push(format!("{}: {reason}", left.key));
            }
        }
        Ok(())
    }

    /// An object as this store, a copy, has it, judged by itself; or why it does not help.
    async fn whole_of(&self, object: &object::Model) -> Result<std::result::Result<Whole, String>> {
        let key = object.object_key();
        let Some(bytes) = self.inner.backend.stat(&key).await? else {
            return Ok(Err(ABSENT.to_owned()));
        };
        let item = Listed {
            key,
            bytes,
            modified_us: 0,
        };
        let judged = if object.kind == object_kind::BLOB {
            self.blob_judge(object, item).await
        } else {
            let judged = self.pack_judge(object.key, &item).await;
            judged.map(|(found, data)| Whole {
                found,
                pack: Some(data),
            })
        };
        let told = |error| format!("it is damaged in the copy too ({error})");
        Ok(usable(judged)?.map_err(told))
    }

    async fn pack_judge(&self, id: Uuid, item: &Listed) -> Result<(ObjectFound, Bytes)> {
        if item.bytes > pack::LIMIT_BYTES as u64 {
            return Err(Error::new(Kind::Damaged, "the object is larger than any pack"));
        }
        let data = self.inner.backend.get(&item.key).await?;
        let (keys, read) = (self.inner.keys.clone(), data.clone());
        let world = &self.inner.options.world;
        let entries = world.compute(move || pack::verify(&keys, id, &read)).await?;
        Ok((found(id, item, pack::domain(&data)?, entries), data))
    }

    /// The digest of a whole object is in the index, or its name is a root's.
    async fn blob_judge(&self, object: &object::Model, item: Listed) -> Result<Whole> {
        let bytes = item.bytes;
        let found = match self.whole_find((object.key, item)).await? {
            Found::Whole(found) | Found::Salvaged(found, _) | Found::Unplaced(found, _) => found,
            Found::Unreadable(reason) => return Err(Error::new(Kind::Damaged, reason)),
        };
        let as_copied = object::Model {
            bytes: bytes.cast_signed(),
            ..object.clone()
        };
        if found.frames() == 0 && self.is_damaged(&as_copied, &VerifyProgress::default()).await? {
            return Err(Error::new(Kind::Damaged, "it does not match its digest"));
        }
        Ok(Whole { found, pack: None })
    }
}

/// What is read of a copy may be damaged, or be what somebody else put there: that says something of this object, and
/// ends nothing. Another error proves nothing, and ends the work.
fn usable<T>(read: Result<T>) -> Result<std::result::Result<T, Error>> {
    match read {
        Err(error) if !damaging(&error) && error.kind() != Kind::Incompatible => Err(error),
        read => Ok(read),
    }
}
