//! `/v2/uploads`: tus 1.0.0.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, TryStreamExt as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::append::{self, Append, BodyStream};
use super::model::{CHECKSUMS, Checksum, EXTENSIONS, Refusal, VERSION, number};
use super::rows::Model;
use super::service::{self, NewUpload};
use crate::app::App;
use crate::images::local::SOCKET;
use crate::platform::accounts::Caller;
use crate::platform::api::error::{ErrorBody, ErrorId};
use crate::platform::api::origin::{Peer, is_local};
use crate::platform::clock::Time;
use crate::platform::error::{Error, Result};

const CHUNK_TYPE: &str = "application/offset+octet-stream";
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_DEFER: HeaderName = HeaderName::from_static("upload-defer-length");

/// The routes of uploads.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, options))
        .routes(routes!(head, patch, delete, post))
        .layer(axum::middleware::map_response(with_version))
}

/// Every answer names the protocol.
async fn with_version(mut response: Response) -> Response {
    let version = HeaderValue::from_static(VERSION);
    response.headers_mut().insert(TUS_RESUMABLE, version);
    response
}

/// A request that speaks our version of tus. Comes after [`Caller`], so that a stranger hears 401 first.
struct Tus;

impl FromRequestParts<App> for Tus {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Response> {
        if parts.headers.get(TUS_RESUMABLE).is_some_and(|v| v == VERSION) {
            return Ok(Self);
        }
        let error = Error::Precondition(format!("this is tus {VERSION}: send `Tus-Resumable: {VERSION}`"));
        let mut response = error.into_response();
        let version = HeaderValue::from_static(VERSION);
        response.headers_mut().insert(TUS_VERSION, version);
        Err(response)
    }
}

/// What uploads can do here
#[utoipa::path(options, path = "/v2/uploads", tag = "Uploads", responses(
    (status = 204, description = "The version, extensions and limits in `Tus-…` headers"),
))]
async fn options(State(app): State<App>, caller: Option<Caller>, request: Request) -> Response {
    let tus = [
        ("tus-version", VERSION.to_owned()),
        ("tus-extension", EXTENSIONS.to_owned()),
        ("tus-checksum-algorithm", CHECKSUMS.to_owned()),
        ("tus-max-size", app.config.upload.max_bytes.to_string()),
    ];
    let mut response = (StatusCode::NO_CONTENT, tus).into_response();
    // A command on this machine, with a token, may hand over the open file instead.
    let peer = request.extensions().get::<Peer>();
    let is_near = peer.is_some_and(|peer| is_local(peer, request.headers()));
    if is_near
        && caller.is_some_and(|caller| caller.may("image:create"))
        && let Some(path) = app.data.join(SOCKET).to_str()
        && let Ok(path) = HeaderValue::from_str(path)
    {
        response.headers_mut().insert("cistern-socket", path);
    }
    response
}

/// Begin an upload
#[utoipa::path(post, path = "/v2/uploads", tag = "Uploads", security(("token" = ["image:create"])), params(
    ("Upload-Length" = Option<u64>, Header, description = "The file's bytes"),
    ("Upload-Defer-Length" = Option<u8>, Header, description = "`1` to say the length later"),
    ("Upload-Metadata" = Option<String>, Header, description = "Pairs of a key and a Base64 value"),
), responses(
    (status = 201, description = "Begun; `Location` is where its bytes go"),
    (status = 413, description = "Larger than allowed", body = ErrorBody),
))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    _: Tus,
    request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    let length = header_number(headers, &UPLOAD_LENGTH)?;
    let is_deferred = match text(headers, &UPLOAD_DEFER)? {
        None => false,
        Some("1") => true,
        Some(_) => return Err(Error::BadRequest("`Upload-Defer-Length` can only be `1`".into()).into()),
    };
    if length.is_some() == is_deferred {
        let message = "send either `Upload-Length` or `Upload-Defer-Length: 1`";
        return Err(Error::BadRequest(message.into()).into());
    }
    // Clients that have none to say send the header all the same, with nothing in it.
    let metadata = text(headers, &UPLOAD_METADATA)?
        .filter(|text| !text.trim().is_empty())
        .map(str::to_owned);
    let has_body = is_chunk(headers);
    let mut append = if has_body {
        Some(append_read(headers, 0)?)
    } else {
        None
    };
    let mut row = service::upload_create(&app, &caller, NewUpload { length, metadata }).await?;
    let location = format!("/v2/uploads/{}", row.id);
    if let Some(mut append) = append.take() {
        append.length = None;
        let body = stream(request.into_body());
        match append::upload_append(&app, &caller, &row.id, append, body).await {
            Ok(appended) => row = appended,
            // The upload is there, and its client learns where: it asks for the offset and goes on.
            Err(refusal) => {
                let mut response = refusal.into_response();
                response.headers_mut().insert(header::LOCATION, value(&location)?);
                return Ok(response);
            }
        }
    }
    let mut response = StatusCode::CREATED.into_response();
    response.headers_mut().insert(header::LOCATION, value(&location)?);
    progress_write(&mut response, &row, has_body)?;
    Ok(response)
}

