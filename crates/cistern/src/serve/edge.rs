//! The outermost layer of every request: its id, where it comes from, the log line, the metrics, and answers for
//! what went wrong further in (a panic, an unknown route, an error body that lacks the request id).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;

use crate::platform::api::error::{ErrorBody, ErrorId};
use crate::platform::api::origin::{Network, Origin, Peer};
use crate::platform::error::Error;
use crate::platform::random;

/// What the layer needs to know of its listener.
#[derive(Clone, Debug)]
pub struct Edge {
    /// `api` or `registry`.
    pub listener: &'static str,
    /// Who is believed.
    pub network: Network,
}

/// Everything that is done to each request and its answer.
pub async fn layer(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Error::bug("a request without a peer").into_response();
    };
    // Ours alone: a client that could choose it could confuse the log.
    let request_id = random::uuid().to_string();
    let origin = Origin::new(
        request_id.clone(),
        &peer,
        request.uri(),
        request.headers(),
        &edge.network,
    );
    // The template, never the path: paths hold names, and a metric for each would grow without bound.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("(none)", MatchedPath::as_str)
        .to_owned();
    let method = method_name(request.method());
    let span = tracing::info_span!("request", request_id, listener = edge.listener, method, route);
    let address = origin.address;
    request.extensions_mut().insert(origin);

    // No text that is kept anywhere has one, and PostgreSQL fails where it is asked for one.
    let has_nul = request
        .uri()
        .path_and_query()
        .is_some_and(|p| p.as_str().contains("%00"));
    let answered = async {
        if has_nul {
            return Error::BadRequest("an address must not contain the character NUL (`%00`)".into())
                .into_response();
        }
        next.run(request).await
    };
    let answered = AssertUnwindSafe(answered)
        .catch_unwind()
        .instrument(span.clone())
        .await;
    let _in_span = span.enter();
    let response = answered.unwrap_or_else(|panic| {
        tracing::error!(panic = panic_text(&*panic), "a request panicked");
        Error::bug("panic").into_response()
    });
    let mut response = with_request_id(response, &request_id);
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    tracing::info!(status, duration_ms = took.as_secs_f64() * 1000.0, %address, "answered");
    let labels = [
        ("listener", edge.listener.to_owned()),
        ("method", method.to_owned()),
        ("route", route),
    ];
    metrics::histogram!("http_request_duration_seconds", &labels).record(took.as_secs_f64());
    let [listener, method, route] = labels;
    metrics::counter!(
        "http_requests_total",
        &[listener, method, route, ("status", status.to_string())]
    )
    .increment(1);
    response
}

/// An unknown path.
pub async fn not_found() -> Error {
    Error::NotFound
}

/// A known path with another method.
pub async fn method_not_allowed(method: Method) -> Response {
    let shown: String = method.as_str().chars().take(16).collect();
    let message = format!("`{shown}` is not possible here; see `/v2/openapi.json` for what is.");
    let id = "method_not_allowed";
    let body = ErrorBody {
        id,
        message: message.clone(),
        request_id: None,
    };
    let mut response = (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response();
    response.extensions_mut().insert(ErrorId(id, message));
    response
}

/// Writes an error's body anew, with the request id in it.
fn with_request_id(mut response: Response, request_id: &str) -> Response {
    let Some(ErrorId(id, message)) = response.extensions_mut().remove::<ErrorId>() else {
        return response;
    };
    let body = ErrorBody {
        id,
        message,
        request_id: Some(request_id.to_owned()),
    };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = serde_json::to_vec(&body).unwrap_or_default();
    Response::from_parts(parts, body.into())
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
