//! Buckets (S3, GCS, Azure, B2) through opendal.
//!
//! opendal gives the protocols; retries, time limits and error texts are ours, so that their bounds and what
//! they may say are in one place. Servers are known that ignore `If-None-Match` and some that refuse it;
//! it is tried, and left out once a server has refused it: keys are never used twice anyway.

mod place;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use opendal::options::ListOptions;
use opendal::{ErrorKind, Operator};

use self::place::Place;
use super::requests::{Counters, Operation, Requests};
use super::{Backend, Listed, Put, Settings, key_check};
use crate::error::{Error, Kind, Result};

/// Tries of one call, the first included. With the pauses below, 6.2 s pass at most between first and last.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A call without a byte of payload, and one that moves a pack.
const SHORT_LIMIT: Duration = Duration::from_secs(20);
const LONG_LIMIT: Duration = Duration::from_mins(2);

/// Bytes of a part of a large object: 10,000 of them, which is all that S3 takes, are more than the largest object.
const PART_BYTES: usize = 16 << 20;

/// Keys that a service lists at once.
const LIST_PAGE: u32 = 1000;

/// Objects in a bucket.
#[derive(Debug, Clone)]
pub struct Remote {
    operator: Operator,
    describe: String,
    /// Whether the server is asked to refuse taken keys.
    conditional: Arc<AtomicBool>,
    /// What must not appear in an error.
    secrets: Vec<String>,
    /// How long to wait before the second try; doubled before each later one.
    pause: Duration,
    counters: Arc<Counters>,
    /// How long to wait for the next page of a listing.
    patience: Duration,
}

impl Remote {
    /// Opens `s3://bucket/prefix?region=…&endpoint=…`, or the same with `gcs`, `azblob` or `b2`. Nothing is
    /// sent before the first call.
    pub fn open(url: &str, settings: &Settings) -> Result<Self> {
        // The HTTP client of opendal's; its own way to do this before `main` needs a feature that links more.
        opendal::install_default();
        let place = Place::parse(url, settings)?;
        let operator = place.operator()?;
        let describe = format!(
            "{}://{}{}",
            place.scheme,
            place.bucket,
            place.prefix.trim_end_matches('/')
        );
        let is_secret = |name: &str| !matches!(name, "region" | "endpoint" | "account_name" | "bucket_id");
        let secrets = place
            .settings
            .into_iter()
            .filter(|(name, value)| is_secret(name) && value.len() > 3);
        let secrets = secrets.map(|(_, value)| value).collect();
        Ok(Self {
            operator,
            describe,
            conditional: Arc::new(AtomicBool::new(true)),
            secrets,
            pause: FIRST_PAUSE,
            counters: Arc::default(),
            patience: SHORT_LIMIT,
        })
    }

