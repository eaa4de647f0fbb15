//! One small disk with the database, the working files and the store, as on a small machine: a reserve of it is left
//! for the books, a full one can be read and cleared, and everything goes on when there is room again.

use std::path::PathBuf;

use reqwest::{Method, Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::gc::gc;
use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{document, reason, run};
use crate::harness::server::{Setup, wrapped};
use crate::harness::small::SmallDisk;
use crate::harness::world::Place;
use crate::harness::{Server, disks, files_below, until};
use crate::jobs::job_of;
use crate::lost::{PORTS, line_of};
use crate::migrate::{database, execute, texts};

/// The disk's size in MiB, and what is left of it at least: 5 %, less what the database needs meanwhile.
const DISK_MIB: u64 = 64;
const LEFT: u64 = 2 << 20;

async fn upload(api: &Api, method: Method, path: &str, headers: &[(&str, String)], body: &[u8]) -> Response {
    let mut request = api.request(method, path).header("tus-resumable", "1.0.0");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(body.to_vec()).send().await.expect("answers")
}

async fn begin(api: &Api, length: u64) -> Response {
    let length = ("upload-length", length.to_string());
    upload(api, Method::POST, "/v2/uploads", &[length], b"").await
}

async fn patch(api: &Api, path: &str, offset: usize, body: &[u8]) -> Response {
    let headers = [
        ("upload-offset", offset.to_string()),
        ("content-type", "application/offset+octet-stream".to_owned()),
    ];
    upload(api, Method::PATCH, path, &headers, body).await
}

async fn offset(api: &Api, path: &str) -> usize {
    let response = upload(api, Method::HEAD, path, &[], b"").await;
    let text = response.headers()["upload-offset"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    text.parse().expect("a number")
}

/// The sentence of a refusal for want of room.
async fn refused(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{response:?}");
    let body: Value = response.json().await.expect("JSON");
    body["message"].as_str().expect("a sentence").to_owned()
}

fn id_of(image: &Value) -> i64 {
    image["id"].as_i64().expect("an id")
}

async fn ready(api: &Api) -> String {
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    String::from_utf8(answer.bytes.to_vec()).expect("UTF-8")
}

async fn started(disk: &SmallDisk) -> Server {
    // What happens before a disk is full is not looked at here.
    let server = disk
        .setup()
        .arg("--disk-refuse-below-percent=0")
        .arg("--disk-purge-below-percent=0")
        .start();
    reserved(disk).await;
    server
}

async fn reserved(disk: &SmallDisk) {
    until("the reserve", 30, || async {
        disk.root().join("data/cistern.reserve").exists().then_some(())
    })
    .await;
}

async fn made_room(api: &Api, disk: &SmallDisk) {
    disk.make_room();
    reserved(disk).await;
    assert_eq!(ready(api).await, "ready\n");
}

#[tokio::test]
async fn an_upload_leaves_a_reserve_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let server = started(&disk).await;
    let api = server.api();
    let text = refused(begin(&api, 1 << 30).await).await;
    assert!(text.contains("room for"), "{text}");

    let bytes = disks::raw(24, 51);
    let begun = begin(&api, bytes.len() as u64).await;
    assert_eq!(begun.status(), StatusCode::CREATED);
    let path = begun.headers()["location"].to_str().expect("ASCII").to_owned();
    disk.fill_but(12);
    let text = refused(patch(&api, &path, 0, &bytes).await).await;
    assert!(text.contains("make room"), "{text}");
    assert!(disk.free() > LEFT, "{} are left", disk.free());
    let came = offset(&api, &path).await;
    assert!(came > 0 && came < bytes.len(), "{came} are kept");
    let id = path.rsplit('/').next().expect("an id");
    let file = std::fs::read(disk.root().join("data/spool/uploads").join(id)).expect("is there");
    assert!(file[..came] == bytes[..came], "and they are the right ones");
    // Everybody else goes on.
    let body = json!({ "name": "p", "purpose": "Web Application" });
    api.post("/v2/projects", &body).await.expect(201);

    made_room(&api, &disk).await;
    let rest = patch(&api, &path, came, &bytes[came..]).await;
    assert_eq!(rest.status(), StatusCode::NO_CONTENT);
    let body = json!({ "name": "uploaded", "region": "nyc3", "upload": id });
    let image = settled(
        &api,
        id_of(&api.post("/v2/images", &body).await.expect(202)["image"]),
    )
    .await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id_of(&image), "raw").await == bytes);
}