/// How far an upload is
#[utoipa::path(head, path = "/v2/uploads/{id}", tag = "Uploads", security(("token" = ["image:create"])),
    params(("id" = String, Path)), responses(
    (status = 200, description = "`Upload-Offset` says how many bytes are there for good"),
    (status = 404, description = "There is none, or it expired", body = ErrorBody),
))]
async fn head(State(app): State<App>, caller: Caller, _: Tus, Path(id): Path<String>) -> Result<Response> {
    let row = service::upload_get(&app, &caller, &id).await?;
    let mut response = StatusCode::OK.into_response();
    progress_write(&mut response, &row, true)?;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match row.length_bytes {
        Some(length) => headers.insert(UPLOAD_LENGTH, HeaderValue::from(length)),
        None => headers.insert(UPLOAD_DEFER, HeaderValue::from_static("1")),
    };
    if let Some(metadata) = &row.metadata {
        headers.insert(UPLOAD_METADATA, value(metadata)?);
    }
    Ok(response)
}

/// Add bytes to an upload
#[utoipa::path(patch, path = "/v2/uploads/{id}", tag = "Uploads", security(("token" = ["image:create"])),
    params(
        ("id" = String, Path),
        ("Upload-Offset" = u64, Header, description = "Where the bytes go: where the upload is"),
        ("Upload-Checksum" = Option<String>, Header, description = "`sha1` or `sha256`, a space, the digest in Base64"),
        ("Upload-Length" = Option<u64>, Header, description = "The file's bytes, where that was deferred"),
    ),
    request_body(content_type = "application/offset+octet-stream", content = String),
    responses(
    (status = 204, description = "All of it is there for good; `Upload-Offset` says how many bytes"),
    (status = 409, description = "The upload is at another offset", body = ErrorBody),
    (status = 400, description = "A newer request took over (`interrupted`); or something is malformed", body = ErrorBody),
    (status = 423, description = "Another request is writing it and does not come to an end", body = ErrorBody),
    (status = 503, description = "The disk is full; what came is kept, go on when there is room", body = ErrorBody),
    (status = 460, description = "The bytes are not what the checksum says; nothing was kept", body = ErrorBody),
))]
async fn patch(
    State(app): State<App>,
    caller: Caller,
    _: Tus,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    if !is_chunk(headers) {
        let message = format!("send the bytes as `Content-Type: {CHUNK_TYPE}`");
        return Ok(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        ));
    }
    let offset = header_number(headers, &UPLOAD_OFFSET)?
        .ok_or_else(|| Error::BadRequest("`Upload-Offset` is missing".into()))?;
    let append = append_read(headers, offset)?;
    let row = append::upload_append(&app, &caller, &id, append, stream(request.into_body())).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    progress_write(&mut response, &row, true)?;
    Ok(response)
}

