//! The accept loop of one listener: HTTP/1.1 and HTTP/2, TLS where configured, limits on everything a client can
//! hold, and an end that lets requests finish.
//!
//! Where as many connections are open as may be, further ones wait with the system. Where one cannot be accepted (too
//! many files are open), the listener pauses: what is wrong is there at the next try, too.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::activity::{Activity, Upload};
use super::answer::Answer;
use super::idle::IdleIo;
use super::rooms::{Place, Room, Rooms};
use crate::config::Http;
use crate::platform::api::origin::Peer;
use crate::platform::error::Error;

/// Bytes of an upload that may be on their way on one HTTP/2 stream. The default of 64 KiB bounds an upload to that
/// much a round trip.
const H2_STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of one connection.
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// Requests at once on one HTTP/2 connection; some of them wait where there is no room for so many.
const H2_STREAMS: u32 = 128;
/// How long is waited after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How often at most the log says the same of connections that have to wait.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What answers; it can be exchanged while connections are open.
#[derive(Clone)]
pub struct Gate {
    router: Arc<RwLock<Router>>,
}

/// One listener.
pub struct Listener {
    /// `api`, `registry` or `all`, for metrics.
    pub name: &'static str,
    /// Bound already.
    pub socket: TcpListener,
    /// Where it speaks TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// What answers.
    pub gate: Gate,
    /// Limits.
    pub http: Http,
}

/// A listener at work.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    connections: TaskTracker,
}

impl Gate {
    /// Answers with `router`.
    pub fn new(router: Router) -> Self {
        Self {
            router: Arc::new(RwLock::new(router)),
        }
    }

