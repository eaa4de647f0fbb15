//! The database is lost, or an older one is in its place: the store brings back everything, and is not harmed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reqwest::Method;
use sea_orm::DbBackend;
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported};
use crate::harness::process::{run, run_ok};
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until, world};
use crate::migrate::{database, execute, texts};

/// A server whose objects do not lie in its data folder, and where they lie.
fn setup() -> (Setup, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = if world::name().contains("s3") {
        Setup::default()
    } else {
        let objects = dir.path().join("objects");
        Setup::default().env("CISTERN_OBJECTS", &objects.display().to_string())
    };
    (setup, dir)
}

/// Where the objects of such a server lie.
fn objects(server: &Server, dir: &tempfile::TempDir) -> PathBuf {
    if world::name().contains("s3") {
        server.objects()
    } else {
        dir.path().join("objects")
    }
}

/// Takes database and data folder away.
async fn lose(server: &Server) {
    let db = database(server).await;
    if db.get_database_backend() == DbBackend::Postgres {
        execute(&db, "DROP SCHEMA public CASCADE").await;
        execute(&db, "CREATE SCHEMA public").await;
    }
    db.close().await.expect("closes");
    std::fs::remove_dir_all(server.data()).expect("the data folder is removed");
}

/// Waits until the journal has every change.
async fn journaled(server: &Server) {
    let db = database(server).await;
    until("the journal to have every change", 10, || async {
        let left = texts(&db, "SELECT CAST(COUNT(*) AS TEXT) FROM journal_change").await;
        (left == ["0"]).then_some(())
    })
    .await;
}

/// What users see, but for what is said to be derived from the moment.
async fn seen(server: &Server) -> BTreeMap<String, Value> {
    let (api, mut out) = (server.api(), BTreeMap::new());
    let mut paths: Vec<String> = [
        "/v2/account",
        "/v2/images?private=true&per_page=200",
        "/v2/account/keys",
        "/v2/tags?per_page=200",
        "/v2/projects",
        "/v2/tokens",
        "/v2/users",
        "/v2/teams",
        "/v2/images?tag_name=keep",
    ]
    .map(str::to_owned)
    .to_vec();
    let projects = api.get("/v2/projects").await.expect(200);
    for project in projects["projects"].as_array().expect("a list") {
        let id = project["id"].as_str().expect("a UUID");
        paths.push(format!("/v2/projects/{id}/resources"));
    }
    for path in paths {
        let mut answer = api.send_unjudged(Method::GET, &path, None).await.expect(200);
        forget(&mut answer, "last_used_at");
        // Another start, another port.
        let text = answer.to_string().replace(&server.api_url, "http://here");
        out.insert(path, serde_json::from_str(&text).expect("JSON"));
    }
    out
}

fn forget(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            map.remove(key);
            map.values_mut().for_each(|value| forget(value, key));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| forget(value, key)),
        _ => {}
    }
}

