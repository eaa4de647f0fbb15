//! Taking a disk in: extents in ascending order become chunks, packs and a tree.
//!
//! Three stages run at once, with at most one batch waiting between any two: read and hash, look up and
//! build the tree, compress and pack. Writing a pack and publishing its rows goes on beside them, two packs
//! at a time.
//!
//! Memory is bounded whatever the disk's size. All ingests of a store together: 6 batches of 8 MiB and 3 packs
//! of 13 MiB, about 90 MiB. Each of them besides: a pack being filled and the tree's, and, where its extents
//! come as bytes and not as places in a file, up to 24 MiB of those.

mod batch;
mod builder;
pub(crate) mod pack_put;
mod stages;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::SeekFrom;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::CHUNK_BYTES;
use crate::error::{Error, Kind, Result};
use crate::reader::DiskReader;
use crate::session::SessionInner;
use crate::tree::{TreeRoot, root_level};
pub(crate) use batch::BATCH_BYTES;
use batch::{Batch, Source};

/// A finished disk, not yet published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What to publish and to read by.
    pub root: TreeRoot,
    /// What it took.
    pub stats: IngestStats,
}

/// Bytes of an ingest, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestStats {
    /// Data looked at so far, in whole chunks, zeros included.
    pub logical_bytes: u64,
    /// Data that the store did not have.
    pub new_bytes: u64,
    /// What that takes in packs.
    pub stored_bytes: u64,
    /// Data that the store (or an earlier part of the disk) had already.
    pub deduplicated_bytes: u64,
    /// Zeros, which take nothing.
    pub zero_bytes: u64,
    /// Taken over from the parent without looking at it (zeros of the parent too).
    pub parent_bytes: u64,
}

/// Counters that another task may read while the ingest runs.
#[derive(Debug, Default)]
pub struct Progress {
    logical: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
    deduplicated: AtomicU64,
    zero: AtomicU64,
    parent: AtomicU64,
}

impl Progress {
    /// The figures now.
    pub fn stats(&self) -> IngestStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngestStats {
            logical_bytes: get(&self.logical),
            new_bytes: get(&self.new),
            stored_bytes: get(&self.stored),
            deduplicated_bytes: get(&self.deduplicated),
            zero_bytes: get(&self.zero),
            parent_bytes: get(&self.parent),
        }
    }
}

/// A disk being taken in. Dropping it stops the work; nothing of it becomes visible.
#[derive(Debug)]
pub struct Ingest {
    virtual_bytes: u64,
    position: u64,
    batch: Batch,
    sender: Option<mpsc::Sender<Batch>>,
    worker: Option<JoinHandle<Result<Disk>>>,
    parent: Option<DiskReader>,
    progress: Arc<Progress>,
    session: Arc<SessionInner>,
}

const CHUNK: u64 = CHUNK_BYTES as u64;
/// Files are asked for holes only where the extent is at least this long.
const HOLE_SEARCH_BYTES: u64 = 1 << 20;

