//! The three stages of an ingest.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::{Batch, Buffers, Run};
use super::builder::{Builder as TreeBuilder, NewNode};
use super::pack_put::{Pending, pack_put};
use super::{Disk, Progress};
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::pack::{self, Builder as PackBuilder, Encoded};
use crate::reader::nodes::TreeReader;
use crate::session::SessionInner;
use crate::tree::TreeRoot;
use crate::{CHUNK_BYTES, compute};

const CHUNK: u64 = CHUNK_BYTES as u64;
const PUTS_AT_ONCE: usize = 2;

/// What all stages share.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: Arc<SessionInner>,
    pub(crate) virtual_bytes: u64,
    /// The parent and its allocated bytes.
    pub(crate) parent: Option<(TreeRoot, u64)>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) buffers: Buffers,
    pub(crate) failed: AtomicBool,
}

struct Hashed {
    batch: Batch,
    digests: Vec<Option<Digest>>,
}

/// What the store does not have: chunks by their place in the buffer, and nodes.
struct Missing {
    buffer: Vec<u8>,
    chunks: Vec<(usize, Digest)>,
    nodes: Vec<NewNode>,
}

/// Runs the stages until the input ends or one of them fails. All of them come to their end, and with them
/// every write to the backend that was begun, so that a failed ingest leaves nothing that lands later.
pub(crate) async fn run(job: Job, input: mpsc::Receiver<Batch>) -> Result<Disk> {
    let job = Arc::new(job);
    let pending = Pending::default();
    let (hashed_out, hashed_in) = mpsc::channel(1);
    let (missing_out, missing_in) = mpsc::channel(1);
    let hash = hash_stage(Arc::clone(&job), input, hashed_out);
    let index = index_stage(Arc::clone(&job), pending.clone(), hashed_in, missing_out);
    let pack = pack_stage(Arc::clone(&job), pending, missing_in);
    let (hash, index, pack) = tokio::join!(job.watch(hash), job.watch(index), job.watch(pack));
    // A stage whose successor stopped only says that it was stopped: the last error is the cause.
    pack?;
    let (root, allocated) = index?;
    hash?;
    job.session.tree_keep(root, allocated);
    Ok(Disk {
        root,
        stats: job.progress.stats(),
    })
}

impl Job {
    /// Remembers that a stage failed: what follows need not be finished.
    async fn watch<T>(&self, stage: impl Future<Output = Result<T>>) -> Result<T> {
        let result = stage.await;
        if result.is_err() {
            self.failed.store(true, Relaxed);
        }
        result
    }
}

async fn hash_stage(
    job: Arc<Job>,
    mut input: mpsc::Receiver<Batch>,
    out: mpsc::Sender<Hashed>,
) -> Result<()> {
    while let Some(mut batch) = input.recv().await {
        let keys = job.session.store.inner.keys.clone();
        let hashed = compute(move || {
            let digests = batch.read_and_hash(&keys)?;
            Ok(Hashed { batch, digests })
        })
        .await?;
        out.send(hashed).await.map_err(|_| stopped())?;
    }
    Ok(())
}

async fn index_stage(
    job: Arc<Job>,
    pending: Pending,
    mut input: mpsc::Receiver<Hashed>,
    out: mpsc::Sender<Missing>,
) -> Result<(TreeRoot, u64)> {
    let session = &job.session;
    let parent = job
        .parent
        .map(|(root, _)| TreeReader::new(session.store.clone(), root));
    let keys = session.store.inner.keys.clone();
    let mut tree = TreeBuilder::new(keys, job.virtual_bytes, session.domain, parent)?;
    let mut allocated = job.parent.map_or(0, |(_, bytes)| bytes);
    while let Some(hashed) = input.recv().await {
        let (added, replaced) = tree_feed(&job, &mut tree, &hashed).await?;
        allocated = allocated + added * CHUNK - replaced * CHUNK;
        let nodes = std::mem::take(&mut tree.nodes);
        let Hashed { batch, digests } = hashed;
        if let Some(missing) = missing(&job, &pending, batch.buffer, &digests, nodes).await? {
            out.send(missing).await.map_err(|_| stopped())?;
        }
    }
    if job.failed.load(Relaxed) {
        return Err(stopped());
    }
    let root = tree.finish();
    let nodes = std::mem::take(&mut tree.nodes);
    if let Some(missing) = missing(&job, &pending, Vec::new(), &[], nodes).await? {
        out.send(missing).await.map_err(|_| stopped())?;
    }
    Ok((root, allocated))
}

