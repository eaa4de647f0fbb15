//! Marks what is needed: everything that roots, running sessions and their pins name, seen at one moment.
//!
//! Trees are walked level by level from the top. The nodes of a level are put into the order of their places, so that
//! packs of nodes are read from front to back with few requests, and each node once, whatever number of disks share it.
//! A mark is the domain and the first eight bytes of a digest: that two digests share them would only keep garbage.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures::{StreamExt as _, TryStreamExt as _};

use super::sorter::{Shelf, Sorted, Sorter};
use super::{Options, Pace, Progress};
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::pack;
use crate::reader::packs::Caching;
use crate::rows::{self, Location, Top};
use crate::store::{Store, pack_key};
use crate::tree::{LEVEL_LIMIT, Node};
use crate::writers::Writers;

/// Roots, pins and nodes that are looked at in one go.
const PAGE: u64 = 1000;
/// Requests to the backend at the same time.
const REQUESTS_AT_ONCE: usize = 8;
/// One request is at most this long…
const REQUEST_BYTES: u64 = 4 << 20;
/// …and skips at most this much that nobody asked for.
const REQUEST_GAP: u64 = 128 << 10;

/// Domain and the beginning of a digest.
pub(super) type Mark = [u8; 16];
/// Domain and digest of a node.
type Named = [u8; 40];
/// The same behind its place: object, offset, length.
type Placed = [u8; 56];

pub(super) fn mark_of(domain: i64, digest: &Digest) -> Mark {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&domain.to_be_bytes());
    mark[8..].copy_from_slice(&digest.0[..8]);
    mark
}

/// What a run knows after its look at the database.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) sorted: Sorted<16>,
    /// Rows that are not older than this may belong to a session that is not done.
    pub(super) before: i64,
    /// Those sessions.
    pub(super) writers: Writers,
}

/// What is found while walking.
struct Found {
    marks: Sorter<16>,
    /// Nodes that were named and not read yet, by level.
    levels: Vec<Sorter<40>>,
}

impl Found {
    fn new(shelf: &Arc<Shelf>) -> Self {
        let levels = (0..=LEVEL_LIMIT).map(|_| Sorter::new(shelf)).collect();
        Self {
            marks: Sorter::new(shelf),
            levels,
        }
    }

    fn top(&mut self, (domain, digest, level): &Top) -> Result<()> {
        let unreadable = || Error::new(Kind::Damaged, "a root in the database cannot be read");
        let digest = Digest::from_slice(digest).ok_or_else(unreadable)?;
        if digest == Digest::EMPTY {
            return Ok(());
        }
        self.marks.push(mark_of(*domain, &digest))?;
        if *level == rows::WHOLE_LEVEL {
            return Ok(());
        }
        let level = usize::try_from(*level)
            .ok()
            .and_then(|level| self.levels.get_mut(level));
        level.ok_or_else(unreadable)?.push(named(*domain, &digest))
    }

    fn children(&mut self, domain: i64, node: &Node) -> Result<u64> {
        let mut count = 0;
        for (_, digest) in node.present() {
            self.marks.push(mark_of(domain, &digest))?;
            if node.level > 0 {
                self.levels[usize::from(node.level) - 1].push(named(domain, &digest))?;
            }
            count += 1;
        }
        Ok(count)
    }
}

fn named(domain: i64, digest: &Digest) -> Named {
    let mut named = [0; 40];
    named[..8].copy_from_slice(&domain.to_be_bytes());
    named[8..].copy_from_slice(&digest.0);
    named
}

