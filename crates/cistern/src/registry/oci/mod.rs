//! The registry's own listener, which speaks the OCI Distribution protocol.
//!
//! It answers `GET /v2/`, by which clients learn that this is a registry and check their password. There are no
//! repositories yet, so every other path is `NAME_UNKNOWN` to a caller who is signed in; pushing and pulling come
//! with the registry itself.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::app::App;
use crate::platform::accounts::{Caller, service};
use crate::platform::api::origin::Origin;
use crate::platform::api::rate_limit::{RateLimiter, Refused};
use crate::platform::error::Error;
use crate::platform::events::{self, Event, Who};

/// The header that says which protocol this is.
const API_VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");

/// Everything on the registry's listener.
pub fn routes(app: App, limiter: Arc<RateLimiter>) -> Router {
    Router::new()
        .route("/v2/", get(version))
        .route("/v2", get(version))
        .fallback(unknown)
        .method_not_allowed_fallback(unsupported)
        .layer(middleware::from_fn_with_state((app, limiter), sign_in))
}

/// `GET /v2/`: this is a registry, and the caller is signed in.
async fn version() -> Response {
    Json(json!({})).into_response()
}

async fn unknown() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "NAME_UNKNOWN",
        "there is no such repository",
    )
}

async fn unsupported(method: Method) -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "UNSUPPORTED",
        &format!("`{method}` is not possible here"),
    )
}

/// Lets through who proves an API token: as a Basic password with any user name, or as a bearer token.
async fn sign_in(
    State((app, limiter)): State<(App, Arc<RateLimiter>)>,
    Extension(origin): Extension<Origin>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match caller(&app, &limiter, &origin, request.headers()).await {
        Ok(caller) => {
            let who = caller.who.clone();
            request.extensions_mut().insert(caller);
            let response = next.run(request).await;
            if response.status() == StatusCode::NOT_FOUND {
                refusal_record(&app, &who, StatusCode::NOT_FOUND).await;
            }
            response
        }
        Err(refusal) => refusal,
    };
    response
        .headers_mut()
        .insert(API_VERSION.0, HeaderValue::from_static(API_VERSION.1));
    response
}

/// An event as the API's refusals are; the path has names in it and is left out.
async fn refusal_record(app: &App, who: &Who, status: StatusCode) {
    let detail = json!({ "route": "(registry)", "status": status.as_u16() });
    events::record_refusal(app, who, Event::refused("request.refuse").with(detail)).await;
}

async fn caller(
    app: &App,
    limiter: &RateLimiter,
    origin: &Origin,
    headers: &HeaderMap,
) -> Result<Caller, Response> {
    // Clients ask without a password first to learn how to sign in; that is no attempt and does not count.
    let Some(secret) = secret_of(headers) else {
        return Err(unauthorized());
    };
    let who = Who {
        address: Some(origin.address.to_string()),
        request_id: Some(origin.request_id.clone()),
        ..Who::default()
    };
    let attempt = match limiter.attempt(headers, origin.address) {
        Ok(attempt) => attempt,
        Err(refused) => {
            refusal_record(app, &refused.who(origin), StatusCode::TOO_MANY_REQUESTS).await;
            return Err(too_many(refused));
        }
    };
    match service::authenticate(app, &secret, who).await {
        Ok(caller) => {
            attempt.succeeded(&caller.who);
            Ok(caller)
        }
        Err(Error::Unauthenticated) => {
            attempt.failed();
            Err(unauthorized())
        }
        Err(error) => {
            tracing::error!(error = error.chain(), "could not check a registry password");
            Err(problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNKNOWN",
                &error.to_string(),
            ))
        }
    }
}

/// The token in `Authorization`.
fn secret_of(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (_user, password) = text.split_once(':')?;
    Some(password.to_owned())
}

fn unauthorized() -> Response {
    let mut response = problem(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "sign in with an API token as the password",
    );
    let challenge = HeaderValue::from_static("Basic realm=\"cistern\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn too_many(refused: Refused) -> Response {
    let mut response = problem(
        StatusCode::TOO_MANY_REQUESTS,
        "TOOMANYREQUESTS",
        "too many requests; wait a little",
    );
    refused.write(response.headers_mut());
    response
}

/// An error as the OCI specification words it.
fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (
        status,
        Json(json!({ "errors": [{ "code": code, "message": message }] })),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a header"))]);
        secret_of(&headers)
    }

    #[test]
    fn any_user_name_goes_with_a_token() {
        assert_eq!(
            secret(&format!("Basic {}", STANDARD.encode("bob:dop_v1_x"))).as_deref(),
            Some("dop_v1_x")
        );
        assert_eq!(
            secret(&format!("basic {}", STANDARD.encode(":a:b"))).as_deref(),
            Some("a:b")
        );
        assert_eq!(secret("Bearer dop_v1_x").as_deref(), Some("dop_v1_x"));
        for bad in ["Basic ", "Basic ???", "Digest x", "nonsense"] {
            assert_eq!(secret(bad), None, "{bad}");
        }
    }
}
