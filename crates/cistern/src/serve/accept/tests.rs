//! Listeners of their own, with clients that take more than their part, or read nothing.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures::channel::mpsc;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::config::Config;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than a client is asked to take at once.
static LARGE: [u8; 200 << 10] = [7; 200 << 10];

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

/// One of them.
struct Working(Arc<watch::Sender<(usize, usize)>>);

impl Working {
    fn new(at_work: &Arc<watch::Sender<(usize, usize)>>) -> Self {
        at_work.send_modify(|(now, most)| {
            *now += 1;
            *most = (*most).max(*now);
        });
        Self(Arc::clone(at_work))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.send_modify(|(now, _)| *now -= 1);
    }
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
        let (answering, filling) = (held.clone(), held.clone());
        let who = async |Extension(peer): Extension<Peer>| peer.address.to_string();
        let router = Router::new()
            .route("/", get(async || "at once"))
            .route("/who", get(who))
            .route("/upload", post(uploaded))
            .route(
                "/panics",
                get(async || -> &'static str { panic!("as it was asked to") }),
            )
            .route("/held", get(async move || answering.answer()))
            .route("/endless", get(async move || filling.endless()));
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
        let (working, held) = (Working::new(&self.at_work), self.clone());
        Body::from_stream(futures::stream::once(async move {
            let may_end = held.end.acquire().await.map_err(io::Error::other)?;
            may_end.forget();
            drop(working);
            Ok::<_, io::Error>("done")
        }))
    }

    /// Is at work until nobody wants more of it, as a large export is.
    fn endless(&self) -> Body {
        let working = Working::new(&self.at_work);
        Body::from_stream(futures::stream::repeat_with(move || {
            let _ = &working;
            Ok::<_, io::Error>(Bytes::from_static(&LARGE))
        }))
    }
}

/// How an upload ended.
async fn uploaded(body: Body) -> String {
    let read = axum::body::to_bytes(body, usize::MAX).await;
    read.map_or_else(
        |error| error.to_string(),
        |bytes| format!("{} bytes", bytes.len()),
    )
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

/// A listener that waits a second for its clients, and a client with one connection to it.
async fn impatient() -> (Held, Running, String, reqwest::Client) {
    let (held, running, url) = Held::listen_with(Http {
        idle_seconds: 1,
        ..Config::default().http
    })
    .await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(64 << 10);
    (held, running, url, client.build().expect("a client"))
}

/// The address that a connection comes from, as its listener sees it.
async fn who(client: &reqwest::Client, url: &str) -> String {
    let asked = client.get(format!("{url}/who")).send();
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let answer = answer.expect("in time").expect("an answer");
    answer.text().await.expect("a body")
}

/// The client goes on with other requests on the same connection, so that it is never idle.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up_on_a_busy_connection() {
    let (held, running, url, client) = impatient().await;
    let first = who(&client, &url).await;
    let unread = client.get(format!("{url}/endless")).send().await;
    let unread = unread.expect("an answer");
    assert_eq!(held.at_work.borrow().0, 1);
    let asking = async {
        while held.at_work.borrow().0 > 0 {
            assert_eq!(who(&client, &url).await, first);
        }
    };
    let given_up = tokio::time::timeout(PATIENCE, asking).await;
    given_up.expect("it gives back what it holds");
    assert_eq!(who(&client, &url).await, first);
    let rest = tokio::time::timeout(PATIENCE, unread.bytes()).await;
    rest.expect("it ends").expect_err("it is not whole");
    assert_eq!(who(&client, &url).await, first);
    drop(client);
    running.drain().await;
}

/// One answer whose client takes little at a time, and one that the server has nothing of, for longer than a client may
/// do nothing.
#[tokio::test]
async fn neither_a_slow_client_nor_a_slow_server_has_its_answer_cut() {
    let (held, running, url, client) = impatient().await;
    let first = who(&client, &url).await;
    let [slow, waiting] = ["endless", "held"].map(|path| client.get(format!("{url}/{path}")).send());
    let (mut slow, waiting) = (slow.await.expect("an answer"), waiting.await.expect("an answer"));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        let piece = tokio::time::timeout(PATIENCE, slow.chunk()).await;
        let piece = piece.expect("in time").expect("is not cut");
        assert!(piece.expect("goes on").len() <= 64 << 10);
        assert_eq!(who(&client, &url).await, first);
    }
    assert_eq!(*held.at_work.borrow(), (2, 2));
    held.end.add_permits(1);
    assert_eq!(waiting.text().await.expect("a body"), "done");
    drop((slow, client));
    running.drain().await;
}

