//! Takes packs over from a copy that no row knows: a recovery writes no row of a pack that is missing, or of which nothing can be read,
//! and then what lay there is in no index, though disks need it.
//!
//! A copy also has packs that gc has freed since. So the trees say first what is missing, and only packs that hold some of that are
//! taken. Where nodes are missing, what they name is not known before they are back: it is looked again until nothing more is found.

use std::collections::HashSet;

use futures::TryStreamExt as _;
use uuid::Uuid;

use super::Healed;
use crate::backend::Listed;
use crate::copy::object_replace;
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Result};
use crate::gc::id_of;
use crate::reader::packs::Caching;
use crate::rows::{self, ObjectFound};
use crate::store::Store;
use crate::tree::{Node, TreeRoot};
use crate::verify::{VerifyProgress, damaging, tolerated};

/// Packs of the copy that are looked up at once.
const PAGE: usize = 256;

/// What is in no index, by dedup domain.
type Missing = HashSet<(i64, Digest)>;

impl Store {
    /// Takes over what the copy has of chunks and nodes that disks need and no index knows.
    pub(super) async fn missing_take(&self, copy: &Self, healed: &mut Healed) -> Result<()> {
        // Packs that are damaged in the copy, so that each is told once.
        let mut left = HashSet::new();
        loop {
            let missing = self.missing().await?;
            if missing.is_empty() {
                return Ok(());
            }
            let before = healed.objects;
            let mut listed = copy.inner.backend.list("p/").try_chunks(PAGE);
            while let Some(page) = listed.try_next().await.map_err(|error| error.1)? {
                for (id, item) in self.unknown(page).await? {
                    if left.contains(&id) || !copy.has_any(id, &item, &missing).await? {
                        continue;
                    }
                    if !self.pack_take(copy, id, &item, healed).await? {
                        left.insert(id);
                    }
                }
            }
            if healed.objects == before {
                return Ok(());
            }
        }
    }

    /// Those of these packs that no row names.
    async fn unknown(&self, page: Vec<Listed>) -> Result<Vec<(Uuid, Listed)>> {
        let packs = page
            .into_iter()
            .filter_map(|item| Some((id_of(&item.key)?, item)));
        let mut packs: Vec<_> = packs.collect();
        let ids: Vec<Uuid> = packs.iter().map(|(id, _)| *id).collect();
        let known = rows::keys_known(&self.inner.db, &ids).await;
        let known = known.map_err(|error| Error::db("cannot look objects up", error))?;
        packs.retain(|(id, _)| !known.contains(id));
        Ok(packs)
    }

    /// Whether a pack of this store, a copy, holds any of what is missing, as its footer says.
    async fn has_any(&self, id: Uuid, item: &Listed, missing: &Missing) -> Result<bool> {
        let Ok(found) = tolerated(self.pack_index(id, item).await)? else {
            return Ok(false);
        };
        let holds = |(domain, entries): &(i64, Vec<crate::pack::Entry>)| {
            entries
                .iter()
                .any(|entry| missing.contains(&(*domain, entry.digest)))
        };
        Ok(found.entries.iter().any(holds))
    }

    /// Takes one pack over, its rows after it; false where it is damaged in the copy.
    async fn pack_take(&self, copy: &Self, id: Uuid, item: &Listed, healed: &mut Healed) -> Result<bool> {
        let (found, data) = match tolerated(copy.pack_judge(id, item).await)? {
            Ok(whole) => whole,
            Err(error) => {
                let reason = format!("it holds what disks need, and is damaged in the copy ({error})");
                healed.leave(&item.key, &reason);
                return Ok(false);
            }
        };
        object_replace(&*self.inner.backend, &item.key, data).await?;
        let number = self.found_add(&found).await?;
        let rows = rows::objects_get(&self.inner.db, &[number]).await;
        let rows = rows.map_err(|error| Error::db("cannot look a pack up", error))?;
        for row in rows {
            if self.object_verify(&row, &VerifyProgress::default()).await? {
                healed.leave(&item.key, "it was written and cannot be read");
                return Ok(false);
            }
        }
        tracing::info!(object = item.key, "what no index had came back from a copy");
        healed.objects += 1;
        healed.bytes += found.bytes;
        Ok(true)
    }

    async fn found_add(&self, found: &ObjectFound) -> Result<i64> {
        let context = |error| Error::db("cannot write what is in a pack that came back", error);
        let now_us = self.inner.options.world.now_us();
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let gate = rows::gate_shared(&tx, self.inner.number).await.map_err(context)?;
        // As new as if a session that begins now had written it: a gc that runs has not marked it.
        let epoch = gate.map_or(rows::OLDEST, |gate| gate.epoch);
        let (number, _) = rows::found_insert(&tx, self.inner.number, (found, epoch), now_us)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(number)
    }

    /// What trees name and no index knows, as far down as they can be read.
    async fn missing(&self) -> Result<Missing> {
        let (mut missing, mut seen) = (Missing::new(), HashSet::new());
        for root in self.root_list().await? {
            if root.tree.digest == Digest::EMPTY {
                continue;
            }
            let mut open = vec![(root.tree.digest, root.tree.level)];
            while let Some((digest, level)) = open.pop() {
                if !seen.insert((root.tree.domain, digest)) {
                    continue;
                }
                let children = self.children(root.tree, digest, level, &mut missing).await?;
                if level > 0 {
                    open.extend(children.into_iter().map(|child| (child, level - 1)));
                } else {
                    missing.extend(self.unlocated(root.tree.domain, &children).await?);
                }
            }
        }
        Ok(missing)
    }

    /// What a node names. One that is missing is noted, and one that is damaged in its pack names nothing.
    async fn children(
        &self,
        tree: TreeRoot,
        digest: Digest,
        level: u8,
        missing: &mut Missing,
    ) -> Result<Vec<Digest>> {
        let domain = tree.domain;
        let read = self
            .frame_find(FrameKind::Node, domain, digest, Caching::Pass)
            .await;
        match read.and_then(|bytes| Node::decode(&bytes, level)) {
            Ok(node) => Ok(node.present().map(|(_, child)| child).collect()),
            Err(error) if damaging(&error) => {
                missing.extend(self.unlocated(domain, &[digest]).await?);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn unlocated(&self, domain: i64, digests: &[Digest]) -> Result<Vec<(i64, Digest)>> {
        let known = self.locate(domain, digests).await?;
        let missing = digests.iter().filter(|digest| !known.contains_key(digest));
        Ok(missing.map(|digest| (domain, *digest)).collect())
    }
}
