//! Deletes objects that no row names: what a write left that landed after its session had been cleared away, or that a
//! service wrote twice. And has the backend clear what writers that crashed have left in it beside objects.
//!
//! The row of an object is written before it and removed after it, so nothing that is needed is without one. Even so an
//! orphan is only written down when it is first seen, and deleted by a run that sees it again after the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use futures::TryStreamExt as _;
use uuid::Uuid;

use super::{Options, Progress, Report, Run};
use crate::backend::Listed;
use crate::error::{Error, Kind, Result};
use crate::pack;
use crate::rows::{self, chunk_state};
use crate::session::micros;
use crate::verify::damaging;

/// Where packs lie.
const PACKS: &str = "p/";
/// Where objects with rows lie.
const PREFIXES: [&str; 2] = [PACKS, "b/"];
/// Keys that are looked up at once.
const PAGE: usize = 500;

impl Run {
    /// Writes down what no row names, and gives what has waited long enough.
    pub(super) async fn orphans_look(&self, options: &Options, report: &mut Report) -> Result<Vec<Listed>> {
        let context = |error| Error::db("cannot remember what no row names", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let now_us = self.store.inner.options.world.now_us();
        let known = rows::orphans_list(db, number).await.map_err(context)?;
        let mut known: BTreeMap<String, i64> = known.into_iter().map(|row| (row.key, row.seen_us)).collect();
        let mut due = Vec::new();
        // The whole listing first: one that fails in the middle deletes nothing.
        for orphan in self.orphans_find(options).await? {
            match known.remove(&orphan.key) {
                Some(seen_us) if seen_us <= now_us - micros(options.orphan_grace) => due.push(orphan),
                Some(_) => report.orphans += 1,
                None => {
                    report.orphans += 1;
                    let row = rows::orphan::Model {
                        store: number,
                        key: orphan.key,
                        bytes: orphan.bytes.cast_signed(),
                        seen_us: now_us,
                    };
                    rows::orphan_insert(db, row).await.map_err(context)?;
                }
            }
        }
        // Those that are not there any more.
        for key in known.into_keys() {
            rows::orphan_delete(db, number, &key).await.map_err(context)?;
        }
        let found = due.len();
        let due = self.spared(due, options).await?;
        report.orphans += (found - due.len()) as u64;
        Ok(due)
    }

    pub(super) async fn orphans_delete(
        &self,
        due: Vec<Listed>,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let context = |error| Error::db("cannot remember what no row names", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        for orphan in due {
            options.check()?;
            drop(self.alone().await?);
            self.store.inner.backend.delete(&orphan.key).await?;
            rows::orphan_delete(db, number, &orphan.key)
                .await
                .map_err(context)?;
            report.objects += 1;
            report.freed_bytes += orphan.bytes;
            progress.objects.fetch_add(1, Relaxed);
            progress.freed_bytes.fetch_add(orphan.bytes, Relaxed);
        }
        Ok(())
    }

    /// Clears what is no object and has no row. It was never part of the store, so the report does not count it, and no
    /// fence is asked for; and a run that has freed all else does not fail for it.
    pub(super) async fn leftovers_clear(&self) {
        match self.store.inner.backend.leftovers_clear().await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "gc cleared what writers that crashed had left"),
            Err(error) => {
                tracing::warn!(%error, "gc could not clear what writers that crashed may have left");
            }
        }
    }

    /// Leaves out what may hold something that is damaged or missing elsewhere: it can be all that is left of that, and
    /// a rebuild of the index finds it.
    async fn spared(&self, due: Vec<Listed>, options: &Options) -> Result<Vec<Listed>> {
        if due.is_empty() || !self.any_damage().await? {
            return Ok(due);
        }
        let mut free = Vec::with_capacity(due.len());
        for orphan in due {
            options.check()?;
            if self.is_wanted(&orphan).await? {
                tracing::warn!(
                    object = orphan.key,
                    "gc keeps an object that no row names, because it may hold what is damaged elsewhere: `cistern store rebuild-index` finds that out"
                );
            } else {
                free.push(orphan);
            }
        }
        Ok(free)
    }

