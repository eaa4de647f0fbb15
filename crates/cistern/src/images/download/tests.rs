//! Downloads at the router: heads, ranges, who may, and that damaged data never goes out.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use sha2::{Digest, Sha256};
use tower::ServiceExt as _;

use crate::app::App;
use crate::app::tests::app;
use crate::images::model::{ImportSource, NewImport};
use crate::images::{checksum, service};
use crate::platform::accounts::{Caller, Role, Scopes, service as accounts};
use crate::platform::events::{self, Who};

const MIB: usize = 1 << 20;

struct World {
    app: App,
    router: Router,
    token: String,
    /// `/v2/images/N/download`.
    path: String,
    disk: Vec<u8>,
    _dir: tempfile::TempDir,
}

/// 8 MiB with an MBR, incompressible data in the second and the sixth, zeros elsewhere.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 8 * MIB];
    bytes[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut state = 7_u32;
    for range in [MIB..2 * MIB, 5 * MIB..6 * MIB] {
        for byte in &mut bytes[range] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
    }
    bytes
}

/// A service with one available image whose checksums are known.
async fn world() -> World {
    let (app, dir) = app().await;
    let token = app
        .first_start()
        .await
        .expect("starts")
        .expect("is the first")
        .token;
    let caller = caller(&app, &token).await;
    let disk = disk();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&disk).expect("writes");
    let new = NewImport {
        name: "my disk/1".into(),
        distribution: None,
        description: None,
        region: "nyc3".into(),
        tags: Vec::new(),
        source: ImportSource::Local {
            id: app.handed.put(file),
        },
        expected_sha256: None,
    };
    let engine = app.engine_start().await.expect("starts");
    let (row, _) = service::image_import(&app, &caller, &new)
        .await
        .expect("is taken");
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let known = async {
        while checksum::checksum_list(&app, &[row.id])
            .await
            .expect("reads")
            .is_empty()
        {
            let now = service::image_get(&app, &caller, &row.id.to_string())
                .await
                .expect("is there");
            assert_ne!(now.status, "deleted", "{:?}", now.error_message);
            pace.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), known)
        .await
        .expect("is imported and hashed in time");
    engine.stop().await;
    let router = crate::routes::api(&app).with_state(app.clone());
    let path = format!("/v2/images/{}/download", row.id);
    World {
        app,
        router,
        token,
        path,
        disk,
        _dir: dir,
    }
}

async fn caller(app: &App, token: &str) -> Caller {
    let caller = accounts::authenticate(app, token, Who::default()).await;
    caller.expect("a valid token")
}

