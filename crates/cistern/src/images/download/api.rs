//! `GET /v2/images/{id}/download`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::export::Format;
use super::range::{Wanted, content_range, wanted};
use super::service::{self, Download};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Query;
use crate::platform::error::{Error, Result};

/// RFC 9530 §3: the digest of the whole file, also in an answer with a part of it.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The route of downloads.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(image_download))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DownloadQuery {
    /// `raw` (the default), `qcow2`, `vmdk`, `vhdx`, `vhd` or `vdi`.
    format: Option<String>,
}

#[utoipa::path(
    get, path = "/v2/images/{image_id}/download", tag = "images",
    description = "The disk as a file. `Range` (one range), `If-Range` and HEAD are understood; `ETag` names the exact \
                   bytes, and `Repr-Digest` is their SHA-256 once it is known. A `vmdk` is compressed while it is sent, so \
                   its length is not known before, and it is sent whole.",
    params(("image_id" = String, Path, description = "Number or slug"), DownloadQuery),
    responses(
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 206, description = "The part that was asked for", content_type = "application/octet-stream"),
        (status = 416, description = "The file has no such part"),
        (status = 422, description = "The image is not available yet", body = ErrorBody),
        (status = 429, description = "As many downloads are open as may be", body = ErrorBody),
        (status = 503, description = "The store does not answer, or the first of it is damaged", body = ErrorBody),
    ),
    security(("token" = ["image:read"]))
)]
async fn image_download(
    State(app): State<App>,
    caller: Caller,
    method: Method,
    Path(id): Path<String>,
    Query(query): Query<DownloadQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let format: Format = query.format.as_deref().unwrap_or("raw").parse()?;
    let download = service::download_open(&app, &caller, &id, format).await?;
    if is_known(&headers, &download.etag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        response
            .headers_mut()
            .insert(header::ETAG, value(&download.etag)?);
        return Ok(response);
    }
    let wanted = match download.length() {
        Some(length) => wanted(range_header(&headers, &download.etag), length),
        None => Wanted::All,
    };
    let (status, part) = match &wanted {
        Wanted::All => (StatusCode::OK, None),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range.clone())),
        Wanted::Nothing => return unsatisfiable(&download),
    };
    let body = if method == Method::GET {
        let bytes = download.bytes(&app, &caller, part.clone()).await?;
        service::download_begun(&app, &caller, &download, &wanted).await;
        Body::from_stream(bytes)
    } else if download.length().is_some() {
        Body::empty()
    } else {
        // An empty body that says so would be taken for the file's length.
        Body::from_stream(stream::empty::<std::io::Result<Bytes>>())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    head_write(response.headers_mut(), &download)?;
    if let Some(length) = download.length() {
        length_write(response.headers_mut(), part, length)?;
    }
    Ok(response)
}

/// How much is sent, and of how much.
fn length_write(out: &mut HeaderMap, part: Option<std::ops::Range<u64>>, length: u64) -> Result<()> {
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let Some(range) = part else {
        out.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        return Ok(());
    };
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    out.insert(header::CONTENT_RANGE, value(&content_range(&range, length))?);
    Ok(())
}

fn head_write(out: &mut HeaderMap, download: &Download) -> Result<()> {
    let disposition = format!("attachment; filename=\"{}\"", download.file_name);
    out.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    out.insert(header::CONTENT_DISPOSITION, value(&disposition)?);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    out.insert(header::ETAG, value(&download.etag)?);
    // Only this caller's: what lies between must not keep it for another.
    out.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-transform"),
    );
    if let Some(digest) = &download.sha256 {
        out.insert(
            REPR_DIGEST,
            value(&format!("sha-256=:{}:", BASE64.encode(digest)))?,
        );
    }
    Ok(())
}

fn unsatisfiable(download: &Download) -> Result<Response> {
    let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    let length = format!("bytes */{}", download.length().unwrap_or(0));
    response
        .headers_mut()
        .insert(header::CONTENT_RANGE, value(&length)?);
    Ok(response)
}

/// The `Range` that counts: with `If-Range`, only while the file is still the one that is meant. A date never is:
/// an image has no modification time that would be strong (RFC 9110 §13.1.5).
fn range_header<'a>(headers: &'a HeaderMap, etag: &str) -> Option<&'a str> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    match headers.get(header::IF_RANGE) {
        Some(condition) if condition != etag => None,
        _ => Some(range),
    }
}

/// Whether `If-None-Match` names these bytes.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let Some(known) = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let mut tags = known.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Error::internal("made an invalid header", e))
}
