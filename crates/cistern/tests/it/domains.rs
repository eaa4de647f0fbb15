//! Whether a team can find out what another one has: by what an image answers, what it adds, what is written for it,
//! and what work is done for it. (Calls to the backend and statements are counted in the store's own suite,
//! `crates/store/tests/store/domains.rs`.)

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::disks;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{cistern, document, reason, run, run_ok};
use crate::harness::server::{Server, Setup};
use crate::harness::until;

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

/// What an answer says besides which image it is, and when. What it added is told in whole chunks: by what digests are
/// in it a node of the tree compresses to some bytes more or less, whoever else has it.
fn told(mut image: Value) -> Value {
    for key in ["id", "name", "created_at", "source", "sha256", "checksums"] {
        image[key].take();
    }
    if let Some(bytes) = image["new_bytes"].as_u64() {
        image["new_bytes"] = json!(bytes / 65536);
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

/// The jobs of an image, once all of them are over, without what is any job's own: its number, and when it was.
async fn jobs(server: &Server, image: &Value) -> Vec<Value> {
    let (api, about) = (server.api(), format!("image {}", image["id"]));
    let jobs = until("the image's jobs to end", 60, || async {
        let all = api.get("/v2/jobs?all=true").await.expect(200)["jobs"].take();
        let all = all.as_array().expect("a list").iter();
        let ours: Vec<Value> = all
            .filter(|job| job["about"] == about.as_str())
            .cloned()
            .collect();
        ours.iter()
            .all(|job| !job["finished_at"].is_null())
            .then_some(ours)
    })
    .await;
    let told = |mut job: Value| {
        for key in [
            "id",
            "about",
            "action_id",
            "run_at",
            "created_at",
            "finished_at",
            "progress",
        ] {
            job[key].take();
        }
        job
    };
    jobs.into_iter().map(told).collect()
}

/// What the command tells a team of one of its images, and how many lines its list has.
fn shown(server: &Server, web: &Api, image: &Value) -> (Value, usize) {
    let command = |words: &[&str]| {
        let mut command = cistern();
        command
            .args(words)
            .env("CISTERN_URL", &server.api_url)
            .env("CISTERN_TOKEN", &web.token);
        command
    };
    let one = document(&mut command(&["image", "get", &image["id"].to_string()]))["image"].take();
    (
        told(one),
        run_ok(&mut command(&["image", "list"])).lines().count(),
    )
}

#[tokio::test]
async fn what_another_team_has_makes_the_same_jobs_as_what_nobody_has() {
    for domain in ["team", "installation"] {
        let server = Setup::default().arg(format!("--dedup-domain={domain}")).start();
        let files = Files::start().await;
        let (owner, web) = (server.api(), stranger(&server));
        imported(&owner, "known", &files.put("known", disk(1))).await;
        let (mut work, mut seen) = (Vec::new(), Vec::new());
        for name in ["known", "unknown"] {
            let image = imported(
                &web,
                "a name",
                &files.put(name, disk(1 + u64::from(name == "unknown"))),
            )
            .await;
            work.push(jobs(&server, &image).await);
            let (one, lines) = shown(&server, &web, &image);
            seen.push(one);
            assert_eq!(lines, 1 + seen.len(), "a head, and a line for each of its own");
            let gone = format!("/v2/images/{}", image["id"]);
            web.delete(&gone).await.expect(204);
            web.post(&format!("{gone}/restore"), &json!({})).await.expect(200);
        }
        assert!(work[0].len() >= 2, "an import and a checksum: {work:?}");
        assert_eq!(work[0], work[1], "{domain}");
        assert_eq!(seen[0], seen[1], "{domain}");
    }
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
