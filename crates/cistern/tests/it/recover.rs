//! The database is lost, or an older one is in its place: the store brings back everything, and is not harmed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Method;
use sea_orm::DbBackend;
use serde_json::{Value, json};

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported};
use crate::harness::process::{document, reason, run, run_ok, stdout};
use crate::harness::server::Setup;
use crate::harness::world::Place;
use crate::harness::{Server, disks, files_below, until, world};
use crate::migrate::{database, execute, texts};

/// A server whose objects do not lie in its data folder, and where they lie.
fn setup() -> (Setup, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // How full this machine's disk is decides about nothing here.
    let setup = Setup::default().env("CISTERN_DISK__PURGE_BELOW_PERCENT", "0");
    if world::name().contains("s3") {
        return (setup, dir);
    }
    let objects = dir.path().join("objects");
    let setup = setup.env("CISTERN_OBJECTS", &objects.display().to_string());
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
pub(crate) async fn journaled(server: &Server) {
    let db = database(server).await;
    until("the journal to have every change", 10, || async {
        let left = texts(&db, "SELECT CAST(COUNT(*) AS TEXT) FROM journal_change").await;
        (left == ["0"]).then_some(())
    })
    .await;
    db.close().await.expect("closes");
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

/// An installation with something of everything, and what was seen of it.
struct Before {
    server: Server,
    files: Files,
    /// Those that stay, with their disks.
    images: Vec<(i64, Vec<u8>)>,
    /// One that can be restored.
    deleted: (i64, Vec<u8>),
    /// One that cannot.
    purged: i64,
    /// One whose import goes on when the server dies, and what lets it.
    unfinished: i64,
    held: crate::harness::files::Held,
    narrow: String,
    seen: BTreeMap<String, Value>,
    qcow2: bytes::Bytes,
    _dir: tempfile::TempDir,
}

/// Makes one, and kills it.
async fn before() -> Before {
    let (setup, dir) = setup();
    let mut server = setup.start();
    let files = Files::start().await;
    let mut images = furnish(&server, &files).await;
    let api = server.api();
    let narrow = server
        .api_with(&["--name", "narrow", "--scopes", "image:read"])
        .token;
    let deleted = images.pop().expect("three");
    assert_eq!(api.delete(&format!("/v2/images/{}", deleted.0)).await.status, 204);
    let purged = imported(&api, "purged", &files.put("purged", disks::raw(2, 50))).await;
    let purged = purged["id"].as_i64().expect("an id");
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
    let seen = seen(&server).await;
    let qcow2 = downloaded(&api, images[1].0, "qcow2").await;
    server.kill();
    Before {
        server,
        files,
        images,
        deleted,
        purged,
        unfinished,
        held,
        narrow,
        seen,
        qcow2,
        _dir: dir,
    }
}

/// What a command that is refused says.
fn refused(server: &Server, words: &[&str]) -> String {
    let output = run(&mut server.local(words));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[tokio::test]
async fn everything_comes_back_from_the_store_alone() {
    let mut was = before().await;
    lose(&was.server).await;
    // Nobody makes an installation of its own on what is there.
    let said = refused(&was.server, &["init"]);
    assert!(said.contains("cistern recover"), "{said}");
    if was.server.database_url().starts_with("postgres") {
        let said = refused(&was.server, &["recover"]);
        assert!(said.contains("--replace-database"), "{said}");
    } else {
        assert!(!was.server.data().join("cistern.sqlite").exists());
    }

    let told = run_ok(&mut was.server.local(&["recover", "--json", "--replace-database"]));
    let told: Value = serde_json::from_str(&told).expect("one document");
    let told = &told["recovered"];
    assert_eq!(told["rows"]["image"], json!(5), "{told:#}");
    let nothing = (&json!([]), &json!(0));
    assert_eq!((&told["gaps"], &told["contradicting"]), nothing, "{told:#}");
    assert_eq!(told["imports_ended"], json!(1), "{told:#}");

    was.server.start_again();
    let log = was.server.log_text();
    assert!(!log.contains("no API token was used"), "tokens came back: {log}");
    let api = was.server.api();
    assert_seen(&was).await;
    assert!(downloaded(&api, was.images[0].0, "raw").await == was.images[0].1);
    assert!(downloaded(&api, was.images[1].0, "qcow2").await == was.qcow2);
    let narrow = api.with_token(&was.narrow);
    narrow.get("/v2/images?private=true").await.expect(200);
    narrow.get("/v2/tags").await.expect(403);
    assert!(signs_in(&was.server, "correct horse battery staple").await);
    assert!(!signs_in(&was.server, "wrong horse battery staple").await);
    assert_deletions(&was).await;

    // And it goes on: no number is given twice.
    let newest = imported(&api, "new", &was.files.put("new", disks::raw(2, 52))).await["id"].as_i64();
    assert!(newest > Some(was.unfinished), "{newest:?}");
    let owner = was.server.api_with(&["--name", "later"]);
    let all = owner.get("/v2/images?private=true").await.expect(200);
    assert_eq!(all["meta"]["total"], json!(4), "{all:#}");
    run_ok(&mut was.server.local(&["store", "verify", "--read-data"]));
    let events = run_ok(&mut was.server.local(&["events", "--json"]));
    assert!(events.contains("store.recover"), "{events}");
}

/// Users see what they saw, but for the import that had not ended: it is in its list no more, and says why.
async fn assert_seen(was: &Before) {
    let after = seen(&was.server).await;
    for (path, before) in &was.seen {
        let mut expected = before.clone();
        if path == "/v2/images?private=true&per_page=200" {
            let images = expected["images"].as_array_mut().expect("a list");
            images.retain(|image| image["id"] != json!(was.unfinished));
            expected["meta"]["total"] = json!(images.len());
        }
        let is = after.get(path);
        assert!(is == Some(&expected), "{path}: {expected:#}\nis now {is:#?}");
    }
    was.held.release();
    let path = format!("/v2/images/{}", was.unfinished);
    let ended = was.server.api().get(&path).await.expect(200);
    assert_eq!(ended["image"]["status"], "deleted");
    let reason = ended["image"]["error_message"].as_str().unwrap_or_default();
    assert!(reason.contains("database was lost"), "{ended:#}");
    let actions = was.server.api().get(&format!("{path}/actions")).await.expect(200);
    assert_eq!(actions["actions"][0]["status"], "errored", "{actions:#}");
}

/// What was deleted is deleted, for as long as it can be restored.
async fn assert_deletions(was: &Before) {
    let (api, (id, disk)) = (was.server.api(), &was.deleted);
    let gone = api.get(&format!("/v2/images/{id}")).await.expect(200);
    assert_eq!(gone["image"]["status"], "deleted");
    let restored = api.post(&format!("/v2/images/{id}/restore"), &json!({})).await;
    restored.expect(200);
    assert!(downloaded(&api, *id, "raw").await == *disk);
    let purged = format!("/v2/images/{}/restore", was.purged);
    assert_eq!(api.post(&purged, &json!({})).await.status, 422);
}

/// Copies the database of a stopped server; gives a server on the copy of a PostgreSQL one, or what puts SQLite's back.
fn older_copy(server: &Server) -> Older {
    if world::name().contains("postgres") {
        let url = server.database_url();
        let (_, name) = url.rsplit_once('/').expect("a name");
        return Older::Postgres(world::postgres().database_with(&format!("TEMPLATE {name}")));
    }
    Older::Sqlite(std::fs::read(server.data().join("cistern.sqlite")).expect("reads"))
}

enum Older {
    Sqlite(Vec<u8>),
    Postgres(String),
}

fn names_below(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            out.extend(names_below(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// The packs and the journal of a server.
fn kept(server: &Server, dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let objects = objects(server, dir);
    ["p", "j"]
        .iter()
        .flat_map(|part| names_below(&objects.join(part)))
        .collect()
}

#[tokio::test]
async fn an_older_database_is_read_and_changes_nothing() {
    let (setup, dir) = setup();
    let mut server = setup.clone().start();
    let files = Files::start().await;
    let disk = disks::raw(4, 60);
    let old = imported(&server.api(), "old", &files.put("old", disk.clone())).await["id"].clone();
    server.terminate();
    let older = older_copy(&server);
    server.start_again();
    let newer = disks::raw(4, 61);
    let new = imported(&server.api(), "new", &files.put("new", newer.clone())).await["id"].clone();
    server.terminate();
    let (mut server, _former) = under_older(&setup, server, older);
    let before = kept(&server, &dir);
    server.start_again();
    let api = server.api();
    let ready = api.request(Method::GET, "/readyz").send().await.expect("answers");
    assert_eq!(ready.status(), 200);
    let ready = ready.text().await.expect("text");
    assert!(
        ready.contains("reading only") && ready.contains("cistern recover"),
        "{ready}"
    );
    until("the metric to tell", 30, || async {
        let metrics = api.get("/metrics").await.bytes;
        String::from_utf8_lossy(&metrics)
            .contains("cistern_read_only 1\n")
            .then_some(())
    })
    .await;
    let old_id = old.as_i64().expect("an id");
    assert!(downloaded(&api, old_id, "raw").await == disk);
    api.get(&format!("/v2/images/{new}")).await.expect(404);
    for (method, path) in [
        (Method::POST, "/v2/images".to_owned()),
        (Method::DELETE, format!("/v2/images/{old}")),
        (Method::POST, "/v2/tags".to_owned()),
        (Method::POST, "/v2/store/gc".to_owned()),
    ] {
        let body = json!({ "name": "n", "url": files.put("n", newer.clone()), "region": "nyc3" });
        let refused = api.send_unjudged(method.clone(), &path, Some(&body)).await;
        let said = String::from_utf8_lossy(&refused.bytes).into_owned();
        assert_eq!(refused.status, 412, "{method} {path}: {said}");
        assert!(said.contains("cistern recover"), "{said}");
    }
    for words in [&["gc", "--now", "--purge"][..], &["token", "create"]] {
        let said = refused(&server, words);
        assert!(said.contains("cistern recover"), "{said}");
    }
    server.terminate();
    assert_eq!(kept(&server, &dir), before, "nothing was written or deleted");

    // What it names as the way out is one.
    let told = run_ok(&mut server.local(&["recover", "--replace-database"]));
    assert!(told.contains("2 images"), "{told}");
    server.start_again();
    let new = new.as_i64().expect("an id");
    assert!(downloaded(&server.api(), new, "raw").await == newer);
}

/// The same server with an older database, stopped; and the one that it was, whose folder it may share.
fn under_older(setup: &Setup, server: Server, older: Older) -> (Server, Option<Server>) {
    match older {
        Older::Sqlite(bytes) => {
            for left in ["cistern.sqlite-wal", "cistern.sqlite-shm"] {
                drop(std::fs::remove_file(server.data().join(left)));
            }
            std::fs::write(server.data().join("cistern.sqlite"), bytes).expect("puts it back");
            (server, None)
        }
        Older::Postgres(url) => {
            let mut copy = setup
                .clone()
                .env("CISTERN_DATABASE", &url)
                .stopped_beside(&server);
            copy.token.clone_from(&server.token);
            (copy, Some(server))
        }
    }
}

/// A server, stopped, with an image whose pack is mostly garbage, and that image's disk. Nothing changes after this but
/// by gc.
async fn mostly_garbage(setup: &Setup) -> (Server, i64, Vec<u8>) {
    let mut server = setup.clone().uncached().start();
    let (files, api) = (Files::start().await, server.api());
    // The second shares with the first all but its partition table.
    let (garbage, disk) = (disks::raw(48, 1), disks::raw(8, 1));
    imported(&api, "garbage", &files.put("garbage.img", garbage)).await;
    let image = imported(&api, "kept", &files.put("kept.img", disk.clone())).await;
    let deleted = api.delete("/v2/images/1?purge=true").await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    journaled(&server).await;
    server.terminate();
    (server, image["id"].as_i64().expect("an id"), disk)
}

/// What a server that has been started says when something is to be written.
async fn refused_over_http(server: &Server) -> String {
    let body = json!({ "name": "x" });
    let refused = server
        .api()
        .send_unjudged(Method::POST, "/v2/tags", Some(&body))
        .await;
    let said = String::from_utf8_lossy(&refused.bytes).into_owned();
    assert_eq!(refused.status, 412, "{said}");
    said
}

/// gc writes that image's pack anew.
fn collect(server: &Server) {
    let report = document(&mut server.local(&["gc", "--now"]));
    assert!(report["gc"]["repacked"].as_u64() >= Some(1), "{report}");
}

/// It only reads and says `why`, as do commands on its folder, and this way of recovering brings the image back.
async fn reads_only_until_recovered(
    server: &mut Server,
    kept: impl Fn(&Server) -> Vec<PathBuf>,
    (why, flag): (&str, &str),
    image: (i64, &[u8]),
) {
    let before = kept(server);
    server.start_again();
    let said = refused_over_http(server).await;
    assert!(said.contains(why), "{said}");
    for words in [&["gc", "--now"][..], &["store", "verify"]] {
        let said = refused(server, words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    server.terminate();
    assert_eq!(kept(server), before, "nothing was written or deleted");
    run_ok(&mut server.local(&["recover", flag]));
    server.start_again();
    assert!(downloaded(&server.api(), image.0, "raw").await == image.1);
}

#[tokio::test]
async fn a_database_from_before_a_gc_is_told_from_the_newest() {
    let (setup, dir) = setup();
    let (server, id, disk) = mostly_garbage(&setup).await;
    let older = older_copy(&server);
    collect(&server);
    let (mut server, _former) = under_older(&setup, server, older);
    let ways = ("older than the store", "--replace-database");
    reads_only_until_recovered(&mut server, |server| kept(server, &dir), ways, (id, &disk)).await;
}

#[tokio::test]
async fn a_store_from_before_a_gc_is_told_from_the_newest() {
    let (setup, dir) = setup();
    let (mut server, id, disk) = mostly_garbage(&setup).await;
    let copy = dir.path().join("copy");
    copy_below(&objects(&server, &dir), &copy);
    collect(&server);
    put_back(&copy, &objects(&server, &dir));
    let ways = ("older copy", "--keep-database");
    reads_only_until_recovered(&mut server, |server| kept(server, &dir), ways, (id, &disk)).await;
}

/// Nothing of a gc that was cut off after it had moved data is in the journal.
#[tokio::test]
async fn a_store_from_before_a_gc_that_was_cut_off_is_told_from_the_newest() {
    let setup = Setup::default().at(Place::default());
    let (mut server, id, disk) = mostly_garbage(&setup).await;
    let (live, copy) = (server.objects(), server.data().join("copy"));
    copy_below(&live, &copy);
    // What is no folder cannot be listed, which ends a run when its packs are written.
    std::fs::write(live.join("b"), "").expect("writes");
    let ended = run(&mut server.local(&["gc", "--now"]));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let is_new = |pack: &PathBuf| !copy.join(pack.strip_prefix(&live).expect("is below")).exists();
    assert!(names_below(&live.join("p")).iter().any(is_new));
    std::fs::remove_file(live.join("b")).expect("removes");
    put_back(&copy, &live);
    let ways = ("older copy", "--keep-database");
    let packs = |server: &Server| names_below(&server.objects().join("p"));
    reads_only_until_recovered(&mut server, packs, ways, (id, &disk)).await;
}

/// A server under which the objects were replaced by an older copy, as where somebody restores one while it runs.
async fn replaced_by_older() -> Server {
    let server = Setup::default().at(Place::default()).uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    imported(&api, "old", &files.put("old", disks::raw(4, 67))).await;
    let (live, copy) = (server.objects(), server.data().join("copy"));
    journaled(&server).await;
    copy_below(&live, &copy);
    imported(&api, "new", &files.put("new", disks::raw(4, 68))).await;
    journaled(&server).await;
    put_back(&copy, &live);
    server
}

#[tokio::test]
async fn a_store_that_is_replaced_by_an_older_one_under_a_server_is_noticed_before_gc() {
    let server = replaced_by_older().await;
    let told = run(&mut server.remote(&["gc", "--now"]));
    assert!(reason(&told).contains("older copy"), "{told:?}");
    let said = refused_over_http(&server).await;
    assert!(said.contains("older copy"), "{said}");
}

/// What would be written to it would make it look like the newest.
#[tokio::test]
async fn a_change_does_not_hide_that_the_store_was_replaced_by_an_older_one() {
    let server = replaced_by_older().await;
    let (api, journal) = (server.api(), server.objects().join("j"));
    let before = names_below(&journal);
    api.post("/v2/tags", &json!({ "name": "change" }))
        .await
        .expect(201);
    until("the change to be refused its place", 10, async || {
        let body = json!({ "name": "next" });
        let next = api.send_unjudged(Method::POST, "/v2/tags", Some(&body)).await;
        (next.status == 412).then_some(())
    })
    .await;
    assert_eq!(names_below(&journal), before, "nothing was written");
}

/// Puts what lies below one folder in the place of what lies below another.
fn put_back(copy: &Path, objects: &Path) {
    for path in files_below(objects) {
        std::fs::remove_file(path).expect("removes");
    }
    copy_below(copy, objects);
}

fn copy_below(from: &Path, to: &Path) {
    for path in files_below(from) {
        let name = to.join(path.strip_prefix(from).expect("below it"));
        std::fs::create_dir_all(name.parent().expect("a folder")).expect("makes it");
        std::fs::copy(&path, name).expect("copies");
    }
}

#[tokio::test]
async fn an_older_store_under_its_newest_database_is_read_only_until_it_is_taken_as_it_is() {
    let (setup, dir) = setup();
    let mut server = setup.uncached().start();
    let files = Files::start().await;
    let import = async |server: &Server, name: &str, seed| {
        let url = files.put(name, disks::raw(4, seed));
        imported(&server.api(), name, &url).await["id"].as_i64()
    };
    let old = import(&server, "old", 64).await.expect("an id");
    server.terminate();
    let copy = dir.path().join("copy");
    copy_below(&objects(&server, &dir), &copy);
    server.start_again();
    let new = import(&server, "new", 65).await.expect("an id");
    journaled(&server).await;
    server.terminate();
    put_back(&copy, &objects(&server, &dir));
    let before = kept(&server, &dir);
    server.start_again();
    let said = refused_over_http(&server).await;
    assert!(
        said.contains("older copy") && said.contains("--keep-database"),
        "{said}"
    );
    for words in [&["gc", "--now"][..], &["store", "verify"]] {
        let said = refused(&server, words);
        assert!(said.contains("older copy"), "{words:?}: {said}");
    }
    server.terminate();
    assert_eq!(kept(&server, &dir), before, "nothing was written or deleted");

    // What it names as the way out is one, and says what is lost.
    let ended = run(&mut server.local(&["recover", "--keep-database"]));
    let told = stdout(&ended);
    assert!(told.contains("1 image needs data"), "{told}");
    assert_eq!(ended.status.code(), Some(1), "not all came back");
    assert!(reason(&ended).contains("not everything came back"), "{ended:?}");
    server.start_again();
    let api = server.api();
    for (id, health) in [(old, "ok"), (new, "damaged")] {
        let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
        assert_eq!(image["image"]["health"], health, "{image:#}");
    }
    import(&server, "again", 65).await.expect("an id");
    until("it to be healed", 60, async || {
        let image = api.get(&format!("/v2/images/{new}")).await.expect(200);
        (image["image"]["health"] == "ok").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_on_other_objects_than_the_servers_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::default().at(Place::default());
    let server = setup
        .env("CISTERN_OBJECTS", &dir.path().join("moved").display().to_string())
        .start();
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    for words in [&["gc", "--now"][..], &["store", "verify"], &["store", "stats"]] {
        let mut command = server.local(words);
        let output = run(command.args(["--objects", &elsewhere]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(
            said.contains("has its objects in") && said.contains("moved"),
            "{said}"
        );
        run_ok(&mut server.local(words));
    }
    assert!(!Path::new(&elsewhere).exists(), "it was not made");
}

/// The kill comes the moment that somebody has seen it.
#[tokio::test]
async fn what_was_seen_as_available_comes_back() {
    let (setup, _dir) = setup();
    let mut server = setup.start();
    let files = Files::start().await;
    let disk = disks::raw(2, 80);
    let url = files.put("one", disk.clone());
    for round in 0..4 {
        let id = imported(&server.api(), &format!("round {round}"), &url).await["id"].as_i64();
        let id = id.expect("an id");
        server.kill();
        lose(&server).await;
        run_ok(&mut server.local(&["recover", "--replace-database"]));
        server.start_again();
        let path = format!("/v2/images/{id}");
        let image = server.api().get(&path).await.expect(200);
        assert_eq!(image["image"]["status"], "available", "{image:#}");
        assert!(downloaded(&server.api(), id, "raw").await == disk);
    }
}

#[tokio::test]
async fn the_index_is_made_anew_from_the_packs() {
    let (setup, _dir) = setup();
    let mut server = setup.start();
    let files = Files::start().await;
    let disk = disks::raw(8, 70);
    let id = imported(&server.api(), "one", &files.put("one", disk.clone())).await["id"].as_i64();
    let id = id.expect("an id");
    let said = refused(&server, &["store", "rebuild-index"]);
    assert!(said.contains("in use"), "{said}");
    server.terminate();
    let db = database(&server).await;
    for table in ["store_chunk", "store_object"] {
        execute(&db, &format!("DELETE FROM {table}")).await;
    }
    db.close().await.expect("closes");
    let told = run_ok(&mut server.local(&["store", "rebuild-index"]));
    assert!(told.contains("1 pack"), "{told}");
    server.start_again();
    assert!(downloaded(&server.api(), id, "raw").await == disk);
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn a_damaged_journal_is_named_and_written_anew_so_that_the_objects_alone_are_enough_again() {
    let (setup, dir) = setup();
    let mut server = setup.start();
    let files = Files::start().await;
    let disk = disks::raw(4, 60);
    let image = imported(&server.api(), "kept", &files.put("kept", disk.clone())).await;
    let id = image["id"].as_i64().expect("an id");
    journaled(&server).await;
    for path in files_below(&objects(&server, &dir).join("j")) {
        let mut bytes = std::fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, bytes).expect("writes");
    }
    let words = ["store", "verify", "--read-data"];
    for mut command in [server.local(&words), server.remote(&words)] {
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("journal object `j/"), "{said}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("a server writes headers and journal anew"),
            "{said}"
        );
    }
    run_ok(&mut server.remote(&words));

    server.kill();
    lose(&server).await;
    let told = run_ok(&mut server.local(&["recover", "--json", "--replace-database"]));
    let told: Value = serde_json::from_str(&told).expect("one document");
    assert_eq!(told["recovered"]["gaps"], json!([]), "{told:#}");
    server.start_again();
    assert!(downloaded(&server.api(), id, "raw").await == disk);
}
