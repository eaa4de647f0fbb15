//! When an HTTP/2 connection did something last, besides its pings.
//!
//! Over HTTP/1 only requests and answers move bytes, and [`super::idle`] sees those. Over HTTP/2 pings do as well, ours
//! among them: a client that asks for nothing, or does not read what it asked for, would stay for as long as it
//! answers them.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds after `opened`.
    last: AtomicU64,
    /// Whether it speaks HTTP/1.
    is_single: AtomicBool,
    /// Requests that are not answered whole.
    at_work: AtomicUsize,
}

/// A request until it is answered whole, or given up.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Activity>);

/// The body of a request, whose progress is noted. It fails where its client sends nothing for too long: over HTTP/2
/// that may be one of several on a connection that is busy.
pub(super) struct Upload {
    body: Incoming,
    activity: Arc<Activity>,
    /// How long the client may send nothing while it is waited for.
    limit: Duration,
    /// Made when it is waited for first, as most bodies are there at once.
    patience: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            is_single: AtomicBool::new(false),
            at_work: AtomicUsize::new(0),
        }
    }

    /// A request has come in.
    pub(super) fn asked(self: &Arc<Self>, version: Version) -> AtWork {
        self.is_single.store(version < Version::HTTP_2, Ordering::Relaxed);
        self.at_work.fetch_add(1, Ordering::Relaxed);
        self.moved();
        AtWork(Arc::clone(self))
    }

    /// Whether a request is not answered whole.
    pub(super) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 0
    }

    /// Something was sent or received.
    pub(super) fn moved(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for so long, with a request at work and without one; never where the connection
    /// speaks HTTP/1.
    pub(super) async fn unused(&self, limit_at_work: Duration, limit_at_rest: Duration) {
        loop {
            let limit = if self.is_at_work() {
                limit_at_work
            } else {
                limit_at_rest
            };
            let deadline = self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if deadline > Instant::now() {
                sleep_until(deadline).await;
            } else if self.is_single.load(Ordering::Relaxed) {
                self.moved();
            } else {
                return;
            }
        }
    }
}

impl AtWork {
    pub(super) fn moved(&self) {
        self.0.moved();
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
        self.0.moved();
    }
}

impl Upload {
    pub(super) fn new(body: Incoming, activity: Arc<Activity>, limit: Duration) -> Self {
        Self {
            body,
            activity,
            limit,
            patience: None,
            is_waiting: false,
        }
    }

    /// Ready when the client has sent nothing for `limit` while it was waited for.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.limit;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !self.is_waiting {
            self.is_waiting = true;
            patience.as_mut().reset(deadline);
        }
        patience.as_mut().poll(cx)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.is_waiting = false;
            self.activity.moved();
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        ready!(self.poll_overdue(cx));
        let error = io::Error::new(
            io::ErrorKind::TimedOut,
            "nothing more of the upload came for too long",
        );
        Poll::Ready(Some(Err(axum::Error::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