    /// Calls until it succeeds, fails for good, or has been tried often enough. `call` learns whether it is a
    /// repetition.
    async fn retry<T, F>(
        &self,
        operation: Operation,
        what: &str,
        limit: Duration,
        mut call: impl FnMut(bool) -> F,
    ) -> Result<T>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let mut pause = self.pause;
        for attempt in 1..=TRIES {
            self.counters.sent(operation);
            let error = match tokio::time::timeout(limit, call(attempt > 1)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => self.error(what, &error),
                Err(_) => {
                    let text = format!("cannot {what}: `{}` did not answer in time", self.describe);
                    Error::new(Kind::Unavailable, text)
                }
            };
            if !error.retryable() || attempt == TRIES {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "trying a storage call again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::new(Kind::Unavailable, format!("cannot {what}")))
    }

    /// Our error for theirs: the kind, and a text without secrets.
    fn error(&self, what: &str, error: &opendal::Error) -> Error {
        let kind = match error.kind() {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch => Kind::Exists,
            ErrorKind::RangeNotSatisfied => Kind::Damaged,
            ErrorKind::RateLimited => Kind::Unavailable,
            ErrorKind::ConfigInvalid | ErrorKind::Unsupported => Kind::Invalid,
            _ if error.is_temporary() => Kind::Unavailable,
            // No right to it (403), or an answer that nobody knows: it says nothing of the bytes.
            _ => Kind::Refused,
        };
        // Kind and message only: what opendal adds may quote requests.
        let shown = error.to_string();
        let message = shown
            .rsplit(" => ")
            .next()
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        let mut text = format!(
            "{}: {}",
            error.kind(),
            message.chars().take(300).collect::<String>()
        );
        if message.contains("load signing credential") {
            "no keys to the bucket are given: set CISTERN_OBJECTS_ACCESS_KEY and CISTERN_OBJECTS_SECRET_KEY"
                .clone_into(&mut text);
        }
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "…");
        }
        Error::new(kind, format!("cannot {what} in `{}`: {text}", self.describe))
    }

    /// The next of a listing, and the listing. A page that does not come ends it: it may hold only part of what there
    /// is.
    async fn listed(&self, mut lister: opendal::Lister) -> Result<Option<(opendal::Entry, opendal::Lister)>> {
        let what = "list objects";
        let Ok(next) = tokio::time::timeout(self.patience, lister.try_next()).await else {
            let text = format!("cannot {what}: `{}` did not answer in time", self.describe);
            return Err(Error::new(Kind::Unavailable, text));
        };
        let next = next.map_err(|error| self.error(what, &error))?;
        Ok(next.map(|entry| (entry, lister)))
    }

    /// Every object under a prefix, or those behind a key.
    fn list_from(&self, prefix: &str, after: Option<String>) -> BoxStream<'_, Result<Listed>> {
        let prefix = prefix.to_owned();
        let opened = async move {
            let path = if prefix.is_empty() { "/" } else { prefix.as_str() };
            let open = |_| async {
                let options = ListOptions {
                    recursive: true,
                    start_after: after.clone(),
                    ..ListOptions::default()
                };
                self.operator.lister_options(path, options).await
            };
            let lister = self
                .retry(Operation::List, &format!("list `{prefix}`"), SHORT_LIMIT, open)
                .await?;
            let entries = futures::stream::try_unfold(lister, move |lister| self.listed(lister));
            let mut seen = 0_u32;
            let entries = entries.inspect_ok(move |_| {
                seen += 1;
                if seen.is_multiple_of(LIST_PAGE) {
                    self.counters.sent(Operation::List);
                }
            });
            Ok::<_, Error>(entries.try_filter_map(|entry| async move {
                let data = entry.metadata();
                let item = Listed {
                    key: entry.path().to_owned(),
                    bytes: data.content_length(),
                    modified_us: data
                        .last_modified()
                        .map_or(0, |at| at.into_inner().as_microsecond()),
                };
                Ok(data.is_file().then_some(item))
            }))
        };
        futures::stream::once(opened).try_flatten().boxed()
    }

    async fn write(&self, key: &str, data: &Bytes, conditional: bool) -> Result<()> {
        let length = data.len() as u64;
        let what = format!("write object `{key}`");
        self.counters.written(data.len());
        self.retry(Operation::Put, &what, LONG_LIMIT, |again| {
            let data = data.clone();
            async move {
                let result = if conditional {
                    self.operator.write_with(key, data).if_not_exists(true).await
                } else {
                    self.operator.write(key, data).await
                };
                match result {
                    // Our own earlier try, whose answer was lost: keys are unique.
                    Err(error) if again && taken(&error) => {
                        let size = self.operator.stat(key).await?.content_length();
                        if size == length { Ok(()) } else { Err(error) }
                    }
                    result => result.map(drop),
                }
            }
        })
        .await
    }
}

/// An object sent in parts. A part that fails is not sent again: the services of several kinds keep what was sent of it
/// or not, so the whole is given up and the caller begins again.
struct RemotePut {
    remote: Remote,
    what: String,
    writer: opendal::Writer,
    /// Bytes that were handed over, for the requests that it takes to send them.
    bytes: usize,
}

