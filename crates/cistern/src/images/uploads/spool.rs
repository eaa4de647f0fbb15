//! The files of uploads: `DATA/spool/uploads/ID`, written by whoever holds the file's lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use store::owner;
use store::room::Space;
use tokio::time::{Instant, sleep};

use super::model::{Hasher, Refusal};
use crate::images::workfile::{SpoolKey, WorkFile};
use crate::platform::error::{Context, Error, Result};

/// How long a lock that another process has is waited for, and how often it is looked at.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_EVERY: Duration = Duration::from_millis(50);

/// Where this server keeps uploads.
pub fn folder(data: &Path) -> PathBuf {
    data.join("spool/uploads")
}

/// The file of one upload.
pub fn path(data: &Path, id: &str) -> PathBuf {
    folder(data).join(id)
}

/// An upload's file, locked until it is dropped.
#[derive(Clone, Debug)]
pub struct Locked {
    file: WorkFile,
}

/// Makes an empty file whose name survives a crash.
pub async fn create(path: PathBuf, key: Option<SpoolKey>) -> Result<()> {
    blocking(move || {
        let folder = path.parent().expect("a file in the spool has a folder");
        owner::folder_make(folder)?;
        WorkFile::begin(owner::file_new(&path)?, key.as_ref())?;
        File::open(folder)?.sync_all()
    })
    .await
    .map_err(|e| storage(e, "could not make a file for an upload"))
}

/// Removes a file; one that is gone already is fine.
pub async fn remove(path: PathBuf) -> Result<()> {
    blocking(move || match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    })
    .await
    .context("could not remove an upload's file")
}

/// How many bytes the file has; [`Error::NotFound`] where there is none.
pub async fn length(path: PathBuf, key: Option<SpoolKey>) -> Result<u64> {
    let length = move || WorkFile::open(File::open(path)?, key.as_ref())?.length();
    match blocking(length).await {
        Ok(length) => Ok(length),
        Err(e) if is_gone(&e) => Err(Error::NotFound),
        Err(e) => Err(Error::internal("could not look at an upload's file", e)),
    }
}

/// The room where uploads are kept.
pub async fn space(data: &Path) -> Result<Space> {
    let data = data.to_owned();
    blocking(move || Space::of(&data))
        .await
        .context("could not ask how much room is left")
}

/// Names in the folder whose files were last written longer than `age` ago.
pub async fn old_names(data: &Path, age: Duration) -> Result<Vec<String>> {
    let folder = folder(data);
    let list = move || {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let written = entry.metadata()?.modified()?;
            let is_old = written.elapsed().is_ok_and(|passed| passed > age);
            if let (true, Ok(name)) = (is_old, entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(names)
    };
    match blocking(list).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.context("could not list the uploads' folder"),
    }
}

impl Locked {
    /// Opens and locks a file. Waits a little where another process has it: also one that is about to become a parser
    /// shares the lock, until it has let go of all that is not its own.
    pub async fn open(path: PathBuf, key: Option<&SpoolKey>) -> Result<Self, Refusal> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match Self::try_open(path.clone(), key).await {
                Err(Refusal::Locked) if Instant::now() < deadline => sleep(LOCK_EVERY).await,
                other => return other,
            }
        }
    }

    /// The same without waiting.
    pub async fn try_open(path: PathBuf, key: Option<&SpoolKey>) -> Result<Self, Refusal> {
        let key = key.cloned();
        let opened = blocking(move || {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(e) => Err(e.into()),
                Ok(()) => WorkFile::open(file, key.as_ref()).map(Some),
            }
        });
        match opened.await {
            Ok(Some(file)) => Ok(Self { file }),
            Ok(None) => Err(Refusal::Locked),
            Err(e) if is_gone(&e) => Err(Error::NotFound.into()),
            Err(e) => Err(Error::internal("could not open an upload's file", e).into()),
        }
    }

    /// How many bytes it has.
    pub fn length(&self) -> Result<u64> {
        self.file.length().context("could not look at an upload's file")
    }

    /// Makes `offset` its end, where it goes on: what is beyond was promised to nobody.
    pub async fn go_on_at(&mut self, offset: u64) -> Result<()> {
        let mut file = self.file.clone();
        let cut = blocking(move || file.go_on_at(offset).map(|()| file)).await;
        self.file = cut.map_err(|e| storage(e, "could not go on with an upload"))?;
        Ok(())
    }

    /// Writes `parts` one after the other from `offset` on, and hashes them. Not durable yet.
    pub async fn write(
        &self,
        parts: Vec<Bytes>,
        offset: u64,
        hasher: Option<Hasher>,
    ) -> Result<Option<Hasher>> {
        let file = self.file.clone();
        blocking(move || {
            let mut hasher = hasher;
            let mut at = offset;
            for part in parts {
                if let Some(hasher) = &mut hasher {
                    hasher.update(&part);
                }
                file.write_all_at(&part, at)?;
                at += part.len() as u64;
            }
            Ok(hasher)
        })
        .await
        .map_err(|e| storage(e, "could not write an upload"))
    }

    /// Makes what was written durable; with `length`, cuts off what lies beyond it first.
    pub async fn sync(&self, length: Option<u64>) -> Result<()> {
        let file = self.file.clone();
        blocking(move || match length {
            None => file.sync(false),
            Some(length) => {
                file.length_set(length)?;
                file.sync(true)
            }
        })
        .await
        .map_err(|e| storage(e, "could not make an upload durable"))
    }
}

/// Also one whose key is gone, or whose first page a crash tore, cannot go on.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// A full disk is no fault of ours, and passes.
pub fn storage(error: io::Error, what: &str) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Unavailable(
            "the server has no room left for the rest of this upload; make room on its disk, then send the rest".into(),
        ),
        _ => Error::internal(what, error),
    }
}
