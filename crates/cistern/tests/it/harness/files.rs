//! A web server on loopback from which the server under test fetches disks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;

type Shelf = Arc<Mutex<HashMap<String, File>>>;

/// What is offered under one name.
#[derive(Clone)]
struct File {
    content: Bytes,
    /// Where the file stops until it is released.
    hold: Option<(usize, watch::Receiver<bool>)>,
    /// Where each request wanted to begin.
    asked: Arc<Mutex<Vec<usize>>>,
}

/// A file that is served up to a point only, until this is released or dropped.
pub(crate) struct Held {
    /// Its URL.
    pub(crate) url: String,
    release: watch::Sender<bool>,
    asked: Arc<Mutex<Vec<usize>>>,
}

impl Held {
    /// Serves the rest, and later requests at once.
    pub(crate) fn release(&self) {
        let _ = self.release.send(true);
    }

    /// Where each request so far wanted to begin.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// A running file server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Files {
    address: SocketAddr,
    shelf: Shelf,
}

impl Files {
    /// Starts it empty.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1").await
    }

    /// The same at another address of this machine.
    pub(crate) async fn start_at(host: &str) -> Self {
        let shelf = Shelf::default();
        let router = axum::Router::new()
            .route("/{name}", axum::routing::any(serve))
            .with_state(Arc::clone(&shelf));
        let listener = tokio::net::TcpListener::bind((host, 0))
            .await
            .expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shelf }
    }

    /// Offers `content` and returns its URL.
    pub(crate) fn put(&self, name: &str, content: impl Into<Bytes>) -> String {
        self.offer(name, content.into(), None);
        format!("http://{}/{name}", self.address)
    }

    /// Offers it no longer.
    pub(crate) fn remove(&self, name: &str) {
        self.shelf.lock().expect("not poisoned").remove(name);
    }

    /// Offers `content`, of which only the first `at` bytes come until the answer is released.
    pub(crate) fn put_held(&self, name: &str, content: impl Into<Bytes>, at: usize) -> Held {
        let (release, released) = watch::channel(false);
        let asked = self.offer(name, content.into(), Some((at, released)));
        Held {
            url: format!("http://{}/{name}", self.address),
            release,
            asked,
        }
    }

    fn offer(
        &self,
        name: &str,
        content: Bytes,
        hold: Option<(usize, watch::Receiver<bool>)>,
    ) -> Arc<Mutex<Vec<usize>>> {
        let asked = Arc::default();
        let file = File {
            content,
            hold,
            asked: Arc::clone(&asked),
        };
        self.shelf.lock().expect("not poisoned").insert(name.into(), file);
        asked
    }
}

impl File {
    /// What comes from byte `from` on.
    fn body(self, from: usize) -> Body {
        let Some((at, mut released)) = self.hold else {
            return Body::from(self.content.slice(from..));
        };
        let at = at.max(from);
        let (first, rest) = (self.content.slice(from..at), self.content.slice(at..));
        let rest = async move {
            // Ends with an error when the test is over.
            let _ = released.wait_for(|is| *is).await;
            Ok::<_, std::convert::Infallible>(rest)
        };
        let first = futures::stream::once(async { Ok(first) });
        Body::from_stream(first.chain(futures::stream::once(rest)))
    }
}

async fn serve(
    State(shelf): State<Shelf>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(file) = shelf.lock().expect("not poisoned").get(&name).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if method == Method::HEAD {
        // Some mirrors refuse HEAD; imports must not need it.
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let total = file.content.len();
    let from: Option<usize> = headers.get(header::RANGE).and_then(|v| {
        v.to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    file.asked.lock().expect("not poisoned").push(from.unwrap_or(0));
    let etag = format!("\"{name}-{total}\"");
    match from {
        Some(from) if from < total => {
            let range = format!("bytes {from}-{}/{total}", total - 1);
            let head = [(header::CONTENT_RANGE, range), (header::ETAG, etag)];
            (StatusCode::PARTIAL_CONTENT, head, file.body(from)).into_response()
        }
        _ => (
            [(header::ETAG, etag), (header::ACCEPT_RANGES, "bytes".into())],
            file.body(0),
        )
            .into_response(),
    }
}
