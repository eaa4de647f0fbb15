//! Stopping: requests in flight are answered, jobs are handed back, a second signal does not wait.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sea_orm::{ConnectionTrait as _, Database, Statement};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::free_port;
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::server::{Setup, token_in};
use crate::harness::{Server, disks, until};
use crate::jobs::{held, held_up, job_of};
use crate::unread::unread;

/// What the log says where not everything has ended in time.
const RAN_OUT: &str = "the time to stop ran out";
const BODY: &str = r#"{"name":"made-while-stopping"}"#;

/// A request that has begun, and whose end is still to come.
async fn begun(server: &Server) -> TcpStream {
    let address = server.api_url.strip_prefix("http://").expect("plain HTTP");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST /v2/tags HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        server.token,
        BODY.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    // The handler has begun to read when this comes.
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.expect("an interim answer");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn stopping(server: &Server) {
    until("the stop to begin", 10, || async {
        server.log_text().contains("stopping").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_in_flight_is_answered_and_no_new_one_is_taken() {
    let mut server = Server::start();
    let mut stream = begun(&server).await;
    server.signal(Signal::TERM);
    let address = server
        .api_url
        .strip_prefix("http://")
        .expect("plain HTTP")
        .to_owned();
    until("the door to close", 10, || async {
        TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;
    assert!(server.is_running(), "it waits for the request");
    stream.write_all(BODY.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(server.ended().success(), "{}", server.log_text());
    let log = server.log_text();
    assert!(log.contains("stopped") && !log.contains(RAN_OUT), "{log}");
    server.start_again();
    server.api().get("/v2/tags/made-while-stopping").await.expect(200);
}

/// The token is kept nowhere: who stops a first start when its owner is made must still be told it.
#[tokio::test]
async fn a_stop_of_a_first_start_does_not_lose_the_token() {
    // Each round on a new installation: when the signal comes is a matter of luck.
    for _ in 0..5 {
        let mut server = Setup::default().stopped();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let said = folder.path().join("said");
        server.start_into(std::fs::File::create(&said).expect("makes a file"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !has_owner(&server).await {
            assert!(Instant::now() < deadline, "no owner: {}", server.log_text());
        }
        assert!(server.terminate().success(), "{}", server.log_text());
        let said = std::fs::read_to_string(&said).expect("reads");
        assert!(token_in(&said).is_some(), "{said}\n{}", server.log_text());
    }
}

async fn has_owner(server: &Server) -> bool {
    let Ok(db) = Database::connect(server.database_url()).await else {
        return false;
    };
    let statement = Statement::from_string(db.get_database_backend(), "SELECT id FROM user_account");
    let found = db.query_one_raw(statement).await;
    db.close().await.expect("closes");
    matches!(found, Ok(Some(_)))
}

/// From the signal to the end of the process, with everything open that can keep it.
#[tokio::test]
async fn a_stop_does_not_take_longer_than_it_may() {
    let limit = Duration::from_secs(5);
    let (mut server, files) = (
        Setup::default().arg("--shutdown-seconds=5").start(),
        Files::start().await,
    );
    // More than the buffers of both ends take in.
    let disk = files.put("read.img", disks::raw(48, 3));
    let image = imported(&server.api(), "read", &disk).await;
    let id = image["id"].as_i64().expect("an image has an id");
    let mut open = vec![begun(&server).await];
    for _ in 0..40 {
        open.push(unread(&server.api(), id, "raw").await);
    }
    let (held, _) = held(&files, "held.img", 6);
    let running = import(&server.api(), "held", &held.url).await;
    held_up(&server.api(), running).await;
    let started = Instant::now();
    assert!(server.terminate().success(), "{}", server.log_text());
    let took = started.elapsed();
    assert!(took >= limit * 8 / 10 && took < limit, "{took:?}");
    let log = server.log_text();
    assert!(log.contains(RAN_OUT) && !log.contains("stopped"), "{log}");
    drop(open);
}

/// Nothing is served yet, so there is nothing to wait for.
#[tokio::test]
async fn a_start_that_waits_for_its_bucket_says_so_and_ends_at_the_first_signal() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let mut server = Setup::default().at(place).start();
    assert!(server.terminate().success());
    proxy.set(Fault::WritesHang);
    let api = format!("127.0.0.1:{}", free_port());
    server.start_unheard(&api);
    until("the bucket to be tested", 20, || async {
        (proxy.hit() > 0).then_some(())
    })
    .await;
    let ready = server.api().get("/readyz").await;
    assert_eq!(ready.status, 503);
    let said = ready.json.to_string();
    assert!(
        said.contains("starting: the objects' place is being tested"),
        "{said}"
    );
    server.signal(Signal::TERM);
    until("the start to end", 5, || {
        std::future::ready((!server.is_running()).then_some(()))
    })
    .await;
    assert!(server.ended().success(), "{}", server.log_text());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut server = Setup::default().arg("--shutdown-seconds=600").start();
    let stream = begun(&server).await;
    server.signal(Signal::TERM);
    stopping(&server).await;
    assert!(server.is_running());
    let started = Instant::now();
    assert_eq!(server.terminate().code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(8));
    drop(stream);
}

#[tokio::test]
async fn a_running_import_is_handed_back_and_goes_on_after_the_next_start() {
    let (mut server, files) = (Server::start(), Files::start().await);
    let (held, disk) = held(&files, "held.img", 6);
    let id = import(&server.api(), "held", &held.url).await;
    held_up(&server.api(), id).await;
    let started = Instant::now();
    assert!(server.terminate().success(), "{}", server.log_text());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "a job is asked to stop"
    );
    held.release();
    server.start_again();
    let api = server.api();
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id, "raw").await == disk);
    let job = job_of(&api, id).await;
    assert_eq!(job["attempts"], 1, "a stop counts no attempt: {job:#}");
    let asked = held.asked();
    assert!(
        asked.len() == 2 && asked[1] > 0,
        "the download went on: {asked:?}"
    );
}
