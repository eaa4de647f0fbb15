//! What watches the server asks: `/healthz` (the process answers), `/readyz` (requests can be served) and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::platform::api::origin::{Peer, is_local};
use crate::platform::error::Error;
use crate::telemetry;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the server is in its life; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// From now on it serves.
    pub fn ready(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// From now on it ends.
    pub fn drain(&self) {
        self.0.store(2, Ordering::Release);
    }

    /// Why it does not serve now, if so.
    fn obstacle(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Acquire) {
            0 => Some("starting: the database is being opened"),
            1 => None,
            _ => Some("stopping: requests under way are being finished"),
        }
    }
}

/// `/healthz`.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz` of a running server.
pub async fn readyz(State((app, phase)): State<(App, Phase)>) -> Response {
    match unready(&app, &phase).await {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Anything but `/healthz` while the server starts.
pub async fn starting(State(phase): State<Phase>) -> Error {
    Error::Unavailable(phase.obstacle().unwrap_or("starting").to_owned())
}

async fn unready(app: &App, phase: &Phase) -> Option<String> {
    if let Some(reason) = phase.obstacle() {
        return Some(reason.to_owned());
    }
    match tokio::time::timeout(PATIENCE, app.db.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = error.chain(), "not ready");
            Some("the database does not answer".to_owned())
        }
        Err(_) => Some(format!(
            "the database did not answer within {} seconds",
            PATIENCE.as_secs()
        )),
    }
}

/// `/metrics`, for programs on this machine only.
pub async fn metrics(Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    if !is_local(&peer, &headers) {
        return Error::NotFound.into_response();
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], telemetry::metrics_render()).into_response()
}
