//! Room for the files of connections and of the requests on them.
//!
//! Over HTTP/1 a connection has one request at a time, so what a connection may take is known when it is accepted: its
//! socket, and what its request reads or writes ([`A_CONNECTION`]). Over HTTP/2 it has as many as the client likes, and
//! each may be an upload or an export. So each besides the first takes its file from those that connections have not
//! taken, and waits for one where there is none; it waits for the connection's own request to end, too, so that no
//! connection depends on others to get on. A lower limit of streams would be simpler, and either slow a browser down or
//! leave room for a few connections only: nearly all of them have one request at a time.
//!
//! Nobody may keep others out by not reading: an answer that is wholly in memory holds no file, and gives its room back
//! before it is sent; any other has to be read on ([`super::answer`]). Nor by asking: what becomes free goes to a
//! connection that waits first, however long requests have waited.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};

use super::files::A_CONNECTION;

/// The files that the connections of one listener may take.
#[derive(Debug, Clone)]
pub(super) struct Rooms(Arc<Files>);

#[derive(Debug)]
struct Files {
    free: Arc<Semaphore>,
    /// Whether a connection waits for some.
    knocking: watch::Sender<bool>,
    /// Of the requests that wait for one, one at a time stands where a free file is given away.
    turn: Semaphore,
}

/// A connection waits until this is dropped.
struct Knock<'a>(&'a watch::Sender<bool>);

/// A connection's room.
pub(super) struct Room {
    /// One permit: its own request.
    own: Arc<Semaphore>,
    all: Arc<Files>,
    _files: OwnedSemaphorePermit,
}

/// Room for a request. The connection's is kept with it: a request may end a little later than its connection does.
pub(super) struct Place {
    _file: Option<OwnedSemaphorePermit>,
    _room: Arc<Room>,
}

impl Rooms {
    /// For so many connections.
    pub(super) fn new(connections: usize) -> Self {
        let files = connections.saturating_mul(A_CONNECTION as usize);
        Self(Arc::new(Files {
            free: Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS))),
            knocking: watch::Sender::new(false),
            turn: Semaphore::new(1),
        }))
    }

    /// Room for a connection, if there is any now.
    pub(super) fn now(&self) -> Option<Room> {
        let files = Arc::clone(&self.0.free).try_acquire_many_owned(A_CONNECTION);
        files.ok().map(|files| self.room(files))
    }

    /// Room for a connection, once there is any; before all requests that wait. One connection may wait at a time.
    pub(super) async fn wait(&self) -> Result<Room, AcquireError> {
        let _knock = Knock::new(&self.0.knocking);
        let files = Arc::clone(&self.0.free).acquire_many_owned(A_CONNECTION);
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

impl Files {
    /// A file for a request, once there is one that no connection waits for; never none, as nobody closes what they
    /// come from.
    async fn more(&self) -> Option<OwnedSemaphorePermit> {
        let _turn = self.turn.acquire().await;
        let mut knocking = self.knocking.subscribe();
        loop {
            knocking.wait_for(|knocking| !knocking).await.ok()?;
            tokio::select! {
                // What it was given already it gives back.
                biased;
                _ = knocking.wait_for(|knocking| *knocking) => {}
                file = Arc::clone(&self.free).acquire_owned() => return file.ok(),
            }
        }
    }
}

impl<'a> Knock<'a> {
    fn new(knocking: &'a watch::Sender<bool>) -> Self {
        knocking.send_replace(true);
        Self(knocking)
    }
}

impl Drop for Knock<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Room {
    /// Room for a request on this connection, once there is any; to be kept until it is answered.
    pub(super) async fn request(self: Arc<Self>) -> Place {
        let own = Arc::clone(&self.own).acquire_owned();
        let file = tokio::select! {
            biased;
            own = own => own.ok(),
            more = self.all.more() => more,
        };
        Place {
            _file: file,
            _room: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use axum::body::Body;
    use futures::{FutureExt as _, poll};
    use hyper::Version;

    use super::*;
    use crate::serve::activity::Activity;
    use crate::serve::answer::Answer;

    fn at_once(room: &Arc<Room>) -> Place {
        let place = Arc::clone(room).request().now_or_never();
        place.expect("there is room")
    }

    #[tokio::test]
    async fn a_connection_that_waits_comes_before_requests_that_have_waited_for_longer() {
        let rooms = Rooms::new(2);
        let room = Arc::new(rooms.now().expect("room"));
        let (own, second, third) = (at_once(&room), at_once(&room), at_once(&room));
        let mut waiting = pin!(Arc::clone(&room).request());
        let mut later = pin!(Arc::clone(&room).request());
        assert!(poll!(waiting.as_mut()).is_pending() && poll!(later.as_mut()).is_pending());

        let mut next = Box::pin(rooms.wait());
        assert!(poll!(next.as_mut()).is_pending());
        drop(second);
        assert!(poll!(waiting.as_mut()).is_pending() && poll!(next.as_mut()).is_pending());
        drop(third);
        assert!(poll!(waiting.as_mut()).is_pending());
        let Poll::Ready(Ok(accepted)) = poll!(next.as_mut()) else {
            panic!("two files are free, and the connection has to have them");
        };
        drop(own);
        let Poll::Ready(_own) = poll!(waiting.as_mut()) else {
            panic!("the connection's own is free");
        };

        // One that does not wait any more, as at the end of a listener, leaves what is free to requests.
        drop(next);
        let mut given_up = Box::pin(rooms.wait());
        assert!(poll!(given_up.as_mut()).is_pending());
        drop(accepted);
        assert!(poll!(later.as_mut()).is_pending());
        drop(given_up);
        assert!(poll!(later.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn only_what_is_not_in_memory_keeps_its_room() {
        let room = Arc::new(Rooms::new(1).now().expect("room"));
        let activity = Arc::new(Activity::new());
        let keeps = |body: Body| {
            let _answer = Answer::new(body, activity.asked(Version::HTTP_2), Some(at_once(&room)), None);
            room.own.available_permits() == 0
        };
        assert!(!keeps(Body::empty()));
        assert!(!keeps(Body::from("an error")));
        assert!(keeps(Body::from(vec![0; 65 << 10])));
        let stream = futures::stream::once(async { Ok::<_, axum::Error>("of a file") });
        assert!(keeps(Body::from_stream(stream)));
    }
}
