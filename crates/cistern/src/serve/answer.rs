//! The body of an answer: what it holds while it is sent, and for how long.
//!
//! Over HTTP/2 a client may leave one answer unread and go on with others, so that its connection is never idle
//! ([`super::activity`]). hyper asks a body for its next piece only when the last one has gone out, so a body cannot
//! notice that by itself: a task looks at it, and when the client has not taken a piece for too long, takes away what
//! the answer holds (open files, a place among downloads, room). Its stream is reset as soon as hyper asks again, which
//! is when the client does go on; until then hyper keeps that one piece. Over HTTP/1 the connection is idle then, and
//! ends as a whole ([`super::idle`]).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::activity::AtWork;
use super::rooms::Place;

/// Bytes of a body of known length that is taken to be in memory: a stream does not know its length, and nobody reads
/// so little from a file piece by piece.
const IN_MEMORY: u64 = 64 << 10;
/// Bytes that are given out at once where the client's time is taken: a slow one has to take this much within the
/// limit, and what comes from a store may be megabytes.
const PIECE: usize = 64 << 10;

/// Body of an answer. The room of its request is free when it is sent, or given up; at once where the body is in
/// memory. Its progress is noted.
pub(super) struct Answer {
    held: Arc<Mutex<Option<Held>>>,
    at_work: AtWork,
    /// Takes away what is held where the client leaves it unread.
    _watch: Option<AbortOnDropHandle<()>>,
}

/// What an answer has to give back.
struct Held {
    body: Body,
    /// What came from the body and was not given out yet.
    rest: Bytes,
    /// Most bytes to give out at once.
    piece: usize,
    /// Since when the client has been left to take what was given out; none while the server has nothing for it.
    unread: Option<Instant>,
    _place: Option<Place>,
}

impl Answer {
    /// An answer that may be left unread for `limit`; for ever without one, which is for connections that it is the
    /// only answer of. It needs a runtime.
    pub(super) fn new(body: Body, at_work: AtWork, place: Option<Place>, limit: Option<Duration>) -> Self {
        at_work.moved();
        let in_memory =
            body.is_end_stream() || body.size_hint().exact().is_some_and(|bytes| bytes <= IN_MEMORY);
        let limit = limit.filter(|_| !in_memory);
        let held = Arc::new(Mutex::new(Some(Held {
            body,
            rest: Bytes::new(),
            piece: limit.map_or(usize::MAX, |_| PIECE),
            unread: Some(Instant::now()),
            _place: place.filter(|_| !in_memory),
        })));
        let watch = limit.map(|limit| tokio::spawn(watch(Arc::downgrade(&held), limit)));
        Self {
            held,
            at_work,
            _watch: watch.map(AbortOnDropHandle::new),
        }
    }
}

impl Held {
    /// The next piece. While the server works on it, no time of the client's passes.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.unread = None;
        let polled = self.piece(cx);
        self.unread = polled.is_ready().then(Instant::now);
        polled
    }

    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(self.piece);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

fn lock(held: &Mutex<Option<Held>>) -> MutexGuard<'_, Option<Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up an answer that its client has left unread for `limit`.
async fn watch(held: Weak<Mutex<Option<Held>>>, limit: Duration) {
    while let Some(answer) = held.upgrade() {
        let overdue = overdue(&answer, limit);
        drop(answer);
        match overdue {
            Ok(given_up) => {
                drop(given_up);
                tracing::debug!("an answer was given up: its client has not read it for too long");
                return;
            }
            Err(deadline) => sleep_until(deadline).await,
        }
    }
}

