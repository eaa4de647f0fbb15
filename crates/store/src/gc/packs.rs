//! Deletes packs and other objects that hold nothing any more.

use std::sync::atomic::Ordering::Relaxed;

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Options, Pace, Progress, Report, Run};
use crate::error::{Error, Result};
use crate::rows::{self, object_state};

/// Objects that are looked for, and declared dead, at once.
const PAGE: u32 = 1000;
/// Deletions at the same time.
const DELETES_AT_ONCE: usize = 8;

impl Run {
    /// Declares dead what holds nothing. An object without chunks never gets one again: rows come with their object, in
    /// one transaction, and only ever move to a new one. A crash before it is deleted and forgotten leaves a dead row,
    /// with which the next run goes on.
    pub(super) async fn empty_declare(&self, options: &Options) -> Result<()> {
        let context = |error| Error::db("cannot look for empty packs", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let mut pace = Pace::new(&self.store);
        loop {
            options.check()?;
            let empty = rows::objects_empty(db, number, PAGE).await.map_err(context)?;
            let tx = self.alone().await?;
            let now_us = self.store.inner.options.world.now_us();
            for object in &empty {
                let (from, to) = (object_state::LIVE, object_state::DEAD);
                rows::object_move(&tx, *object, from, to, now_us)
                    .await
                    .map_err(context)?;
            }
            tx.commit().await.map_err(context)?;
            pace.rest().await;
            if empty.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    pub(super) async fn any_dead(&self) -> Result<bool> {
        let dead = rows::objects_dead(&self.store.inner.db, self.store.inner.number, 1).await;
        let dead = dead.map_err(|error| Error::db("cannot look for dead packs", error))?;
        Ok(!dead.is_empty())
    }

    /// Deletes what is dead, and forgets it.
    pub(super) async fn dead_delete(
        &self,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let context = |error| Error::db("cannot forget a deleted pack", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let mut pace = Pace::new(&self.store);
        loop {
            options.check()?;
            // With the fence in hand: what another run has declared dead since is that one's to delete.
            let tx = self.alone().await?;
            let dead = rows::objects_dead(&tx, number, u64::from(PAGE))
                .await
                .map_err(context)?;
            tx.commit().await.map_err(context)?;
            if dead.is_empty() {
                return Ok(());
            }
            let mut gone = futures::stream::iter(dead)
                .map(|object| async move {
                    self.store.inner.backend.delete(&object.object_key()).await?;
                    rows::object_delete(db, object.id).await.map_err(context)?;
                    self.store.object_forget(object.id, object.key);
                    Ok::<_, Error>(object.bytes.cast_unsigned())
                })
                .buffer_unordered(DELETES_AT_ONCE);
            while let Some(bytes) = gone.try_next().await? {
                report.objects += 1;
                report.freed_bytes += bytes;
                progress.objects.fetch_add(1, Relaxed);
                progress.freed_bytes.fetch_add(bytes, Relaxed);
            }
            drop(gone);
            pace.rest().await;
        }
    }
}
