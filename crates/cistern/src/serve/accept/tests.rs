//! Listeners of their own, with clients that take more than their part, or read nothing.

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