impl Ingest {
    pub(crate) fn start(
        session: Arc<SessionInner>,
        virtual_bytes: u64,
        parent: Option<(TreeRoot, u64)>,
    ) -> Result<Self> {
        root_level(virtual_bytes)?;
        if i64::try_from(virtual_bytes).is_err() {
            return Err(Error::new(
                Kind::Invalid,
                format!("a disk of {virtual_bytes} bytes is too large"),
            ));
        }
        if let Some(parent) = parent
            .map(|(root, _)| root)
            .filter(|root| root.virtual_bytes > virtual_bytes)
        {
            let text = format!(
                "a disk cannot shrink from its parent's {} bytes",
                parent.virtual_bytes
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        let progress = Arc::new(Progress::default());
        let memory = session.store.inner.memory.user();
        let reader = parent.map(|(root, _)| session.store.disk_open(root));
        let (sender, receiver) = mpsc::channel(1);
        let job = stages::Job {
            session: Arc::clone(&session),
            virtual_bytes,
            parent,
            progress: Arc::clone(&progress),
            memory,
            failed: AtomicBool::new(false),
        };
        let worker = Some(tokio::spawn(stages::run(job, receiver)));
        let batch = Batch::default();
        let sender = Some(sender);
        Ok(Self {
            virtual_bytes,
            position: 0,
            batch,
            sender,
            worker,
            parent: reader,
            progress,
            session,
        })
    }

    /// Counters that can be read while the ingest runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Where the next extent begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next `length` bytes are zero.
    pub async fn extent_zero(&mut self, length: u64) -> Result<()> {
        self.check(length)?;
        let head = self.to_boundary(length);
        self.fill(head, || Source::Zero).await?;
        let whole = (length - head) / CHUNK;
        if whole > 0 {
            self.batch.run_zero(whole);
            self.position += whole * CHUNK;
            self.flush_if_full().await?;
        }
        self.fill(length - head - whole * CHUNK, || Source::Zero).await
    }

    /// The next `length` bytes are the parent's (zeros without one).
    pub async fn extent_parent(&mut self, length: u64) -> Result<()> {
        if self.parent.is_none() {
            return self.extent_zero(length).await;
        }
        self.check(length)?;
        let head = self.to_boundary(length);
        self.fill_from_parent(head).await?;
        let whole = (length - head) / CHUNK;
        if whole > 0 {
            self.batch.run_parent(whole);
            self.position += whole * CHUNK;
            self.flush_if_full().await?;
        }
        self.fill_from_parent(length - head - whole * CHUNK).await
    }

    /// The next bytes are these.
    pub async fn extent_data(&mut self, data: Bytes) -> Result<()> {
        self.check(data.len() as u64)?;
        let mut at = 0;
        while at < data.len() {
            let take = self.batch.room().min(data.len() - at);
            self.batch.push(take, &Source::Bytes(data.slice(at..at + take)));
            self.position += take as u64;
            at += take;
            self.flush_if_full().await?;
        }
        Ok(())
    }

    /// The next `length` bytes are those of `file` from `offset`. Holes are found and not read; the file is
    /// read later, by several threads, and must not change until [`Ingest::finish`]. Its own position moves.
    pub async fn extent_file(&mut self, file: &Arc<File>, offset: u64, length: u64) -> Result<()> {
        self.check(length)?;
        if length < HOLE_SEARCH_BYTES {
            return self.file_run(file, offset, length).await;
        }
        let searched = Arc::clone(file);
        let world = &self.session.store.inner.options.world;
        let runs = world
            .compute(move || Ok(data_runs(&searched, offset, length)))
            .await?;
        for (data, length) in runs {
            match data {
                Some(at) => self.file_run(file, at, length).await?,
                None => self.extent_zero(length).await?,
            }
        }
        Ok(())
    }

    async fn file_run(&mut self, file: &Arc<File>, offset: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let take = self
                .batch
                .room()
                .min(usize::try_from(length - done).unwrap_or(usize::MAX));
            self.batch
                .push(take, &Source::File(Arc::clone(file), offset + done));
            self.position += take as u64;
            done += take as u64;
            self.flush_if_full().await?;
        }
        Ok(())
    }

    /// Ends the disk: what was not given is the parent's, or zero. Waits until every pack is durable and in
    /// the index.
    pub async fn finish(mut self) -> Result<Disk> {
        self.extent_parent(self.virtual_bytes - self.position).await?;
        let ragged = self.position.next_multiple_of(CHUNK) - self.position;
        if ragged > 0 && !self.batch.is_aligned() {
            self.batch
                .push(usize::try_from(ragged).unwrap_or_default(), &Source::Zero);
        }
        if !self.batch.is_empty() {
            self.flush().await?;
        }
        self.sender = None;
        self.join().await
    }

    fn check(&self, length: u64) -> Result<()> {
        if self
            .position
            .checked_add(length)
            .is_some_and(|end| end <= self.virtual_bytes)
        {
            return Ok(());
        }
        let text = format!(
            "an extent of {length} bytes at {} reaches over the disk's end",
            self.position
        );
        Err(Error::new(Kind::Invalid, text))
    }

    /// Bytes up to the next chunk boundary, when the position is within a chunk.
    fn to_boundary(&self, length: u64) -> u64 {
        (self.position.next_multiple_of(CHUNK) - self.position).min(length)
    }

    /// Puts less than a chunk into the batch.
    async fn fill(&mut self, length: u64, source: impl FnOnce() -> Source) -> Result<()> {
        if length > 0 {
            self.batch
                .push(usize::try_from(length).unwrap_or_default(), &source());
            self.position += length;
            self.flush_if_full().await?;
        }
        Ok(())
    }

    async fn fill_from_parent(&mut self, length: u64) -> Result<()> {
        let Some(parent) = self.parent.clone().filter(|_| length > 0) else {
            return Ok(());
        };
        let mut data = vec![0; usize::try_from(length).unwrap_or_default()];
        let there = parent.virtual_bytes().saturating_sub(self.position).min(length);
        let there = usize::try_from(there).unwrap_or_default();
        if there > 0
            && let Err(error) = parent.read_at(self.position, &mut data[..there]).await
        {
            return Err(self.session.cause(error).await);
        }
        self.fill(length, || Source::Bytes(data.into())).await
    }

    async fn flush_if_full(&mut self) -> Result<()> {
        if self.batch.is_full() {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let sent = match &self.sender {
            Some(sender) => sender.send(batch).await.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        // The stages have stopped: their error is the reason.
        match self.join().await {
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(Kind::Io, "the ingest was stopped")),
        }
    }

    async fn join(&mut self) -> Result<Disk> {
        let Some(worker) = self.worker.take() else {
            return Err(Error::new(Kind::Io, "the ingest has failed before"));
        };
        worker
            .await
            .map_err(|error| Error::new(Kind::Io, "the ingest was stopped").with_source(error))?
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.abort();
        }
    }
}

/// Splits a part of a file into data (with its place) and holes. Where the file system cannot tell, all is data.
fn data_runs(file: &File, offset: u64, length: u64) -> Vec<(Option<u64>, u64)> {
    let end = offset + length;
    let mut runs = Vec::new();
    let mut at = offset;
    while at < end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(found) => found.min(end),
            // No data after `at`; a file that is too short is found out when it is read.
            Err(rustix::io::Errno::NXIO) if file.metadata().is_ok_and(|data| data.len() >= end) => end,
            Err(_) => at,
        };
        if data > at {
            runs.push((None, data - at));
            at = data;
            continue;
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(end);
        let hole = if hole <= at { end } else { hole.min(end) };
        runs.push((Some(at), hole - at));
        at = hole;
    }
    runs
}
