//! The rules of tus at the router, the offset's promise, and who may do what.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use base64::Engine as _;
use bytes::Bytes;
use chrono::TimeDelta;
use futures::StreamExt as _;
use sha2::{Digest, Sha256};
use tower::ServiceExt as _;

use super::append::{self, Append, BodyStream};
use super::model::Refusal;
use super::service::{self, NewUpload};
use super::{rows, spool};
use crate::app::App;
use crate::app::tests::app;
use crate::platform::accounts::{Caller, Role, Scopes, service as accounts};
use crate::platform::error::Error;
use crate::platform::events::Who;

/// A service with a router and its owner's token.
struct World {
    app: App,
    router: Router,
    token: String,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let (app, dir) = app().await;
    let first = app.first_start().await.expect("starts").expect("is the first");
    let router = crate::routes::api(&app).with_state(app.clone());
    World {
        app,
        router,
        token: first.token,
        _dir: dir,
    }
}

impl World {
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("tus-resumable", "1.0.0");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a valid request");
        self.router
            .clone()
            .oneshot(request)
            .await
            .expect("routers do not fail")
    }

    /// Begins an upload; returns its path.
    async fn begin(&self, length: usize) -> String {
        let length = length.to_string();
        let response = self
            .send("POST", "/v2/uploads", &[("upload-length", &length)], "")
            .await;
        assert_eq!(response.status(), StatusCode::CREATED);
        header(&response, "location")
    }

    async fn patch(&self, path: &str, offset: usize, more: &[(&str, &str)], body: &[u8]) -> Response<Body> {
        let offset = offset.to_string();
        let mut headers = vec![
            ("upload-offset", offset.as_str()),
            ("content-type", "application/offset+octet-stream"),
        ];
        headers.extend_from_slice(more);
        self.send("PATCH", path, &headers, body.to_vec()).await
    }

    async fn offset(&self, path: &str) -> String {
        let response = self.send("HEAD", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "cache-control"), "no-store");
        header(&response, "upload-offset")
    }

    async fn caller(&self) -> Caller {
        accounts::authenticate(&self.app, &self.token, Who::default())
            .await
            .expect("a valid token")
    }

    async fn text(&self, response: Response<Body>) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body");
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }
}

fn header(response: &Response<Body>, name: &str) -> String {
    let value = response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("`{name}` in {response:?}"));
    value.to_str().expect("ASCII").to_owned()
}

fn id(path: &str) -> &str {
    path.rsplit('/').next().expect("a path")
}

fn body(parts: Vec<std::io::Result<&'static [u8]>>) -> BodyStream {
    futures::stream::iter(parts.into_iter().map(|p| p.map(Bytes::from_static))).boxed()
}

#[tokio::test]
async fn a_file_comes_in_pieces_and_is_the_same() {
    let w = world().await;
    let path = w.begin(11).await;
    assert_eq!(w.offset(&path).await, "0");
    let response = w.patch(&path, 0, &[], b"hello ").await;
    assert_eq!(
        (response.status(), header(&response, "upload-offset")),
        (StatusCode::NO_CONTENT, "6".into())
    );
    assert!(header(&response, "upload-expires").ends_with(" GMT"));
    assert_eq!(w.offset(&path).await, "6");
    let response = w.patch(&path, 6, &[], b"world").await;
    assert_eq!(header(&response, "upload-offset"), "11");
    let file = std::fs::read(spool::path(&w.app.data, id(&path))).expect("is there");
    assert_eq!(file, b"hello world");

    let row = service::upload_get(&w.app, &w.caller().await, id(&path))
        .await
        .expect("is there");
    assert!(row.completed_at.is_some());
    assert_eq!(
        w.patch(&path, 11, &[], b"").await.status(),
        StatusCode::NO_CONTENT,
        "nothing more is fine"
    );
    assert_eq!(
        w.patch(&path, 11, &[], b"x").await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
}

#[tokio::test]
async fn options_tell_what_there_is_without_a_token() {
    let w = world().await;
    let request = Request::options("/v2/uploads")
        .body(Body::empty())
        .expect("valid");
    let response = w.router.clone().oneshot(request).await.expect("answers");
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&response, "tus-version"), "1.0.0");
    assert_eq!(header(&response, "tus-resumable"), "1.0.0");
    assert_eq!(header(&response, "tus-checksum-algorithm"), "sha1,sha256");
    assert_eq!(
        header(&response, "tus-max-size"),
        w.app.config.upload.max_bytes.to_string()
    );
    let extensions = header(&response, "tus-extension");
    for name in [
        "creation",
        "creation-with-upload",
        "expiration",
        "termination",
        "checksum",
    ] {
        assert!(extensions.split(',').any(|e| e == name), "{name}");
    }
}

