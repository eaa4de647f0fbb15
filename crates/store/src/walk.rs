//! Walks the trees of roots and names what is damaged of each disk. A tree, or a part of one, that is fine is walked
//! once, however many disks have it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::pin::Pin;

use crate::CHUNK_BYTES;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reader::nodes::TreeReader;
use crate::rows::{self, chunk_state};
use crate::store::{Root, Store};
use crate::tree::{FAN_OUT, child_span};
use crate::verify::{Damage, FOUND_DAMAGED, Suspects, damaging};

const CHUNK: u64 = CHUNK_BYTES as u64;

/// What tells whether a chunk is damaged.
pub(crate) enum Judge<'a> {
    /// What a verification found wrong with packs.
    Suspects(Suspects<'a>),
    /// The marks in the index.
    Marks,
}

/// A walk over trees, remembering what need not be done twice.
pub(crate) struct Walk<'a> {
    store: &'a Store,
    pub(crate) judge: Judge<'a>,
    /// Nodes under which everything is fine.
    clean: HashSet<(i64, Digest)>,
    /// Ranges of one disk that are told: then the next one is walked.
    limit: usize,
    /// Where in `damage` the disk begins that is being walked.
    start: usize,
    pub(crate) damage: Vec<Damage>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(store: &'a Store, judge: Judge<'a>, limit: usize) -> Self {
        Self {
            store,
            judge,
            clean: HashSet::new(),
            limit,
            start: 0,
            damage: Vec::new(),
        }
    }

    /// Adds what is damaged of a disk.
    pub(crate) async fn root(&mut self, root: &Root) -> Result<()> {
        self.start = self.damage.len();
        let tree = TreeReader::new(self.store.clone(), root.tree);
        if root.tree.digest != Digest::EMPTY {
            self.node(root, &tree, root.tree.digest, root.tree.level, 0)
                .await?;
        }
        Ok(())
    }

    /// Walks one node; true when everything under it is fine.
    fn node<'b>(
        &'b mut self,
        root: &'b Root,
        tree: &'b TreeReader,
        digest: Digest,
        level: u8,
        index: u64,
    ) -> Pin<Box<dyn Future<Output = Result<bool>> + Send + 'b>> {
        Box::pin(async move {
            if self.clean.contains(&(root.tree.domain, digest)) {
                return Ok(true);
            }
            if self.damage.len() - self.start >= self.limit {
                return Ok(false);
            }
            let node = match tree.node(level, index).await {
                Ok(Some(node)) => node,
                Ok(None) => return Ok(true),
                Err(error) if damaging(&error) => {
                    self.unreadable(root, digest, &error).await?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let children: Vec<_> = node.present().collect();
            let fine = if level == 0 {
                self.leaf(root, &children, index).await?
            } else {
                let mut fine = true;
                for (child, digest) in children {
                    fine &= self
                        .node(root, tree, digest, level - 1, index * FAN_OUT + child)
                        .await?;
                }
                fine
            };
            if fine {
                self.clean.insert((root.tree.domain, digest));
            }
            Ok(fine)
        })
    }

    async fn leaf(&mut self, root: &Root, children: &[(u64, Digest)], index: u64) -> Result<bool> {
        let mut digests: Vec<_> = children.iter().map(|(_, digest)| *digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let bad = match &mut self.judge {
            Judge::Suspects(suspects) => suspects.bad(self.store, root.tree.domain, &digests).await?,
            Judge::Marks => self.store.marked(root.tree.domain, &digests).await?,
        };
        for (child, digest) in children {
            if let Some(reason) = bad.get(digest) {
                let chunk = index * child_span(1) + child;
                let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(root.tree.virtual_bytes);
                self.report(root, range, reason.clone());
            }
        }
        Ok(bad.is_empty())
    }

    async fn unreadable(&mut self, root: &Root, digest: Digest, error: &Error) -> Result<()> {
        let range = error.range().unwrap_or(0..root.tree.virtual_bytes);
        let known = match &mut self.judge {
            Judge::Suspects(suspects) => suspects.name(self.store, root.tree.domain, digest).await?,
            Judge::Marks => None,
        };
        self.report(root, range, known.unwrap_or_else(|| error.text().to_owned()));
        Ok(())
    }

    fn report(&mut self, root: &Root, range: Range<u64>, reason: String) {
        if let Some(last) = self.damage[self.start..].last_mut()
            && last.range.end == range.start
            && last.reason == reason
        {
            last.range.end = range.end;
            return;
        }
        self.damage.push(Damage {
            kind: root.kind.clone(),
            owner: root.owner.clone(),
            range,
            reason,
        });
    }
}

impl Store {
    /// Those of these digests that are marked as damaged, or in no pack any more, with the reason.
    pub(crate) async fn marked(&self, domain: i64, digests: &[Digest]) -> Result<HashMap<Digest, String>> {
        let hits = rows::chunks_get(&self.inner.db, self.inner.number, domain, digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        let reason = |digest: &Digest| match hits.get(digest) {
            Some(hit) if hit.state != chunk_state::DAMAGED => None,
            Some(_) => Some(FOUND_DAMAGED),
            None => Some("it is in no index"),
        };
        let bad = digests
            .iter()
            .filter_map(|digest| Some((*digest, reason(digest)?.to_owned())));
        Ok(bad.collect())
    }
}
