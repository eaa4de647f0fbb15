//! Freeing what was deleted: asked for over HTTP and by the command, by itself, and when the disk fills.

use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::disks;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{document, reason, run, run_ok, stdout};
use crate::harness::server::{Server, Setup};
use crate::harness::small::SmallDisk;
use crate::harness::until;
use crate::migrate::{database, execute};

/// Starts a run and waits for its end.
pub(crate) async fn gc(api: &Api, wish: Value) -> Value {
    let begun = api.post("/v2/store/gc", &wish).await.expect(202);
    let path = format!("/v2/store/gc/{}", begun["gc"]["id"]);
    until("gc to end", 60, || async {
        let run = api.get(&path).await.expect(200)["gc"].take();
        (!run["finished_at"].is_null()).then_some(run)
    })
    .await
}

async fn text(api: &Api, path: &str) -> String {
    String::from_utf8_lossy(&api.get(path).await.bytes).into_owned()
}

async fn stats(api: &Api) -> Value {
    api.get("/v2/store/stats").await.expect(200)["stats"].take()
}

#[tokio::test]
async fn a_deleted_image_is_kept_for_a_day_and_purged_when_asked() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let (one, two) = (disks::raw(8, 1), disks::raw(8, 2));
    imported(&api, "one", &files.put("one.img", one.clone())).await;
    imported(&api, "two", &files.put("two.img", two.clone())).await;
    let full = stats(&api).await;

    api.delete("/v2/images/1").await.expect(204);
    let run = gc(&api, json!({ "now": true })).await;
    assert_eq!(
        (&run["status"], &run["report"]["objects"]),
        (&json!("done"), &json!(0)),
        "{run}"
    );
    let kept = stats(&api).await;
    assert_eq!(
        (&kept["restorable"], &kept["stored_bytes"]),
        (&json!(1), &full["stored_bytes"]),
        "{kept}"
    );
    assert!(kept["restorable_bytes"].as_u64() > Some(1 << 20), "{kept}");
    api.post("/v2/images/1/restore", &json!({})).await.expect(200);
    assert_eq!(stats(&api).await["restorable"], 0);
    assert!(downloaded(&api, 1, "raw").await == one);

    api.delete("/v2/images/1").await.expect(204);
    let dry = gc(&api, json!({ "purge": true, "dry_run": true })).await;
    assert!(dry["report"]["condemned_bytes"].as_u64() > Some(1 << 20), "{dry}");
    named_one(&dry);
    assert_eq!(
        stats(&api).await["stored_bytes"],
        full["stored_bytes"],
        "a dry run frees nothing"
    );
    let run = gc(&api, json!({ "purge": true, "now": true })).await;
    let report = &run["report"];
    assert_eq!(
        (&report["purged"], &report["dry_run"]),
        (&json!(1), &json!(false)),
        "{run}"
    );
    assert!(report["freed_bytes"].as_u64() > Some(1 << 20), "{run}");
    named_one(&run);
    let left = stats(&api).await;
    assert!(
        left["stored_bytes"].as_u64() < full["stored_bytes"].as_u64(),
        "{left}"
    );
    assert_eq!(
        (&left["roots"], &left["restorable"]),
        (&json!(1), &json!(0)),
        "{left}"
    );
    let gone = api.post("/v2/images/1/restore", &json!({})).await;
    assert_eq!(gone.status, 422, "{gone:?}");
    assert!(downloaded(&api, 2, "raw").await == two);

    let events = document(&mut server.local(&["events", "--what", "store.gc"]));
    assert!(
        events["events"][0]["detail"]["freed_bytes"].as_u64() > Some(0),
        "{events}"
    );
    // A protected image is nothing that a run could give up.
    api.put("/v2/images/2", &json!({ "name": "two", "protected": true }))
        .await
        .expect(200);
    assert_eq!(api.delete("/v2/images/2?purge=true").await.status, 422);
    gc(&api, json!({ "purge": true, "now": true })).await;
    assert!(downloaded(&api, 2, "raw").await == two);
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

