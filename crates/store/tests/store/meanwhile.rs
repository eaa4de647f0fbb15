//! A backend that lets something else happen in the middle of a call.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use store::{Backend, Listed, Put, Result};

/// Does something else in the middle of a call.
#[derive(Clone)]
pub(crate) struct Meanwhile {
    inner: Arc<dyn Backend>,
    at: &'static str,
    /// How often the call is let through before.
    before: Arc<AtomicU32>,
    work: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
}

impl Meanwhile {
    pub(crate) fn new(inner: &Arc<dyn Backend>, at: &'static str, work: BoxFuture<'static, ()>) -> Arc<Self> {
        Self::nth(inner, (at, 1), work)
    }

    /// At the n-th call, from 1.
    pub(crate) fn nth(
        inner: &Arc<dyn Backend>,
        (at, number): (&'static str, u32),
        work: BoxFuture<'static, ()>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            at,
            before: Arc::new(AtomicU32::new(number - 1)),
            work: Arc::new(Mutex::new(Some(work))),
        })
    }

    async fn met(&self, call: &str) {
        if call == self.at
            && self
                .before
                .try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
        {
            return;
        }
        let work = (call == self.at).then(|| self.work.lock().unwrap().take());
        if let Some(Some(work)) = work {
            work.await;
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.work.lock().unwrap().is_none()
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meanwhile({})", self.at)
    }
}

#[async_trait]
impl Backend for Meanwhile {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        self.met(&format!("put {}", &key[..2])).await;
        self.inner.put_new(key, data).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        self.inner.put_begin(key).await
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.met("put_replace").await;
        self.inner.put_replace(key).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.met(&format!("read {}", &key[..2])).await;
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        let (call, prefix) = (format!("list {prefix}"), prefix.to_owned());
        let listed = async move {
            self.met(&call).await;
            self.inner.list(&prefix)
        };
        stream::once(listed).flatten().boxed()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        self.inner.leftovers_clear().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
