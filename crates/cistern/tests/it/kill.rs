//! `kill -9` at random moments of import and export: what was answered `available` reads back bit-exact, nothing is
//! half visible, and the next start goes on with the action or says why it failed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::harness::files::Files;
use crate::harness::images::{downloaded, settled};
use crate::harness::process::variable;
use crate::harness::{Server, disks};

/// 30 in `make test`, 300 in `make soak`.
fn rounds() -> u64 {
    variable("CISTERN_ROUNDS").map_or(30, |n| n.parse().expect("CISTERN_ROUNDS is a number"))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_half_visible() {
    let mut server = Server::start();
    let files = Files::start().await;
    let mut api = server.api();
    // By id, the round that each is of; its disk is made anew where it is needed.
    let mut images: BTreeMap<i64, u64> = BTreeMap::new();
    let mut available = std::collections::BTreeSet::new();
    let base = disks::raw(16, 11);
    let disk = |round| disks::changed(&base, 60, 1000 + round);
    let name = |round| format!("r{round}.img");
    for round in 0..rounds() {
        let url = files.put(&name(round), disk(round));
        let body = json!({ "name": format!("round {round}"), "url": url, "region": "nyc3" });
        let id = api.post("/v2/images", &body).await.expect(202)["image"]["id"]
            .as_i64()
            .expect("an id");
        images.insert(id, round);
        // Spread over the whole life of an import, from its first row to after its end, by a fixed sequence.
        let reader = tokio::spawn(read_some(api.clone(), available.iter().next_back().copied()));
        tokio::time::timeout(
            Duration::from_millis(round * 37 % 900),
            std::future::pending::<()>(),
        )
        .await
        .unwrap_err();
        let seen = api.get(&format!("/v2/images/{id}")).await.expect(200);
        if seen["image"]["status"] == "available" {
            available.insert(id);
        }
        server.kill();
        let _ = reader.await;
        server.start_again();
        api = server.api();
        for (id, round) in &images {
            let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
            if image["image"]["status"] == "available" {
                available.insert(*id);
                files.remove(&name(*round));
            }
            assert!(
                image["image"]["status"] == "available" || !available.contains(id),
                "image {id} was acknowledged: {image:#}"
            );
        }
    }
    let mut given_up = 0;
    for (id, round) in &images {
        let image = settled(&api, *id).await;
        if image["status"] == "available" {
            let back = downloaded(&api, *id, "raw").await;
            assert!(back == disk(*round), "image {id} reads back wrong");
            continue;
        }
        // On a slow machine an import may be hit in each of its attempts. Nothing else is a reason to fail.
        let reason = image["error_message"].as_str().unwrap_or_default();
        assert!(reason.contains("the server stopped each time"), "{image:#}");
        given_up += 1;
    }
    let kept = api.get("/v2/images?private=true&per_page=1").await.expect(200)["meta"]["total"].as_u64();
    assert_eq!(
        kept,
        Some(images.len() as u64 - given_up),
        "the rest was resumed and ended well"
    );
    assert!(
        given_up * 4 < images.len() as u64,
        "{given_up} of {} were given up",
        images.len()
    );
    crate::harness::process::run_ok(&mut server.local(&["store", "verify", "--read-data"]));
    println!(
        "{} rounds: {} images, all equal, none lost, {given_up} given up after five kills",
        rounds(),
        images.len()
    );
}

/// An export that the kill cuts off.
async fn read_some(api: crate::harness::api::Api, id: Option<i64>) {
    let Some(id) = id else { return };
    let path = format!("/v2/images/{id}/download?format=qcow2");
    if let Ok(response) = api.request(reqwest::Method::GET, &path).send().await {
        let _ = response.bytes().await;
    }
}
