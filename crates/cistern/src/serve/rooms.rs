//! Room for the files of connections and of the requests on them.
//!
//! Over HTTP/1 a connection has one request at a time, so what a connection may take is known when it is accepted: its socket, and
//! what its request reads or writes ([`A_CONNECTION`]). Over HTTP/2 it has as many as the client likes, and each may be an upload or an export.
//! So each besides the first takes its file from those that connections have not taken, and waits for one where there is none; it waits for the
//! connection's own request to end, too, so that no connection depends on others to get on. A lower limit of streams would be
//! simpler, and either slow a browser down or leave room for a few connections only: nearly all of them have one request at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::files::A_CONNECTION;

/// The files that the connections of one listener may take.
#[derive(Debug, Clone)]
pub(super) struct Rooms(Arc<Semaphore>);

/// A connection's room.
pub(super) struct Room {
    /// One permit: its own request.
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    _files: OwnedSemaphorePermit,
}

/// Room for a request. The connection's is kept with it: a request may end a little later than its connection does.
pub(super) struct Place {
    _file: Option<OwnedSemaphorePermit>,
    _room: Arc<Room>,
}

/// Body of an answer; the room of its request is free when it is sent, or given up.
pub(super) struct Answer {
    body: Body,
    _place: Place,
}

impl Rooms {
    /// For so many connections.
    pub(super) fn new(connections: usize) -> Self {
        let files = connections.saturating_mul(A_CONNECTION as usize);
        Self(Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for a connection, if there is any now.
    pub(super) fn now(&self) -> Option<Room> {
        let files = Arc::clone(&self.0).try_acquire_many_owned(A_CONNECTION);
        files.ok().map(|files| self.room(files))
    }

    /// Room for a connection, once there is any.
    pub(super) async fn wait(&self) -> Result<Room, AcquireError> {
        let files = Arc::clone(&self.0).acquire_many_owned(A_CONNECTION);
        files.await.map(|files| self.room(files))
    }

    fn room(&self, files: OwnedSemaphorePermit) -> Room {
        Room {
            own: Arc::new(Semaphore::new(1)),
            all: Arc::clone(&self.0),
            _files: files,
        }
    }
}

impl Room {
    /// Room for a request on this connection, once there is any; to be kept until it is answered.
    pub(super) async fn request(self: Arc<Self>) -> Place {
        let own = Arc::clone(&self.own).acquire_owned();
        let more = Arc::clone(&self.all).acquire_owned();
        let file = tokio::select! {
            biased;
            own = own => own,
            more = more => more,
        };
        Place {
            // Nobody closes either of the two.
            _file: file.ok(),
            _room: self,
        }
    }
}

impl Answer {
    pub(super) fn new(body: Body, place: Place) -> Self {
        Self { body, _place: place }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
