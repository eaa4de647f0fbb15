//! The three stages of an ingest.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::{Batch, Run};
use super::builder::{Builder as TreeBuilder, NewNode};
use super::pack_put::{Pending, pack_put};
use super::{Disk, Progress};
use crate::CHUNK_BYTES;
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::memory::{Buffer, PackBytes, User};
use crate::pack::{self, Builder as PackBuilder, Encoded};
use crate::reader::nodes::TreeReader;
use crate::session::SessionInner;
use crate::tree::TreeRoot;

const CHUNK: u64 = CHUNK_BYTES as u64;
const PUTS_AT_ONCE: usize = 3;

/// What all stages share.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: Arc<SessionInner>,
    pub(crate) virtual_bytes: u64,
    /// The parent and its allocated bytes.
    pub(crate) parent: Option<(TreeRoot, u64)>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) memory: User,
    pub(crate) failed: AtomicBool,
}

/// A batch with its bytes, where it has any.
struct Hashed {
    batch: Batch,
    buffer: Option<Buffer>,
    digests: Vec<Option<Digest>>,
}

/// What the store does not have: nodes, and chunks of the buffer, by their place in it.
struct Missing {
    buffer: Option<Buffer>,
    chunks: Vec<Option<Digest>>,
    nodes: Vec<NewNode>,
}

/// The same compressed, each frame at the place of its plain bytes.
struct Compressed {
    buffer: Option<Buffer>,
    chunks: Vec<(usize, Encoded)>,
    nodes: Vec<(NewNode, Encoded)>,
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
    let (root, allocated) = match pack.and(index).and_then(|done| hash.map(|()| done)) {
        Ok(done) => done,
        Err(error) => return Err(job.session.cause(error).await),
    };
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
        let mut buffer = None;
        if batch.has_bytes() {
            buffer = Some(job.memory.batch().await?);
        }
        let keys = job.session.store.inner.keys.clone();
        let world = &job.session.store.inner.options.world;
        let hashed = world
            .compute(move || {
                let digests = match &mut buffer {
                    Some(buffer) => batch.read_and_hash(&keys, buffer.bytes_mut())?,
                    None => Vec::new(),
                };
                Ok(Hashed {
                    batch,
                    buffer,
                    digests,
                })
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
        let Hashed { buffer, digests, .. } = hashed;
        if let Some(missing) = missing(&job, &pending, buffer, digests, nodes).await? {
            out.send(missing).await.map_err(|_| stopped())?;
        }
    }
    if job.failed.load(Relaxed) {
        return Err(stopped());
    }
    let root = tree.finish();
    let nodes = std::mem::take(&mut tree.nodes);
    if let Some(missing) = missing(&job, &pending, None, Vec::new(), nodes).await? {
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
    buffer: Option<Buffer>,
    mut digests: Vec<Option<Digest>>,
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
    let (mut known, mut new) = (0, 0);
    for slot in &mut digests {
        match *slot {
            Some(digest) if wanted.remove(&digest) => new += CHUNK,
            Some(_) => {
                known += CHUNK;
                *slot = None;
            }
            None => {}
        }
    }
    job.progress.deduplicated.fetch_add(known, Relaxed);
    job.progress.new.fetch_add(new, Relaxed);
    let nodes: Vec<_> = nodes
        .into_iter()
        .filter(|node| wanted.remove(&node.digest))
        .collect();
    if new == 0 && nodes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Missing {
        buffer,
        chunks: digests,
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

/// Compresses all of it on all cores.
fn compressed(missing: Missing) -> Result<Compressed> {
    let Missing {
        mut buffer,
        chunks,
        nodes,
    } = missing;
    let bytes = buffer.as_mut().map_or(&mut [][..], Buffer::bytes_mut);
    let chunks: Result<Vec<_>> = bytes
        .par_chunks_mut(CHUNK_BYTES as usize)
        .zip(&chunks)
        .enumerate()
        .filter_map(|(place, (plain, digest))| digest.map(|digest| (place, plain, digest)))
        .map(|(place, plain, digest)| {
            pack::frame_encode(digest, FrameKind::Data, 0, plain).map(|frame| (place, frame))
        })
        .collect();
    let nodes: Result<Vec<_>> = nodes
        .into_iter()
        .map(|mut node| {
            let frame = pack::frame_encode(node.digest, FrameKind::Node, node.level, &mut node.bytes)?;
            Ok((node, frame))
        })
        .collect();
    Ok(Compressed {
        chunks: chunks?,
        nodes: nodes?,
        buffer,
    })
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
            let world = &self.job.session.store.inner.options.world;
            let compressed = world.compute(move || compressed(missing)).await?;
            for (place, frame) in &compressed.chunks {
                let buffer = compressed.buffer.as_ref().map_or(&[][..], Buffer::bytes);
                self.push(frame, &buffer[place * CHUNK_BYTES as usize..]).await?;
            }
            for (node, frame) in &compressed.nodes {
                self.push(frame, &node.bytes).await?;
            }
        }
        if self.job.failed.load(Relaxed) {
            return Ok(());
        }
        self.finish().await
    }

    /// Adds a frame, whose bytes are the first of `bytes`, to its pack.
    async fn push(&mut self, frame: &Encoded, bytes: &[u8]) -> Result<()> {
        let session = &self.job.session;
        let store = &session.store.inner;
        let slot = match frame.kind {
            FrameKind::Node => &mut self.nodes,
            _ => &mut self.data,
        };
        let builder = match slot {
            Some(builder) => builder,
            None => slot.insert(PackBuilder::new(
                &store.keys,
                store.options.world.uuid(),
                store.header.store_id,
                session.domain,
                match frame.kind {
                    FrameKind::Node => PackBytes::of_nodes()?,
                    _ => store.memory.pack()?,
                },
            )?),
        };
        builder.push(frame, bytes)?;
        if !builder.is_full() {
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
        let permit = self.job.memory.memory().put().await?;
        let (session, pending) = (Arc::clone(&self.job.session), self.pending.clone());
        self.puts.spawn(async move {
            let _permit = permit;
            pack_put(session, builder, pending).await
        });
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
            && data.sealed_bytes() + nodes.sealed_bytes() <= pack::CAPACITY_BYTES
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
