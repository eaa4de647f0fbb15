//! Whether a team can find out what another one has: by what an image answers, what it adds, and what is written for it.

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::disks;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{reason, run, run_ok};
use crate::harness::server::{Server, Setup};

/// A second team with a user who is no operator.
fn stranger(server: &Server) -> Api {
    run_ok(&mut server.local(&["team", "create", "Web"]));
    let words = [
        "user",
        "create",
        "web@example.com",
        "--team",
        "Web",
        "--role",
        "owner",
    ];
    run_ok(&mut server.local(&words));
    server.api_with(&["--user", "web@example.com", "--team", "Web"])
}

/// What an answer says besides which image it is, and when.
fn told(mut image: Value) -> Value {
    for key in ["id", "name", "created_at", "source", "sha256", "checksums"] {
        image[key].take();
    }
    image
}

async fn packs(server: &Server) -> (u64, u64) {
    let stats = server.api().get("/v2/store/stats").await.expect(200)["stats"].take();
    let number = |key: &str| stats[key].as_u64().expect("a number");
    (number("packs"), number("chunks"))
}

/// Disks that are stored alike: the same blocks are empty, and none of the others compresses.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    for (n, block) in disk.chunks_mut(65536).enumerate().filter(|(n, _)| n % 3 == 0) {
        disks::noise(block, seed * 1000 + n as u64);
    }
    let table = disks::partition_table(disk.len());
    disk[..table.len()].copy_from_slice(&table);
    disk
}

#[tokio::test]
async fn what_another_team_has_looks_like_what_nobody_has() {
    for (domain, is_shared) in [("team", false), ("installation", true)] {
        let server = Setup::default().arg(format!("--dedup-domain={domain}")).start();
        let files = Files::start().await;
        let (owner, web) = (server.api(), stranger(&server));
        let (known, unknown) = (files.put("known", disk(1)), files.put("unknown", disk(2)));
        imported(&owner, "known", &known).await;
        let mut answers = Vec::new();
        let mut written = Vec::new();
        for url in [&known, &unknown] {
            let before = packs(&server).await;
            let image = imported(&web, "a name", url).await;
            let after = packs(&server).await;
            written.push((after.0 - before.0, after.1 - before.1));
            answers.push(told(image));
        }
        assert_eq!(answers[0], answers[1], "{domain}");
        assert_eq!(written[0] == written[1], !is_shared, "{domain}: {written:?}");
        assert_eq!(
            answers[0]["new_bytes"].is_null(),
            is_shared,
            "{domain}: {}",
            answers[0]
        );
        let events = web.get("/v2/events?what=image.import").await.expect(200);
        let details: Vec<&Value> = events["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| &event["detail"])
            .collect();
        assert!(details.len() == 2 && details[0] == details[1], "{details:?}");
        let actions = web.get("/v2/actions").await.expect(200).to_string();
        assert!(!actions.contains("new_bytes"), "{actions}");
        // Nothing of the store is for those who are no operators, and its own data it has all the same.
        assert_eq!(web.get("/v2/store/stats").await.status, 403);
        assert!(downloaded(&web, 2, "raw").await == disk(1));
        let own = imported(&web, "again", &known).await;
        assert_eq!(
            own["new_bytes"],
            if is_shared { Value::Null } else { json!(0) },
            "{own}"
        );
    }
}

#[tokio::test]
async fn the_domain_of_a_store_is_decided_once() {
    let mut server = Server::start();
    server.kill();
    let refused = run(server
        .local(&["store", "stats"])
        .env("CISTERN_DEDUP_DOMAIN", "team"));
    assert!(reason(&refused).contains("cannot be changed"), "{refused:?}");
    server.start_again();
}
