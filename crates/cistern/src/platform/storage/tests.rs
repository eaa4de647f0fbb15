//! The operator's routes, and what a verification finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::jobs::verify_kind;
use crate::platform::jobs::{Engine, Registry};
use crate::platform::journal;
use crate::testing::api::Tester;

/// Puts a disk of one chunk that does not compress into the store.
pub async fn stored(tester: &Tester) {
    let mut chunk = vec![0_u8; 64 << 10];
    let mut state = 1_u32;
    for byte in &mut chunk {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    let app = &tester.app;
    let session = app.store.session_open("a test").await.expect("opens");
    let mut ingest = session.ingest(64 << 10, None).await.expect("begins");
    ingest.extent_data(Bytes::from(chunk)).await.expect("takes data");
    let disk = ingest.finish().await.expect("finishes");
    let tx = app.db.write().await.expect("opens");
    session
        .commit_in_tx(&*tx, "image", "7", disk.root)
        .await
        .expect("commits");
    tx.commit().await.expect("commits");
}

async fn verified(tester: &Tester, read_data: bool) -> Value {
    let started = tester
        .send_ours(
            "POST",
            "/v2/store/verify",
            Some(json!({ "read_data": read_data })),
        )
        .await;
    let id = started["verification"]["id"].clone();
    let wait = async {
        loop {
            let now = tester
                .send_ours("GET", &format!("/v2/store/verify/{id}"), None)
                .await;
            if !now["verification"]["finished_at"].is_null() {
                return now["verification"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("ends in time")
}

impl Tester {
    async fn send_ours(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.send_unchecked(method, path, body).await;
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        answer.body
    }
}

/// The largest file below a folder: the pack.
fn pack(folder: &Path) -> PathBuf {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("lists").map(|e| e.expect("readable")) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.metadata().expect("is there").len(), entry.path()));
            }
        }
    }
    found.into_iter().max().expect("a pack").1
}

#[tokio::test]
async fn operators_see_figures_and_find_damage() {
    let tester = Tester::new().await;
    stored(&tester).await;
    let engine = Engine::start(&tester.app, Registry::default().with(verify_kind()), "n", 1)
        .await
        .expect("starts");
    let stats = tester.send_ours("GET", "/v2/store/stats", None).await["stats"].clone();
    assert_eq!(
        (&stats["roots"], &stats["virtual_bytes"]),
        (&json!(1), &json!(65_536))
    );
    assert!(
        stats["stored_bytes"].as_u64().expect("a number") > 60_000,
        "{stats}"
    );

    let clean = verified(&tester, true).await;
    assert_eq!(
        (&clean["status"], &clean["report"]["damage"]),
        (&json!("done"), &json!([]))
    );

    let path = pack(&tester.app.data.join("store"));
    let mut bytes = fs::read(&path).expect("reads");
    bytes[1000] ^= 1;
    let mut permissions = fs::metadata(&path).expect("is there").permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "a file in a folder of our own"
    )]
    permissions.set_readonly(false);
    fs::set_permissions(&path, permissions).expect("is ours");
    fs::write(&path, bytes).expect("writes");
    let damaged = verified(&tester, true).await;
    let found = &damaged["report"]["damage"][0];
    assert_eq!(
        (&found["kind"], &found["id"]),
        (&json!("image"), &json!("7")),
        "{damaged}"
    );
    assert_eq!((&found["from"], &found["to"]), (&json!(0), &json!(65_536)));
    engine.stop().await;
}

/// Changes a file of the store's, whose writers left it for reading only.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).expect("reads");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::remove_file(path).expect("removes");
    fs::write(path, bytes).expect("writes");
}

#[tokio::test]
async fn a_verification_names_damaged_headers_and_journal_and_mends_them() {
    let tester = Tester::new().await;
    let app = &tester.app;
    stored(&tester).await;
    journal::flush(app).await.expect("flushes");
    let engine = Engine::start(app, Registry::default().with(verify_kind()), "n", 1)
        .await
        .expect("starts");
    let newest = app
        .store
        .journal()
        .list()
        .await
        .expect("lists")
        .pop()
        .expect("one");
    for key in ["h/00000001".to_owned(), newest.place.key()] {
        spoil(&app.data.join("store").join(&key));
        let damaged = verified(&tester, true).await;
        let found = &damaged["report"]["damage"][0];
        assert_eq!(
            (&found["kind"], &found["id"]),
            (&json!("store"), &json!(key)),
            "{damaged}"
        );
        assert!(
            found["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(&key)),
            "{damaged}"
        );
        let mended = verified(&tester, true).await;
        assert_eq!(mended["report"]["damage"], json!([]), "{mended}");
    }
    engine.stop().await;
}

#[tokio::test]
async fn others_see_nothing() {
    let tester = Tester::new().await;
    let other = tester.other_team().await;
    for (method, path) in [
        ("GET", "/v2/store/stats"),
        ("POST", "/v2/store/verify"),
        ("GET", "/v2/store/verify/1"),
    ] {
        let body = (method == "POST").then(|| json!({}));
        let answer = other.send_unchecked(method, path, body).await;
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    assert_eq!(
        tester
            .send_unchecked("GET", "/v2/store/verify/1", None)
            .await
            .status,
        404
    );
}