impl RemotePut {
    async fn limited<T>(
        remote: &Remote,
        what: &str,
        call: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T> {
        let Ok(done) = tokio::time::timeout(LONG_LIMIT, call).await else {
            let text = format!("cannot {what}: `{}` did not answer in time", remote.describe);
            return Err(Error::new(Kind::Unavailable, text));
        };
        done.map_err(|error| remote.error(what, &error))
    }
}

#[async_trait]
impl Put for RemotePut {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let parts = (self.bytes + data.len()) / PART_BYTES - self.bytes / PART_BYTES;
        self.bytes += data.len();
        self.remote.counters.written(data.len());
        (0..parts).for_each(|_| self.remote.counters.sent(Operation::Put));
        Self::limited(&self.remote, &self.what, self.writer.write(data)).await
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        // The last part, and, where it is not the only one, the end.
        let requests = if self.bytes > PART_BYTES { 2 } else { 1 };
        (0..requests).for_each(|_| self.remote.counters.sent(Operation::Put));
        Self::limited(&self.remote, &self.what, self.writer.close())
            .await
            .map(drop)
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        Self::limited(&self.remote, &self.what, self.writer.abort()).await
    }
}

fn taken(error: &opendal::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch
    )
}

#[async_trait]
impl Backend for Remote {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        key_check(key)?;
        let conditional = self.conditional.load(Ordering::Relaxed);
        match self.write(key, &data, conditional).await {
            Err(error)
                if conditional
                    && !matches!(error.kind(), Kind::Exists | Kind::Unavailable | Kind::NoSpace) =>
            {
                // Perhaps it is the condition that the server does not take.
                self.write(key, &data, false).await?;
                self.conditional.store(false, Ordering::Relaxed);
                Ok(())
            }
            done => done,
        }
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        key_check(key)?;
        let what = format!("write object `{key}`");
        let open = |_| async { self.operator.writer_with(key).chunk(PART_BYTES).await };
        let writer = self.retry(Operation::Put, &what, SHORT_LIMIT, open).await?;
        Ok(Box::new(RemotePut {
            remote: self.clone(),
            what,
            writer,
            bytes: 0,
        }))
    }

    /// A put without a condition takes the place of what is there, at once and whole, also one in parts when it is
    /// completed.
    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.put_begin(key).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let read = |_| self.operator.read(key);
        let data = self
            .retry(Operation::Get, &format!("read object `{key}`"), LONG_LIMIT, read)
            .await?;
        self.counters.read(data.len());
        Ok(data.to_bytes())
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let what = format!("read object `{key}`");
        let read = |_| async { self.operator.read_with(key).range(range.clone()).await };
        let data = self
            .retry(Operation::Get, &what, LONG_LIMIT, read)
            .await?
            .to_bytes();
        self.counters.read(data.len());
        if data.len() as u64 == range.end - range.start {
            return Ok(data);
        }
        Err(Error::new(
            Kind::Damaged,
            format!("object `{key}` ends before byte {}", range.end),
        ))
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        let stat = |_| self.operator.stat(key);
        match self
            .retry(
                Operation::Head,
                &format!("look at object `{key}`"),
                SHORT_LIMIT,
                stat,
            )
            .await
        {
            Ok(data) => Ok(Some(data.content_length())),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        self.list_from(prefix, None)
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'_, Result<Listed>> {
        let after = after.to_owned();
        let is_able = self.operator.info().capability().list_with_start_after;
        let later = self.list_from(prefix, is_able.then(|| after.clone()));
        // Also where the service began there: some name the key itself.
        let later = later.try_filter(move |item| std::future::ready(item.key > after));
        later.boxed()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key_check(key)?;
        self.retry(
            Operation::Delete,
            &format!("delete object `{key}`"),
            SHORT_LIMIT,
            |_| self.operator.delete(key),
        )
        .await
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.counters.get())
    }
}

#[cfg(test)]
mod tests;
