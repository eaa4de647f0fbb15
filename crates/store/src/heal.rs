//! Brings what is damaged or missing of a store back from a copy of it.
//!
//! A copy is nearly always older than the store, so nothing is taken from it as it is: the database says which objects there are to be,
//! each that is found damaged is looked for in the copy, verified there by itself, and written in the place of the damaged one; an
//! index that was made anew from what was damaged gets what it lacks of it. Objects never change and no key is used twice, so what is
//! whole there is what was damaged here. Headers and journal are not touched: those a server writes anew by itself. It can run beside a server, and be cut off and repeated.

mod missing;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use uuid::Uuid;

use crate::backend::{Backend, Listed};
use crate::copy::{object_replace, object_write};
use crate::error::{Error, Kind, Result};
use crate::pack;
use crate::rebuild::{Found, found};
use crate::rows::{self, ObjectFound, object, object_kind};
use crate::store::Store;
use crate::verify::{VerifyProgress, damaging, tolerated};

/// Objects that are listed at once.
const PAGE: u64 = 256;
/// The reason why an object that is not in the copy does not come back.
const ABSENT: &str = "the copy does not have it";
/// What is told by name.
const NAMED: usize = 100;

/// What was healed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healed {
    /// Objects that were damaged or missing and are whole again.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are damaged and stay so.
    pub left: u64,
    /// Those of them that the copy does not have.
    pub absent: u64,
    /// The first of those that stay damaged, each with the reason.
    pub named: Vec<String>,
}

/// An object that is whole in the copy.
struct Whole {
    found: ObjectFound,
    /// Its bytes, where it is a pack; others are read piece by piece.
    pack: Option<Bytes>,
}

impl Store {
    /// Reads every published object, as [`Store::verify`] does, and replaces those that are damaged or missing by what there is of
    /// them in `copy`, a copy of this store. It is opened with the keys of this one: it may be older than a change of keys. Fails with
    /// [`Kind::NotFound`] or [`Kind::Incompatible`] where `copy` holds no store, or another.
    pub async fn heal_from(&self, copy: Arc<dyn Backend>, progress: &VerifyProgress) -> Result<Healed> {
        let copy = self.elsewhere(copy).await?;
        let mut healed = Healed::default();
        let mut after = 0;
        loop {
            let page = rows::objects_page(&self.inner.db, self.inner.number, after, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot list the packs", error))?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for object in &page {
                self.object_heal(&copy, object, progress, &mut healed).await?;
                progress.packs.fetch_add(1, Relaxed);
            }
        }
        self.missing_take(&copy, &mut healed).await?;
        if healed.objects > 0 {
            // What was in no index had no mark either.
            self.damage_doubt();
        }
        self.damage_update().await?;
        Ok(healed)
    }

    async fn object_heal(
        &self,
        copy: &Self,
        object: &object::Model,
        progress: &VerifyProgress,
        healed: &mut Healed,
    ) -> Result<()> {
        if !self.object_verify(object, progress).await? {
            return Ok(());
        }
        let key = object.object_key();
        let whole = match copy.whole_of(object).await? {
            Ok(whole) => whole,
            Err(reason) => {
                healed.absent += u64::from(reason == ABSENT);
                healed.leave(&key, &reason);
                return Ok(());
            }
        };
        match self.object_take(copy, &key, &whole).await {
            Err(error) if error.kind() == Kind::NoSpace => return Err(error),
            Err(error) if damaging(&error) => {
                healed.leave(&key, &format!("it could not be written ({error})"));
                return Ok(());
            }
            written => written?,
        }
        let found = whole.found;
        self.object_correct(object, &found).await?;
        let object = object::Model {
            bytes: found.bytes.cast_signed(),
            ..object.clone()
        };
        // Which also takes the marks from what is in it.
        if self.object_verify(&object, &VerifyProgress::default()).await? {
            healed.leave(&key, "it was written and cannot be read");
            return Ok(());
        }
        tracing::info!(object = key, "what was damaged came back from a copy");
        healed.objects += 1;
        healed.bytes += found.bytes;
        Ok(())
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
        };
        object_write(from, to, &item, true).await.map(drop)
    }

    /// What the rows say of an object may have been read from what was damaged: its size, and what is in it.
    async fn object_correct(&self, object: &object::Model, found: &ObjectFound) -> Result<()> {
        let context = |error| Error::db("cannot write what is in an object that was healed", error);
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        rows::found_correct(&tx, self.inner.number, object.id, found)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        self.object_forget(object.id, object.key);
        Ok(())
    }

    /// An object as this store, a copy, has it, judged by itself; or why it does not help.
    async fn whole_of(&self, object: &object::Model) -> Result<std::result::Result<Whole, String>> {
        let key = object.object_key();
        let Some(bytes) = self.inner.backend.stat(&key).await? else {
            return Ok(Err(ABSENT.to_owned()));
        };
        let item = Listed { key, bytes };
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
        Ok(tolerated(judged)?.map_err(told))
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
            Found::Whole(found) | Found::Salvaged(found, _) => found,
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

impl Healed {
    fn leave(&mut self, key: &str, reason: &str) {
        self.left += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{key}: {reason}"));
        }
    }
}