/// Its client goes on with other requests on the same connection. One that sends a little now and then is not cut.
#[tokio::test]
async fn an_upload_of_which_nothing_more_comes_is_given_up_on_a_busy_connection() {
    let (_held, running, url, client) = impatient().await;
    let first = who(&client, &url).await;
    let upload = |pieces: mpsc::Receiver<io::Result<&'static str>>| {
        let body = reqwest::Body::wrap_stream(pieces);
        tokio::spawn(client.post(format!("{url}/upload")).body(body).send())
    };
    let [(mut send_slow, slow), (mut send_none, none)] = [(), ()].map(|()| mpsc::channel(1));
    let (slow, none) = (upload(slow), upload(none));
    send_none.try_send(Ok("piece")).expect("is taken");
    let start = Instant::now();
    while !none.is_finished() || start.elapsed() < Duration::from_millis(2500) {
        assert!(start.elapsed() < PATIENCE, "it is not given up");
        assert_eq!(who(&client, &url).await, first);
        let _ = send_slow.try_send(Ok("p"));
    }
    let told = none.await.expect("no panic").expect("an answer").text().await;
    assert_eq!(
        told.expect("a body"),
        "nothing more of the upload came for too long"
    );
    drop(send_slow);
    let told = slow.await.expect("no panic").expect("an answer").text().await;
    assert!(told.expect("a body").ends_with(" bytes"));
    drop((send_none, client));
    running.drain().await;
}

/// There is room for one request, and what waits has all that may be on its way: neither waits for the other for ever.
#[tokio::test]
async fn uploads_that_wait_for_room_do_not_starve_the_one_that_has_it() {
    let (_held, running, url) = Held::listen_with(Http {
        max_connections: 1,
        header_seconds: 1,
        ..Config::default().http
    })
    .await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build();
    let client = client.expect("a client");
    let body = vec![7; 8 << 20];
    let asked: Vec<_> = (0..8)
        .map(|_| client.post(format!("{url}/upload")).body(body.clone()).send())
        .map(tokio::spawn)
        .collect();
    let mut taken = 0;
    for one in asked {
        let answer = tokio::time::timeout(PATIENCE, one).await.expect("in time");
        let answer = answer.expect("no panic").expect("an answer");
        let is_taken = answer.status() == 200;
        assert!(is_taken || answer.status() == 503, "{answer:?}");
        let told = answer.text().await.expect("a body");
        assert_eq!(is_taken, told == format!("{} bytes", body.len()), "{told}");
        taken += u32::from(is_taken);
    }
    assert!(taken > 0);
    drop(client);
    running.drain().await;
}

/// It has begun no handshake, and may be one that never does.
#[tokio::test]
async fn a_client_that_says_nothing_over_tls_does_not_hold_up_a_stop() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("its address");
    let running = Listener {
        name: "test",
        socket,
        tls: Some(Arc::new(config)),
        gate: Gate::new(Router::new()),
        http: Http {
            header_seconds: 2 * PATIENCE.as_secs(),
            ..Config::default().http
        },
    }
    .run();
    let silent = TcpStream::connect(address).await.expect("connects");
    while running.connections.is_empty() {
        tokio::task::yield_now().await;
    }
    let drained = tokio::time::timeout(PATIENCE, running.drain()).await;
    drained.expect("it is not waited for");
    drop(silent);
}

/// Here nothing stands between the connection's task and what answers.
#[tokio::test]
async fn a_connection_that_panics_is_not_counted_as_open() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let open = |connections: usize| {
        let text = recorder.handle().render();
        let line = format!("http_connections{{listener=\"test\"}} {connections}");
        assert!(text.lines().any(|shown| shown == line), "{text}");
    };
    let (_held, running, url) = Held::listen(3).await;
    let [good, bad] = [(), ()].map(|()| reqwest::Client::builder().build().expect("a client"));
    let at_once = good.get(&url).send().await.expect("an answer");
    assert_eq!(at_once.text().await.expect("a body"), "at once");
    open(1);
    let panicked = bad.get(format!("{url}/panics")).send().await;
    panicked.expect_err("no answer");
    open(1);
    drop(good);
    running.drain().await;
    open(0);
}
