//! A proxy before the S3 server that can be told to misbehave, or to keep requests back until it is told to pass them
//! on: so they are as late as a network can make them, also when whoever sent them is long gone.
//!
//! It speaks just enough HTTP/1.1: one request a connection, passed on byte for byte (what is signed stays as it is)
//! apart from `connection: close`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

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
    /// What writes or deletes a pack is kept back: [`Proxy::release`].
    Hold,
}

impl Fault {
    fn hits(self, request: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::WritesHang => request.starts_with(b"PUT ") || request.starts_with(b"POST "),
            Self::Hold => pack_of(request).is_some(),
            _ => true,
        }
    }
}

/// A running proxy; it ends with the test process.
pub(crate) struct Proxy {
    state: Arc<State>,
}

struct State {
    /// The S3 server.
    behind: String,
    fault: Mutex<Fault>,
    seen: AtomicU64,
    held: Mutex<Vec<Kept>>,
    /// How many held requests have been answered by the server.
    landed: AtomicU64,
}

/// A request that is kept back.
struct Kept {
    method: Method,
    key: String,
    go: oneshot::Sender<()>,
}

/// What is asked for of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// To be written.
    Put,
    /// To be deleted.
    Delete,
}

impl Proxy {
    /// Starts it before the S3 server; `None` where there is none.
    pub(crate) fn start() -> Option<(Self, Place)> {
        let mut place = place_if_there("sqlite+s3")?;
        let proxy = Self::before(&s3().address(), "127.0.0.1", &mut place);
        Some((proxy, place))
    }

    /// Starts it at `host` before the S3 server at `behind`, and leads this place through it.
    pub(crate) fn before(behind: &str, host: &str, place: &mut Place) -> Self {
        let listener = std::net::TcpListener::bind((host, 0)).expect("there is a free port");
        listener.set_nonblocking(true).expect("it can wait");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(State {
            behind: behind.to_owned(),
            fault: Mutex::new(Fault::None),
            seen: AtomicU64::new(0),
            held: Mutex::default(),
            landed: AtomicU64::new(0),
        });
        // A thread of its own: tests block theirs while they wait for a process that needs the proxy.
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(accept(listener, shared));
        });
        let url = place.objects.take();
        place.objects = url.map(|url| url.replace(behind, &address));
        Self { state }
    }

    /// The keys of the packs whose requests are kept back.
    pub(crate) fn held(&self, method: Method) -> Vec<String> {
        let held = self.state.held.lock().expect("not poisoned");
        let of_method = held.iter().filter(|kept| kept.method == method);
        of_method.map(|kept| kept.key.clone()).collect()
    }

    /// Passes on what is kept back so far.
    pub(crate) fn release(&self, method: Method) {
        let mut held = self.state.held.lock().expect("not poisoned");
        for kept in held.extract_if(.., |kept| kept.method == method) {
            // It waits as long as this process lives.
            let _ = kept.go.send(());
        }
    }

    /// How many requests that were kept back have been answered by the server since.
    pub(crate) fn landed(&self) -> u64 {
        self.state.landed.load(Ordering::SeqCst)
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
        Fault::Hold => kept_back(&request, state).await,
        _ => {}
    }
    let answer = answer_of(&request, &state.behind).await?;
    if fault == Fault::Hold {
        state.landed.fetch_add(1, Ordering::SeqCst);
    }
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

/// Ends when the request is to be passed on.
async fn kept_back(request: &[u8], state: &State) {
    let (method, key) = pack_of(request).expect("only those are kept back");
    let (go, gone) = oneshot::channel();
    let kept = Kept { method, key, go };
    state.held.lock().expect("not poisoned").push(kept);
    let _ = gone.await;
}

/// What a request asks for of a pack, and the pack's key.
fn pack_of(request: &[u8]) -> Option<(Method, String)> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let method = match method {
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        _ => return None,
    };
    let path = rest.split([' ', '?']).next()?;
    let at = path.find("/p/")?;
    Some((method, path[at + 1..].to_owned()))
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
async fn answer_of(request: &[u8], behind: &str) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(behind).await?;
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