/// Marks for the run of `epoch`.
pub(super) async fn mark(store: &Store, epoch: i64, options: &Options, progress: &Progress) -> Result<Marks> {
    let shelf = Shelf::new(&options.folder);
    let mut found = Found::new(&shelf);
    let (before, writers) = look(store, epoch, options, progress, &mut found).await?;
    let mut pace = Pace::new(store);
    for level in (0..=LEVEL_LIMIT).rev() {
        let nodes = std::mem::replace(&mut found.levels[usize::from(level)], Sorter::new(&shelf));
        let mut nodes = places(store, nodes.finish()?, &shelf, options).await?;
        while let Some(requests) = requests(&mut nodes)? {
            options.check()?;
            let read = futures::stream::iter(requests).map(|request| nodes_read(store, level, request));
            let mut read = read.buffered(REQUESTS_AT_ONCE);
            while let Some(some) = read.try_next().await? {
                progress.nodes.fetch_add(some.len() as u64, Relaxed);
                for (domain, node) in some {
                    let count = found.children(domain, &node)?;
                    progress.entries.fetch_add(count, Relaxed);
                }
            }
            // Not between two of them: those under way would wait too, with what they hold of the database.
            pace.rest().await;
        }
    }
    let world = &store.inner.options.world;
    let sorted = world.compute(move || found.marks.finish()).await?;
    Ok(Marks {
        sorted,
        before,
        writers,
    })
}