/// Adds a batch to the tree. Gives the number of chunks with data, and of those of the parent that are gone.
async fn tree_feed(job: &Job, tree: &mut TreeBuilder, hashed: &Hashed) -> Result<(u64, u64)> {
    let progress = &job.progress;
    let mut digests = hashed.digests.iter();
    let (mut added, mut replaced) = (0, 0);
    for run in &hashed.batch.runs {
        let count = match *run {
            Run::Zero(count) => {
                replaced += tree.replaced(count).await?;
                tree.zeros(count);
                progress.zero.fetch_add(count * CHUNK, Relaxed);
                count
            }
            Run::Parent(count) => {
                tree.parent(count).await?;
                progress.parent.fetch_add(count * CHUNK, Relaxed);
                count
            }
            Run::Chunks(count) => {
                replaced += tree.replaced(count).await?;
                let before = added;
                for digest in digests
                    .by_ref()
                    .take(usize::try_from(count).unwrap_or(usize::MAX))
                {
                    tree.chunk(*digest);
                    added += u64::from(digest.is_some());
                }
                progress
                    .zero
                    .fetch_add((count - (added - before)) * CHUNK, Relaxed);
                count
            }
        };
        progress.logical.fetch_add(count * CHUNK, Relaxed);
    }
    Ok((added, replaced))
}

/// Finds out what of a batch the store lacks, and promises it to the pack stage.
async fn missing(
    job: &Job,
    pending: &Pending,
    buffer: Vec<u8>,
    digests: &[Option<Digest>],
    nodes: Vec<NewNode>,
) -> Result<Option<Missing>> {
    let mut seen = HashSet::with_capacity(digests.len() + nodes.len());
    let mut asked = Vec::with_capacity(digests.len() + nodes.len());
    {
        // Asked before the database: what leaves this set is in the database already.
        let pending = pending.set();
        let all = digests
            .iter()
            .flatten()
            .copied()
            .chain(nodes.iter().map(|node| node.digest));
        asked.extend(all.filter(|digest| !pending.contains(digest) && seen.insert(*digest)));
    }
    let mut wanted: HashSet<Digest> = asked.iter().copied().collect();
    if !asked.is_empty() {
        for hit in job.session.lookup_and_pin(&asked).await? {
            wanted.remove(&hit);
        }
    }
    pending.set().extend(wanted.iter().copied());
    let mut chunks = Vec::new();
    let mut known = 0;
    for (place, digest) in digests.iter().enumerate() {
        match digest {
            Some(digest) if wanted.remove(digest) => chunks.push((place, *digest)),
            Some(_) => known += CHUNK,
            None => {}
        }
    }
    job.progress.deduplicated.fetch_add(known, Relaxed);
    job.progress.new.fetch_add(chunks.len() as u64 * CHUNK, Relaxed);
    let nodes: Vec<_> = nodes
        .into_iter()
        .filter(|node| wanted.remove(&node.digest))
        .collect();
    if chunks.is_empty() && nodes.is_empty() {
        job.buffers.give(buffer);
        return Ok(None);
    }
    Ok(Some(Missing {
        buffer,
        chunks,
        nodes,
    }))
}

