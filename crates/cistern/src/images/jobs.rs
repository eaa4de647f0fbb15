//! The import job: fetch, check, open, read and store, publish.
//!
//! Each step can be repeated: a download goes on where it was, opening and reading begin anew. The disk is published in
//! one transaction, and the image is made available in a second one, once the catalogue journal has the first: what
//! anyone sees as `available` survives the loss of the database. What the job needs on disk is named after its number.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::{Format, Info};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use store::{Disk, Session};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::fetch::{self, Fetch, FetchError};
use super::ingest;
use super::model;
use super::rows::{Model, Published};
use super::sandbox::{Opened, Patience, Sandbox};
use super::spool::{Spool, file_remove};
use super::workfile::WorkFile;
use super::{local, service, uploads};
use crate::app::App;
use crate::platform::db::Tx;
use crate::platform::error::{Context, Error, Result};
use crate::platform::jobs::{Job, JobContext, JobError, JobKind};
use crate::platform::journal;
use crate::platform::net::Guard;

/// The kind of an import's job.
pub const IMPORT: &str = "image.import";
/// The kind of an image's root in the store.
pub const ROOT_KIND: &str = "image";

/// What an import's job is enqueued with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// The image.
    pub image_id: i64,
    /// Where its bytes are.
    pub input: Input,
}

/// Where an import's bytes are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Input {
    /// At the address in the image's row: it may hold credentials, and payloads are shown.
    Url,
    /// In a file that was uploaded.
    Upload {
        /// The upload. Where its file is, only the server knows that has it: the one that runs the job. (Older versions
        /// wrote a path beside it.)
        id: String,
    },
    /// In an open file of this process.
    Local {
        /// Its name there.
        id: Uuid,
    },
}

/// The kind that imports.
pub fn import_kind() -> JobKind {
    JobKind {
        name: IMPORT,
        run: |context| Box::pin(run(context)),
        failed,
        is_alone: false,
    }
}

async fn run(context: JobContext) -> std::result::Result<(), JobError> {
    let payload: Payload = context.job.payload()?;
    let spool =
        Spool::open(&context.app.data, context.job.id).context("could not make the folder for imports")?;
    let import = Import {
        context: &context,
        payload: &payload,
        spool: &spool,
        pace: Pace::default(),
    };
    let done = import.run().await;
    if done.is_ok() {
        clean_up(&context.app, context.job.id, &payload).await;
    }
    match done {
        // Only the context knows whether it was cancelled, or the server stops.
        Err(JobError::Stopped) => context.check().and(Err(JobError::Stopped)),
        other => other,
    }
}

/// Ends the image with the job, and removes what the job had on disk once that is committed.
fn failed<'a>(app: &'a App, tx: &'a Tx, job: &'a Job, reason: &'a str) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let payload: Payload = job.payload()?;
        let reason = if reason == "cancelled" {
            service::CANCELLED
        } else {
            reason
        };
        service::image_fail_in_tx(app, tx, payload.image_id, reason).await?;
        let (app, job) = (app.clone(), job.id);
        // Waits for its turn behind this transaction. Should the process end first, the sweepers find it all.
        tokio::spawn(async move {
            let row = crate::platform::jobs::job_find(&app, job).await;
            if row.is_ok_and(|row| row.is_none_or(|row| row.finished_at.is_some())) {
                clean_up(&app, job, &payload).await;
            }
        });
        Ok(())
    })
}

async fn clean_up(app: &App, job: i64, payload: &Payload) {
    if let Ok(spool) = Spool::open(&app.data, job) {
        spool.remove();
    }
    match &payload.input {
        Input::Url => {}
        Input::Upload { id } => {
            if let Err(error) = uploads::service::upload_done(app, id).await {
                tracing::warn!(
                    error = error.chain(),
                    "could not remove an upload that was imported"
                );
            }
        }
        Input::Local { id } => app.handed.remove(*id),
    }
}

/// One attempt.
struct Import<'a> {
    context: &'a JobContext,
    payload: &'a Payload,
    spool: &'a Spool,
    pace: Pace,
}

