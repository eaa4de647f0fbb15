//! Errors on the wire, as DigitalOcean's clients expect them: `{"id","message","request_id"}`.
//!
//! Domain failures are 4xx, because doctl and Terraform send a request again after a 5xx, POST included.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::platform::error::Error;

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A word for programs, such as `not_found`.
    pub id: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The request, as in the header `x-request-id`; the outermost layer fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The status and DigitalOcean's word for each kind.
pub fn status(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        Error::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
        Error::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Error::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        Error::Precondition(_) => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
        Error::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
        Error::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable_entity"),
        Error::TooMany { .. } | Error::TooManyOpen(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
        Error::Unavailable(_) | Error::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
        Error::Damaged(_) => (StatusCode::SERVICE_UNAVAILABLE, "damaged"),
        Error::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (code, id) = status(&self);
        if code == StatusCode::INTERNAL_SERVER_ERROR {
            // The only place that logs the chain; the request id is in the span.
            tracing::error!(error = self.chain(), "request failed");
        }
        let body = ErrorBody {
            id,
            message: self.to_string(),
            request_id: None,
        };
        let mut response = (code, Json(&body)).into_response();
        if let Self::TooMany { retry_after } = self {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response.extensions_mut().insert(ErrorId(id, body.message));
        response
    }
}

/// Left in a response's extensions so that the outermost layer can write the body anew with the request id.
#[derive(Clone, Debug)]
pub struct ErrorId(pub &'static str, pub String);