/// What an answer holds, where its client has left it unread for `limit`; else when to look again.
fn overdue(held: &Mutex<Option<Held>>, limit: Duration) -> Result<Option<Held>, Instant> {
    let (mut held, now) = (lock(held), Instant::now());
    let unread = held.as_ref().and_then(|held| held.unread);
    let deadline = unread.unwrap_or(now) + limit;
    if deadline > now {
        return Err(deadline);
    }
    Ok(held.take())
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut held = lock(&self.held);
        let Some(held) = held.as_mut() else {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the answer was not read for too long");
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        };
        let polled = held.next(cx);
        if polled.is_ready() {
            self.at_work.moved();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let held = lock(&self.held);
        held.as_ref()
            .is_some_and(|held| held.rest.is_empty() && held.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.held).as_ref().map(Held::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::HeaderMap;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::Version;

    use super::*;
    use crate::serve::activity::Activity;
    use crate::serve::rooms::{Room, Rooms};

    const SHORT: Duration = Duration::from_millis(20);
    /// Far longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn room() -> Arc<Room> {
        Arc::new(Rooms::new(1).now().expect("room"))
    }

    /// With the only place of `room`.
    async fn answer(room: &Arc<Room>, body: Body, limit: Option<Duration>) -> Answer {
        let activity = Arc::new(Activity::new());
        let place = place(room).await;
        Answer::new(body, activity.asked(Version::HTTP_2), Some(place), limit)
    }

    async fn place(room: &Arc<Room>) -> Place {
        let place = tokio::time::timeout(PATIENCE, Arc::clone(room).request());
        place.await.expect("a place becomes free")
    }

    /// Pieces without end, at once.
    fn endless() -> Body {
        Body::from_stream(futures::stream::repeat_with(|| Ok::<_, io::Error>("piece")))
    }

    /// One that was never asked for anything, and one that was asked for a piece.
    #[tokio::test]
    async fn what_nobody_reads_gives_its_place_back_and_ends_with_an_error() {
        for pieces in 0..2 {
            let room = room();
            let mut unread = answer(&room, endless(), Some(SHORT)).await;
            for _ in 0..pieces {
                let piece = unread.frame().await.expect("goes on").expect("a piece");
                assert_eq!(piece.into_data().expect("data"), "piece");
            }
            let _next = place(&room).await;
            let error = unread.frame().await.expect("no end").expect_err("given up");
            assert_eq!(error.to_string(), "the answer was not read for too long");
            assert!(!unread.is_end_stream());
        }
    }

    /// The client waits for the server all the while, several times as long as it may leave a piece unread.
    #[tokio::test]
    async fn a_server_that_is_slow_costs_the_client_nothing() {
        let room = room();
        let mut ticks = tokio::time::interval(SHORT);
        let looks = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&looks);
        let slow = futures::stream::once(async move {
            while looked.fetch_add(1, Ordering::Relaxed) < 10 {
                ticks.tick().await;
            }
            Ok::<_, io::Error>("at last")
        });
        let slow = answer(&room, Body::from_stream(slow), Some(SHORT)).await;
        let bytes = tokio::time::timeout(PATIENCE, slow.collect())
            .await
            .expect("ends");
        assert_eq!(bytes.expect("is not cut").to_bytes(), "at last");
        assert_eq!(looks.load(Ordering::Relaxed), 11);
    }

    /// Nobody may have to take megabytes within the limit; an answer that is alone on its connection is as it was.
    #[tokio::test]
    async fn large_pieces_are_given_out_in_small_ones() {
        let (data, mut trailers) = (vec![7; 2 * PIECE + 1], HeaderMap::new());
        trailers.insert("x-end", axum::http::HeaderValue::from_static("yes"));
        for (limit, lengths) in [(Some(PATIENCE), &[PIECE, PIECE, 1][..]), (None, &[2 * PIECE + 1])] {
            let frames = [
                Frame::data(Bytes::from(data.clone())),
                Frame::trailers(trailers.clone()),
            ];
            let frames = futures::stream::iter(frames.map(Ok::<_, io::Error>));
            let room = room();
            let mut answer = answer(&room, Body::new(StreamBody::new(frames)), limit).await;
            for length in lengths {
                let piece = answer.frame().await.expect("goes on").expect("a piece");
                assert_eq!(piece.into_data().expect("data").len(), *length);
            }
            let last = answer.frame().await.expect("goes on").expect("trailers");
            assert_eq!(last.into_trailers().expect("trailers"), trailers);
            assert!(answer.frame().await.is_none());
        }
        let known = Body::from(data.clone());
        let mut known = answer(&room(), known, Some(PATIENCE)).await;
        assert_eq!(known.size_hint().exact(), Some(data.len() as u64));
        let _first = known.frame().await;
        assert_eq!(known.size_hint().exact(), Some((data.len() - PIECE) as u64));
        assert!(!known.is_end_stream());
        assert_eq!(
            known.collect().await.expect("the rest").to_bytes().len(),
            PIECE + 1
        );
    }
}
