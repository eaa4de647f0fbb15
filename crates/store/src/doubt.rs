//! What readers find that one damaged chunk does not explain: a node of a tree that cannot be read, a pack that is cut or gone, a chunk
//! that is in no index. The pack is verified at once, which marks what is damaged of it, or the trees are walked the next
//! time that the record of damage is brought up to date.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::rows::{self, object_state};
use crate::store::Store;
use crate::verify::VerifyProgress;

/// Objects that are remembered: more are not damaged one by one.
const REMEMBERED: usize = 10_000;

/// What of a store is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Trees have to be walked, although nothing is marked.
    trees: AtomicBool,
    /// Objects that were looked at because a reader could not read them; a pack is read for that, so once.
    objects: Mutex<HashSet<i64>>,
}

impl Doubt {
    /// Whether trees have to be walked, as far as nobody was told yet.
    pub(crate) fn trees_taken(&self) -> bool {
        self.trees.swap(false, Ordering::Relaxed)
    }

    /// Everything is fine again: what is damaged after this is news.
    pub(crate) fn forget(&self) {
        self.objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn is_new(&self, object: i64) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.len() < REMEMBERED && objects.insert(object)
    }
}

impl Store {
    /// Has the trees walked when the record of damage is brought up to date ([`Store::damage_update`]), although nothing in the index says
    /// that anything is damaged: after a recovery, say, the index lacks what no pack has.
    pub fn damage_doubt(&self) {
        self.inner.doubt.trees.store(true, Ordering::Relaxed);
        self.damage_look();
    }

    /// Looks why a frame cannot be read. What goes wrong with that is the next verification's.
    pub(crate) async fn frame_doubt(&self, domain: i64, digest: Digest) {
        match self.locate(domain, &[digest]).await {
            Ok(places) => match places.get(&digest) {
                Some(at) => self.object_doubt(at.object).await,
                None => self.damage_doubt(),
            },
            Err(error) => tracing::warn!(%error, "could not look for what cannot be read"),
        }
    }

    /// Verifies an object that a reader could not read.
    pub(crate) async fn object_doubt(&self, object: i64) {
        if !self.inner.doubt.is_new(object) {
            return;
        }
        if let Err(error) = self.object_look(object).await {
            tracing::warn!(%error, "could not look at what cannot be read");
        }
    }

    async fn object_look(&self, object: i64) -> Result<()> {
        let rows = rows::objects_get(&self.inner.db, &[object]).await;
        let rows = rows.map_err(|error| Error::db("cannot look an object up", error))?;
        for row in rows.iter().filter(|row| row.state == object_state::LIVE) {
            if self.object_verify(row, &VerifyProgress::default()).await? {
                self.damage_look();
            }
        }
        Ok(())
    }
}
