//! What readers find that one damaged chunk does not explain: a node of a tree that cannot be read, a pack that is cut
//! or gone, a chunk that is in no index. The pack is verified at once, which marks what is damaged of it, or the trees
//! are walked the next time that the record of damage is brought up to date.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::error::Result;
use crate::rows::object;
use crate::store::Store;
use crate::verify::VerifyProgress;

/// Objects that are remembered: more are not damaged one by one.
const REMEMBERED: usize = 10_000;
/// How long a look at an object lasts: it is read whole for that, and readers that cannot read it come again and again.
const LASTS: Duration = Duration::from_hours(1);

/// What of a store is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Trees have to be walked, although nothing is marked.
    trees: AtomicBool,
    /// Objects that were looked at because a reader could not read them.
    objects: Mutex<HashMap<i64, Look>>,
}

/// A look at an object.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// When it began, as time since the process did.
    at: Duration,
    /// The time of the last judgement of the object ([`crate::rows::Judged`]) as the look left it.
    verified_us: i64,
}

impl Doubt {
    /// Whether trees have to be walked, as far as nobody was told yet.
    pub(crate) fn trees_taken(&self) -> bool {
        self.trees.swap(false, Ordering::Relaxed)
    }

    /// Everything is fine again: what is damaged after this is news.
    pub(crate) fn forget(&self) {
        self.objects().clear();
    }

    /// Whether an object is to be looked at; then it counts as looked at. One that somebody else found whole since this
    /// process did it last is, at once.
    fn is_news(&self, object: &object::Model, now: Duration) -> bool {
        let mut objects = self.objects();
        let known = objects.get(&object.id);
        let is_known = known.is_some_and(|look| {
            let is_as_left = object.damaged || object.verified_us == look.verified_us;
            is_as_left && now < look.at + LASTS
        });
        if is_known || (known.is_none() && objects.len() >= REMEMBERED) {
            return false;
        }
        let look = Look {
            at: now,
            verified_us: object.verified_us,
        };
        objects.insert(object.id, look);
        true
    }

    /// How a look ended: with the object's judgement at this time, or with none.
    fn looked(&self, object: i64, verified_us: Option<i64>) {
        let mut objects = self.objects();
        match (verified_us, objects.get_mut(&object)) {
            (Some(verified_us), Some(look)) => look.verified_us = verified_us,
            (None, Some(_)) => drop(objects.remove(&object)),
            (_, None) => {}
        }
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<i64, Look>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Has the trees walked when the record of damage is brought up to date ([`Store::damage_update`]), although
    /// nothing in the index says that anything is damaged: after a recovery, say, the index lacks what no pack has.
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
        if let Err(error) = self.object_look_at(object).await {
            tracing::warn!(%error, "could not look at what cannot be read");
            // It was not looked at.
            self.inner.doubt.looked(object, None);
        }
    }

    async fn object_look_at(&self, object: i64) -> Result<()> {
        let Some(row) = self.object_live(object).await? else {
            return Ok(());
        };
        if !self.inner.doubt.is_news(&row, self.inner.options.world.uptime()) {
            return Ok(());
        }
        if self.object_verify(&row, &VerifyProgress::default()).await? {
            self.damage_look();
        }
        let judged = self.object_live(object).await?;
        self.inner.doubt.looked(object, judged.map(|row| row.verified_us));
        Ok(())
    }
}