impl World {
    async fn send(&self, method: &str, query: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{query}", self.path))
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a valid request");
        self.router
            .clone()
            .oneshot(request)
            .await
            .expect("routers do not fail")
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    let value = response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("`{name}` in {response:?}"));
    value.to_str().expect("ASCII")
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_say_what_comes_and_ranges_are_parts_of_it() {
    let w = world().await;
    let response = w.send("GET", "", &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-length"), w.disk.len().to_string());
    assert_eq!(
        header(&response, "content-disposition"),
        "attachment; filename=\"my_disk_1.raw\""
    );
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    let digest = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        Sha256::digest(&w.disk),
    );
    assert_eq!(header(&response, "repr-digest"), format!("sha-256=:{digest}:"));
    let etag = header(&response, "etag").to_owned();
    assert!(bytes(response).await == w.disk);

    let length = w.disk.len();
    let [last, suffix] = [length - 1, length - 700];
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=1048570-1048590".to_owned(), 1_048_570, 1_048_591),
        ("bytes=-700".to_owned(), suffix, length),
        (format!("bytes={last}-"), last, length),
    ] {
        let response = w
            .send("GET", "?format=raw", &[("range", &range), ("if-range", &etag)])
            .await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(
            header(&response, "content-range"),
            format!("bytes {from}-{}/{length}", to - 1)
        );
        assert_eq!(header(&response, "content-length"), (to - from).to_string());
        assert!(bytes(response).await == w.disk[from..to], "{range}");
    }
    let stale = w
        .send("GET", "", &[("range", "bytes=0-0"), ("if-range", "\"other\"")])
        .await;
    assert_eq!(stale.status(), StatusCode::OK, "another file is sent whole");
    let beyond = w.send("GET", "", &[("range", "bytes=99999999-")]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&beyond, "content-range"), format!("bytes */{length}"));
    let known = w
        .send("GET", "", &[("if-none-match", &format!("\"x\", {etag}"))])
        .await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);

    let head = w.send("HEAD", "?format=qcow2", &[]).await;
    assert_ne!(header(&head, "etag"), etag, "another format is other bytes");
    let promised: usize = header(&head, "content-length").parse().expect("a number");
    assert!(bytes(head).await.is_empty());
    let file = bytes(w.send("GET", "?format=qcow2", &[]).await).await;
    assert_eq!((file.len(), &file[..4]), (promised, &b"QFI\xfb"[..]));
    assert_eq!(
        w.send("GET", "?format=qed", &[]).await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_formats_are_sent_and_their_digest_is_known_by_who_has_all_of_it() {
    let w = world().await;
    for (format, magic) in [
        ("vhdx", &b"vhdxfile"[..]),
        ("vhd", b"conectix"),
        ("vdi", b"<<< Oracle VM VirtualBox"),
        ("vmdk", b"KDMV"),
    ] {
        let query = format!("?format={format}");
        let head = w.send("HEAD", &query, &[]).await;
        let is_stream = format == "vmdk";
        assert_eq!(
            head.headers().contains_key("content-length"),
            !is_stream,
            "{format}"
        );
        assert_eq!(
            header(&head, "accept-ranges"),
            if is_stream { "none" } else { "bytes" }
        );
        assert!(
            !head.headers().contains_key("repr-digest"),
            "{format}: nobody had it yet"
        );
        let file = bytes(w.send("GET", &query, &[]).await).await;
        assert_eq!(&file[..magic.len()], magic, "{format}");
        let digest =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Sha256::digest(&file));
        let head = w.send("HEAD", &query, &[]).await;
        assert_eq!(
            header(&head, "repr-digest"),
            format!("sha-256=:{digest}:"),
            "{format}"
        );
        let part = w.send("GET", &query, &[("range", "bytes=100-199")]).await;
        let (status, expected) = if is_stream {
            (StatusCode::OK, &file[..])
        } else {
            (StatusCode::PARTIAL_CONTENT, &file[100..200])
        };
        assert_eq!(part.status(), status, "{format}");
        assert!(bytes(part).await == expected, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_get_nothing() {
    let w = world().await;
    let who = Who::default();
    let team = accounts::team_create(&w.app, &who, "other", 1)
        .await
        .expect("makes");
    let user = accounts::user_create(&w.app, &who, "o@example.com", team.id, Role::Owner, false).await;
    let user = user.expect("makes").id;
    for (team_id, user_id, scopes, status) in [
        (team.id, user, Scopes::all(), StatusCode::NOT_FOUND),
        (
            1,
            1,
            Scopes::parse("tag:read").expect("valid"),
            StatusCode::FORBIDDEN,
        ),
    ] {
        let spec = accounts::TokenSpec {
            team_id,
            user_id,
            name: "t",
            scopes,
            expires_at: None,
        };
        let made = accounts::token_create(&w.app, &who, &spec).await.expect("makes");
        let request = Request::get(&w.path)
            .header("authorization", format!("Bearer {}", made.text))
            .body(Body::empty())
            .expect("valid");
        let response = w.router.clone().oneshot(request).await.expect("answers");
        assert_eq!(response.status(), status);
    }
}

/// The largest file below a folder: the pack.
fn pack(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)
            .expect("lists")
            .map(|e| e.expect("readable"))
        {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.metadata().expect("is there").len(), entry.path()));
            }
        }
    }
    found.into_iter().max().expect("a pack").1
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_cuts_the_download_and_an_event_says_where() {
    let w = world().await;
    let path = pack(&w.app.data.join("store"));
    let mut pack = std::fs::read(&path).expect("reads");
    // The second stretch of data does not compress: look for its bytes.
    let needle = &w.disk[5 * MIB + 1000..5 * MIB + 1032];
    let at = pack
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("is stored as it is");
    pack[at] ^= 1;
    std::fs::remove_file(&path).expect("is ours");
    std::fs::write(&path, pack).expect("writes");

    let mut body = w.send("GET", "", &[]).await.into_body();
    let mut got = Vec::new();
    let error = loop {
        match body.frame().await {
            Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().expect("data")),
            Some(Err(error)) => break error,
            None => panic!("the body ended as if it were whole, after {} bytes", got.len()),
        }
    };
    assert!(got.len() <= 5 * MIB, "{error}: {} bytes came", got.len());
    assert!(got == w.disk[..got.len()], "what came is right");
    let events = events::rows::event_list(w.app.db.conn(), &events::rows::Filter::default(), 5)
        .await
        .expect("lists");
    let event = events.iter().find(|e| e.outcome == "failed").expect("an event");
    let detail = event.detail.as_ref().expect("a detail");
    assert_eq!(
        (event.what.as_str(), &detail["from_byte"]),
        ("image.download", &(5 * MIB).into())
    );
    // The byte after the last, as in all JSON.
    assert_eq!(detail["to_byte"], 5 * MIB + 65_536);

    // Where nothing has been sent yet, it is answered.
    let range = format!("bytes={}-", 5 * MIB);
    let refused = w.send("GET", "", &[("range", &range)]).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = bytes(refused).await;
    assert!(String::from_utf8_lossy(&said).contains("damaged"), "{said:?}");

    // Where the database is an older one, that is more likely than damage.
    w.app
        .db
        .refuse("the database is older; run `cistern recover`".into());
    let refused = w.send("GET", "", &[("range", &range)]).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    let said = bytes(refused).await;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("cistern recover") && !said.contains("damaged"),
        "{said}"
    );

    // What is not damaged can still be had.
    let before = w.send("GET", "", &[("range", "bytes=0-2097151")]).await;
    assert!(bytes(before).await == w.disk[..2 * MIB]);
}
