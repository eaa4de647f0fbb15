//! Extractors: who calls, and bodies that fail with DigitalOcean's error body instead of axum's plain text.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

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

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Error::TooLarge(
                    "the body is larger than `http.max_body_bytes` allows; send less at once, and files to /v2/uploads"
                        .into(),
                )
            } else {
                Error::BadRequest(inner_text(&e))
            }
        })?;
        body_check(&bytes)?;
        match axum::Json::<T>::from_bytes(&bytes) {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(e)) => Err(Error::Invalid(without_types(&inner_text(&e)))),
            Err(e) => Err(Error::BadRequest(inner_text(&e))),
        }
    }
}

/// What is wrong with a body that is no JSON.
fn unreadable(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "the body is not complete JSON; send it whole, such as {\"name\": \"web\"}".into();
    }
    format!(
        "the body is not JSON: look at line {}, column {}",
        error.line(),
        error.column()
    )
}

/// What must hold of every body, whatever it is for: an object (serde would take an array for a struct too), without
/// the character NUL, which PostgreSQL keeps in no text.
fn body_check(bytes: &[u8]) -> Result<()> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| Error::BadRequest(unreadable(&e)))?;
    let found = match &value {
        Value::Object(_) => None,
        Value::Null => Some("null"),
        Value::Bool(_) => Some("a boolean"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("a string"),
        Value::Array(_) => Some("an array"),
    };
    if let Some(found) = found {
        return Err(Error::invalid(format!(
            "the body must be a JSON object, not {found}"
        )));
    }
    if has_nul(&value) {
        return Err(Error::invalid(
            "text must not contain the character NUL (`\\u0000`)",
        ));
    }
    Ok(())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(all) => all.iter().any(has_nul),
        Value::Object(all) => all
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// serde names our types; who calls the API knows them as objects.
fn without_types(text: &str) -> String {
    // A body is read as a whole, and its place in one line of text tells nobody anything.
    let text = text.rsplit_once(" at line ").map_or(text, |(what, _)| what);
    let Some((before, after)) = text.split_once("expected struct ") else {
        return text.to_owned();
    };
    let name = after.find(|c: char| !c.is_alphanumeric() && c != '_');
    let rest = name.map_or("", |end| &after[end..]);
    format!("{before}expected an object{rest}")
}

/// A query string; a bad one is 422.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(e)) => {
                Err(Error::Invalid(query_sentence(&inner_text(&e))))
            }
            Err(e) => Err(Error::BadRequest(e.to_string())),
        }
    }
}

/// `NAME: why` of a parameter as a sentence, where `why` is the standard library's of a number or a boolean.
fn query_sentence(text: &str) -> String {
    let Some((name, why)) = text.split_once(": ") else {
        return text.to_owned();
    };
    let must = match why {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number, written in digits"
        }
        "number too large to fit in target type" => "is too large a number",
        "number too small to fit in target type" => "is too small a number",
        "provided string was not `true` or `false`" => "must be `true` or `false`",
        _ => return text.to_owned(),
    };
    format!("`{name}` {must}")
}

/// The innermost cause, which is what helps: "missing field `name`".
fn inner_text(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        body_check(body.as_bytes()).expect_err(body).to_string()
    }

    #[test]
    fn a_body_is_an_object() {
        for (body, found) in [
            ("null", "null"),
            ("true", "a boolean"),
            ("7", "a number"),
            (r#""x""#, "a string"),
            (r#"["x",null]"#, "an array"),
        ] {
            assert_eq!(
                refused(body),
                format!("the body must be a JSON object, not {found}")
            );
        }
        body_check(br#"{"a":[1,null,"b"]}"#).expect("an object");
        assert!(matches!(body_check(b"{"), Err(Error::BadRequest(_))));
    }

    #[test]
    fn nul_is_found_wherever_it_stands_and_only_there() {
        for body in [
            r#"{"a":"\u0000"}"#,
            r#"{"a":"x\\\u0000"}"#,
            r#"{"a":["b",{"c":"d\u0000"}]}"#,
            r#"{"a\u0000":1}"#,
        ] {
            assert!(refused(body).contains("NUL"), "{body}");
        }
        // An escaped backslash before `u0000` is a backslash and five letters.
        body_check(br#"{"a":"a\\u0000"}"#).expect("there is none");
    }

    #[test]
    fn no_type_of_ours_is_named() {
        let text = "invalid type: integer `5`, expected struct ResourceBody at line 1 column 16";
        assert_eq!(
            without_types(text),
            "invalid type: integer `5`, expected an object"
        );
        assert_eq!(without_types("missing field `name`"), "missing field `name`");
    }
}