/// End an upload
#[utoipa::path(delete, path = "/v2/uploads/{id}", tag = "Uploads", security(("token" = ["image:create"])),
    params(("id" = String, Path)), responses(
    (status = 204, description = "Gone, and its room is free"),
    (status = 404, description = "There is none", body = ErrorBody),
    (status = 409, description = "An image is being made of it", body = ErrorBody),
    (status = 423, description = "Another request is writing it and does not come to an end", body = ErrorBody),
))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    _: Tus,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    service::upload_delete(&app, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Any of the above, for clients that can only send POST
#[utoipa::path(post, path = "/v2/uploads/{id}", tag = "Uploads", security(("token" = ["image:create"])),
    params(
        ("id" = String, Path),
        ("X-HTTP-Method-Override" = String, Header, description = "`PATCH`, `DELETE` or `HEAD`"),
    ), responses(
    (status = 204, description = "As the method says"),
    (status = 405, description = "No such method", body = ErrorBody),
))]
async fn post(
    State(app): State<App>,
    caller: Caller,
    tus: Tus,
    id: Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let method = request.headers().get("x-http-method-override");
    match method.and_then(|m| Method::from_bytes(m.as_bytes()).ok()) {
        Some(Method::PATCH) => patch(State(app), caller, tus, id, request).await,
        Some(Method::DELETE) => Ok(delete(State(app), caller, tus, id).await?.into_response()),
        Some(Method::HEAD) => Ok(head(State(app), caller, tus, id).await?),
        _ => {
            let message = "POST needs `X-HTTP-Method-Override` here: PATCH, DELETE or HEAD".into();
            Ok(refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            ))
        }
    }
}

fn is_chunk(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v == CHUNK_TYPE)
}

fn append_read(headers: &HeaderMap, offset: u64) -> Result<Append> {
    Ok(Append {
        offset,
        length: header_number(headers, &UPLOAD_LENGTH)?,
        content_length: header_number(headers, &header::CONTENT_LENGTH)?,
        checksum: text(headers, &HeaderName::from_static("upload-checksum"))?
            .map(Checksum::parse)
            .transpose()?,
    })
}

fn header_number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>> {
    text(headers, name)?
        .map(|text| number(name.as_str(), text))
        .transpose()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let unreadable = |_| Error::BadRequest(format!("`{name}` must be ASCII"));
    headers
        .get(name)
        .map(|v| v.to_str().map_err(unreadable))
        .transpose()
}

fn stream(body: Body) -> BodyStream {
    body.into_data_stream().map_err(std::io::Error::other).boxed()
}

fn progress_write(response: &mut Response, row: &Model, with_offset: bool) -> Result<()> {
    let headers = response.headers_mut();
    if with_offset {
        headers.insert(UPLOAD_OFFSET, HeaderValue::from(row.offset_bytes));
    }
    headers.insert(UPLOAD_EXPIRES, value(&http_date(row.expires_at))?);
    Ok(())
}

/// RFC 9110 §5.6.7, in whole seconds.
fn http_date(time: Time) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Error::internal("made an invalid header", e))
}

fn refused(code: StatusCode, id: &'static str, message: String) -> Response {
    let body = ErrorBody {
        id,
        message,
        request_id: None,
    };
    let mut response = (code, Json(&body)).into_response();
    response.extensions_mut().insert(ErrorId(id, body.message));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Other(error) => error.into_response(),
            Self::Offset => refused(
                StatusCode::CONFLICT,
                "conflict",
                "the upload is at another offset; ask for it with HEAD and go on there".into(),
            ),
            Self::Locked => refused(
                StatusCode::LOCKED,
                "locked",
                "another request is writing this upload and does not come to an end; ask for the offset with HEAD in a \
                 few seconds and go on there"
                    .into(),
            ),
            Self::TakenOver => refused(
                StatusCode::BAD_REQUEST,
                "interrupted",
                "a newer request for this upload took over; what came here is kept, ask for the offset with HEAD".into(),
            ),
            Self::Checksum => refused(
                StatusCode::from_u16(460).expect("a status that tus defines"),
                "checksum_mismatch",
                "the bytes are not what `Upload-Checksum` says; nothing of them was kept, send them again"
                    .into(),
            ),
        }
    }
}
