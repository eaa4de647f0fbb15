//! The job `image.checksum`: reads a disk once and hashes both files that it can be downloaded as.

use bytes::Bytes;
use disk::layout::Segment;
use futures::TryStreamExt as _;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use store::{DiskReader, Piece};

use super::{Sum, rows};
use crate::images::download::{Export, Format, etag};
use crate::platform::error::{Context, Error, Result};
use crate::platform::jobs::{JobContext, JobError, JobKind};

/// The job's kind.
pub const CHECKSUM: &str = "image.checksum";
/// Hashed in one go on another thread.
const BATCH_BYTES: usize = 4 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The kind, for the list of job kinds.
pub fn kind() -> JobKind {
    JobKind {
        name: CHECKSUM,
        run: |context| Box::pin(run(context)),
        failed: crate::platform::jobs::failed_nothing,
    }
}

#[derive(Deserialize)]
struct Payload {
    image_id: i64,
}

async fn run(context: JobContext) -> Result<(), JobError> {
    let Payload { image_id } = context.job.payload()?;
    let app = &context.app;
    let root = app
        .store
        .root_get("image", &image_id.to_string())
        .await
        .map_err(Error::from)?;
    // Deleted since: nobody will ask.
    let Some(root) = root else { return Ok(()) };
    let reader = app.store.disk_open(root.tree);
    let export = Export::open(reader.clone(), Format::Qcow2).await?;
    let raw_length = reader.virtual_bytes();
    let mut both = Both::new(&context, reader);
    both.read(&export).await?;
    let (raw, qcow2) = both.finish().await?;
    let sums = [
        (Format::Raw, raw, raw_length),
        (Format::Qcow2, qcow2, export.length()),
    ];
    let tx = context.write().await?;
    for (format, sha256, length) in sums {
        let sum = Sum {
            format,
            etag: etag(&root.tree, format),
            sha256: hex::encode(sha256),
            length,
        };
        rows::checksum_set(&*tx, app.clock.now(), image_id, &sum).await?;
    }
    context.complete_in_tx(&tx).await?;
    Ok(tx.commit().await?)
}

/// What the next bytes belong to.
enum Part {
    /// The qcow2 file's own.
    File(Bytes),
    /// The disk's, and so both files'.
    Disk(Bytes),
    /// Zeros that only the raw file has.
    RawZero(u64),
    /// Zeros that only the qcow2 file has.
    FileZero(u64),
    /// Zeros of both.
    DiskZero(u64),
}

/// The two hashes, one behind the other on the disk.
struct Both<'a> {
    context: &'a JobContext,
    reader: DiskReader,
    hashes: Option<(Sha256, Sha256)>,
    parts: Vec<Part>,
    held: usize,
    /// How far the raw file's hash is.
    raw_at: u64,
}

impl<'a> Both<'a> {
    fn new(context: &'a JobContext, reader: DiskReader) -> Self {
        Self {
            context,
            reader,
            hashes: Some((Sha256::new(), Sha256::new())),
            parts: Vec::new(),
            held: 0,
            raw_at: 0,
        }
    }

    /// Goes through the qcow2 file in its order. Its data clusters are in the disk's order, so the raw file can be
    /// followed at the same time: what is skipped between them is zeros.
    async fn read(&mut self, export: &Export) -> Result<(), JobError> {
        for segment in export.segments(0..export.length()) {
            match segment {
                Segment::Bytes(bytes) => self.push(Part::File(Bytes::from(bytes))).await?,
                Segment::Zero { length } => self.push(Part::FileZero(length)).await?,
                Segment::Disk { offset, length } => self.disk(offset, length).await?,
            }
        }
        let size = self.reader.virtual_bytes();
        self.skip_to(size).await
    }

    async fn disk(&mut self, offset: u64, length: u64) -> Result<(), JobError> {
        if offset < self.raw_at {
            return Err(Error::bug("a qcow2 layout is not in the disk's order").into());
        }
        let size = self.reader.virtual_bytes();
        self.skip_to(offset).await?;
        let end = (offset + length).min(size);
        let mut pieces = self.reader.stream(offset..end);
        while let Some(piece) = pieces.try_next().await.map_err(Error::from)? {
            match piece {
                Piece::Zero(length) => {
                    self.raw_at += length;
                    self.push(Part::DiskZero(length)).await?;
                }
                Piece::Data(bytes) => {
                    self.raw_at += bytes.len() as u64;
                    self.push(Part::Disk(bytes)).await?;
                }
            }
        }
        self.push(Part::FileZero(offset + length - end)).await
    }

    async fn skip_to(&mut self, offset: u64) -> Result<(), JobError> {
        let gap = offset - self.raw_at;
        self.raw_at = offset;
        self.push(Part::RawZero(gap)).await
    }

    async fn push(&mut self, part: Part) -> Result<(), JobError> {
        let bytes = match &part {
            Part::File(b) | Part::Disk(b) => b.len(),
            // Hashing a long gap takes as long as hashing data.
            Part::RawZero(n) | Part::FileZero(n) | Part::DiskZero(n) => {
                usize::try_from(*n).unwrap_or(usize::MAX)
            }
        };
        self.parts.push(part);
        self.held = self.held.saturating_add(bytes);
        if self.held < BATCH_BYTES {
            return Ok(());
        }
        self.context.check()?;
        self.context.progress(json!({
            "step": "checksum",
            "done_bytes": self.raw_at,
            "total_bytes": self.reader.virtual_bytes(),
        }));
        Ok(self.hash().await?)
    }

    async fn hash(&mut self) -> Result<()> {
        let parts = std::mem::take(&mut self.parts);
        self.held = 0;
        let (mut raw, mut qcow2) = self.hashes.take().expect("only taken here and put back");
        let stop = self.context.stop.clone();
        let work = move || {
            for part in parts {
                match part {
                    Part::File(bytes) => qcow2.update(&bytes),
                    Part::Disk(bytes) => {
                        raw.update(&bytes);
                        qcow2.update(&bytes);
                    }
                    Part::RawZero(n) => zeros(n, &stop, |z| raw.update(z)),
                    Part::FileZero(n) => zeros(n, &stop, |z| qcow2.update(z)),
                    Part::DiskZero(n) => zeros(n, &stop, |z| {
                        raw.update(z);
                        qcow2.update(z);
                    }),
                }
            }
            (raw, qcow2)
        };
        let done = tokio::task::spawn_blocking(work).await;
        self.hashes = Some(done.context("hashing broke off")?);
        Ok(())
    }

    async fn finish(mut self) -> Result<([u8; 32], [u8; 32]), JobError> {
        self.hash().await?;
        // A stop in the middle of zeros leaves hashes that are worth nothing.
        self.context.check()?;
        let (raw, qcow2) = self.hashes.take().expect("put back by hash");
        Ok((raw.finalize().into(), qcow2.finalize().into()))
    }
}

/// Feeds zeros, and gives up soon when the job has to stop.
fn zeros(mut length: u64, stop: &tokio_util::sync::CancellationToken, mut feed: impl FnMut(&[u8])) {
    while length > 0 && !stop.is_cancelled() {
        let now = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        feed(&ZEROS[..now]);
        length -= now as u64;
    }
}