async fn signs_in(server: &Server, password: &str) -> bool {
    let password = password.replace(' ', "+");
    let request = server.api().with_token("").request(Method::POST, "/");
    let answer = request
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", &server.api_url)
        .body(format!("email=owner%40localhost&password={password}"))
        .send()
        .await;
    answer.expect("answers").status() == 303
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk7AE7Vbqq9MsChdGqqsmYuFtJ0FBoLp/yy3fCIYiNh test";

/// Makes something of every kind; gives the images that stay, with their disks.
async fn furnish(server: &Server, files: &Files) -> Vec<(i64, Vec<u8>)> {
    let api = server.api();
    let mut images = Vec::new();
    for seed in 0..3 {
        let disk = disks::raw(6, 40 + seed);
        let name = format!("keep-{seed}");
        let image = imported(&api, &name, &files.put(&name, disk.clone())).await;
        images.push((image["id"].as_i64().expect("an id"), disk));
    }
    let (first, second) = (images[0].0, images[1].0);
    api.post("/v2/tags", &json!({ "name": "keep" })).await.expect(201);
    api.post("/v2/tags", &json!({ "name": "gone" })).await.expect(201);
    let both = json!({ "resources": [
        { "resource_id": first.to_string(), "resource_type": "image" },
        { "resource_id": second.to_string(), "resource_type": "image" },
    ] });
    for tag in ["keep", "gone"] {
        let path = format!("/v2/tags/{tag}/resources");
        assert_eq!(api.post(&path, &both).await.status, 204);
    }
    assert_eq!(api.delete("/v2/tags/gone").await.status, 204);
    let update = json!({ "name": "renamed", "description": "ünïcode \u{1f980}" });
    api.put(&format!("/v2/images/{second}"), &update)
        .await
        .expect(200);
    let project = json!({ "name": "p", "purpose": "Web Application" });
    let project = api.post("/v2/projects", &project).await.expect(201);
    let path = format!(
        "/v2/projects/{}/resources",
        project["project"]["id"].as_str().expect("a UUID")
    );
    let resources = json!({ "resources": [format!("do:image:{first}")] });
    // DigitalOcean's schema knows no images in projects.
    let added = api.send_unjudged(Method::POST, &path, Some(&resources)).await;
    added.expect(200);
    api.post("/v2/account/keys", &json!({ "name": "k", "public_key": KEY }))
        .await
        .expect(201);
    let user = json!({ "email": "ann@example.com" });
    api.post("/v2/users", &user).await.expect(201);
    run_ok(&mut server.local(&["team", "create", "Web", "--owner", "ann@example.com"]));
    server.password_set("correct horse battery staple");
    images
}

#[tokio::test]
async fn everything_comes_back_from_the_store_alone() {
    let (setup, _dir) = setup();
    let mut server = setup.start();
    let files = Files::start().await;
    let images = furnish(&server, &files).await;
    let api = server.api();
    let narrow = server.api_with(&["--name", "narrow", "--scopes", "image:read"]);
    let (deleted, disk) = (images[2].0, images[2].1.clone());
    assert_eq!(api.delete(&format!("/v2/images/{deleted}")).await.status, 204);
    let purged = imported(&api, "purged", &files.put("purged", disks::raw(2, 50))).await["id"].clone();
    let path = format!("/v2/images/{purged}?purge=true");
    assert_eq!(api.delete(&path).await.status, 204);
    let held = files.put_held("held", disks::raw(2, 51), 1 << 20);
    let unfinished = import(&api, "unfinished", &held.url).await;
    until("the import to begin", 20, || async {
        let image = api.get(&format!("/v2/images/{unfinished}")).await.expect(200);
        (image["image"]["status"] == "pending").then_some(())
    })
    .await;
    journaled(&server).await;
    let before = seen(&server).await;
    let raw = downloaded(&api, images[0].0, "raw").await;
    assert!(raw == images[0].1);
    let qcow2 = downloaded(&api, images[1].0, "qcow2").await;
    server.kill();
    lose(&server).await;

    // Nobody makes an installation of its own on what is there.
    let refusal = run(&mut server.local(&["init"]));
    assert_eq!(refusal.status.code(), Some(1));
    let refusal = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(refusal.contains("cistern recover"), "{refusal}");
    let db = database(&server).await;
    if db.get_database_backend() == DbBackend::Postgres {
        let refused = run(&mut server.local(&["recover"]));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(1) && said.contains("--replace-database"),
            "{said}"
        );
    }
    db.close().await.expect("closes");

    let told = run_ok(&mut server.local(&["recover", "--json", "--replace-database"]));
    let told: Value = serde_json::from_str(&told).expect("one document");
    let told = &told["recovered"];
    assert_eq!(told["rows"]["image"], json!(5), "{told:#}");
    assert_eq!(
        (&told["gaps"], &told["contradicting"]),
        (&json!([]), &json!(0)),
        "{told:#}"
    );
    assert_eq!(told["imports_ended"], json!(1), "{told:#}");

    server.start_again();
    let api = Api::new(&server.api_url, &server.token);
    held.release();
    let ended = api.get(&format!("/v2/images/{unfinished}")).await.expect(200);
    assert_eq!(ended["image"]["status"], "deleted");
    let reason = ended["image"]["error_message"].as_str().unwrap_or_default();
    assert!(reason.contains("database was lost"), "{ended:#}");
    let after = seen(&server).await;
    // The import that had not ended is in its list no more.
    let list = "/v2/images?private=true&per_page=200";
    let mut expected = before.clone();
    let listed = expected.get_mut(list).expect("was seen");
    let images_listed = listed["images"].as_array_mut().expect("a list");
    images_listed.retain(|image| image["id"] != json!(unfinished));
    listed["meta"]["total"] = json!(images_listed.len());
    for (path, was) in expected {
        let is = after.get(&path);
        assert!(is == Some(&was), "{path}: {was:#}\nis now {is:#?}");
    }
    assert!(downloaded(&api, images[0].0, "raw").await == raw);
    assert!(downloaded(&api, images[1].0, "qcow2").await == qcow2);
    let narrow = Api::new(&server.api_url, "").with_token(&narrow.token);
    narrow.get("/v2/images?private=true").await.expect(200);
    narrow.get("/v2/tags").await.expect(403);
    assert!(signs_in(&server, "correct horse battery staple").await);
    assert!(!signs_in(&server, "wrong horse battery staple").await);

    // What was deleted is deleted, for as long as it can be restored.
    let gone = api.get(&format!("/v2/images/{deleted}")).await.expect(200);
    assert_eq!(gone["image"]["status"], "deleted");
    let restore = format!("/v2/images/{deleted}/restore");
    api.post(&restore, &json!({})).await.expect(200);
    assert!(downloaded(&api, deleted, "raw").await == disk);
    assert_eq!(
        api.post(&format!("/v2/images/{purged}/restore"), &json!({}))
            .await
            .status,
        422
    );

    // And it goes on: no number is given twice.
    let newest = imported(&api, "new", &files.put("new", disks::raw(2, 52))).await["id"].as_i64();
    assert!(newest > Some(unfinished), "{newest:?}");
    let owner = server.api_with(&["--name", "later"]);
    let owned = owner.get("/v2/images?private=true").await.expect(200);
    assert_eq!(owned["meta"]["total"], json!(4), "{owned:#}");
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
    let events = run_ok(&mut server.local(&["events", "--json"]));
    assert!(events.contains("store.recover"), "{events}");
}
