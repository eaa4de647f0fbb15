//! A backend that fails the n-th call, or all of them, for tests: ours, the service's and the simulation's.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::{Backend, Listed, Put, Requests};
use crate::error::{Error, Kind, Result};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device is full.
    NoSpace,
    /// The device fails.
    Io,
    /// The service cannot be reached, and nothing happened.
    Unavailable,
    /// The call does its work, and its answer is lost.
    AnswerLost,
    /// A write stores less than it was given and says it was fine; a read gives less than it was asked for.
    Short,
}

/// `fail_at` where every call fails.
const ALL: u64 = u64::MAX;

/// Passes calls on to another backend until one of them is to fail.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    fault: Fault,
    calls: Arc<AtomicU64>,
    fail_at: Arc<AtomicU64>,
}

impl Faulty {
    /// Fails call number `fail_at` (from 1) and none after it; 0 fails none.
    pub fn new(inner: Arc<dyn Backend>, fault: Fault, fail_at: u64) -> Self {
        Self {
            inner,
            fault,
            calls: Arc::default(),
            fail_at: Arc::new(AtomicU64::new(fail_at)),
        }
    }

    /// Calls seen so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Starts to count anew and fails call number `fail_at`.
    pub fn rearm(&self, fail_at: u64) {
        self.calls.store(0, Ordering::SeqCst);
        self.fail_at.store(fail_at, Ordering::SeqCst);
    }

    /// Fails every call until it is armed again: a disk that went away under its mount.
    pub fn fail_all(&self) {
        self.rearm(ALL);
    }

    fn strikes(&self) -> bool {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fail_at = self.fail_at.load(Ordering::SeqCst);
        fail_at == ALL || call == fail_at
    }

    fn error(&self) -> Error {
        match self.fault {
            Fault::NoSpace => Error::new(Kind::NoSpace, "no space left on the device (injected)"),
            Fault::Io | Fault::Short => Error::new(Kind::Io, "input/output error (injected)"),
            Fault::Unavailable | Fault::AnswerLost => Error::new(Kind::Unavailable, "no answer (injected)"),
        }
    }
}

/// A write that passes on, and fails like the backend.
struct FaultyPut {
    inner: Box<dyn Put>,
    faulty: Faulty,
}

#[async_trait]
impl Put for FaultyPut {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if !self.faulty.strikes() {
            return self.inner.write(data).await;
        }
        match self.faulty.fault {
            Fault::Short => self.inner.write(data.slice(..data.len() / 2)).await,
            _ => Err(self.faulty.error()),
        }
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        if !self.faulty.strikes() {
            return self.inner.finish().await;
        }
        if self.faulty.fault == Fault::AnswerLost {
            self.inner.finish().await?;
        }
        Err(self.faulty.error())
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl Backend for Faulty {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        if !self.strikes() {
            return self.inner.put_new(key, data).await;
        }
        match self.fault {
            Fault::Short => {
                let half = data.slice(..data.len() / 2);
                self.inner.put_new(key, half).await
            }
            Fault::AnswerLost => {
                self.inner.put_new(key, data).await?;
                Err(self.error())
            }
            _ => Err(self.error()),
        }
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        if self.strikes() {
            return Err(self.error());
        }
        let inner = self.inner.put_begin(key).await?;
        let faulty = self.clone();
        Ok(Box::new(FaultyPut { inner, faulty }))
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        if self.strikes() {
            return Err(self.error());
        }
        let inner = self.inner.put_replace(key).await?;
        let faulty = self.clone();
        Ok(Box::new(FaultyPut { inner, faulty }))
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        if !self.strikes() {
            return self.inner.get(key).await;
        }
        match self.fault {
            Fault::Short => self.inner.get(key).await.map(|data| data.slice(..data.len() / 2)),
            _ => Err(self.error()),
        }
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        if !self.strikes() {
            return self.inner.get_range(key, range).await;
        }
        match self.fault {
            Fault::Short => {
                let data = self.inner.get_range(key, range).await?;
                Ok(data.slice(..data.len() / 2))
            }
            _ => Err(self.error()),
        }
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        if self.strikes() {
            Err(self.error())
        } else {
            self.inner.stat(key).await
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        if !self.strikes() {
            return self.inner.list(prefix);
        }
        // The nastiest listing: it begins well.
        let error = self.error();
        self.inner
            .list(prefix)
            .take(1)
            .chain(futures::stream::iter([Err(error)]))
            .boxed()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        if !self.strikes() {
            return self.inner.delete(key).await;
        }
        if self.fault == Fault::AnswerLost {
            self.inner.delete(key).await?;
        }
        Err(self.error())
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        if self.strikes() {
            return Err(self.error());
        }
        self.inner.leftovers_clear().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn requests(&self) -> Option<Requests> {
        self.inner.requests()
    }
}