impl Import<'_> {
    async fn run(&self) -> std::result::Result<(), JobError> {
        let row = self.begin().await?;
        if row.root_digest.is_some() {
            // An earlier attempt has published the disk.
            return self.finish(row.id).await;
        }
        let file = self.input(&row).await?;
        let source = self.handed(&file)?;
        let is_checked = self.sha256_check(&row, &file).await?;
        let (file, format, is_wrapped) = self.open(file).await?;
        self.store_check().await?;
        let app = &self.context.app;
        let session = app
            .store
            .session_open_in(&format!("image {}", row.id), app.dedup_domain(row.team_id))
            .await;
        let session = session.map_err(Error::from)?;
        let (info, disk) = match self.read(&session, file, format).await {
            Ok(done) => done,
            Err(error) => {
                give_up(session).await;
                return Err(error);
            }
        };
        if let Some((stamp, file)) = source
            && let Err(changed) = stamp.check(&file)
        {
            give_up(session).await;
            return Err(changed.into());
        }
        // The digest of a plain raw file is the disk's own.
        let sha256 = row
            .expected_sha256
            .clone()
            .filter(|_| is_checked && !is_wrapped && format == Format::Raw);
        let published = self.publish(&row, &session, &info, &disk, sha256).await;
        if let Err(error) = published {
            give_up(session).await;
            return Err(error);
        }
        self.finish(row.id).await
    }

    /// Shows the image as being worked on.
    async fn begin(&self) -> std::result::Result<Model, JobError> {
        self.context.check()?;
        let tx = self.context.write().await?;
        let row = service::import_begin_in_tx(&tx, self.payload.image_id).await?;
        tx.commit().await?;
        row.ok_or(JobError::Cancelled)
    }

    /// The file with the image, as it was served or uploaded.
    async fn input(&self, row: &Model) -> std::result::Result<WorkFile, JobError> {
        match &self.payload.input {
            Input::Url => self.fetch(row).await,
            Input::Upload { id } => self.file_open(&uploads::service::upload_path(&self.context.app, id)),
            Input::Local { id } => match self.context.app.handed.get(*id) {
                Ok(Some(file)) => Ok(WorkFile::clear(file)),
                Ok(None) => Err(JobError::Fail(
                    "The server stopped before it had read the file. Import it again.".into(),
                )),
                Err(error) => Err(file_failed(&error)),
            },
        }
    }

    /// A file that was handed over is still its owner's: what it was like before the first byte is read.
    fn handed(&self, file: &WorkFile) -> std::result::Result<Option<(local::Stamp, File)>, JobError> {
        let (Input::Local { .. }, Some(file)) = (&self.payload.input, file.as_clear()) else {
            return Ok(None);
        };
        let both = || Ok((local::Stamp::of(file)?, file.try_clone()?));
        both().map(Some).map_err(|e| file_failed(&e))
    }

    async fn fetch(&self, row: &Model) -> std::result::Result<WorkFile, JobError> {
        let kept = service::source_url(&self.context.app, row).unwrap_or_else(|error| {
            tracing::error!(error = error.chain(), "an import's address cannot be read");
            None
        });
        let url: Option<Url> = kept.and_then(|url| url.parse().ok());
        let url =
            url.ok_or_else(|| JobError::Fail("The image's address is gone. Import it again.".into()))?;
        let config = &self.context.app.config.fetch;
        let path = self.spool.input();
        fetch::fetch(&Fetch {
            guard: &Guard::new(&self.context.app.config),
            url: &url,
            path: &path,
            key: self.context.app.spool_key.as_ref(),
            limits: fetch::Limits::new(config.max_bytes, Duration::from_secs(config.timeout_seconds)),
            stop: &self.context.stop,
            progress: &|at: fetch::Progress| self.progress("fetch", at.done, at.total),
        })
        .await
        .map_err(|error| match error {
            FetchError::Refused(reason) => JobError::Fail(reason),
            FetchError::Local(reason) => JobError::Retry(reason),
            FetchError::Stopped => JobError::Stopped,
        })?;
        self.file_open(&path)
    }

    fn file_open(&self, path: &Path) -> std::result::Result<WorkFile, JobError> {
        let opened =
            File::open(path).and_then(|file| WorkFile::open(file, self.context.app.spool_key.as_ref()));
        opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                JobError::Fail("The image's file is gone from the server. Import it again.".into())
            }
            _ => file_failed(&error),
        })
    }

    /// Compares the digest that the user gave, if they gave one.
    async fn sha256_check(&self, row: &Model, file: &WorkFile) -> std::result::Result<bool, JobError> {
        let Some(expected) = row.expected_sha256.clone() else {
            return Ok(false);
        };
        let file = file.clone();
        let (done, stop) = (Arc::new(AtomicU64::new(0)), self.context.stop.clone());
        let counter = Arc::clone(&done);
        let total = file.length().map_err(|e| file_failed(&e))?;
        let hash = tokio::task::spawn_blocking(move || {
            sha256(&file, &|bytes| {
                counter.store(bytes, Ordering::Relaxed);
                !stop.is_cancelled()
            })
        });
        let found = self.shown("verify", &done, Some(total), hash).await;
        let found = found
            .map_err(|e| JobError::Retry(e.to_string()))?
            .map_err(|e| file_failed(&e))?;
        self.context.check()?;
        if found == expected {
            return Ok(true);
        }
        Err(JobError::Fail(format!(
            "The file is not the expected one: its SHA-256 is {found}, not {expected}. Check both, and whether the \
             download changed."
        )))
    }

    /// Finds the disk: the file itself, or what comes out of it. Says whether it was compressed.
    async fn open(&self, file: WorkFile) -> std::result::Result<(WorkFile, Format, bool), JobError> {
        let sandbox = self.sandbox();
        let length = file.length().map_err(|e| file_failed(&e))?;
        let (path, done) = (self.spool.disk(), Arc::new(AtomicU64::new(0)));
        let input = file.clone();
        let opened = self
            .shown(
                "unwrap",
                &done,
                None,
                sandbox.open(input, &path, Arc::clone(&done)),
            )
            .await;
        if opened.is_err() {
            // The next attempt begins it anew; until then others may need its room.
            file_remove(&path);
        }
        let opened = opened?;
        let bytes = match opened {
            Opened::Disk(format) => return Ok((file, format, false)),
            Opened::Unwrapped(bytes) => bytes,
        };
        tracing::info!(compressed = length, bytes, "an image was decompressed");
        let file = self.file_open(&path)?;
        let input = file.clone();
        match sandbox
            .open(input, &path.with_extension("new"), Arc::default())
            .await?
        {
            Opened::Disk(format) => Ok((file, format, true)),
            Opened::Unwrapped(_) => Err(JobError::Fail(
                "The image is compressed twice. Decompress it once and import that.".into(),
            )),
        }
    }

    async fn read(
        &self,
        session: &Session,
        file: WorkFile,
        format: Format,
    ) -> std::result::Result<(Info, Disk), JobError> {
        let progress = |done, total| self.progress("read", done, Some(total));
        Ok(ingest::ingest(&self.sandbox(), session, file, format, progress).await?)
    }

    /// What is written goes into the store, and not into the folder under a mount that went away.
    async fn store_check(&self) -> std::result::Result<(), JobError> {
        let there = self.context.app.store.header_check().await;
        Ok(there.map_err(Error::from)?)
    }

    /// The one transaction in which the disk is published. The image stays `pending`.
    async fn publish(
        &self,
        row: &Model,
        session: &Session,
        info: &Info,
        disk: &Disk,
        sha256: Option<String>,
    ) -> std::result::Result<(), JobError> {
        self.context.check()?;
        self.store_check().await?;
        let found = published(info, disk, sha256);
        let tx = self.context.write().await?;
        if !service::import_keep_in_tx(&tx, row, found).await? {
            return Err(JobError::Cancelled);
        }
        let owner = row.id.to_string();
        let commit = session.commit_in_tx(&*tx, ROOT_KIND, &owner, disk.root).await;
        commit.map_err(Error::from)?;
        Ok(tx.commit().await?)
    }

    /// Makes the image available, and ends the job with it, once the disk is journaled.
    async fn finish(&self, id: i64) -> std::result::Result<(), JobError> {
        let app = &self.context.app;
        journal::flush(app).await?;
        let tx = self.context.write().await?;
        if service::import_finish_in_tx(app, &tx, id).await?.is_none() {
            return Err(JobError::Cancelled);
        }
        self.context.complete_in_tx(&tx).await?;
        tx.commit().await?;
        app.queue.wake();
        // What it stored anew may have been damaged.
        if app.store.damaged_roots().await.is_ok_and(|damaged| damaged > 0) {
            app.store.damage_look();
        }
        Ok(())
    }

    fn sandbox(&self) -> Sandbox<'_> {
        Sandbox {
            stop: &self.context.stop,
            key: self.context.app.spool_key.as_ref(),
            max_virtual_bytes: self.context.app.config.image.max_virtual_bytes,
            patience: Patience::default(),
        }
    }

    fn progress(&self, step: &str, done: u64, total: Option<u64>) {
        let rate = self.pace.rate(step, done);
        self.context.progress(
            json!({ "step": step, "done_bytes": done, "total_bytes": total, "bytes_per_second": rate }),
        );
    }

    /// Shows a counter while `work` goes on.
    async fn shown<T>(
        &self,
        step: &str,
        done: &AtomicU64,
        total: Option<u64>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                out = &mut work => return out,
                _ = ticks.tick() => self.progress(step, done.load(Ordering::Relaxed), total),
            }
        }
    }
}

