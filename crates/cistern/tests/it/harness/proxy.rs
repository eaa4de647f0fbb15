//! A proxy before the S3 server that can be told to misbehave.
//!
//! It speaks just enough HTTP/1.1: one request a connection, passed on byte for byte (what is signed stays as it is)
//! apart from `connection: close`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::{Place, place_if_there, s3};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is passed on.
    None,
    /// It is answered 500 and goes no further.
    Status500,
    /// The connection is reset before the request is passed on.
    Reset,
    /// It is done, and the connection is reset instead of the answer.
    AnswerLost,
    /// The answer's body ends half-way.
    Truncated,
    /// The answer waits this many milliseconds.
    Slow(u64),
    /// What is to be written is never answered; everything else is passed on.
    WritesHang,
}

impl Fault {
    fn hits(self, request: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::WritesHang => request.starts_with(b"PUT ") || request.starts_with(b"POST "),
            _ => true,
        }
    }
}

/// A running proxy; it ends with the test process.
pub(crate) struct Proxy {
    state: Arc<State>,
}

struct State {
    fault: Mutex<Fault>,
    seen: AtomicU64,
}

impl Proxy {
    /// Starts it before the S3 server; `None` where there is none.
    pub(crate) fn start() -> Option<(Self, Place)> {
        let mut place = place_if_there("sqlite+s3")?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("it can wait");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            seen: AtomicU64::new(0),
        });
        // A thread of its own: tests block theirs while they wait for a process that needs the proxy.
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(accept(listener, shared));
        });
        let (behind, before) = (format!(":{}", s3().port()), format!(":{port}"));
        place.objects = place.objects.map(|url| url.replace(&behind, &before));
        Some((Self { state }, place))
    }

    /// From the next request on this happens.
    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock().expect("not poisoned") = fault;
    }

    /// How many requests a fault has hit so far.
    pub(crate) fn hit(&self) -> u64 {
        self.state.seen.load(Ordering::SeqCst)
    }
}

async fn accept(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("it is bound");
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // What goes wrong on the way is for the client to notice.
            let _ = one(client, &state).await;
        });
    }
}

async fn one(mut client: TcpStream, state: &State) -> std::io::Result<()> {
    let request = request_read(&mut client).await?;
    let fault = *state.fault.lock().expect("not poisoned");
    let fault = if fault.hits(&request) { fault } else { Fault::None };
    if fault != Fault::None {
        state.seen.fetch_add(1, Ordering::SeqCst);
    }
    match fault {
        Fault::Status500 => {
            let body = "<Error><Code>InternalError</Code><Message>planted</Message></Error>";
            let text = format!(
                "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/xml\r\ncontent-length: \
                 {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            return client.write_all(text.as_bytes()).await;
        }
        Fault::Reset => return reset(&client),
        Fault::WritesHang => return std::future::pending().await,
        _ => {}
    }
    let answer = answer_of(&request).await?;
    match fault {
        Fault::AnswerLost => reset(&client),
        Fault::Truncated => {
            let body = answer
                .windows(4)
                .position(|w| w == b"\r\n\r\n")
                .map_or(0, |at| at + 4);
            client
                .write_all(&answer[..usize::midpoint(body, answer.len())])
                .await
        }
        Fault::Slow(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            client.write_all(&answer).await
        }
        _ => client.write_all(&answer).await,
    }
}

/// One whole request.
async fn request_read(client: &mut TcpStream) -> std::io::Result<BytesMut> {
    let mut all = BytesMut::with_capacity(64 << 10);
    let mut wanted = None;
    while wanted.is_none_or(|wanted| all.len() < wanted) {
        if client.read_buf(&mut all).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if wanted.is_none()
            && let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n")
        {
            wanted = Some(end + 4 + content_length(&all[..end]));
        }
    }
    Ok(all)
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// What the S3 server says to it.
async fn answer_of(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", s3().port())).await?;
    let line = request.windows(2).position(|w| w == b"\r\n").unwrap_or(0);
    server.write_all(&request[..line]).await?;
    server.write_all(b"\r\nconnection: close").await?;
    server.write_all(&request[line..]).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Makes the close a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()
}
