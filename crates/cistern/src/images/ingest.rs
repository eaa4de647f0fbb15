//! From pieces of a disk to a stored disk.

use bytes::{Bytes, BytesMut};
use disk::{Format, Info};
use store::{Disk, Session};
use tokio::sync::mpsc;

use super::sandbox::{Piece, Sandbox, SandboxError};
use super::workfile::WorkFile;
use crate::platform::error::Error;
use crate::platform::jobs::JobError;

/// Pieces that may wait for the store; each holds at most 2 MiB.
const PIECES: usize = 4;

/// Why a disk was not taken in.
pub(super) enum IngestError {
    /// Reading it failed.
    Sandbox(SandboxError),
    /// Storing it failed.
    Store(store::Error),
}

impl From<store::Error> for IngestError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<IngestError> for JobError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Sandbox(error) => error.into(),
            IngestError::Store(error) => Error::from(error).into(),
        }
    }
}

impl From<SandboxError> for JobError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Image(reason) => Self::Fail(reason),
            SandboxError::Local(reason) => Self::Retry(reason),
            // The job says why it stops.
            SandboxError::Stopped => Self::Stopped,
        }
    }
}

/// Reads the disk in `file` in the sandbox and takes it into `session`. `progress` is told bytes of the disk done
/// and in all.
pub(super) async fn ingest(
    sandbox: &Sandbox<'_>,
    session: &Session,
    file: WorkFile,
    format: Format,
    progress: impl Fn(u64, u64),
) -> Result<(Info, Disk), IngestError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let read = sandbox.read(format, file.clone(), sender);
    let stored = store_pieces(session, file, receiver, progress);
    let (read, stored) = tokio::join!(read, stored);
    // A store that failed stops the reading too, so its reason comes first.
    let stored = stored?;
    read.map_err(IngestError::Sandbox)?;
    stored.ok_or_else(|| {
        IngestError::Sandbox(SandboxError::Local(
            "Reading the image broke off; try again.".into(),
        ))
    })
}

/// Stores pieces until the last one; `None` where they end before it.
async fn store_pieces(
    session: &Session,
    file: WorkFile,
    mut pieces: mpsc::Receiver<Piece>,
    progress: impl Fn(u64, u64),
) -> Result<Option<(Info, Disk)>, IngestError> {
    let Some(Piece::Info(info)) = pieces.recv().await else {
        return Ok(None);
    };
    let mut ingest = session.ingest(info.virtual_bytes, None).await?;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Zero(length) => ingest.extent_zero(length).await?,
            Piece::Source(at, length) => {
                let shown = |done| progress(done, info.virtual_bytes);
                source(&mut ingest, &file, (at, length), &shown).await?;
            }
            Piece::Data(bytes) => ingest.extent_data(bytes).await?,
            Piece::Done(info) => {
                let disk = ingest.finish().await?;
                return Ok(Some((info, disk)));
            }
            Piece::Info(_) => return Ok(None),
        }
        progress(ingest.position(), info.virtual_bytes);
    }
    Ok(None)
}

/// Takes bytes of the file in steps, so that progress is seen in an image that is one piece.
async fn source(
    ingest: &mut store::Ingest,
    file: &WorkFile,
    (at, length): (u64, u64),
    progress: &impl Fn(u64),
) -> Result<(), IngestError> {
    const STEP: u64 = 64 << 20;
    /// What is decrypted at once.
    const OPENED: u64 = 1 << 20;
    let mut done = 0;
    while done < length {
        let step = if let Some(clear) = file.as_clear() {
            let step = STEP.min(length - done);
            ingest.extent_file(clear, at + done, step).await?;
            step
        } else {
            let step = OPENED.min(length - done);
            ingest.extent_data(opened(file, at + done, step).await?).await?;
            step
        };
        done += step;
        progress(ingest.position());
    }
    Ok(())
}

/// Bytes of an encrypted working file.
async fn opened(file: &WorkFile, at: u64, length: u64) -> Result<Bytes, IngestError> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
        let got = file.read_at(&mut bytes, at)?;
        if got < bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.freeze())
    });
    read.await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| {
            tracing::error!(%error, "could not read a working file");
            IngestError::Sandbox(SandboxError::Local(
                "The server could not read the image's file; its log has the details.".into(),
            ))
        })
}
