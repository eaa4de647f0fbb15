//! What disks need and the store has not whole: it is marked as damaged, or in no index (a recovery writes no row of a
//! pack that is missing, or of which nothing can be read). The trees say what is needed, as far down as they can be
//! read: where a node is missing, what it names is not known before it is back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Result};
use crate::reader::packs::Caching;
use crate::rows;
use crate::store::Store;
use crate::tree::{Node, TreeRoot};
use crate::verify::{VerifyProgress, damaging};

/// What is named by dedup domain and digest. One domain's is not another's, even where the digests are equal.
pub(crate) type Names = HashSet<(i64, Digest)>;

/// What is to be looked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Chunks and tree nodes.
    pub(crate) frames: Names,
    /// Whole objects, with their sizes.
    pub(crate) objects: HashMap<(i64, Digest), u64>,
    /// Whether any node cannot be read: more may be needed than is in here.
    pub(crate) is_cut: bool,
}

impl Wanted {
    pub(crate) fn names(&self) -> impl Iterator<Item = &(i64, Digest)> {
        self.frames.iter().chain(self.objects.keys())
    }

    pub(crate) fn has(&self, name: &(i64, Digest)) -> bool {
        self.frames.contains(name) || self.objects.contains_key(name)
    }

    pub(crate) fn by_domain(&self) -> BTreeMap<i64, Vec<Digest>> {
        let mut of: BTreeMap<i64, Vec<Digest>> = BTreeMap::new();
        for (domain, digest) in self.names() {
            of.entry(*domain).or_default().push(*digest);
        }
        of
    }
}

/// A walk over all trees. A node that several disks share is read once.
struct Look<'a> {
    store: &'a Store,
    seen: Names,
    wanted: Wanted,
}

impl Store {
    /// What disks and whole objects need and the store has not whole, by the marks in the index.
    pub(crate) async fn wanted(&self, progress: &VerifyProgress) -> Result<Wanted> {
        loop {
            let mut look = Look {
                store: self,
                seen: Names::new(),
                wanted: Wanted::default(),
            };
            let mut hurt = Vec::new();
            for root in self.root_list().await? {
                if look.root(root.tree).await? {
                    hurt.push(root);
                }
                progress.roots.fetch_add(1, Relaxed);
            }
            look.objects().await?;
            // What was deleted meanwhile may have lost chunks to gc, which nobody misses.
            if self.roots_gone(&hurt).await?.is_empty() {
                return Ok(look.wanted);
            }
        }
    }
}

impl Look<'_> {
    /// Walks one disk; whether anything of it is wanted that was not before.
    async fn root(&mut self, tree: TreeRoot) -> Result<bool> {
        if tree.digest == Digest::EMPTY {
            return Ok(false);
        }
        let (known, domain) = (self.wanted.frames.len(), tree.domain);
        let mut open = vec![(tree.digest, tree.level)];
        while let Some((digest, level)) = open.pop() {
            if !self.seen.insert((domain, digest)) {
                continue;
            }
            let children = self.children(domain, digest, level).await?;
            if level > 0 {
                open.extend(children.into_iter().map(|child| (child, level - 1)));
            } else if !children.is_empty() {
                let bad = self.store.marked(domain, &children).await?;
                let bad = bad.into_keys().map(|digest| (domain, digest));
                self.wanted.frames.extend(bad);
            }
        }
        Ok(self.wanted.frames.len() > known)
    }

    /// What a node names. One that cannot be read is wanted itself, and names nothing.
    async fn children(&mut self, domain: i64, digest: Digest, level: u8) -> Result<Vec<Digest>> {
        let read = self
            .store
            .frame_find(FrameKind::Node, domain, digest, Caching::Pass)
            .await;
        match read.and_then(|bytes| Node::decode(&bytes, level)) {
            Ok(node) => Ok(node.present().map(|(_, child)| child).collect()),
            Err(error) if damaging(&error) => {
                self.wanted.frames.insert((domain, digest));
                self.wanted.is_cut = true;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn objects(&mut self) -> Result<()> {
        let store = &self.store.inner;
        let roots = rows::roots_list(&store.db, store.number).await;
        let roots = roots.map_err(|error| Error::db("cannot read the roots", error))?;
        let mut named: BTreeMap<i64, HashMap<Digest, u64>> = BTreeMap::new();
        for of in roots.iter().filter_map(rows::root::Model::object) {
            named.entry(of.domain).or_default().insert(of.digest, of.bytes);
        }
        for (domain, sizes) in named {
            let digests: Vec<Digest> = sizes.keys().copied().collect();
            for digest in self.store.marked(domain, &digests).await?.into_keys() {
                self.wanted.objects.insert((domain, digest), sizes[&digest]);
            }
        }
        Ok(())
    }
}