#[tokio::test]
async fn another_version_is_refused_with_ours() {
    let w = world().await;
    let request = Request::post("/v2/uploads")
        .header("authorization", format!("Bearer {}", w.token))
        .header("tus-resumable", "0.2.2")
        .header("upload-length", "1")
        .body(Body::empty())
        .expect("valid");
    let response = w.router.clone().oneshot(request).await.expect("answers");
    assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(header(&response, "tus-version"), "1.0.0");
}

#[tokio::test]
async fn a_wrong_offset_changes_nothing() {
    let w = world().await;
    let path = w.begin(10).await;
    w.patch(&path, 0, &[], b"abc").await;
    for offset in [0, 2, 4, 10, 11] {
        let response = w.patch(&path, offset, &[], b"").await;
        assert_eq!(response.status(), StatusCode::CONFLICT, "{offset}");
    }
    assert_eq!(w.offset(&path).await, "3");
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let w = world().await;
    let path = w.begin(10).await;
    let chunk = ("content-type", "application/offset+octet-stream");
    let status = |headers: Vec<(&'static str, &'static str)>| {
        let (w, path) = (&w, &path);
        async move { w.send("PATCH", path, &headers, "x").await.status() }
    };
    assert_eq!(
        status(vec![("upload-offset", "0")]).await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    assert_eq!(status(vec![chunk]).await, StatusCode::BAD_REQUEST);
    assert_eq!(
        status(vec![chunk, ("upload-offset", "-1")]).await,
        StatusCode::BAD_REQUEST
    );
    let md5 = vec![chunk, ("upload-offset", "0"), ("upload-checksum", "md5 AAAA")];
    assert_eq!(status(md5).await, StatusCode::BAD_REQUEST);
    assert_eq!(w.offset(&path).await, "0");

    let create = |headers: Vec<(&'static str, &'static str)>| {
        let w = &w;
        async move { w.send("POST", "/v2/uploads", &headers, "").await.status() }
    };
    assert_eq!(create(vec![]).await, StatusCode::BAD_REQUEST);
    assert_eq!(
        create(vec![("upload-length", "x")]).await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        create(vec![("upload-defer-length", "2")]).await,
        StatusCode::BAD_REQUEST
    );
    let both = vec![("upload-length", "1"), ("upload-defer-length", "1")];
    assert_eq!(create(both).await, StatusCode::BAD_REQUEST);
    let metadata = vec![("upload-length", "1"), ("upload-metadata", "a %%")];
    assert_eq!(create(metadata).await, StatusCode::BAD_REQUEST);
    let none = vec![("upload-length", "1"), ("upload-metadata", "")];
    assert_eq!(create(none).await, StatusCode::CREATED, "as tuspy sends it");
    let huge = vec![("upload-length", "9000000000000000000")];
    assert_eq!(create(huge).await, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_checksum_guards_a_request_as_a_whole() {
    let w = world().await;
    let path = w.begin(10).await;
    let of = |bytes: &[u8]| {
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(bytes));
        format!("sha256 {digest}")
    };
    let response = w
        .patch(&path, 0, &[("upload-checksum", &of(b"hello"))], b"hellO")
        .await;
    assert_eq!(response.status().as_u16(), 460);
    assert_eq!(w.offset(&path).await, "0", "nothing was kept");
    let response = w
        .patch(&path, 0, &[("upload-checksum", &of(b"hello"))], b"hello")
        .await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let response = w
        .patch(
            &path,
            5,
            &[("upload-checksum", "sha1 fCEUM/AgcVl3Qnb2nI2ZYU+Q/yk=")],
            b"again",
        )
        .await;
    assert_eq!(response.status().as_u16(), 460);
    w.patch(&path, 5, &[("upload-checksum", &of(b"world"))], b"world")
        .await;
    let file = std::fs::read(spool::path(&w.app.data, id(&path))).expect("is there");
    assert_eq!(file, b"helloworld", "the refused bytes were overwritten");
}

#[tokio::test]
async fn creation_can_bring_the_first_bytes_and_the_length_can_come_later() {
    let w = world().await;
    let headers = [
        ("upload-defer-length", "1"),
        ("content-type", "application/offset+octet-stream"),
        ("upload-metadata", "filename ZGlzay5yYXc="),
    ];
    let response = w.send("POST", "/v2/uploads", &headers, "abc").await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(header(&response, "upload-offset"), "3");
    let path = header(&response, "location");
    let response = w.send("HEAD", &path, &[], "").await;
    assert_eq!(header(&response, "upload-defer-length"), "1");
    assert_eq!(header(&response, "upload-metadata"), "filename ZGlzay5yYXc=");
    assert_eq!(
        w.patch(&path, 3, &[("upload-length", "2")], b"").await.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        w.patch(&path, 3, &[("upload-length", "5")], b"de").await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        w.patch(&path, 5, &[("upload-length", "6")], b"f").await.status(),
        StatusCode::BAD_REQUEST
    );
    let row = service::upload_get(&w.app, &w.caller().await, id(&path))
        .await
        .expect("is there");
    assert!(row.completed_at.is_some());
}

#[tokio::test]
async fn a_cut_connection_keeps_what_came_unless_a_checksum_was_to_be_met() {
    let w = world().await;
    let caller = w.caller().await;
    let new = NewUpload {
        length: Some(10),
        metadata: None,
    };
    let id = service::upload_create(&w.app, &caller, new)
        .await
        .expect("begins")
        .id;
    let cut = || body(vec![Ok(b"abc"), Err(std::io::Error::other("cut"))]);
    let result = append::upload_append(&w.app, &caller, &id, Append::default(), cut()).await;
    assert!(
        matches!(result, Err(Refusal::Other(Error::BadRequest(_)))),
        "{result:?}"
    );
    let row = service::upload_get(&w.app, &caller, &id).await.expect("is there");
    assert_eq!(row.offset_bytes, 3);

    let checksum = super::model::Checksum::parse("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").expect("valid");
    let append = Append {
        offset: 3,
        checksum: Some(checksum),
        ..Append::default()
    };
    append::upload_append(&w.app, &caller, &id, append, cut())
        .await
        .expect_err("is cut");
    let row = service::upload_get(&w.app, &caller, &id).await.expect("is there");
    assert_eq!(row.offset_bytes, 3);
}

#[tokio::test]
async fn after_a_crash_only_what_was_promised_counts() {
    let w = world().await;
    let path = w.begin(10).await;
    w.patch(&path, 0, &[], b"abcd").await;
    let file = spool::path(&w.app.data, id(&path));
    // Killed after writing, before the row: the file has more than was promised.
    std::fs::write(&file, b"abcdXXXXXXXXXXXXXXXX").expect("writes");
    assert_eq!(w.offset(&path).await, "4");
    // A file that lost bytes is believed.
    std::fs::write(&file, b"ab").expect("writes");
    assert_eq!(w.offset(&path).await, "2");
    assert_eq!(
        w.patch(&path, 4, &[], b"efghij").await.status(),
        StatusCode::CONFLICT
    );
    std::fs::write(&file, b"abXXXXXXXXXXXXXXXXXX").expect("writes");
    // The row never went back, because nothing asked for it in between.
    assert_eq!(w.offset(&path).await, "4");
    w.patch(&path, 4, &[], b"efghij").await;
    assert_eq!(
        std::fs::read(&file).expect("is there"),
        b"abXXefghij",
        "and what lay beyond is cut off"
    );
}

/// A request whose client sends what the test says and then hangs.
struct Hanging {
    sender: tokio::sync::mpsc::UnboundedSender<std::io::Result<Bytes>>,
    request: tokio::task::JoinHandle<Result<rows::Model, Refusal>>,
}

impl World {
    /// The same installation with a lower `upload.max_bytes`.
    async fn with_max_bytes(&self, max: u64) -> App {
        let mut config = self.app.config.clone();
        config.upload.max_bytes = max;
        App::open(config).await.expect("opens")
    }

    /// Begins a request at byte 0 and waits until it has read `bytes`.
    async fn hang(&self, path: &str, append: Append, bytes: &'static [u8]) -> Hanging {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<std::io::Result<Bytes>>();
        // The second time the body is asked for, the first piece was taken.
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        let body = futures::stream::unfold(
            (receiver, Some(taken), false),
            |(mut receiver, mut taken, mut is_second)| async move {
                if is_second && let Some(taken) = taken.take() {
                    let _ = taken.send(());
                }
                is_second = true;
                let item = receiver.recv().await?;
                Some((item, (receiver, taken, is_second)))
            },
        );
        let (app, upload, caller) = (self.app.clone(), id(path).to_owned(), self.caller().await);
        let request =
            tokio::spawn(
                async move { append::upload_append(&app, &caller, &upload, append, body.boxed()).await },
            );
        sender.send(Ok(Bytes::from_static(bytes))).expect("is read");
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), is_taken).await;
        in_time.expect("it gets the lock").expect("and reads");
        Hanging { sender, request }
    }
}