    async fn any_damage(&self) -> Result<bool> {
        let context = |error| Error::db("cannot look for damage", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let any_marked = rows::chunks_any_damaged(db, number).await.map_err(context)?;
        Ok(any_marked || self.store.damaged_roots().await? > 0)
    }

    /// Whether a chunk in it is whole nowhere else. Of what cannot be judged by its footer nobody knows.
    async fn is_wanted(&self, orphan: &Listed) -> Result<bool> {
        let store = &self.store.inner;
        let Some(id) = id_of(&orphan.key).filter(|_| orphan.key.starts_with(PACKS)) else {
            return Ok(true);
        };
        if orphan.bytes > pack::LIMIT_BYTES as u64 {
            return Ok(false);
        }
        let data = match store.backend.get(&orphan.key).await {
            Err(error) if damaging(&error) => return Ok(error.kind() != Kind::NotFound),
            data => data?,
        };
        let Ok(entries) = pack::index(&store.keys, id, &data) else {
            return Ok(true);
        };
        let digests: Vec<_> = entries.iter().map(|entry| entry.digest).collect();
        let hits = rows::chunks_get(&store.db, store.number, pack::domain(&data)?, &digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        let is_whole = |digest| {
            hits.get(digest)
                .is_some_and(|hit| hit.state != chunk_state::DAMAGED)
        };
        Ok(!digests.iter().all(is_whole))
    }

    /// Counts those that the next run would delete, and those that it would wait with.
    pub(super) async fn orphans_foresee(&self, options: &Options, report: &mut Report) -> Result<()> {
        let known = rows::orphans_list(&self.store.inner.db, self.store.inner.number).await;
        let known = known.map_err(|error| Error::db("cannot look for what no row names", error))?;
        let before_us = self.store.inner.options.world.now_us() - micros(options.orphan_grace);
        let due = known.into_iter().filter(|row| row.seen_us <= before_us);
        let due: BTreeSet<String> = due.map(|row| row.key).collect();
        let found = self.orphans_find(options).await?;
        let (due, waiting): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|orphan| due.contains(&orphan.key));
        let kept = due.len();
        let due = self.spared(due, options).await?;
        report.orphans += (waiting.len() + kept - due.len()) as u64;
        report.objects += due.len() as u64;
        report.freed_bytes += due.iter().map(|orphan| orphan.bytes).sum::<u64>();
        Ok(())
    }

    async fn orphans_find(&self, options: &Options) -> Result<Vec<Listed>> {
        let mut orphans = Vec::new();
        for prefix in PREFIXES {
            let mut listed = self.store.inner.backend.list(prefix).try_chunks(PAGE);
            while let Some(page) = listed.try_next().await.map_err(|error| error.1)? {
                options.check()?;
                let of_ours: Vec<(Uuid, Listed)> = page
                    .into_iter()
                    .filter_map(|item| Some((id_of(&item.key)?, item)))
                    .collect();
                let ids: Vec<Uuid> = of_ours.iter().map(|(id, _)| *id).collect();
                let known = rows::keys_known(&self.store.inner.db, &ids).await;
                let known = known.map_err(|error| Error::db("cannot look objects up", error))?;
                orphans.extend(
                    of_ours
                        .into_iter()
                        .filter(|(id, _)| !known.contains(id))
                        .map(|(_, item)| item),
                );
            }
        }
        Ok(orphans)
    }
}

/// The id in a key that the store could have written. Whatever else lies there is not the store's to delete.
pub(crate) fn id_of(key: &str) -> Option<Uuid> {
    let (folder, name) = key.split_once('/')?.1.split_once('/')?;
    let id = Uuid::parse_str(name).ok()?;
    (id.to_string() == name && name.starts_with(folder) && folder.len() == 2).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_store_could_have_written_is_its_own() {
        let id = "0f0e0d0c-0b0a-4908-8706-050403020100";
        assert!(id_of(&format!("p/0f/{id}")).is_some());
        for other in [
            "p/0f/notes.txt".to_owned(),
            format!("p/00/{id}"),
            format!("p/{id}"),
            format!("p/0f/{}", id.to_uppercase()),
            format!("p/0f/{id}/more"),
            format!("p/0f/{}", id.replace('-', "")),
        ] {
            assert_eq!(id_of(&other), None, "{other}");
        }
    }
}