/// The one look at the database from which everything follows.
async fn look(
    store: &Store,
    epoch: i64,
    options: &Options,
    progress: &Progress,
    found: &mut Found,
) -> Result<(i64, Writers)> {
    let context = |error| Error::db("cannot read what is kept", error);
    let number = store.inner.number;
    let tx = rows::snapshot(&store.inner.db).await.map_err(context)?;
    let (now_us, lease) = (store.inner.options.world.now_us(), store.inner.options.lease);
    // The run that a dry one foresees gives up first those whose leases are over.
    let alive_us = options.dry_run.then_some(now_us);
    let oldest = rows::sessions_oldest(&tx, number, alive_us)
        .await
        .map_err(context)?;
    let mut leases = rows::sessions_leases(&tx, number).await.map_err(context)?;
    leases.retain(|until_us| alive_us.is_none_or(|alive_us| *until_us >= alive_us));
    let mut after: Option<Top> = None;
    loop {
        options.check()?;
        let tops = rows::tops_page(&tx, number, after.as_ref(), (PAGE, !options.purged))
            .await
            .map_err(context)?;
        tops.iter().try_for_each(|top| found.top(top))?;
        progress.roots.fetch_add(tops.len() as u64, Relaxed);
        match tops.into_iter().last() {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    for top in rows::session_tops(&tx).await.map_err(context)? {
        found.top(&top)?;
    }
    pins_look(&tx, 0, |mark| found.marks.push(mark)).await?;
    // Nothing was written; that it could not be ended would change nothing.
    let _ = tx.rollback().await;
    let before = oldest.unwrap_or(epoch).min(epoch);
    Ok((before, Writers::new(&leases, lease, now_us)))
}

/// Tells the pins that are newer than `after`; gives the newest.
pub(super) async fn pins_look(
    tx: &rows::Tx,
    mut after: i64,
    mut tell: impl FnMut(Mark) -> Result<()>,
) -> Result<i64> {
    loop {
        let pins = rows::pins_after(tx, after, PAGE).await;
        let pins = pins.map_err(|error| Error::db("cannot read what is pinned", error))?;
        let Some((last, _, _)) = pins.last() else {
            return Ok(after);
        };
        after = *last;
        for (_, domain, digests) in &pins {
            for digest in digests.chunks_exact(32).filter_map(Digest::from_slice) {
                tell(mark_of(*domain, &digest))?;
            }
        }
    }
}

/// Looks nodes up in the order of their digests, and puts them into the order of their places.
async fn places(
    store: &Store,
    mut nodes: Sorted<40>,
    shelf: &Arc<Shelf>,
    options: &Options,
) -> Result<Sorted<56>> {
    let mut placed: Sorter<56> = Sorter::new(shelf);
    loop {
        options.check()?;
        let some = nodes.take(rows::LOOKUP)?;
        if some.is_empty() {
            return placed.finish();
        }
        for of_domain in some.chunk_by(|one, other| one[..8] == other[..8]) {
            let digests: Vec<Digest> = of_domain
                .iter()
                .filter_map(|named| Digest::from_slice(&named[8..]))
                .collect();
            let found = store.locate(i64_at(&of_domain[0], 0), &digests).await?;
            for (named, digest) in of_domain.iter().zip(digests) {
                let at = found
                    .get(&digest)
                    .ok_or_else(|| Error::new(Kind::Damaged, format!("tree node {digest} is in no index")))?;
                placed.push(placed_of(named, *at))?;
            }
        }
    }
}

fn placed_of(named: &Named, at: Location) -> Placed {
    let mut placed = [0; 56];
    placed[..8].copy_from_slice(&at.object.to_be_bytes());
    placed[8..12].copy_from_slice(&at.offset.to_be_bytes());
    placed[12..16].copy_from_slice(&at.length.to_be_bytes());
    placed[16..].copy_from_slice(named);
    placed
}

/// A node that is to be read.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    domain: i64,
    digest: Digest,
    at: Location,
}

impl Wanted {
    fn new(placed: &Placed) -> Self {
        let u32_at = |at: usize| u32::from_be_bytes(placed[at..at + 4].try_into().unwrap_or_default());
        Self {
            domain: i64_at(placed, 16),
            digest: Digest::from_slice(&placed[24..]).unwrap_or(Digest::EMPTY),
            at: Location {
                object: i64_at(placed, 0),
                offset: u32_at(8),
                length: u32_at(12),
            },
        }
    }

    fn end(&self) -> u64 {
        u64::from(self.at.offset) + u64::from(self.at.length)
    }
}

fn i64_at(record: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(record[at..at + 8].try_into().unwrap_or_default())
}

/// The next nodes, those that lie near each other together. `None` at the end.
fn requests(nodes: &mut Sorted<56>) -> Result<Option<Vec<Vec<Wanted>>>> {
    let some = nodes.take(usize::try_from(PAGE).unwrap_or(usize::MAX))?;
    let wanted: Vec<Wanted> = some.iter().map(Wanted::new).collect();
    let mut out: Vec<Vec<Wanted>> = Vec::new();
    for one in wanted {
        if let Some(group) = out.last_mut()
            && let (Some(first), Some(last)) = (group.first(), group.last())
            && first.at.object == one.at.object
            && u64::from(one.at.offset) <= last.end() + REQUEST_GAP
            && one.end() <= u64::from(first.at.offset) + REQUEST_BYTES
        {
            group.push(one);
            continue;
        }
        out.push(vec![one]);
    }
    Ok((!out.is_empty()).then_some(out))
}

/// Reads neighbours with one request.
async fn nodes_read(store: &Store, level: u8, wanted: Vec<Wanted>) -> Result<Vec<(i64, Node)>> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
        return Ok(Vec::new());
    };
    let base = first.at.offset;
    let read = async {
        let pack = store.stored(first.at.object).await?.id;
        let key = pack_key(pack);
        let data = store
            .inner
            .backend
            .get_range(&key, u64::from(base)..last.end())
            .await?;
        Ok::<_, Error>((pack, key, data))
    };
    let (pack, key, data) = match read.await {
        // The nodes may have moved since they were looked up.
        Err(error) if error.kind() == Kind::NotFound => {
            let found = nodes_find(store, level, &wanted).await;
            return found.map_err(|still| still.context(error));
        }
        read => read?,
    };
    let keys = store.inner.keys.clone();
    store
        .inner
        .options
        .world
        .compute(move || {
            let opens = keys.pack_key(pack)?;
            let node = |one: &Wanted| {
                let from = (one.at.offset - base) as usize;
                let frame = data.get(from..from + one.at.length as usize);
                let frame = frame.ok_or_else(|| Error::new(Kind::Damaged, "the object is too short"))?;
                let plain = pack::frame_open_with(&keys, opens.as_ref(), FrameKind::Node, one.digest, frame)?;
                Ok((one.domain, Node::decode(&plain, level)?))
            };
            let nodes: Result<Vec<_>> = wanted.iter().map(node).collect();
            nodes.map_err(|error| error.context(key))
        })
        .await
}

/// Reads nodes one by one, each where it lies now.
async fn nodes_find(store: &Store, level: u8, wanted: &[Wanted]) -> Result<Vec<(i64, Node)>> {
    let mut nodes = Vec::with_capacity(wanted.len());
    for one in wanted {
        let plain = store
            .frame_find(FrameKind::Node, one.domain, one.digest, Caching::Pass)
            .await?;
        nodes.push((one.domain, Node::decode(&plain, level)?));
    }
    Ok(nodes)
}