/// How fast a step is: it begins where it is first heard of, which is not at zero for a download that goes on.
#[derive(Debug, Default)]
struct Pace(Mutex<Option<(String, Instant, u64)>>);

impl Pace {
    /// Bytes a second since the step began.
    fn rate(&self, step: &str, done: u64) -> u64 {
        let mut begun = self.0.lock().expect("never held over a panic");
        match &*begun {
            Some((of, at, from)) if of == step => {
                let ms = at.elapsed().as_millis().max(1);
                let bytes = u128::from(done.saturating_sub(*from));
                u64::try_from(bytes * 1000 / ms).unwrap_or(u64::MAX)
            }
            _ => {
                *begun = Some((step.to_owned(), Instant::now(), done));
                0
            }
        }
    }
}

fn published(info: &Info, disk: &Disk, sha256: Option<String>) -> Published {
    let data = disk.stats.new_bytes + disk.stats.deduplicated_bytes;
    Published {
        min_disk_size: model::min_disk_size(info.virtual_bytes),
        size_gigabytes: model::gigabytes(data),
        virtual_bytes: info.virtual_bytes.cast_signed(),
        logical_bytes: data.cast_signed(),
        new_bytes: disk.stats.stored_bytes.cast_signed(),
        format: info.format.name().to_owned(),
        variant: info.variant.clone(),
        warnings: info.warnings.clone(),
        sha256,
        root_digest: disk.root.digest.to_string(),
        root_level: i32::from(disk.root.level),
        root_domain: disk.root.domain,
    }
}

/// Lets go of what a session wrote; what this cannot remove, the store's own clean-up does.
async fn give_up(session: Session) {
    if let Err(error) = session.abort().await {
        tracing::warn!(%error, "could not give a store session up");
    }
}

fn file_failed(error: &std::io::Error) -> JobError {
    tracing::error!(%error, "could not read an image's file");
    JobError::Retry("The server could not read the image's file; its log has the details.".into())
}

/// The digest of a file in hex; `go_on` is told how many bytes are done and may end it early.
fn sha256(file: &WorkFile, go_on: &dyn Fn(u64) -> bool) -> std::io::Result<String> {
    let (mut hasher, mut at, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    while go_on(at) {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_enqueued_is_understood_and_its_path_is_not_believed() {
        let old = json!({ "image_id": 7, "input": { "from": "upload", "id": "u", "path": "/elsewhere/u" } });
        let payload: Payload = serde_json::from_value(old).expect("is understood");
        assert!(matches!(&payload.input, Input::Upload { id } if id == "u"));
        let new = json!({ "image_id": 7, "input": { "from": "upload", "id": "u" } });
        assert_eq!(json!(payload), new);
    }
}
