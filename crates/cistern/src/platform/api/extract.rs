//! Extractors: who calls, and bodies that fail with DigitalOcean's error body instead of axum's plain text.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::origin::Origin;
use super::rate_limit::Proof;
use crate::app::App;
use crate::platform::accounts::{Caller, service};
use crate::platform::error::{Error, Result};
use crate::platform::events::{Acting, Who};

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    /// The caller by `Authorization: Bearer`: the one whom the door let through, where there was one.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        let text = bearer(&parts.headers).ok_or(Error::Unauthenticated)?;
        let who = who(parts);
        let caller = service::authenticate(app, text, who).await?;
        if let Some(proof) = parts.extensions.get::<Proof>() {
            proof.given(&caller.who);
        }
        if let Some(acting) = parts.extensions.get::<Acting>() {
            acting.set(&caller.who);
        }
        Ok(caller)
    }
}

impl OptionalFromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>> {
        if bearer(&parts.headers).is_none() {
            return Ok(None);
        }
        <Self as FromRequestParts<App>>::from_request_parts(parts, app)
            .await
            .map(Some)
    }
}

/// Where the request comes from.
pub fn who(parts: &Parts) -> Who {
    let origin = parts.extensions.get::<Origin>();
    Who {
        address: origin.map(|o| o.address.to_string()),
        request_id: origin.map(|o| o.request_id.clone()),
        ..Who::default()
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A JSON body. An unreadable one is 400, one of the wrong shape 422. The content type is not insisted on, because
/// DigitalOcean does not.
pub struct Body<T>(pub T);

/// The character that ends a C string, as JSON writes it.
const NUL: &[u8] = br"\u0000";

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Error::TooLarge("the body is too large".into())
            } else {
                Error::BadRequest(inner_text(&e))
            }
        })?;
        // PostgreSQL keeps no such text.
        if bytes.windows(NUL.len()).any(|text| text == NUL) {
            return Err(Error::invalid(
                "text must not contain the character NUL (`\\u0000`)",
            ));
        }
        match axum::Json::<T>::from_bytes(&bytes) {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(e)) => Err(Error::Invalid(inner_text(&e))),
            Err(e) => Err(Error::BadRequest(inner_text(&e))),
        }
    }
}

/// A query string; a bad one is 422.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(e)) => Err(Error::Invalid(inner_text(&e))),
            Err(e) => Err(Error::BadRequest(e.to_string())),
        }
    }
}

/// The innermost cause, which is what helps: "missing field `name`".
fn inner_text(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
