//! Deletes objects that no row names: what a write left that landed after its session had been cleared away, or that a
//! service wrote twice.
//!
//! The row of an object is written before it and removed after it, so nothing that is needed is without one. Even so an
//! orphan is only written down when it is first seen, and deleted by a run that sees it again after the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use futures::TryStreamExt as _;
use uuid::Uuid;

use super::{Options, Progress, Report, Run};
use crate::backend::Listed;
use crate::error::{Error, Result};
use crate::rows;
use crate::session::micros;

/// Where objects with rows lie.
const PREFIXES: [&str; 2] = ["p/", "b/"];
/// Keys that are looked up at once.
const PAGE: usize = 500;

impl Run {
    pub(super) async fn orphans_delete(
        &self,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let context = |error| Error::db("cannot remember what no row names", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let now_us = self.store.inner.options.world.now_us();
        let known = rows::orphans_list(db, number).await.map_err(context)?;
        let mut known: BTreeMap<String, i64> = known.into_iter().map(|row| (row.key, row.seen_us)).collect();
        // The whole listing first: one that fails in the middle deletes nothing.
        for orphan in self.orphans_find(options).await? {
            match known.remove(&orphan.key) {
                Some(seen_us) if seen_us <= now_us - micros(options.orphan_grace) => {
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
        Ok(())
    }

    /// Counts those that the next run would delete, and those that it would wait with.
    pub(super) async fn orphans_foresee(&self, options: &Options, report: &mut Report) -> Result<()> {
        let known = rows::orphans_list(&self.store.inner.db, self.store.inner.number).await;
        let known = known.map_err(|error| Error::db("cannot look for what no row names", error))?;
        let before_us = self.store.inner.options.world.now_us() - micros(options.orphan_grace);
        let due = known.into_iter().filter(|row| row.seen_us <= before_us);
        let due: BTreeSet<String> = due.map(|row| row.key).collect();
        for orphan in self.orphans_find(options).await? {
            if due.contains(&orphan.key) {
                report.objects += 1;
                report.freed_bytes += orphan.bytes;
            } else {
                report.orphans += 1;
            }
        }
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