#[tokio::test]
async fn a_download_leaves_a_reserve_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let server = started(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let bytes = disks::raw(24, 52);
    disk.fill_but(12);
    let id = import(&api, "fetched", &files.put("fetched.img", bytes.clone())).await;
    let reason = until("an attempt to fail", 60, || async {
        job_of(&api, id).await["error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(reason.contains("disk is full"), "{reason}");
    assert!(disk.free() > LEFT, "{} are left", disk.free());
    made_room(&api, &disk).await;
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id, "raw").await == bytes);
}

/// A disk without zeros that is small when it is compressed.
fn bulky(mib: usize) -> Vec<u8> {
    let lines = (0..mib << 14).flat_map(|n| format!("{n:063}\n").into_bytes());
    let mut disk: Vec<u8> = lines.collect();
    disk[..512].copy_from_slice(&disks::partition_table(mib << 20));
    disk
}

#[tokio::test]
async fn what_is_unwrapped_leaves_a_reserve_and_the_import_that_failed_can_be_repeated() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let server = started(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let bytes = bulky(24);
    let url = files.put("bulky.zst", zstd::bulk::compress(&bytes, 3).expect("fits"));
    disk.fill_but(16);
    let image = settled(&api, import(&api, "bulky", &url).await).await;
    assert_eq!(image["status"], "deleted", "{image:#}");
    let reason = image["error_message"].as_str().expect("a reason");
    assert!(reason.contains("disk is full"), "{reason}");
    until("its working files to go", 30, || async {
        (disk.free() > 10 << 20).then_some(())
    })
    .await;
    made_room(&api, &disk).await;
    let image = imported(&api, "bulky", &url).await;
    assert!(downloaded(&api, id_of(&image), "raw").await == bytes);
}

#[tokio::test]
async fn a_disk_that_is_full_to_the_last_byte_can_be_read_and_cleared() {
    if let Some(disk) = SmallDisk::tmpfs(DISK_MIB) {
        full_read_and_cleared(&disk).await;
    }
}

#[tokio::test]
async fn so_can_one_of_ext4() {
    if let Some(disk) = SmallDisk::ext4(DISK_MIB) {
        full_read_and_cleared(&disk).await;
    }
}

async fn full_read_and_cleared(disk: &SmallDisk) {
    let server = started(disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let bytes = disks::raw(4, 53);
    let url = files.put("old.img", bytes.clone());
    let mut ids = Vec::new();
    for name in ["kept", "deleted", "purged"] {
        ids.push(id_of(&imported(&api, name, &url).await));
    }
    // In no time, for the server: otherwise it may give the reserve away to whoever fills the disk.
    server.signal(Signal::STOP);
    disk.fill();
    server.signal(Signal::CONT);

    let list = api.get("/v2/images?private=true").await.expect(200);
    assert_eq!(list["meta"]["total"], 3, "{list:#}");
    assert!(downloaded(&api, ids[0], "raw").await == bytes);
    assert!(ready(&api).await.contains("disk is full"));
    for path in [
        format!("/v2/images/{}", ids[1]),
        format!("/v2/images/{}?purge=true", ids[2]),
    ] {
        let answer = api.delete(&path).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
    }
    let list = api.get("/v2/images?private=true").await.expect(200);
    assert_eq!(list["meta"]["total"], 1, "{list:#}");

    let new = disks::raw(8, 54);
    let url = files.put("new.img", new.clone());
    let image = settled(&api, import(&api, "new", &url).await).await;
    assert_eq!(image["status"], "deleted", "{image:#}");
    let reason = image["error_message"].as_str().expect("a reason");
    assert!(reason.contains("full"), "{reason}");

    made_room(&api, disk).await;
    let image = imported(&api, "new", &url).await;
    assert!(downloaded(&api, id_of(&image), "raw").await == new);
}

/// What gc writes first is in the books, which the reserve is for.
#[tokio::test]
async fn gc_frees_space_where_only_the_reserve_is_left() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let server = started(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("old.img", disks::raw(12, 56));
    let image = id_of(&imported(&api, "old", &url).await);
    // Less than the 5 % that whoever writes images leaves.
    disk.fill_but(2);
    let path = format!("/v2/images/{image}?purge=true");
    assert_eq!(api.delete(&path).await.status, StatusCode::NO_CONTENT);
    let run = gc(&api, json!({ "now": true, "purge": true })).await;
    assert_eq!(run["status"], "done", "{run}");
    assert!(run["report"]["freed_bytes"].as_u64() > Some(1 << 20), "{run}");
}

/// A server with the objects alone on the disk, when their reserve is made.
async fn objects_alone(disk: &SmallDisk) -> Server {
    let words = disk.enter();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = Setup::default()
        .at(Place::default())
        .wrapped(&words)
        .env(
            "CISTERN_OBJECTS",
            &disk.inside().join("objects").display().to_string(),
        )
        .arg("--disk-refuse-below-percent=0")
        .arg("--disk-purge-below-percent=0")
        .start();
    objects_reserved(disk).await;
    server
}

async fn objects_reserved(disk: &SmallDisk) {
    let reserve = disk.root().join("objects/reserve");
    until("the reserve", 30, || async { reserve.exists().then_some(()) }).await;
}

/// A server with the database alone on the disk, by its setting or by a link in the data folder, when the reserve is
/// made there.
async fn database_alone(disk: &SmallDisk, is_linked: bool) -> Server {
    let words = disk.enter();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let setup = Setup::default().at(Place::default()).wrapped(&words);
    let there = disk.inside().join("db.sqlite");
    let server = if is_linked {
        let mut server = setup.start();
        server.terminate();
        let file = server.data().join("cistern.sqlite");
        std::fs::copy(&file, disk.root().join("db.sqlite")).expect("copies");
        let _ = std::fs::remove_file(file.with_extension("reserve"));
        std::fs::remove_file(&file).expect("is there");
        std::os::unix::fs::symlink(&there, &file).expect("links");
        server.start_again();
        server
    } else {
        setup
            .env("CISTERN_DATABASE", &format!("sqlite:{}", there.display()))
            .start()
    };
    database_reserved(disk).await;
    server
}

async fn database_reserved(disk: &SmallDisk) {
    let reserve = disk.root().join("db.reserve");
    until("the reserve", 30, || async { reserve.exists().then_some(()) }).await;
}

/// Whether `/metrics` says that the database's disk is low.
async fn database_is_low(api: &Api) -> bool {
    let metrics = api.get("/metrics").await;
    String::from_utf8_lossy(&metrics.bytes).contains("cistern_disk_low{disk=\"database\"} 1\n")
}

#[tokio::test]
async fn a_database_on_a_disk_of_its_own_is_looked_after_there_by_its_setting() {
    if let Some(disk) = SmallDisk::tmpfs(DISK_MIB) {
        database_looked_after(&disk, false).await;
    }
}

#[tokio::test]
async fn so_is_one_that_a_link_leads_to() {
    if let Some(disk) = SmallDisk::tmpfs(DISK_MIB) {
        database_looked_after(&disk, true).await;
    }
}

async fn database_looked_after(disk: &SmallDisk, is_linked: bool) {
    let server = database_alone(disk, is_linked).await;
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("old.img", disks::raw(4, 59));
    let old = id_of(&imported(&api, "old", &url).await);
    assert!(!server.data().join("cistern.reserve").exists());
    // The objects, which are not on that disk, have one of their own.
    let reserve = server.objects().join("reserve");
    until("the objects' reserve", 30, || async {
        reserve.exists().then_some(())
    })
    .await;
    let doctor = || {
        let mut doctor = server.local(&["doctor", "--json"]);
        doctor.args(PORTS);
        line_of(&run(&mut wrapped(doctor, &disk.enter())).stdout, "space database")
    };
    assert!(doctor().starts_with("ok"), "{}", doctor());
    assert!(!database_is_low(&api).await);
    database_is_one_servers(&server, disk);

    disk.fill_but(12);
    let body = json!({ "name": "new", "url": url, "region": "nyc3" });
    let refused = api.post("/v2/images", &body).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    let said = refused.json["message"].as_str().expect("a sentence");
    assert!(
        said.contains("disk of the database") && said.contains("add space"),
        "{said}"
    );
    assert!(ready(&api).await.contains("the disk is full, or nearly so"));
    assert!(doctor().starts_with("failed"), "{}", doctor());
    until("the metrics to tell", 30, || async {
        database_is_low(&api).await.then_some(())
    })
    .await;

    // In no time, for the server: otherwise it may give the reserve away to whoever fills the disk.
    server.signal(Signal::STOP);
    disk.fill();
    server.signal(Signal::CONT);
    let deleted = api.delete(&format!("/v2/images/{old}")).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    disk.make_room();
    database_reserved(disk).await;
    assert_eq!(ready(&api).await, "ready\n");
    imported(&api, "new", &url).await;
}

/// Whatever its data folder, nobody else gets at the database by the way to it that the server does not take.
fn database_is_one_servers(server: &Server, disk: &SmallDisk) {
    let file = disk.inside().join("db.sqlite").display().to_string();
    let other = tempfile::tempdir().expect("a temporary folder");
    let objects = server.objects().display().to_string();
    let database = format!("sqlite:{file}");
    let words = ["recover", "--database", &database, "--objects", &objects];
    let command = Setup::default()
        .at(Place::default())
        .command(other.path(), &words);
    let output = run(&mut wrapped(command, &disk.enter()));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(reason(&output).contains("is in use by process"), "{output:?}");
}

/// The database lies elsewhere, so nothing of its reserve helps; what gc writes first goes into the store.
#[tokio::test]
async fn gc_frees_space_where_nothing_is_left_on_the_disk_of_the_objects() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let server = objects_alone(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("old.img", disks::raw(12, 56));
    let image = id_of(&imported(&api, "old", &url).await);
    disk.fill();
    assert_eq!(
        api.delete(&format!("/v2/images/{image}")).await.status,
        StatusCode::NO_CONTENT
    );
    let run = gc(&api, json!({ "now": true, "purge": true })).await;
    assert_eq!(run["status"], "done", "{run}");
    assert!(run["report"]["freed_bytes"].as_u64() > Some(1 << 20), "{run}");
    disk.make_room();
    objects_reserved(&disk).await;
}

/// What the journal has to write is larger than what is left, which is not so little that the reserve is given away
/// unasked.
#[tokio::test]
async fn gc_frees_space_where_a_large_object_of_the_journal_finds_no_room() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let mut server = objects_alone(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("old.img", disks::raw(12, 56));
    let image = id_of(&imported(&api, "old", &url).await);
    let deleted = api.delete(&format!("/v2/images/{image}")).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    server.terminate();
    // As after an upgrade everything is to be written again: 2.5 MB that do not compress.
    let db = database(&server).await;
    execute(
        &db,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         INSERT INTO ssh_key (team_id, name, public_key, fingerprint, created_at) \
         SELECT 1, 'key', hex(randomblob(5000)), 'f' || i, '2026-01-01 00:00:00+00:00' FROM n",
    )
    .await;
    execute(&db, "UPDATE journal_state SET schema = 'older'").await;
    db.close().await.expect("closes");
    disk.fill_but(2);
    server.start_again();
    let run = gc(&server.api(), json!({ "now": true, "purge": true })).await;
    assert_eq!(run["status"], "done", "{run}");
    assert!(run["report"]["freed_bytes"].as_u64() > Some(1 << 20), "{run}");
}

#[tokio::test]
async fn a_server_starts_on_a_full_disk_and_says_so_where_nothing_is_left_at_all() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let mut server = started(&disk).await;
    let files = Files::start().await;
    let bytes = disks::raw(4, 55);
    let url = files.put("old.img", bytes.clone());
    let mut ids = Vec::new();
    for name in ["kept", "deleted"] {
        ids.push(id_of(&imported(&server.api(), name, &url).await));
    }
    server.kill();
    disk.fill();
    server.start_again();
    let api = server.api();
    assert!(downloaded(&api, ids[0], "raw").await == bytes);
    assert!(ready(&api).await.contains("disk is full"));

    // The reserve is gone; now somebody takes its room, too.
    disk.fill();
    let path = format!("/v2/images/{}", ids[1]);
    let sentence = until("a change to be refused", 60, || async {
        let body = json!({ "name": "x".repeat(200) });
        let answer = api.put(&path, &body).await;
        let is_refused = answer.status == StatusCode::SERVICE_UNAVAILABLE;
        is_refused.then(|| answer.json["message"].as_str().expect("a sentence").to_owned())
    })
    .await;
    assert!(sentence.contains("free or add space"), "{sentence}");
    assert!(ready(&api).await.contains("nothing can be changed"));
    assert!(downloaded(&api, ids[0], "raw").await == bytes, "reading goes on");
    let second = refused_start(&disk);
    assert!(second.contains("free or add space"), "{second}");

    made_room(&api, &disk).await;
    let answer = api.delete(&path).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
}

/// What a server says that is to make a new installation on the disk.
fn refused_start(disk: &SmallDisk) -> String {
    let serve = Setup::default()
        .at(Place::default())
        .command(&disk.inside().join("second"), &["serve"]);
    let mut entered = wrapped(serve, &disk.enter());
    entered.args(["--listen-api=127.0.0.1:0", "--listen-registry=127.0.0.1:0"]);
    let output = run(&mut entered);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

/// The server alone knows what they said.
#[tokio::test]
async fn lost_headers_are_written_when_there_is_room_again() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let mut server = objects_alone(&disk).await;
    let (api, files) = (server.api(), Files::start().await);
    let bytes = disks::raw(4, 58);
    let image = id_of(&imported(&api, "one", &files.put("one.img", bytes.clone())).await);
    let headers = disk.root().join("objects/h");
    std::fs::remove_dir_all(&headers).expect("is there");
    disk.fill();
    // The reserve goes as well.
    std::fs::remove_file(disk.root().join("objects/reserve")).expect("is there");
    disk.fill();
    let path = format!("/v2/images/{image}");
    let renamed = api.put(&path, &json!({ "name": "renamed" })).await;
    assert_eq!(renamed.status, StatusCode::OK, "{renamed:?}");
    until("the server to have found no room", 60, || async {
        server
            .log_text()
            .contains("header could not be written anew")
            .then_some(())
    })
    .await;
    disk.make_room();
    until("the headers", 60, || async {
        let there = std::fs::read_dir(&headers).map(Iterator::count);
        (there.unwrap_or_default() == 2).then_some(())
    })
    .await;
    server.terminate();
    server.start_again();
    assert!(downloaded(&server.api(), image, "raw").await == bytes);
}

#[tokio::test]
async fn a_copy_that_found_no_room_goes_on_when_there_is_some() {
    let Some(disk) = SmallDisk::tmpfs(DISK_MIB) else {
        return;
    };
    let mut server = Setup::default().at(Place::default()).start();
    let (api, files) = (server.api(), Files::start().await);
    for seed in 0..10 {
        let name = format!("disk-{seed}");
        imported(&api, &name, &files.put(&name, disks::raw(2, seed))).await;
    }
    server.terminate();
    let (from, to) = (server.objects(), disk.inside().join("copy"));
    let copy = || {
        let words = ["store", "copy", &from.to_string_lossy(), &to.to_string_lossy()];
        wrapped(server.local(&words), &disk.enter())
    };
    disk.fill_but(6);
    let output = run(&mut copy());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = reason(&output);
    assert!(
        said.ends_with("and the same command goes on from there"),
        "{said}"
    );
    disk.make_room();
    let told = document(&mut copy());
    assert!(told["copy"]["present"].as_u64() >= Some(4), "{told}");
    let told = document(&mut copy());
    assert_eq!(told["copy"]["objects"], 0, "{told}");
}

/// Whatever room there is for it: a recovery that says that it is done has made a database that is whole.
#[tokio::test]
async fn a_recovered_database_is_whole_or_the_recovery_says_that_it_is_not() {
    let Some(disk) = SmallDisk::ext4(8) else { return };
    let mut server = Setup::default().at(Place::default()).start();
    let (api, files) = (server.api(), Files::start().await);
    imported(&api, "one", &files.put("one", disks::raw(4, 81))).await;
    server.terminate();
    let place = format!("sqlite:{}", disk.inside().join("db.sqlite").display());
    let (file, ballast) = (disk.root().join("db.sqlite"), disk.root().join("fill"));
    let (mut whole, mut refused) = (0, 0);
    for kib in (500..1600).step_by(50) {
        let taken = disk.free().saturating_sub(kib << 10);
        std::fs::write(&ballast, vec![1; usize::try_from(taken).expect("is small")]).expect("there is room");
        let words = ["recover", "--database", &place];
        let output = run(&mut wrapped(server.local(&words), &disk.enter()));
        if output.status.success() {
            whole += 1;
            let seen = server.data().join("seen.sqlite");
            std::fs::copy(&file, &seen).expect("copies");
            let url = format!("sqlite://{}", seen.display());
            let db = sea_orm::Database::connect(url).await.expect("connects");
            assert_eq!(texts(&db, "PRAGMA quick_check").await, ["ok"], "with {kib} KiB");
            db.close().await.expect("closes");
            let left = files_below(&disk.root());
            let is_left = |path: &PathBuf| path.to_string_lossy().contains("recovering");
            assert!(!left.iter().any(is_left), "{left:?}");
        } else {
            refused += 1;
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let is_placed = reason(&output).contains("the database is in its place");
            assert_eq!(file.exists(), is_placed, "with {kib} KiB: {output:?}");
        }
        for entry in std::fs::read_dir(disk.root()).expect("lists") {
            let path = entry.expect("lists").path();
            if path.is_file() {
                std::fs::remove_file(path).expect("removes");
            }
        }
    }
    assert!(whole > 0 && refused > 0, "{whole} and {refused}");
}

/// The store is written last of all: where that fails neither is it forgotten what is missing, nor is the database that
/// was there a stranger to it.
#[tokio::test]
async fn a_recovery_whose_journal_cannot_be_begun_can_be_served_or_begun_again() {
    let Some(disk) = SmallDisk::tmpfs(64) else { return };
    let words = disk.enter();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let objects = disk.inside().join("objects");
    let mut server = Setup::default()
        .at(Place::default())
        .wrapped(&words)
        .env("CISTERN_OBJECTS", &objects.display().to_string())
        .start();
    let files = Files::start().await;
    for (name, seed) in [("one", 82), ("two", 83)] {
        imported(&server.api(), name, &files.put(name, disks::raw(4, seed))).await;
    }
    server.terminate();
    let journal = || {
        let mut names = files_below(&disk.root().join("objects/j"));
        names.sort();
        names
    };
    // A hole in it.
    let all = journal();
    assert!(all.len() > 3, "{all:?}");
    std::fs::remove_file(&all[all.len() - 2]).expect("is there");
    let before = journal();
    let database = server.data().join("cistern.sqlite");
    std::fs::copy(&database, server.data().join("kept")).expect("copies");
    std::fs::remove_file(&database).expect("is there");
    // Not even what is kept for this.
    let is_reserve = |path: &&PathBuf| path.to_string_lossy().contains("reserve");
    let reserves = files_below(&disk.root());
    let reserve = reserves.iter().find(is_reserve).expect("is there");
    std::fs::remove_file(reserve).expect("is there");
    disk.fill();

    for _ in 0..2 {
        let output = run(&mut wrapped(server.local(&["recover"]), &disk.enter()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = reason(&output);
        assert!(said.contains("its journal could not be begun"), "{said}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("MISSING: changes between"), "{told}");
        assert_eq!(journal(), before, "the store is as it was");
    }
    disk.make_room();
    server.start_again();
    imported(&server.api(), "three", &files.put("three", disks::raw(4, 84))).await;
    assert!(journal().len() > before.len());
}
