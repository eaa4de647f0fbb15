//! What the socket takes and refuses.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::file::check_kind;
use super::*;
use crate::app::App;
use crate::app::tests::app;
use crate::config::Secret;
use crate::images::service::image_get;
use crate::platform::accounts::Scopes;
use crate::platform::accounts::service::{TokenSpec, authenticate, token_create, token_revoke_self};
use crate::platform::events::Who;
use crate::platform::events::service::{EventFilter, event_list_local};

struct World {
    app: App,
    token: String,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

async fn world() -> World {
    let (app, dir) = app().await;
    let token = app
        .first_start()
        .await
        .expect("starts")
        .expect("is the first")
        .token;
    let stop = CancellationToken::new();
    tokio::spawn(serve(app.clone(), stop.clone()));
    World {
        app,
        token,
        stop,
        dir,
    }
}

impl World {
    async fn connect(&self) -> Connection {
        let wait = async {
            loop {
                if let Ok(connection) = connect(&self.app.data.join(SOCKET)).await {
                    return connection;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("listens in time")
    }

    fn request(token: &str) -> Request {
        Request {
            token: Secret::new(token),
            name: "disk".into(),
            region: "nyc3".into(),
            tags: Vec::new(),
            distribution: None,
            description: None,
            expected_sha256: None,
        }
    }

    fn disk(&self) -> File {
        let path = self.dir.path().join("disk.raw");
        std::fs::write(&path, vec![7; 4096]).expect("writes");
        File::open(path).expect("opens")
    }

    async fn token_with(&self, scopes: &str) -> String {
        let spec = TokenSpec {
            team_id: 1,
            user_id: 1,
            name: "t",
            scopes: Scopes::parse(scopes).expect("scopes"),
            expires_at: None,
        };
        let made = token_create(&self.app, &Who::default(), &spec).await;
        made.expect("a token").text
    }

    /// The answer to a request with this file.
    async fn ask(&self, token: &str, file: &File) -> Answer {
        let mut connection = self.connect().await;
        connection
            .hand_over(&World::request(token), file)
            .await
            .expect("sends");
        connection.next().await.expect("reads").expect("answers")
    }
}

#[tokio::test]
async fn a_file_becomes_an_image_that_reads_from_the_descriptor() {
    let w = world().await;
    let Answer::Image(image) = w.ask(&w.token, &w.disk()).await else {
        panic!("refused");
    };
    assert_eq!(image["status"], "NEW");
    assert_eq!(image["name"], "disk");
    let mode = std::fs::metadata(w.app.data.join(SOCKET))
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    w.stop.cancel();
}

/// What the server says at last.
async fn last(connection: &mut Connection) -> Answer {
    loop {
        match connection.next().await.expect("reads") {
            Some(Answer::Image(image)) if image["status"] != "deleted" => {}
            Some(last) => return last,
            None => panic!("it closed without a word"),
        }
    }
}

#[tokio::test]
async fn a_cancel_ends_the_import_of_whoever_began_it() {
    let w = world().await;
    // Not `image:delete`: that is for images that are there.
    for scopes in ["*:*", "image:create,image:read"] {
        let token = w.token_with(scopes).await;
        let mut connection = w.connect().await;
        connection
            .hand_over(&World::request(&token), &w.disk())
            .await
            .expect("sends");
        connection.next().await.expect("reads").expect("answers");
        connection.cancel().await.expect("sends");
        let Answer::Image(image) = last(&mut connection).await else {
            panic!("refused with {scopes}");
        };
        assert_eq!(image["error_message"], "The import was cancelled.");
    }
}

#[tokio::test]
async fn a_token_that_ends_meanwhile_sees_and_cancels_nothing_more() {
    let w = world().await;
    let token = w.token_with("*:*").await;
    let mut connection = w.connect().await;
    connection
        .hand_over(&World::request(&token), &w.disk())
        .await
        .expect("sends");
    let Some(Answer::Image(image)) = connection.next().await.expect("reads") else {
        panic!("refused");
    };
    let ended = token_revoke_self(&w.app, &Who::default(), &token).await;
    ended.expect("ends itself");
    // The server may have closed already.
    let _ = connection.cancel().await;
    let Answer::Error(reason) = last(&mut connection).await else {
        panic!("it went on");
    };
    assert!(reason.contains("the token was revoked"), "{reason}");
    let api = w.token_with("*:*").await;
    let caller = authenticate(&w.app, &api, Who::default()).await.expect("is good");
    let row = image_get(&w.app, &caller, &image["id"].to_string()).await;
    assert_eq!(row.expect("is there").status, "NEW", "the import goes on");
}

/// The socket's row in the table of doors.
#[tokio::test]
async fn each_kind_of_token_that_may_not_is_refused_and_nothing_is_kept() {
    let w = world().await;
    let now = w.app.clock.now();
    let make = async |scopes: &str, expires_at| {
        let spec = TokenSpec {
            team_id: 1,
            user_id: 1,
            name: "t",
            scopes: Scopes::parse(scopes).expect("scopes"),
            expires_at,
        };
        token_create(&w.app, &Who::default(), &spec)
            .await
            .expect("a token")
            .text
    };
    let (narrow, other) = (
        make("image:read", None).await,
        make("image:create,image:read", None).await,
    );
    let blind = make("image:create", None).await;
    let expired = make("*:*", Some(now - TimeDelta::seconds(1))).await;
    let revoked = make("*:*", None).await;
    let ended = token_revoke_self(&w.app, &Who::default(), &revoked).await;
    ended.expect("ends itself");
    for (token, reason) in [
        ("", "authenticate"),
        (&format!("dop_v1_{}", "0".repeat(64)), "authenticate"),
        (&expired, "authenticate"),
        (&revoked, "authenticate"),
        (&narrow, "lacks the scope"),
        (&blind, "lacks the scope"),
    ] {
        let Answer::Error(found) = w.ask(token, &w.disk()).await else {
            panic!("taken");
        };
        assert!(found.contains(reason), "{found}");
    }
    let filter = EventFilter {
        outcome: Some("refused".into()),
        ..EventFilter::default()
    };
    let refused = event_list_local(&w.app, &filter, 200).await.expect("lists");
    // Two of strangers count as one, unless a minute ended in between.
    assert!((5..=6).contains(&refused.len()), "{}", refused.len());
    assert!(matches!(w.ask(&other, &w.disk()).await, Answer::Image(_)));
}

#[tokio::test]
async fn only_regular_files_opened_for_reading_are_taken() {
    let w = world().await;
    let writable = OpenOptions::new()
        .read(true)
        .write(true)
        .open({
            w.disk();
            w.dir.path().join("disk.raw")
        })
        .expect("opens");
    let folder = File::open(w.dir.path()).expect("opens");
    let device = File::open("/dev/zero").expect("opens");
    for (what, file) in [("writable", &writable), ("folder", &folder), ("device", &device)] {
        let Answer::Error(reason) = w.ask(&w.token, file).await else {
            panic!("{what} was taken");
        };
        assert!(reason.contains("file"), "{what}: {reason}");
    }
    assert!(check_kind(&w.disk()).is_ok());
}

#[tokio::test]
async fn a_request_without_a_file_or_of_another_shape_is_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let w = world().await;
    w.connect().await;
    let whole = serde_json::to_string(&World::request(&w.token)).expect("writes");
    for text in [
        format!("{whole}\n"),
        "{}\n".into(),
        "no json\n".into(),
        "x".repeat(80_000),
    ] {
        let mut stream = tokio::net::UnixStream::connect(w.app.data.join(SOCKET))
            .await
            .expect("connects");
        // The server may answer and close before it has read all of it.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(
            answer.contains("error") || text.len() > 70_000,
            "{text:.40}: {answer}"
        );
        assert!(!answer.contains(&w.token));
    }
}

#[test]
fn a_file_that_is_written_to_is_noticed() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"abc").expect("writes");
    let reader = File::open(file.path()).expect("opens");
    let stamp = Stamp::of(&reader).expect("is there");
    assert!(stamp.check(&reader).is_ok());
    file.write_all(b"d").expect("writes");
    assert!(stamp.check(&reader).is_err());
}