    /// From the next request on answers with `router`.
    pub fn set(&self, router: Router) {
        *self.router.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    fn get(&self) -> Router {
        self.router.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Running {
    /// Takes no further connection, and returns when every request on the open ones is answered.
    pub async fn drain(self) {
        self.stop.cancel();
        let _ = self.task.await;
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Listener {
    /// Starts accepting.
    pub fn run(self) -> Running {
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        Running {
            task: tokio::spawn(accept_loop(self, stop.clone(), connections.clone())),
            stop,
            connections,
        }
    }
}

/// What every connection of a listener shares.
struct Shared {
    name: &'static str,
    local: SocketAddr,
    gate: Gate,
    http: Http,
    tls: Option<TlsAcceptor>,
    builder: Builder<TokioExecutor>,
    stop: CancellationToken,
}

async fn accept_loop(listener: Listener, stop: CancellationToken, connections: TaskTracker) {
    let Ok(local) = listener.socket.local_addr() else {
        return;
    };
    let mut door = Door::new(listener.name, listener.http.max_connections);
    let shared = Arc::new(Shared {
        name: listener.name,
        local,
        gate: listener.gate,
        builder: builder(&listener.http),
        http: listener.http,
        tls: listener.tls.map(TlsAcceptor::from),
        stop,
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = door.accept(&listener.socket) => accepted,
        };
        match accepted {
            Ok((stream, address, room)) => {
                connections.spawn(connection(Arc::clone(&shared), stream, address, room));
            }
            Err(error) => {
                door.failed(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// How a connection ended.
type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Where the connections of a listener come in.
struct Door {
    name: &'static str,
    limit: usize,
    rooms: Rooms,
    fulls: Seldom,
    failures: Seldom,
}

impl Door {
    fn new(name: &'static str, limit: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nobody has so many connections")]
        metrics::gauge!("http_connections_limit", "listener" => name).set(limit as f64);
        Self {
            name,
            limit,
            rooms: Rooms::new(limit),
            fulls: Seldom::default(),
            failures: Seldom::default(),
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&mut self, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr, Room)> {
        let room = if let Some(room) = self.rooms.now() {
            room
        } else {
            self.full();
            self.rooms.wait().await.map_err(io::Error::other)?
        };
        let (stream, address) = socket.accept().await?;
        Ok((stream, address, room))
    }

    /// As many are open as may be.
    fn full(&mut self) {
        if let Some(times) = self.fulls.say(Instant::now()) {
            tracing::warn!(
                listener = self.name,
                connections = self.limit,
                times,
                "as many connections are open as this listener takes, or fewer with many requests at once: further ones wait until one ends; raise `http.max_connections` where \
                 that is too few, and the limit of open files with it, as `cistern doctor` says"
            );
        }
    }

    /// A connection could not be accepted.
    fn failed(&mut self, error: &io::Error) {
        metrics::counter!("http_accept_failures_total", "listener" => self.name).increment(1);
        if let Some(times) = self.failures.say(Instant::now()) {
            tracing::warn!(
                %error,
                listener = self.name,
                times,
                "could not accept a connection: clients wait; where too many files are open, raise `LimitNOFILE=` in the unit (`ulimit -Hn` in \
                 a shell), or lower `http.max_connections`"
            );
        }
    }
}

/// Says something now and then that happens all the time.
#[derive(Debug, Default)]
struct Seldom {
    said: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// How often it happened since it was said last, where it is time to say it again.
    fn say(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        if self.said.is_some_and(|said| now < said + SAY_EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

fn builder(http: &Http) -> Builder<TokioExecutor> {
    let header_time = Duration::from_secs(http.header_seconds);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        // Never `pipeline_flush`: with it hyper takes all of a body into memory, however slowly the client reads.
        .max_buf_size(http.max_header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(header_time)
        .keep_alive_timeout(header_time)
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(u32::try_from(http.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW);
    builder
}

/// A connection in the metric of the open ones until this is dropped: its task may end by a panic.
struct Counted(metrics::Gauge);

impl Counted {
    fn new(listener: &'static str) -> Self {
        let gauge = metrics::gauge!("http_connections", "listener" => listener);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr, room: Room) {
    let _counted = Counted::new(shared.name);
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let io = IdleIo::new(stream, Duration::from_secs(shared.http.idle_seconds));
    let peer = Peer {
        address,
        is_tls: shared.tls.is_some(),
        local: shared.local,
    };
    let result = match &shared.tls {
        None => serve(&shared, io, peer, room).await,
        Some(acceptor) => match handshake(&shared, acceptor, io).await {
            Ok(io) => serve(&shared, io, peer, room).await,
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, %address, listener = shared.name, "a connection ended early");
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    acceptor: &TlsAcceptor,
    io: S,
) -> io::Result<tokio_rustls::server::TlsStream<S>> {
    let limit = Duration::from_secs(shared.http.header_seconds);
    let too_long = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
    tokio::select! {
        shaken = acceptor.accept(io) => shaken,
        () = tokio::time::sleep(limit) => Err(too_long()),
        // Nothing was asked yet.
        () = shared.stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &Shared,
    io: S,
    peer: Peer,
    room: Room,
) -> Served {
    let (gate, room, activity) = (shared.gate.clone(), Arc::new(room), Arc::new(Activity::new()));
    let active = Arc::clone(&activity);
    let [idle, header_time] = [shared.http.idle_seconds, shared.http.header_seconds].map(Duration::from_secs);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let at_work = active.asked(request.version());
        // Over HTTP/1 it is the connection that is idle.
        let limit = (request.version() >= Version::HTTP_2).then_some(idle);
        let (router, room) = (gate.get(), Arc::clone(&room));
        let request = request.map(|body| Body::new(Upload::new(body, Arc::clone(&active), idle)));
        let patience = (!request.body().is_end_stream()).then_some(header_time);
        async move {
            let place = place(room, patience).await;
            let answer = match &place {
                Some(_) => router
                    .oneshot(request)
                    .await
                    .unwrap_or_else(|never| match never {}),
                None => full(request),
            };
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, at_work, place, limit)))
        }
    });
    let connection = shared
        .builder
        .serve_connection_with_upgrades(TokioIo::new(io), service)
        .into_owned();
    let ending = GracefulShutdown::new();
    let mut served = pin!(ending.watch(connection));
    tokio::select! {
        result = &mut served => return result,
        () = shared.stop.cancelled() => {}
        () = activity.unused(idle, idle) => return farewell(shared, served, ending, &activity).await,
    }
    tokio::select! {
        result = served => result,
        () = ending.shutdown() => Ok(()),
    }
}

/// Room for a request; none where it has waited for `limit`, which is for those with a body: what came of that takes of
/// what the connection may have on its way, and several of them would leave nothing for the one that is at work.
async fn place(room: Arc<Room>, limit: Option<Duration>) -> Option<Place> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, room.request()).await.ok(),
        None => Some(room.request().await),
    }
}

/// The answer to an upload that found no room.
fn full(request: Request<Body>) -> Response {
    // Gives back what it has taken.
    drop(request);
    let text = "As many requests are at work as this server takes at once; try again in a minute.";
    Error::Unavailable(text.into()).into_response()
}

/// Tells a client whose connection moves nothing that it is closed, so that it asks on another one, and waits a little
/// for it to take note. What it asked for meanwhile is answered, and what it goes on reading is sent.
async fn farewell(
    shared: &Shared,
    served: impl Future<Output = Served>,
    ending: GracefulShutdown,
    activity: &Activity,
) -> Served {
    let [idle, header] = [shared.http.idle_seconds, shared.http.header_seconds].map(Duration::from_secs);
    if !activity.is_at_work() {
        activity.moved();
    }
    tokio::select! {
        result = served => result,
        () = ending.shutdown() => Ok(()),
        () = activity.unused(idle, header) => Err("nothing was asked or read for too long".into()),
    }
}
