//! A web server on loopback from which the server under test fetches disks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

type Shelf = Arc<Mutex<HashMap<String, Bytes>>>;

/// A running file server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Files {
    address: SocketAddr,
    shelf: Shelf,
}

impl Files {
    /// Starts it empty.
    pub(crate) async fn start() -> Self {
        let shelf = Shelf::default();
        let router = axum::Router::new()
            .route("/{name}", axum::routing::any(serve))
            .with_state(Arc::clone(&shelf));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shelf }
    }

    /// Offers `content` and returns its URL.
    pub(crate) fn put(&self, name: &str, content: impl Into<Bytes>) -> String {
        self.shelf
            .lock()
            .expect("not poisoned")
            .insert(name.into(), content.into());
        format!("http://{}/{name}", self.address)
    }
}

async fn serve(
    State(shelf): State<Shelf>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(content) = shelf.lock().expect("not poisoned").get(&name).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if method == Method::HEAD {
        // Some mirrors refuse HEAD; imports must not need it.
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let total = content.len();
    let from: Option<usize> = headers.get(header::RANGE).and_then(|v| {
        v.to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let etag = format!("\"{name}-{total}\"");
    match from {
        Some(from) if from < total => {
            let range = format!("bytes {from}-{}/{total}", total - 1);
            let head = [(header::CONTENT_RANGE, range), (header::ETAG, etag)];
            (
                StatusCode::PARTIAL_CONTENT,
                head,
                Body::from(content.slice(from..)),
            )
                .into_response()
        }
        _ => (
            [(header::ETAG, etag), (header::ACCEPT_RANGES, "bytes".into())],
            Body::from(content),
        )
            .into_response(),
    }
}