#[tokio::test]
async fn a_newer_request_takes_over_from_one_that_hangs() {
    let w = world().await;
    let path = w.begin(10).await;
    let old = w.hang(&path, Append::default(), b"abc").await;
    // The client does not know what arrived, asks for nothing and begins where it last heard of.
    let response = w.patch(&path, 0, &[], b"abcdefghij").await;
    assert_eq!(
        response.status(),
        StatusCode::CONFLICT,
        "what the old one had is kept"
    );
    drop(old.sender);
    let ended = old.request.await.expect("does not panic");
    assert!(matches!(ended, Err(Refusal::TakenOver)), "{ended:?}");
    assert_eq!(w.offset(&path).await, "3");
    let response = w.patch(&path, 3, &[], b"defghij").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let file = std::fs::read(spool::path(&w.app.data, id(&path))).expect("is there");
    assert_eq!(file, b"abcdefghij");
}

#[tokio::test]
async fn a_request_that_hangs_promises_what_came() {
    let w = world().await;
    let path = w.begin(10).await;
    let old = w.hang(&path, Append::default(), b"abc").await;
    let promised = async {
        let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
        while w.offset(&path).await != "3" {
            look.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), promised)
        .await
        .expect("asking tells what came, while the request still hangs");
    assert!(!old.request.is_finished());
    let behind = w.patch(&path, 0, &[], b"abc").await;
    assert_eq!(behind.status(), StatusCode::CONFLICT);
    assert!(!old.request.is_finished(), "one that is behind stops nobody");
    let response = w.patch(&path, 3, &[], b"defghij").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_checksum_is_not_promised_before_its_end() {
    let w = world().await;
    let path = w.begin(10).await;
    let checksum = super::model::Checksum::parse("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").expect("valid");
    let append = Append {
        checksum: Some(checksum),
        ..Append::default()
    };
    let old = w.hang(&path, append, b"abc").await;
    let response = w.patch(&path, 0, &[], b"0123456789").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    drop(old.sender);
    let ended = old.request.await.expect("does not panic");
    assert!(matches!(ended, Err(Refusal::TakenOver)), "{ended:?}");
    let file = std::fs::read(spool::path(&w.app.data, id(&path))).expect("is there");
    assert_eq!(file, b"0123456789");
}

#[tokio::test]
async fn ending_an_upload_ends_the_request_that_writes_it() {
    let w = world().await;
    let path = w.begin(10).await;
    let old = w.hang(&path, Append::default(), b"abc").await;
    let response = w.send("DELETE", &path, &[], "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    drop(old.sender);
    let ended = old.request.await.expect("does not panic");
    assert!(matches!(ended, Err(Refusal::TakenOver)), "{ended:?}");
}

#[tokio::test]
async fn a_lock_that_another_process_holds_is_said() {
    let w = world().await;
    let path = w.begin(10).await;
    let lock = spool::Locked::try_open(spool::path(&w.app.data, id(&path)), None)
        .await
        .expect("nobody has it");
    let response = w.patch(&path, 0, &[], b"abc").await;
    assert_eq!(response.status(), StatusCode::LOCKED);
    assert!(w.text(response).await.contains("ask for the offset"));
    assert_eq!(w.offset(&path).await, "0", "asking is always possible");
    drop(lock);
    let response = w.patch(&path, 0, &[], b"abc").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_upload_beyond_a_limit_that_was_lowered_is_refused_and_not_miscounted() {
    let w = world().await;
    let headers = [("upload-defer-length", "1")];
    let path = header(&w.send("POST", "/v2/uploads", &headers, "").await, "location");
    w.patch(&path, 0, &[], b"abcdefgh").await;
    let lowered = w.with_max_bytes(5).await;
    let caller = w.caller().await;
    for content_length in [None, Some(1)] {
        let append = Append {
            offset: 8,
            content_length,
            ..Append::default()
        };
        let result = append::upload_append(&lowered, &caller, id(&path), append, body(vec![Ok(b"i")])).await;
        assert!(
            matches!(result, Err(Refusal::Other(Error::TooLarge(_)))),
            "{content_length:?}: {result:?}"
        );
    }
    assert_eq!(w.offset(&path).await, "8", "what was promised stays");
}

#[tokio::test]
async fn an_upload_can_be_ended_and_expires() {
    let w = world().await;
    let (ended, forgotten, kept) = (w.begin(5).await, w.begin(5).await, w.begin(5).await);
    assert_eq!(
        w.send("DELETE", &ended, &[], "").await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        w.send("HEAD", &ended, &[], "").await.status(),
        StatusCode::NOT_FOUND
    );
    assert!(!spool::path(&w.app.data, id(&ended)).exists());

    w.app.clock.advance(TimeDelta::hours(23));
    w.patch(&kept, 0, &[], b"a").await;
    w.app.clock.advance(TimeDelta::hours(2));
    assert_eq!(
        w.send("HEAD", &forgotten, &[], "").await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(w.offset(&kept).await, "1", "24 hours count from the last byte");

    // The sweep goes by the file's own time, which only a real hour moves: make it old.
    let old = std::time::SystemTime::UNIX_EPOCH;
    for path in [&forgotten, &kept] {
        let file = std::fs::File::options()
            .write(true)
            .open(spool::path(&w.app.data, id(path)))
            .expect("is there");
        file.set_modified(old).expect("is settable");
    }
    assert_eq!(service::upload_sweep(&w.app).await.expect("sweeps"), 1);
    assert!(!spool::path(&w.app.data, id(&forgotten)).exists());
    assert!(spool::path(&w.app.data, id(&kept)).exists());
}

#[tokio::test]
async fn another_team_and_a_narrow_token_see_nothing() {
    let w = world().await;
    let path = w.begin(5).await;
    let who = Who::default();
    let team = accounts::team_create(&w.app, &who, "other", 1)
        .await
        .expect("makes");
    let user = accounts::user_create(&w.app, &who, "o@example.com", team.id, Role::Owner, false)
        .await
        .expect("makes");
    let token = |team_id, user_id, scopes| {
        let app = w.app.clone();
        async move {
            let spec = accounts::TokenSpec {
                team_id,
                user_id,
                name: "t",
                scopes,
                expires_at: None,
            };
            accounts::token_create(&app, &Who::default(), &spec)
                .await
                .expect("makes")
                .text
        }
    };
    let other = World {
        token: token(team.id, user.id, Scopes::all()).await,
        router: w.router.clone(),
        app: w.app.clone(),
        _dir: tempfile::tempdir().expect("a folder"),
    };
    for method in [Method::HEAD, Method::PATCH, Method::DELETE] {
        let headers = [
            ("upload-offset", "0"),
            ("content-type", "application/offset+octet-stream"),
        ];
        let response = other.send(method.as_str(), &path, &headers, "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{method}");
    }
    let narrow = token(1, 1, Scopes::parse("image:read").expect("valid")).await;
    let narrow = World {
        token: narrow,
        ..other
    };
    assert_eq!(
        narrow.send("HEAD", &path, &[], "").await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        narrow
            .send("POST", "/v2/uploads", &[("upload-length", "1")], "")
            .await
            .status(),
        StatusCode::FORBIDDEN
    );
    let stranger = World {
        token: "x".into(),
        ..narrow
    };
    assert_eq!(
        stranger.send("HEAD", &path, &[], "").await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn an_image_takes_a_complete_upload_once() {
    let w = world().await;
    let caller = w.caller().await;
    let path = w.begin(5).await;
    let take = |id: &str| {
        let (app, caller, id) = (w.app.clone(), caller.clone(), id.to_owned());
        async move {
            let tx = app.db.write().await.expect("opens");
            let taken = service::upload_take_in_tx(&app, &tx, &caller, &id, 7).await?;
            tx.commit().await.expect("commits");
            Ok::<_, Error>(taken)
        }
    };
    let error = take(id(&path)).await.expect_err("is not complete").to_string();
    assert!(error.contains("0 of 5 bytes"), "{error}");
    w.patch(&path, 0, &[], b"abcde").await;
    let taken = take(id(&path)).await.expect("is complete");
    assert_eq!((taken.length, taken.node.as_str()), (5, w.app.node.as_str()));
    let file = service::upload_path(&w.app, id(&path));
    assert_eq!(std::fs::read(&file).expect("is there"), b"abcde");
    assert!(matches!(take(id(&path)).await, Err(Error::Conflict(_))));
    let response = w.send("DELETE", &path, &[], "").await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert!(w.text(response).await.contains("image"));
    service::upload_done(&w.app, id(&path))
        .await
        .expect("is forgotten");
    service::upload_done(&w.app, id(&path))
        .await
        .expect("twice is harmless");
    assert!(!file.exists());
    assert!(
        take("no-such")
            .await
            .expect_err("is unknown")
            .to_string()
            .contains("no-such")
    );
}

#[tokio::test]
async fn a_team_has_a_bounded_number_of_open_uploads() {
    let w = world().await;
    let now = w.app.clock.now();
    for n in 0..service::MAX_OPEN {
        let row = rows::Model {
            id: format!("u{n}"),
            team_id: 1,
            length_bytes: None,
            offset_bytes: 0,
            metadata: None,
            node: w.app.node.clone(),
            used_by: None,
            created_at: now,
            expires_at: now + TimeDelta::hours(1),
            completed_at: None,
        };
        rows::upload_insert(w.app.db.conn(), row).await.expect("inserts");
    }
    let response = w.send("POST", "/v2/uploads", &[("upload-length", "1")], "").await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let left = std::fs::read_dir(spool::folder(&w.app.data))
        .expect("is there")
        .count();
    assert_eq!(left, 0, "a refused one leaves no file");
    w.app.clock.advance(TimeDelta::hours(1));
    w.begin(1).await;
}

#[tokio::test]
async fn clients_that_can_only_post_name_the_method() {
    let w = world().await;
    let path = w.begin(3).await;
    let headers = [
        ("x-http-method-override", "PATCH"),
        ("upload-offset", "0"),
        ("content-type", "application/offset+octet-stream"),
    ];
    assert_eq!(
        w.send("POST", &path, &headers, "abc").await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        w.send("POST", &path, &[], "").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    let headers = [("x-http-method-override", "DELETE")];
    assert_eq!(
        w.send("POST", &path, &headers, "").await.status(),
        StatusCode::NO_CONTENT
    );
}
