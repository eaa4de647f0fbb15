//! The cache of packs of an installation with a bucket: what was read is not asked for again, also after a `kill -9`,
//! and what its files hold decides about nothing but time.

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::server::{Server, Setup};
use crate::harness::world::place_if_there;
use crate::harness::{disks, files_below, until};

const MIB: usize = 1 << 20;

async fn part(api: &Api, image: i64, disk: &[u8], from: usize) {
    let path = format!("/v2/images/{image}/download?format=raw");
    let range = format!("bytes={from}-{}", from + MIB - 1);
    let answer = api
        .request(reqwest::Method::GET, &path)
        .header("range", range)
        .send()
        .await;
    let bytes = answer.expect("answers").bytes().await.expect("a body");
    assert!(bytes[..] == disk[from..from + MIB], "a MiB at {from}");
}

async fn stats(api: &Api) -> Value {
    api.get("/v2/store/stats").await.expect(200)["stats"].take()
}

#[tokio::test]
async fn what_was_read_from_a_bucket_is_not_asked_for_again() {
    let Some(place) = place_if_there("sqlite+s3") else {
        return;
    };
    let mut server = Setup::default().at(place).start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(24, 3);
    let image = imported(&api, "one", &files.put("one.img", disk.clone())).await["id"]
        .as_i64()
        .expect("an id");
    // The job that computes its checksum reads it, too.
    until("the checksum", 20, || async {
        let image = api.get(&format!("/v2/images/{image}")).await.expect(200);
        image["image"]["sha256"].is_string().then_some(())
    })
    .await;
    let misses = async |api: &Api| {
        stats(api).await["cache"]["misses"]
            .as_u64()
            .expect("they are counted")
    };

    part(&api, image, &disk, 8 * MIB).await;
    let before = misses(&api).await;
    part(&api, image, &disk, 8 * MIB).await;
    assert_eq!(misses(&api).await, before, "nothing is asked for twice");
    let told = stats(&api).await;
    assert!(
        told["cache"]["bytes"].as_u64() > Some(0) && told["cache"]["hits"].as_u64() > Some(0),
        "{told:#}"
    );
    assert!(told["requests"]["put_per_gib"].as_u64() > Some(0), "{told:#}");

    server.kill();
    server.start_again();
    let api = server.api();
    let before = misses(&api).await;
    part(&api, image, &disk, 8 * MIB).await;
    assert_eq!(misses(&api).await, before, "what was there before a kill is used");

    let cache = files_below(&server.data().join("cache"));
    assert!(!cache.is_empty());
    for file in &cache {
        std::fs::write(file, vec![0x5a; MIB]).expect("writes");
    }
    for from in [0, 8 * MIB, 16 * MIB] {
        part(&api, image, &disk, from).await;
    }
    let metrics = reqwest::get(format!("{}/metrics", server.api_url))
        .await
        .expect("answers");
    let metrics = metrics.text().await.expect("text");
    // Told every few seconds: at the start at the latest.
    assert!(
        metrics.contains("cistern_objects_requests_total{operation=\"get\"}"),
        "{metrics}"
    );
    let healthy = api.get(&format!("/v2/images/{image}")).await.expect(200);
    assert_ne!(healthy["image"]["health"], "damaged", "{healthy:#}");
}

#[tokio::test]
async fn a_folder_of_objects_needs_none() {
    let server = Setup::default()
        .at(crate::harness::world::Place::default())
        .start();
    let told = stats(&server.api()).await;
    assert!(told["cache"].is_null() && told["requests"].is_null(), "{told:#}");
    assert!(!Server::data(&server).join("cache").exists());
}
