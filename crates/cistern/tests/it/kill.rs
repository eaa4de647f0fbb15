//! `kill -9` at random moments of import, export, delete, gc, repack and verify: what was answered `available` reads
//! back bit-exact, what was deleted stays so, nothing is half visible, the next start goes on with the action or says
//! why it failed, and in the end nothing is left that nobody needs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, settled};
use crate::harness::process::{document, run_ok, variable};
use crate::harness::{Server, disks, files_below};
use crate::migrate::{database, execute};

/// Images that are kept besides the one being imported: the rest is deleted, so that there is always garbage.
const KEPT: usize = 6;
/// Images that are looked at in each round whatever became of them.
const LOOKED_AT: usize = 30;

/// 30 in `make test`, 1,000 in `make soak`.
fn rounds() -> u64 {
    variable("CISTERN_ROUNDS").map_or(30, |n| n.parse().expect("CISTERN_ROUNDS is a number"))
}

/// What was seen of an image.
struct Seen {
    round: u64,
    is_available: bool,
    is_deleted: bool,
}

struct Soak {
    server: Server,
    api: Api,
    files: Files,
    base: Vec<u8>,
    images: BTreeMap<i64, Seen>,
    purged: u64,
    collected: u64,
}

impl Soak {
    async fn new() -> Self {
        let server = Server::start();
        Self {
            api: server.api(),
            server,
            files: Files::start().await,
            base: disks::raw(16, 11),
            images: BTreeMap::new(),
            purged: 0,
            collected: 0,
        }
    }

    /// Made anew where it is needed.
    fn disk(&self, round: u64) -> Vec<u8> {
        disks::changed(&self.base, 60, 1000 + round)
    }

