//! Clients that ask for a disk and then do not read.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::ticks_and_peak;
use crate::harness::{Server, disks, until};

/// As many as a token may have open (`http.max_downloads`), and four for each connection to the database.
const UNREAD: usize = 64;
const DISK_MIB: usize = 192;
/// The most that the server may take with all of them, in KiB.
const LIMIT_KIB: u64 = 256 << 10;
/// Far longer than anything here takes, and shorter than a request waits for the database.
const PATIENCE: Duration = Duration::from_secs(25);

/// Asks for an image through as small a window as the system gives, and reads the answer's first line.
pub(crate) async fn unread(api: &Api, image: i64, format: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("is settable");
    let address = api.url.trim_start_matches("http://").parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("the server listens");
    let request = format!(
        "GET /v2/images/{image}/download?format={format} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n",
        api.token
    );
    stream.write_all(request.as_bytes()).await.expect("is taken");
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.expect("answers");
    assert_eq!(&line, b"HTTP/1.1 200");
    stream
}

/// Waits until the server has done for its clients what it can do; gives the most memory it had, in KiB.
async fn stalled(server: &Server) -> u64 {
    let (mut last, mut still) = ((0, 0), 0);
    until("the server to wait for its clients", 120, || {
        let now = ticks_and_peak(server.pid());
        still = if now == last { still + 1 } else { 0 };
        last = now;
        let is_waiting = still == 25;
        async move { is_waiting.then_some(now.1) }
    })
    .await
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_reads_hold_up_nobody_and_take_little_memory() {
    let mut server = Server::start();
    let files = Files::start().await;
    let disk = disks::raw(DISK_MIB, 71);
    let url = files.put("large.raw", disk.clone());
    let image = imported(&server.api(), "large", &url).await["id"]
        .as_i64()
        .expect("an id");
    // A new process: what the import took is not counted.
    assert!(server.terminate().success());
    server.start_again();
    let (api, other) = (server.api(), server.api_with(&[]));

    let mut held = Vec::new();
    for n in 0..UNREAD {
        let format = if n % 2 == 0 { "raw" } else { "qcow2" };
        held.push(in_time("a download's beginning", unread(&api, image, format)).await);
    }
    let peak = stalled(&server).await;

    let path = format!("/v2/images/{image}/download");
    let ready = in_time("/readyz", api.with_token("").get("/readyz")).await;
    assert_eq!(ready.status, 200, "{ready:?}");
    in_time("the account", api.get("/v2/account")).await.expect(200);
    let refused = in_time("one more", api.get(&path)).await.expect(429);
    let sentence = refused["message"].as_str().expect("a sentence");
    assert!(sentence.contains("64 downloads"), "{sentence}");
    let bytes = in_time("a download that is read", downloaded(&other, image, "raw")).await;
    assert!(bytes == disk);
    let small = disks::raw(8, 72);
    let url = files.put("small.raw", small.clone());
    let made = in_time("an import", imported(&other, "small", &url)).await;
    let id = made["id"].as_i64().expect("an id");
    assert!(in_time("its download", downloaded(&other, id, "raw")).await == small);
    assert!(
        peak < LIMIT_KIB,
        "{UNREAD} unread downloads took {} MiB",
        peak >> 10
    );

    let failed = api.get("/v2/events?what=image.download&outcome=failed").await;
    assert_eq!(failed.expect(200)["events"], json!([]), "nothing was damaged");
    drop(held);
    let free = async || {
        let answer = api.get(&path).await;
        (answer.status == 200).then_some(answer.bytes)
    };
    assert!(until("a place to be free", 60, free).await == disk);
}

#[tokio::test]
async fn downloads_are_told_once_a_minute_and_counted() {
    let server = Server::start();
    let files = Files::start().await;
    let url = files.put("disk.raw", disks::raw(2, 73));
    let api = server.api();
    let image = imported(&api, "disk", &url).await["id"].as_i64().expect("an id");
    for _ in 0..50 {
        downloaded(&api, image, "raw").await;
    }
    let told = api.get("/v2/events?what=image.download").await.expect(200);
    let told = told["events"].as_array().expect("a list").len();
    assert!((1..=3).contains(&told), "{told} events, one a minute");
}
