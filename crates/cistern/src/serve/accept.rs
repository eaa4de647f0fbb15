//! The accept loop of one listener: HTTP/1.1 and HTTP/2, TLS where configured, limits on everything a client can
//! hold, and an end that lets requests finish.
//!
//! Where as many connections are open as may be, further ones wait with the system. Where one cannot be accepted (too
//! many files are open), the listener pauses: what is wrong is there at the next try, too.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
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
use super::idle::IdleIo;
use super::rooms::{Answer, Room, Rooms};
use crate::config::Http;
use crate::platform::api::origin::Peer;

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

async fn connection(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr, room: Room) {
    let gauge = metrics::gauge!("http_connections", "listener" => shared.name);
    gauge.increment(1.0);
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
    gauge.decrement(1.0);
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
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let at_work = active.asked(request.version());
        let (router, room) = (gate.get(), Arc::clone(&room));
        let request = request.map(|body| Body::new(Upload::new(body, Arc::clone(&active))));
        async move {
            let place = room.request().await;
            let answered = router.oneshot(request).await;
            let answer = answered.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, at_work, place)))
        }
    });
    let connection = shared
        .builder
        .serve_connection_with_upgrades(TokioIo::new(io), service)
        .into_owned();
    let idle = Duration::from_secs(shared.http.idle_seconds);
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tokio::sync::{Semaphore, watch};

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn what_happens_all_the_time_is_said_now_and_then_with_how_often_it_was() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        let said: Vec<Option<u64>> = (0..250).map(|n| seldom.say(start + PAUSE * n)).collect();
        let told: Vec<u64> = said.iter().copied().flatten().collect();
        assert_eq!(told, [1, 100, 100]);
        assert_eq!((said[0], said[100], said[200]), (Some(1), Some(100), Some(100)));
    }

    /// Requests that are at work until they are told to end.
    #[derive(Clone)]
    struct Held {
        at_work: Arc<watch::Sender<(usize, usize)>>,
        end: Arc<Semaphore>,
    }

    impl Held {
        /// A listener with room for so many connections, each with one request.
        async fn listen(max_connections: usize) -> (Self, Running, String) {
            let http = Config::default().http;
            Self::listen_with(Http {
                max_connections,
                ..http
            })
            .await
        }

        async fn listen_with(http: Http) -> (Self, Running, String) {
            let held = Self {
                at_work: Arc::default(),
                end: Arc::new(Semaphore::new(0)),
            };
            let answering = held.clone();
            let router = Router::new()
                .route("/", get(async || "at once"))
                .route("/held", get(async move || Body::new(answering.answer())));
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", socket.local_addr().expect("its address"));
            let listener = Listener {
                name: "test",
                socket,
                tls: None,
                gate: Gate::new(router),
                http,
            };
            (held, listener.run(), url)
        }

        /// Is at work until all of it is sent, as an export is.
        fn answer(&self) -> Body {
            self.at_work.send_modify(|(now, most)| {
                *now += 1;
                *most = (*most).max(*now);
            });
            let held = self.clone();
            Body::from_stream(futures::stream::once(async move {
                let may_end = held.end.acquire().await.map_err(io::Error::other)?;
                may_end.forget();
                held.at_work.send_modify(|(now, _)| *now -= 1);
                Ok::<_, io::Error>("done")
            }))
        }
    }

    /// Each may hold a file, and there are six: two are kept for the next connection, one is this one's, and three are
    /// for requests.
    #[tokio::test]
    async fn requests_at_once_on_one_connection_take_no_more_files_than_are_counted() {
        let (held, running, url) = Held::listen(3).await;
        let client = reqwest::Client::builder().http2_prior_knowledge().build();
        let client = client.expect("a client");
        let asked: Vec<_> = (0..20)
            .map(|_| tokio::spawn(client.get(format!("{url}/held")).send()))
            .collect();
        let mut at_work = held.at_work.subscribe();
        at_work
            .wait_for(|(now, _)| *now >= 3)
            .await
            .expect("as many as may be");
        // One after the other, so that those that wait come in between.
        for answered in 1..=20 {
            held.end.add_permits(1);
            let left = 20 - answered;
            let next = at_work.wait_for(|(now, _)| *now <= left);
            next.await.expect("the next one");
        }
        for one in asked {
            let answer = one.await.expect("no panic").expect("an answer");
            assert_eq!(answer.text().await.expect("a body"), "done");
        }
        assert_eq!(held.at_work.borrow().1, 3, "at work at the same time");
        drop(client);
        running.drain().await;
    }

    /// Each answer waits for its client to read, with all of it in memory.
    #[tokio::test]
    async fn answers_that_nobody_reads_leave_room_for_connections() {
        let (_held, running, url) = Held::listen(3).await;
        let deaf = reqwest::Client::builder()
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(0);
        let deaf = deaf.build().expect("a client");
        let ask = async |client: &reqwest::Client| {
            let answer = tokio::time::timeout(Duration::from_secs(10), client.get(&url).send());
            answer.await.expect("there is room").expect("an answer")
        };
        let mut unread = Vec::new();
        for _ in 0..20 {
            unread.push(ask(&deaf).await);
        }
        for _ in 0..2 {
            let other = reqwest::Client::builder().build().expect("a client");
            let answer = ask(&other).await;
            assert_eq!(answer.text().await.expect("a body"), "at once");
        }
        drop((unread, deaf));
        running.drain().await;
    }

    /// However many requests others have, one connection is never without room for one.
    #[tokio::test]
    async fn a_connection_that_is_open_gets_on_whatever_others_do() {
        let (held, running, url) = Held::listen(2).await;
        let one = reqwest::Client::builder().build().expect("a client");
        let ask = async || one.get(&url).send().await.expect("an answer").text().await;
        assert_eq!(ask().await.expect("a body"), "at once");
        let many = reqwest::Client::builder().http2_prior_knowledge().build();
        let many = many.expect("a client");
        let asked: Vec<_> = (0..20)
            .map(|_| tokio::spawn(many.get(format!("{url}/held")).send()))
            .collect();
        // The other connection has taken the rest.
        let mut at_work = held.at_work.subscribe();
        at_work.wait_for(|(now, _)| *now >= 1).await.expect("its own");
        for _ in 0..50 {
            assert_eq!(ask().await.expect("a body"), "at once");
        }
        assert_eq!(held.at_work.borrow().1, 1);
        held.end.add_permits(20);
        for one in asked {
            let answer = one.await.expect("no panic").expect("an answer");
            assert_eq!(answer.text().await.expect("a body"), "done");
        }
        drop((one, many));
        running.drain().await;
    }

    /// Clients that answer pings, and send some of their own, and nothing else: one asks for nothing more, one does not
    /// read what it asked for. There is room for one connection.
    #[tokio::test]
    async fn who_only_pings_does_not_keep_others_out() {
        let (_held, running, url) = Held::listen_with(Http {
            max_connections: 1,
            idle_seconds: 1,
            header_seconds: 1,
            ..Config::default().http
        })
        .await;
        let ask = async |client: &reqwest::Client, path: &str| {
            let answer = tokio::time::timeout(
                Duration::from_secs(10),
                client.get(format!("{url}/{path}")).send(),
            );
            answer.await.expect("there is room").expect("an answer")
        };
        let pinging = || {
            reqwest::Client::builder()
                .http2_prior_knowledge()
                .http2_keep_alive_interval(Duration::from_millis(100))
                .http2_keep_alive_while_idle(true)
        };
        let quiet = pinging().build().expect("a client");
        assert_eq!(ask(&quiet, "").await.text().await.expect("a body"), "at once");
        let deaf = pinging().build().expect("a client");
        let unread = ask(&deaf, "held").await;
        let other = reqwest::Client::builder().build().expect("a client");
        assert_eq!(ask(&other, "").await.text().await.expect("a body"), "at once");
        drop(other);
        // Told that it was closed, the first one asks on another connection.
        assert_eq!(ask(&quiet, "").await.text().await.expect("a body"), "at once");
        drop((unread, deaf, quiet));
        running.drain().await;
    }
}