    fn available(&self) -> Vec<i64> {
        let is_there = |seen: &Seen| seen.is_available && !seen.is_deleted;
        self.images
            .iter()
            .filter(|(_, seen)| is_there(seen))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Begins an import, deletes what is too much, begins a gc or a verification, reads; then kills, at a moment that
    /// is spread over the whole life of all that by a fixed sequence.
    async fn round(&mut self, round: u64) {
        let url = self.files.put(&name(round), self.disk(round));
        let body = json!({ "name": format!("round {round}"), "url": url, "region": "nyc3" });
        let id = self.api.post("/v2/images", &body).await.expect(202)["image"]["id"]
            .as_i64()
            .expect("an id");
        let new = Seen {
            round,
            is_available: false,
            is_deleted: false,
        };
        self.images.insert(id, new);
        let available = self.available();
        for id in available.iter().rev().skip(KEPT) {
            let purge = !round.is_multiple_of(3);
            self.api
                .delete(&format!("/v2/images/{id}?purge={purge}"))
                .await
                .expect(204);
            self.images.get_mut(id).expect("is there").is_deleted = true;
            self.purged += 1;
        }
        if round.is_multiple_of(4) {
            self.begin("/v2/store/verify", &json!({ "read_data": true }))
                .await;
        } else {
            let wish = json!({ "now": true, "purge": round.is_multiple_of(2) });
            self.begin("/v2/store/gc", &wish).await;
        }
        let reader = tokio::spawn(read_some(self.api.clone(), available.last().copied()));
        tokio::time::timeout(
            Duration::from_millis(round * 37 % 900),
            std::future::pending::<()>(),
        )
        .await
        .expect_err("nothing comes");
        self.look().await;
        self.server.kill();
        let _ = reader.await;
        self.server.start_again();
        self.api = self.server.api();
        self.look().await;
    }

    async fn begin(&mut self, path: &str, body: &Value) {
        self.api.post(path, body).await.expect(202);
        self.collected += u64::from(path.ends_with("gc"));
    }

    /// Compares images with what was seen of them: all that were not deleted, and the newest of the others, as looking
    /// at all of them would take longer with each round. `settle` does, once.
    async fn look(&mut self) {
        let newest = self.images.len().saturating_sub(LOOKED_AT);
        let is_looked_at = |n: usize, seen: &Seen| n >= newest || !seen.is_deleted;
        for (_, (id, seen)) in (0..)
            .zip(&mut self.images)
            .filter(|(n, (_, seen))| is_looked_at(*n, seen))
        {
            let image = self.api.get(&format!("/v2/images/{id}")).await.expect(200);
            let status = image["image"]["status"].as_str().unwrap_or_default();
            if seen.is_deleted {
                assert_eq!(status, "deleted", "image {id} came back: {image:#}");
                continue;
            }
            let is_available = status == "available";
            assert!(
                is_available || !seen.is_available,
                "image {id} was acknowledged: {image:#}"
            );
            if is_available && !seen.is_available {
                seen.is_available = true;
                self.files.remove(&name(seen.round));
            }
        }
    }

    /// Everything that was begun ends. Gives how many imports were given up.
    async fn settle(&mut self) -> u64 {
        let mut given_up = 0;
        for (id, seen) in &self.images {
            let image = settled(&self.api, *id).await;
            if seen.is_deleted {
                assert_eq!(image["status"], "deleted", "image {id} came back: {image:#}");
                continue;
            }
            if image["status"] == "available" {
                let back = downloaded(&self.api, *id, "raw").await;
                assert!(back == self.disk(seen.round), "image {id} reads back wrong");
                continue;
            }
            // On a slow machine an import may be hit in each of its attempts. Nothing else is a reason to fail.
            let reason = image["error_message"].as_str().unwrap_or_default();
            assert!(reason.contains("the server stopped each time"), "{image:#}");
            given_up += 1;
        }
        given_up
    }

    fn gc(&self) -> Value {
        document(&mut self.server.local(&["gc", "--now", "--purge"]))["gc"].take()
    }

    /// As if the waiting times for dead writers were over, then collects: what lies in the backend is what is needed.
    async fn leaks_none(&self) {
        let db = database(&self.server).await;
        execute(&db, "UPDATE store_session SET lease_until_us = 1 WHERE state = 1").await;
        self.gc();
        execute(&db, "UPDATE store_session SET ended_us = 1 WHERE state <> 1").await;
        self.gc();
        self.gc();
        let stats = document(&mut self.server.local(&["store", "stats"]));
        let objects = files_below(&self.server.objects());
        let bytes: u64 = objects
            .iter()
            .filter(|path| path.components().any(|part| part.as_os_str() == "p"))
            .map(|path| path.metadata().expect("is there").len())
            .sum();
        assert_eq!(
            stats["stored_bytes"], bytes,
            "an object is left that nobody knows: {stats}"
        );
        let wished = document(&mut self.server.local(&["gc", "--dry-run", "--purge"]));
        assert_eq!(wished["gc"]["condemned"], 0, "{wished}");
        run_ok(&mut self.server.local(&["store", "verify", "--read-data"]));
    }
}

fn name(round: u64) -> String {
    format!("r{round}.img")
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_nothing_is_half_visible_and_nothing_leaks() {
    let mut soak = Soak::new().await;
    for round in 0..rounds() {
        soak.round(round).await;
        if round % 100 == 99 {
            println!("{} rounds", round + 1);
        }
    }
    let given_up = soak.settle().await;
    let alive = soak.images.values().filter(|seen| !seen.is_deleted).count() as u64 - given_up;
    let listed = soak
        .api
        .get("/v2/images?private=true&per_page=1")
        .await
        .expect(200);
    assert_eq!(
        listed["meta"]["total"], alive,
        "the rest was resumed and ended well"
    );
    let all = soak.images.len();
    assert!(given_up * 4 < all as u64, "{given_up} of {all} were given up");
    soak.leaks_none().await;
    for id in soak.images.keys() {
        // Those that were deleted, or given up, are gone already.
        soak.api.delete(&format!("/v2/images/{id}?purge=true")).await;
    }
    soak.leaks_none().await;
    let left = document(&mut soak.server.local(&["store", "stats"]));
    assert_eq!(
        (&left["stored_bytes"], &left["chunks"]),
        (&json!(0), &json!(0)),
        "{left}"
    );
    println!(
        "{} rounds: {all} images, none lost or half visible, {} deleted, {} times gc, nothing left; {given_up} given up after \
         five kills",
        rounds(),
        soak.purged,
        soak.collected
    );
}

/// An export that the kill cuts off.
async fn read_some(api: Api, id: Option<i64>) {
    let Some(id) = id else { return };
    let path = format!("/v2/images/{id}/download?format=qcow2");
    if let Ok(response) = api.request(reqwest::Method::GET, &path).send().await {
        let _ = response.bytes().await;
    }
}
