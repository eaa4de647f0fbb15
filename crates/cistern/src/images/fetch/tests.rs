//! Downloads against a server that does everything a server should not.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Config;

/// What the server does with one request.
#[derive(Clone)]
enum Reply {
    /// Sends this and closes.
    Send(Vec<u8>),
    /// Sends this and then nothing, without closing.
    Hang(Vec<u8>),
    /// Sends this and then bytes without end.
    Endless(Vec<u8>),
}

/// A server on loopback that answers the first request by the first reply, and so on; the last one again and again.
struct Server {
    url: Url,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(stream, replies.clone(), Arc::clone(&seen)));
            }
        });
        Self {
            url: format!("http://{address}/disk.img").parse().expect("a URL"),
            requests,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

async fn serve(mut stream: TcpStream, replies: Vec<Reply>, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let number = {
        let mut seen = seen.lock().expect("not poisoned");
        seen.push(String::from_utf8_lossy(&head).to_lowercase());
        seen.len() - 1
    };
    let reply = replies
        .get(number)
        .or(replies.last())
        .expect("there is a reply")
        .clone();
    match reply {
        Reply::Send(bytes) => drop(stream.write_all(&bytes).await),
        Reply::Hang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Reply::Endless(bytes) => {
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(&[7; 4096]).await.is_ok() {}
        }
    }
    let _ = stream.shutdown().await;
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n").into_bytes();
    out.extend_from_slice(body);
    out
}

/// `body` of a file of `total` bytes under `etag`, from its beginning.
fn whole(etag: &str, total: usize, body: &[u8]) -> Reply {
    Reply::Send(answer(
        "200 OK",
        &format!("content-length: {total}\r\netag: \"{etag}\"\r\n"),
        body,
    ))
}

fn rest(etag: &str, from: usize, all: &[u8]) -> Reply {
    let (total, rest) = (all.len(), &all[from..]);
    let headers = format!(
        "content-length: {}\r\ncontent-range: bytes {from}-{}/{total}\r\netag: \"{etag}\"\r\n",
        rest.len(),
        total - 1
    );
    Reply::Send(answer("206 Partial Content", &headers, rest))
}

fn content() -> Vec<u8> {
    (0..=250).cycle().take(3_000_000).collect()
}

fn guard(allow: &str) -> Guard {
    let mut config = Config::for_data("unused");
    config.fetch.allow = vec![allow.parse().expect("a network")];
    Guard::new(&config)
}

struct Download {
    result: Result<u64, FetchError>,
    bytes: Vec<u8>,
}

async fn download_to(dir: &Path, url: &Url) -> Download {
    let path = dir.join("1.in");
    let limits = Limits {
        max_bytes: 4_000_000,
        total: Duration::from_secs(20),
        stall: Duration::from_millis(300),
        attempts: (2, 4),
        wait: Duration::from_millis(1),
    };
    let result = fetch(&Fetch {
        key: None,
        guard: &guard("127.0.0.1/32"),
        url,
        path: &path,
        limits,
        stop: &CancellationToken::new(),
        progress: &|_| {},
    })
    .await;
    Download {
        result,
        bytes: std::fs::read(&path).unwrap_or_default(),
    }
}

async fn download(server: &Server) -> Download {
    let dir = tempfile::tempdir().expect("a temporary folder");
    download_to(dir.path(), &server.url).await
}

fn refusal(download: Download) -> String {
    match download.result {
        Err(FetchError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_plain_download_asks_for_the_bytes_as_they_are() {
    let all = content();
    let server = Server::start(vec![whole("a", all.len(), &all)]).await;
    let done = download(&server).await;
    assert_eq!(done.result, Ok(all.len() as u64));
    assert!(done.bytes == all);
    let request = &server.requests()[0];
    assert!(request.starts_with("get "), "{request}");
    assert!(request.contains("accept-encoding: identity"), "{request}");
    assert!(!request.contains("range:"), "{request}");
}

#[tokio::test]
async fn a_cut_is_resumed_where_it_was() {
    let all = content();
    let cut = 1_200_000;
    let replies = vec![whole("a", all.len(), &all[..cut]), rest("a", cut, &all)];
    let server = Server::start(replies).await;
    let done = download(&server).await;
    assert_eq!(done.result, Ok(all.len() as u64));
    assert!(done.bytes == all);
    let request = &server.requests()[1];
    assert!(request.contains(&format!("range: bytes={cut}-")), "{request}");
    assert!(request.contains("if-range: \"a\""), "{request}");
}

#[tokio::test]
async fn another_process_goes_on_with_the_same_file() {
    let all = content();
    let cut = 2_000_000;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let broken = Server::start(vec![whole("a", all.len(), &all[..cut]), Reply::Send(Vec::new())]).await;
    assert!(download_to(dir.path(), &broken.url).await.result.is_err());
    let server = Server::start(vec![rest("a", cut, &all)]).await;
    let done = download_to(dir.path(), &server.url).await;
    assert_eq!(done.result, Ok(all.len() as u64));
    assert!(done.bytes == all);
    // And where it was complete, nothing is asked.
    assert_eq!(
        download_to(dir.path(), &server.url).await.result,
        Ok(all.len() as u64)
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_another_boot_left_is_not_trusted() {
    let all = content();
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("1.in"), vec![0; 1000]).expect("writes");
    let left = r#"{"boot":"another","validator":"\"a\"","total":3000000,"complete":null}"#;
    std::fs::write(dir.path().join("1.meta"), left).expect("writes");
    let server = Server::start(vec![whole("a", all.len(), &all)]).await;
    let done = download_to(dir.path(), &server.url).await;
    assert!(done.bytes == all);
    assert!(!server.requests()[0].contains("range:"));
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let all = content();
    let plain = |body: &[u8]| {
        Reply::Send(answer(
            "200 OK",
            &format!("content-length: {}\r\n", all.len()),
            body,
        ))
    };
    let server = Server::start(vec![plain(&all[..900_000]), plain(&all)]).await;
    let done = download(&server).await;
    assert_eq!(done.result, Ok(all.len() as u64));
    assert!(done.bytes == all);
}

#[tokio::test]
async fn a_file_that_changed_once_is_fetched_anew_and_twice_is_refused() {
    let (old, new) = (vec![1; 2_000_000], content());
    let cut = whole("old", old.len(), &old[..1_100_000]);
    let replies = vec![
        cut.clone(),
        whole("new", new.len(), &new),
        whole("new", new.len(), &new),
    ];
    let done = download(&Server::start(replies).await).await;
    assert_eq!(done.result, Ok(new.len() as u64));
    assert!(done.bytes == new);

    let other = whole("new", new.len(), &new[..1_100_000]);
    let replies = vec![
        cut,
        other.clone(),
        other,
        whole("third", 5, b"third"),
        whole("third", 5, b"third"),
    ];
    let reason = refusal(download(&Server::start(replies).await).await);
    assert!(reason.contains("changes while"), "{reason}");
}

#[tokio::test]
async fn a_wrong_part_is_not_stitched_in() {
    let all = content();
    let cut = 1_100_000;
    let replies = vec![
        whole("a", all.len(), &all[..cut]),
        rest("a", cut - 10, &all),
        whole("a", all.len(), &all),
    ];
    let done = download(&Server::start(replies).await).await;
    assert!(done.bytes == all);
}

#[tokio::test]
async fn sizes_are_capped_as_declared_and_as_counted() {
    let declared = whole("a", 5_000_000, &[]);
    let reason = refusal(download(&Server::start(vec![declared]).await).await);
    assert!(reason.contains("4000000 bytes"), "{reason}");
    let endless = Reply::Endless(answer("200 OK", "", &[]));
    let done = download(&Server::start(vec![endless]).await).await;
    assert!(done.bytes.len() <= 4_000_000);
    assert!(refusal(done).contains("4000000 bytes"));
}

#[tokio::test]
async fn silence_ends_an_attempt() {
    let hang = Reply::Hang(answer("200 OK", "content-length: 100\r\n", b"abc"));
    let reason = refusal(download(&Server::start(vec![hang]).await).await);
    assert!(reason.contains("stalled"), "{reason}");
}

#[tokio::test]
async fn a_redirect_to_a_forbidden_address_is_refused() {
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.2/",
        "file:///etc/passwd",
        "http://[::1]/",
    ] {
        let redirect = Reply::Send(answer("302 Found", &format!("location: {target}\r\n"), &[]));
        let server = Server::start(vec![redirect]).await;
        let reason = refusal(download(&server).await);
        assert!(
            reason.contains("does not fetch") || reason.contains("http and https"),
            "{target}: {reason}"
        );
        assert_eq!(server.requests().len(), 1, "{target}");
    }
}

#[tokio::test]
async fn redirects_are_followed_so_far_and_no_farther() {
    let all = content();
    let redirect = Reply::Send(answer("301 Moved", "location: /elsewhere\r\n", &[]));
    let server = Server::start(vec![redirect.clone(), whole("a", all.len(), &all)]).await;
    assert!(download(&server).await.bytes == all);
    assert!(server.requests()[1].starts_with("get /elsewhere"));
    let reason = refusal(download(&Server::start(vec![redirect]).await).await);
    assert!(reason.contains("redirects more than"), "{reason}");
}

#[tokio::test]
async fn answers_that_will_not_change_are_final_and_passing_ones_are_tried_again() {
    let all = content();
    let missing = Server::start(vec![Reply::Send(answer("404 Not Found", "", &[]))]).await;
    let reason = refusal(download(&missing).await);
    assert!(reason.contains("404"), "{reason}");
    assert_eq!(missing.requests().len(), 1);
    let busy = Reply::Send(answer("503 Busy", "", &[]));
    let server = Server::start(vec![busy, whole("a", all.len(), &all)]).await;
    assert!(download(&server).await.bytes == all);
}

#[tokio::test]
async fn no_credential_is_in_a_reason() {
    let server = Server::start(vec![Reply::Send(Vec::new())]).await;
    let mut url = server.url.clone();
    url.set_username("user").expect("an http URL");
    url.set_password(Some("s3cret")).expect("an http URL");
    url.set_query(Some("signature=s3cret"));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let reason = refusal(download_to(dir.path(), &url).await);
    assert!(!reason.contains("s3cret"), "{reason}");
    assert!(
        server.requests()[0].contains("authorization: basic"),
        "credentials are for the server"
    );
}

#[tokio::test]
async fn a_date_of_change_resumes_where_it_is_old_enough() {
    let all = content();
    let cut = 1_200_000;
    let part = |modified: &str, status: &str, range: &str, body: &[u8]| {
        let headers = format!(
            "date: Wed, 25 Nov 2026 12:00:00 GMT\r\nlast-modified: {modified}\r\ncontent-length: {}\r\n{range}",
            if range.is_empty() { all.len() } else { body.len() }
        );
        Reply::Send(answer(status, &headers, body))
    };
    let old = "Wed, 25 Nov 2026 11:59:00 GMT";
    let range = format!("content-range: bytes {cut}-{}/{}\r\n", all.len() - 1, all.len());
    let server = Server::start(vec![
        part(old, "200 OK", "", &all[..cut]),
        part(old, "206 Partial Content", &range, &all[cut..]),
    ])
    .await;
    assert!(download(&server).await.bytes == all);
    let request = &server.requests()[1];
    assert!(
        request.contains(&format!("if-range: {}", old.to_lowercase())),
        "{request}"
    );

    // Another change within the same second would not show.
    let young = "Wed, 25 Nov 2026 11:59:30 GMT";
    let server = Server::start(vec![
        part(young, "200 OK", "", &all[..cut]),
        part(young, "200 OK", "", &all),
    ])
    .await;
    assert!(download(&server).await.bytes == all);
    assert!(!server.requests()[1].contains("range:"), "it began anew");
}

#[tokio::test]
async fn a_weak_tag_does_not_resume() {
    let all = content();
    let weak = |body: &[u8]| {
        let headers = format!("content-length: {}\r\netag: W/\"a\"\r\n", all.len());
        Reply::Send(answer("200 OK", &headers, body))
    };
    let server = Server::start(vec![weak(&all[..1_200_000]), weak(&all)]).await;
    assert!(download(&server).await.bytes == all);
    assert!(!server.requests()[1].contains("range:"));
}

fn chunked(body: &[u8], is_whole: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for part in body.chunks(70_000) {
        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    if is_whole {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    out
}

#[tokio::test]
async fn a_file_of_unknown_length_is_whole_or_resumed() {
    let all = content();
    let cut = 1_400_000;
    let head = "transfer-encoding: chunked\r\netag: \"a\"\r\n";
    let reply = |body: &[u8], is_whole| Reply::Send(answer("200 OK", head, &chunked(body, is_whole)));
    let server = Server::start(vec![reply(&all, true)]).await;
    assert!(download(&server).await.bytes == all);
    let server = Server::start(vec![reply(&all[..cut], false), rest("a", cut, &all)]).await;
    assert!(
        download(&server).await.bytes == all,
        "a missing last chunk is a cut"
    );
    assert_eq!(server.requests().len(), 2);
    // Neither length nor chunks: the end of the connection is the end of the file.
    let server = Server::start(vec![Reply::Send(answer("200 OK", "", &all))]).await;
    assert!(download(&server).await.bytes == all);
}

#[tokio::test]
async fn what_a_server_compresses_on_its_way_is_kept_as_sent_or_refused() {
    let sent = |encoding: &str| {
        let headers = format!("content-length: 5\r\ncontent-encoding: {encoding}\r\n");
        Reply::Send(answer("200 OK", &headers, b"bytes"))
    };
    for encoding in ["gzip", "x-gzip", "identity"] {
        let done = download(&Server::start(vec![sent(encoding)]).await).await;
        assert_eq!(done.result, Ok(5), "{encoding}");
        assert!(done.bytes == b"bytes", "nothing was decoded: {encoding}");
    }
    for encoding in ["br", "deflate", "zstd", "gzip, br"] {
        let reason = refusal(download(&Server::start(vec![sent(encoding)]).await).await);
        assert!(reason.contains("Content-Encoding"), "{encoding}: {reason}");
    }
}

#[tokio::test]
async fn a_download_has_a_time_limit_and_can_be_stopped() {
    let endless = || Reply::Hang(answer("200 OK", "content-length: 100\r\n", b"abc"));
    let run = async |stop: &CancellationToken, total: Duration| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start(vec![endless()]).await;
        let limits = Limits {
            stall: Duration::from_mins(1),
            ..Limits::new(4_000_000, total)
        };
        let work = Fetch {
            key: None,
            guard: &guard("127.0.0.1/32"),
            url: &server.url,
            path: &dir.path().join("1.in"),
            limits,
            stop,
            progress: &|_| {},
        };
        fetch(&work).await
    };
    let never = CancellationToken::new();
    match run(&never, Duration::from_millis(300)).await {
        Err(FetchError::Refused(reason)) => assert!(reason.contains("took longer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(
        run(&stop, Duration::from_secs(20)).await,
        Err(FetchError::Stopped)
    );
}