/// Image 1 is what a run gives up, or would.
fn named_one(run: &Value) {
    let named = run["report"]["given_up"].as_array().expect("a list");
    let [one] = &named[..] else {
        panic!("one image: {run}");
    };
    let (id, name, kind) = (&one["id"], &one["name"], &one["kind"]);
    assert_eq!(
        (id, name, kind),
        (&json!(1), &json!("one"), &json!("image")),
        "{run}"
    );
    assert_eq!(one["virtual_bytes"], 8 << 20, "{run}");
    assert!(one["logical_bytes"].as_u64() > Some(1 << 20), "{run}");
    for field in ["team", "deleted_at", "restorable_until"] {
        assert!(
            one[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {run}"
        );
    }
}

#[tokio::test]
async fn the_command_frees_with_and_without_a_server() {
    let (mut server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        imported(&api, name, &files.put(name, disks::raw(6, seed))).await;
    }
    let nothing = run(&mut server.remote(&["gc", "--now"]));
    assert_eq!(stdout(&nothing).trim(), "Nothing was freed.", "{nothing:?}");
    api.delete("/v2/images/1?purge=true").await.expect(204);
    let waits = stdout(&run(&mut server.remote(&["gc"])));
    assert!(
        waits.contains("Nothing was freed.") && waits.contains("--now"),
        "{waits}"
    );
    let freed = document(&mut server.remote(&["gc", "--now"]));
    assert!(freed["gc"]["freed_bytes"].as_u64() > Some(1 << 20), "{freed}");
    // Beside the running server, and on the folder of one that is stopped.
    api.delete("/v2/images/2").await.expect(204);
    let would = stdout(&run(&mut server.remote(&["gc", "--purge", "--dry-run"])));
    assert!(
        would.contains("Would give up 1 deleted image ") && would.contains(" two "),
        "{would}"
    );
    assert_eq!(stats(&api).await["restorable"], 1, "a dry run gives nothing up");
    let beside = document(&mut server.local(&["gc", "--now", "--purge"]));
    assert_eq!(beside["gc"]["purged"], 1, "{beside}");
    assert_eq!(beside["gc"]["given_up"][0]["name"], "two", "{beside}");
    let events = run_ok(&mut server.local(&["events", "--what", "image.purge", "--json"]));
    assert!(events.contains("room was needed"), "{events}");
    assert!(beside["gc"]["freed_bytes"].as_u64() > Some(1 << 20), "{beside}");
    api.delete("/v2/images/3?purge=true").await.expect(204);
    server.kill();
    let dry = stdout(&run(&mut server.local(&["gc", "--dry-run"])));
    assert!(
        dry.contains("would now free nothing") && dry.contains("MiB less: at once with --now"),
        "{dry}"
    );
    let dry = document(&mut server.local(&["gc", "--now", "--dry-run"]));
    let alone = document(&mut server.local(&["gc", "--now"]));
    assert!(alone["gc"]["freed_bytes"].as_u64() > Some(1 << 20), "{alone}");
    for figure in ["buried", "objects", "freed_bytes", "repacked"] {
        assert_eq!(dry["gc"][figure], alone["gc"][figure], "{figure}: {dry} {alone}");
    }
    let stats = document(&mut server.local(&["store", "stats"]));
    assert_eq!(
        (&stats["chunks"], &stats["stored_bytes"]),
        (&json!(0), &json!(0)),
        "{stats}"
    );
}

/// A session of a server that was killed in the middle of an import.
async fn session_left(server: &Server, lease_until_us: i64) {
    let db = database(server).await;
    let sql = "INSERT INTO store_session (id, store, domain, owner, fence, state, start_epoch, lease_until_us, created_us, ended_us) \
               VALUES ($1, 1, 0, 'image 1', $2, 1, 1, $3, $3, 0)";
    let values: [sea_orm::Value; 3] = [
        uuid::Uuid::new_v4().into(),
        uuid::Uuid::new_v4().into(),
        lease_until_us.into(),
    ];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    db.execute_raw(statement).await.expect("inserts");
}

#[tokio::test]
async fn after_a_kill_gc_says_who_holds_it_back_and_until_when() {
    let (mut server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    imported(&api, "one", &files.put("one", disks::raw(6, 1))).await;
    api.delete("/v2/images/1?purge=true").await.expect(204);
    server.kill();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now_us = i64::try_from(since.as_micros()).expect("before 294000");
    // Last heard of a minute ago: the lease of two minutes is over in a minute.
    session_left(&server, now_us + 60_000_000).await;
    let held = stdout(&run(&mut server.local(&["gc", "--now"])));
    let silent = "1 session of a server that has not been heard of since 20";
    assert!(
        held.contains("Nothing was freed.")
            && held.contains(silent)
            && held.contains("run `cistern gc` after that"),
        "{held}"
    );
    let told = stdout(&run(&mut server.local(&["store", "stats"])));
    assert!(
        told.contains("0 imports  at work, or cut off within the last minute") && told.contains(silent),
        "{told}"
    );
    let stats = document(&mut server.local(&["store", "stats"]));
    assert_eq!(stats["writers"]["silent"], 1, "{stats}");
    let db = database(&server).await;
    execute(
        &db,
        "UPDATE store_session SET lease_until_us = lease_until_us - 61000000",
    )
    .await;
    let freed = document(&mut server.local(&["gc", "--now"]));
    assert!(freed["gc"]["freed_bytes"].as_u64() > Some(1 << 20), "{freed}");
    assert_eq!(freed["gc"]["writers"]["silent"], 0, "{freed}");
}

#[tokio::test]
async fn a_run_that_is_due_is_begun_by_the_server() {
    let setup = Setup::default()
        .arg("--gc-every-minutes=1")
        .arg("--gc-grace-minutes=0");
    let (mut server, files) = (setup.start(), Files::start().await);
    let api = server.api();
    imported(&api, "one", &files.put("one.img", disks::raw(6, 1))).await;
    api.delete("/v2/images/1?purge=true").await.expect(204);
    // As if the store had been made an hour ago and a first run had condemned everything then.
    document(&mut server.local(&["gc"]));
    server.kill();
    let db = database(&server).await;
    execute(&db, "UPDATE store_gc SET ended_us = ended_us - 3600000000").await;
    server.start_again();
    let api = server.api();
    until("the server to free it by itself", 60, || async {
        (stats(&api).await["chunks"] == 0).then_some(())
    })
    .await;
}

/// On a small disk: nothing is taken in when little is left, everybody says so, deleted images are given up before
/// their day is over, and then there is room again.
#[tokio::test]
async fn a_disk_that_fills_refuses_in_time_and_frees_what_it_can() {
    let Some(small) = SmallDisk::tmpfs(300) else {
        return;
    };
    let setup = small
        .setup()
        .arg("--disk-refuse-below-percent=80")
        .arg("--disk-purge-below-percent=83");
    let (server, files) = (setup.start(), Files::start().await);
    let api = server.api();
    let large = files.put("large.img", disks::raw(200, 1));
    imported(&api, "large", &large).await;
    let body = json!({ "name": "more", "url": large, "region": "nyc3", "distribution": "Debian" });
    let refused = api.post("/v2/images", &body).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let message = refused.json["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("below 240 MiB nothing is taken in") && message.contains("cistern gc --now --purge"),
        "{message}"
    );
    let told = run(&mut server.remote(&["image", "import", &large, "--name", "more"]));
    assert!(reason(&told).contains("nothing is taken in"), "{told:?}");
    assert!(text(&api, "/readyz").await.contains("nearly"));
    until("the metrics to tell", 30, || async {
        let metrics = text(&api, "/metrics").await;
        metrics
            .contains("cistern_disk_low{disk=\"objects\"} 1")
            .then_some(())
    })
    .await;
    // The run that the server began when room became short is over, and could free nothing.
    until("the server's own gc to end", 60, || async {
        let jobs = document(&mut server.remote(&["jobs", "list", "--all"]));
        let jobs = jobs["jobs"].as_array().expect("a list");
        jobs.iter()
            .any(|job| job["kind"] == "store.gc" && job["status"] == "done")
            .then_some(())
    })
    .await;
    // It is deleted, and could be restored for a day; but room is short, so it is given up.
    api.delete("/v2/images/1").await.expect(204);
    until("the image to be given up", 60, || async {
        (stats(&api).await["restorable"] == 0).then_some(())
    })
    .await;
    until("an import to be accepted", 60, || async {
        (api.post("/v2/images", &body).await.status == 202).then_some(())
    })
    .await;
}
