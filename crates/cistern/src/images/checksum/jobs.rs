//! The job `image.checksum`: reads a disk once and hashes both files that it can be downloaded as.

use bytes::Bytes;
use disk::layout::Segment;
use futures::TryStreamExt as _;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use store::{DiskReader, Piece};

use super::{Sum, checksum_set_in_tx};
use crate::images::download::{Format, etag, qcow2_segments};
use crate::platform::error::{Context, Error, Result};
use crate::platform::jobs::{JobContext, JobError, JobKind};

/// The job's kind.
pub const CHECKSUM: &str = "image.checksum";
/// Hashed in one go on another thread.
const BATCH_BYTES: u64 = 4 << 20;
/// The same for zeros, which take no memory: some hundredths of a second.
const ZERO_BATCH_BYTES: u64 = 64 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The kind, for the list of job kinds.
pub fn kind() -> JobKind {
    JobKind {
        name: CHECKSUM,
        run: |context| Box::pin(run(context)),
        failed: crate::platform::jobs::failed_nothing,
        is_alone: false,
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
    let (segments, qcow2_length) = qcow2_segments(&reader).await?;
    let raw_length = reader.virtual_bytes();
    let mut both = Both::new(&context, reader);
    both.read(segments).await?;
    let (raw, qcow2) = both.finish().await?;
    let sums = [
        (Format::Raw, raw, raw_length),
        (Format::Qcow2, qcow2, qcow2_length),
    ];
    let tx = context.write().await?;
    for (format, sha256, length) in sums {
        let sum = Sum {
            format,
            etag: etag(&root.tree, format),
            sha256: hex::encode(sha256),
            length,
        };
        checksum_set_in_tx(&*tx, app.clock.now(), image_id, &sum).await?;
    }
    context.complete_in_tx(&tx).await?;
    Ok(tx.commit().await?)
}

/// Whose the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The raw file's only.
    Raw,
    /// The qcow2 file's only.
    Qcow2,
    /// The disk's, and so both files'.
    Both,
}

/// The next bytes.
enum Part {
    Data(Of, Bytes),
    /// So many zeros.
    Zero(Of, u64),
}

/// The two hashes, one behind the other on the disk.
struct Both<'a> {
    context: &'a JobContext,
    reader: DiskReader,
    hashes: Option<Hashes>,
    parts: Vec<Part>,
    held: u64,
    /// How far the raw file is, with the parts that are held.
    raw_at: u64,
}

impl<'a> Both<'a> {
    fn new(context: &'a JobContext, reader: DiskReader) -> Self {
        Self {
            context,
            reader,
            hashes: Some(Hashes::default()),
            parts: Vec::new(),
            held: 0,
            raw_at: 0,
        }
    }

    /// Goes through the qcow2 file in its order. Its data clusters are in the disk's order, so the raw file can be
    /// followed at the same time: what is skipped between them is zeros.
    async fn read(&mut self, segments: impl Iterator<Item = Segment>) -> Result<(), JobError> {
        for segment in segments {
            match segment {
                Segment::Bytes(bytes) => self.data(Of::Qcow2, Bytes::from(bytes)).await?,
                Segment::Zero { length } => self.zeros(Of::Qcow2, length).await?,
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
                Piece::Zero(length) => self.zeros(Of::Both, length).await?,
                Piece::Data(bytes) => self.data(Of::Both, bytes).await?,
            }
        }
        self.zeros(Of::Qcow2, offset + length - end).await
    }

    async fn skip_to(&mut self, offset: u64) -> Result<(), JobError> {
        self.zeros(Of::Raw, offset - self.raw_at).await
    }

    async fn data(&mut self, of: Of, bytes: Bytes) -> Result<(), JobError> {
        let length = bytes.len() as u64;
        self.push(Part::Data(of, bytes), of, length).await
    }

    /// In pieces: hashing a long gap takes as long as hashing data, so it has to be shown, and stopped, like it.
    async fn zeros(&mut self, of: Of, mut length: u64) -> Result<(), JobError> {
        while length > 0 {
            let piece = length.min(ZERO_BATCH_BYTES);
            length -= piece;
            self.push(Part::Zero(of, piece), of, piece).await?;
        }
        Ok(())
    }

    async fn push(&mut self, part: Part, of: Of, length: u64) -> Result<(), JobError> {
        self.parts.push(part);
        self.held += length;
        if of != Of::Qcow2 {
            self.raw_at += length;
        }
        if self.held < BATCH_BYTES {
            return Ok(());
        }
        self.hash().await
    }

    /// Hashes what is held, and only then says that it is done.
    async fn hash(&mut self) -> Result<(), JobError> {
        self.context.check()?;
        let parts = std::mem::take(&mut self.parts);
        self.held = 0;
        let mut hashes = self.hashes.take().expect("only taken here and put back");
        let work = move || {
            for part in parts {
                hashes.part(part);
            }
            hashes
        };
        let done = tokio::task::spawn_blocking(work).await;
        self.hashes = Some(done.context("hashing broke off")?);
        self.context.progress(json!({
            "step": "checksum",
            "done_bytes": self.raw_at,
            "total_bytes": self.reader.virtual_bytes(),
        }));
        Ok(())
    }

    async fn finish(mut self) -> Result<([u8; 32], [u8; 32]), JobError> {
        self.hash().await?;
        let Hashes { raw, qcow2 } = self.hashes.take().expect("put back by hash");
        Ok((raw.finalize().into(), qcow2.finalize().into()))
    }
}

/// The hashes of the two files so far.
#[derive(Default)]
struct Hashes {
    raw: Sha256,
    qcow2: Sha256,
}

impl Hashes {
    fn part(&mut self, part: Part) {
        match part {
            Part::Data(of, bytes) => self.feed(of, &bytes),
            Part::Zero(of, mut length) => {
                while length > 0 {
                    let now = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
                    self.feed(of, &ZEROS[..now]);
                    length -= now as u64;
                }
            }
        }
    }

    fn feed(&mut self, of: Of, bytes: &[u8]) {
        if of != Of::Qcow2 {
            self.raw.update(bytes);
        }
        if of != Of::Raw {
            self.qcow2.update(bytes);
        }
    }
}
