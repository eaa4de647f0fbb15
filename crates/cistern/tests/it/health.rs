//! Damage is told soon after it was found, and no longer than it is there, where monitoring looks.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{document, reason, run};
use crate::harness::server::Setup;
use crate::harness::world::Place;
use crate::harness::{disks, largest_spoil, until};

/// Waits until an image's health and the metric are both so.
async fn told(api: &Api, health: &str, damaged: u64) {
    until(&format!("the image to be {health}"), 60, || async {
        let image = api.get("/v2/images/1").await.expect(200);
        let metrics = api.get("/metrics").await;
        let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
        let is_counted = metrics.contains(&format!("cistern_store_damaged {damaged}\n"));
        (image["image"]["health"] == health && is_counted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_download_finds_damaged_is_told_and_what_an_import_heals_as_well() {
    let server = Setup::default().uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("a.img", disks::raw(4, 61));
    imported(&api, "one", &url).await;
    told(&api, "ok", 0).await;
    largest_spoil(&server.objects());
    // Begun with 200 or refused, whatever is read ahead: it is not whole.
    let download = api
        .request(Method::GET, "/v2/images/1/download?format=raw")
        .send();
    let answer = download.await.expect("answers");
    if answer.status() == StatusCode::OK {
        answer.bytes().await.expect_err("the download is cut off");
    }
    told(&api, "damaged", 1).await;
    let ports = ["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"];
    let doctor = || run(server.local(&["doctor"]).args(ports));
    let (found, said) = (
        doctor(),
        "1 image known to be damaged: `cistern store verify --read-data",
    );
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(String::from_utf8_lossy(&found.stdout).contains(said), "{found:?}");
    imported(&api, "again", &url).await;
    told(&api, "ok", 0).await;
    let found = doctor();
    assert_eq!(found.status.code(), Some(0), "{found:?}");
}

#[tokio::test]
async fn under_a_mount_that_went_away_nothing_is_given_up_and_nothing_is_called_damaged() {
    let server = Setup::default().at(Place::default()).uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(4, 63);
    for name in ["kept", "deleted"] {
        imported(&api, name, &files.put(name, disk.clone())).await;
    }
    assert_eq!(api.delete("/v2/images/2").await.status, 204);
    let (objects, aside) = (server.objects(), server.data().join("aside"));
    std::fs::rename(&objects, &aside).expect("moves it");
    std::fs::create_dir_all(objects.join("tmp")).expect("makes it");
    for words in [
        &["gc", "--now", "--purge"][..],
        &["store", "verify"],
        &["store", "verify", "--read-data"],
    ] {
        let told = reason(&run(&mut server.remote(words)));
        assert!(told.contains("is mounted"), "{words:?}: {told}");
    }
    let refused = api.delete("/v2/images/1?purge=true").await;
    assert!(
        refused.json["message"]
            .as_str()
            .is_some_and(|said| said.contains("is mounted")),
        "{refused:?}"
    );
    let refused = api.get("/v2/images/1/download?format=raw").await;
    assert_eq!(refused.status, 503);
    let said = String::from_utf8_lossy(&refused.bytes).into_owned();
    assert!(said.contains("is mounted"), "{said}");

    std::fs::remove_dir_all(&objects).expect("removes it");
    std::fs::rename(&aside, &objects).expect("moves it back");
    let found = document(&mut server.remote(&["store", "verify"]));
    assert_eq!(found["verify"]["damage"], json!([]), "{found}");
    let restored = api.post("/v2/images/2/restore", &json!({})).await;
    restored.expect(200);
    assert!(downloaded(&api, 2, "raw").await == disk);
}

#[tokio::test]
async fn under_a_mount_that_went_away_nothing_becomes_available() {
    let server = Setup::default().at(Place::default()).start();
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("a.img", disks::raw(4, 62));
    let (objects, aside) = (server.objects(), server.data().join("aside"));
    std::fs::rename(&objects, &aside).expect("moves it");
    // What an earlier start before the mount leaves there.
    std::fs::create_dir_all(objects.join("tmp")).expect("makes it");
    let id = import(&api, "waits", &url).await;
    let path = format!("/v2/images/{id}");
    until("the import to find the store gone", 60, || async {
        let log = server.log_text();
        log.contains("the store is not where it was").then_some(())
    })
    .await;
    let image = api.get(&path).await.expect(200);
    assert!(image["image"]["status"] != "available", "{image:#}");
    assert!(!objects.join("p").exists(), "nothing was written there");
    std::fs::remove_dir_all(&objects).expect("removes it");
    std::fs::rename(&aside, &objects).expect("moves it back");
    // That the disk was away is nobody's fault: the import goes on.
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
}