async fn pack_stage(job: Arc<Job>, pending: Pending, input: mpsc::Receiver<Missing>) -> Result<()> {
    let mut packer = Packer {
        puts: JoinSet::new(),
        data: None,
        nodes: None,
        job,
        pending,
    };
    let mut result = packer.run(input).await;
    while !packer.puts.is_empty() {
        result = result.and(packer.put_join().await);
    }
    result
}

fn chunks_encode(missing: &Missing) -> Result<Vec<Encoded>> {
    let chunk = CHUNK_BYTES as usize;
    missing
        .chunks
        .par_iter()
        .map(|(place, digest)| {
            let plain = &missing.buffer[place * chunk..(place + 1) * chunk];
            pack::frame_encode(*digest, FrameKind::Data, 0, plain)
        })
        .collect()
}

fn nodes_encode(nodes: &[NewNode]) -> Result<Vec<Encoded>> {
    let encode = |node: &NewNode| pack::frame_encode(node.digest, FrameKind::Node, node.level, &node.bytes);
    nodes.iter().map(encode).collect()
}

/// Fills packs and sends the full ones off. Nodes have packs of their own, so that a tree is read with few
/// requests, unless everything left fits into one.
struct Packer {
    job: Arc<Job>,
    pending: Pending,
    puts: JoinSet<Result<u64>>,
    data: Option<PackBuilder>,
    nodes: Option<PackBuilder>,
}

impl Packer {
    async fn run(&mut self, mut input: mpsc::Receiver<Missing>) -> Result<()> {
        while let Some(missing) = input.recv().await {
            let (buffer, chunks, nodes) = compute(move || {
                let chunks = chunks_encode(&missing)?;
                let nodes = nodes_encode(&missing.nodes)?;
                Ok((missing.buffer, chunks, nodes))
            })
            .await?;
            self.job.buffers.give(buffer);
            for frame in &chunks {
                self.push(FrameKind::Data, frame).await?;
            }
            for frame in &nodes {
                self.push(FrameKind::Node, frame).await?;
            }
        }
        if self.job.failed.load(Relaxed) {
            return Ok(());
        }
        self.finish().await
    }

    async fn push(&mut self, kind: FrameKind, frame: &Encoded) -> Result<()> {
        let store = &self.job.session.store.inner;
        let slot = match kind {
            FrameKind::Data => &mut self.data,
            FrameKind::Node => &mut self.nodes,
        };
        let builder =
            slot.get_or_insert_with(|| PackBuilder::new(store.options.world.uuid(), store.header.store_id));
        builder.push(frame)?;
        if builder.sealed_bytes() < pack::TARGET_BYTES {
            return Ok(());
        }
        match slot.take() {
            Some(full) => self.send(full).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, builder: PackBuilder) -> Result<()> {
        while self.puts.len() >= PUTS_AT_ONCE {
            self.put_join().await?;
        }
        self.puts.spawn(pack_put(
            Arc::clone(&self.job.session),
            builder,
            self.pending.clone(),
        ));
        Ok(())
    }

    async fn put_join(&mut self) -> Result<()> {
        let Some(done) = self.puts.join_next().await else {
            return Ok(());
        };
        let bytes =
            done.map_err(|error| Error::new(Kind::Io, "a write was stopped").with_source(error))??;
        self.job.progress.stored.fetch_add(bytes, Relaxed);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        if let (Some(data), Some(nodes)) = (&mut self.data, &self.nodes)
            && data.sealed_bytes() + nodes.sealed_bytes() <= pack::LIMIT_BYTES
        {
            data.append(nodes)?;
            self.nodes = None;
        }
        for builder in [self.data.take(), self.nodes.take()].into_iter().flatten() {
            self.send(builder).await?;
        }
        Ok(())
    }
}

impl Drop for Packer {
    /// When the ingest is dropped, writes that have begun go on to their end rather than be left half-way.
    fn drop(&mut self) {
        self.puts.detach_all();
    }
}

/// A stage found its neighbour gone; the neighbour's own error is the one that is reported.
fn stopped() -> Error {
    Error::new(Kind::Io, "the ingest was stopped")
}
