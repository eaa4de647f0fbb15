//! Jobs from outside: resumed after `kill -9`, cancelled, shared by two servers and fenced.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::files::{Files, Held};
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::run_ok;
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until, world};

/// The import job of an image.
pub(crate) async fn job_of(api: &Api, image: i64) -> Value {
    let actions = api.get(&format!("/v2/images/{image}/actions")).await.expect(200);
    let action = &actions["actions"][0]["id"];
    let jobs = api.get("/v2/jobs?all=true").await.expect(200);
    let jobs = jobs["jobs"].as_array().expect("a list");
    jobs.iter()
        .find(|job| job["action_id"] == *action)
        .expect("the action has a job")
        .clone()
}

/// Waits until part of the download is on the disk; the rest is held.
pub(crate) async fn held_up(api: &Api, image: i64) -> Value {
    until("the download to come to where it is held", 30, || async {
        let job = job_of(api, image).await;
        let done = job["progress"]["done_bytes"].as_u64();
        (job["progress"]["step"] == "fetch" && done >= Some(1 << 20)).then_some(job)
    })
    .await
}

/// A disk of 8 MiB of which the first 3 come at once.
pub(crate) fn held(files: &Files, name: &str, seed: u64) -> (Held, Vec<u8>) {
    let disk = disks::raw(8, seed);
    (files.put_held(name, disk.clone(), 3 << 20), disk)
}

/// What a user and an operator see of how an import ended.
async fn seen(api: &Api, image: i64) -> Value {
    let list = |path: String, key: &'static str| async move { api.get(&path).await.expect(200)[key].clone() };
    json!({
        "image": list(format!("/v2/images/{image}"), "image").await,
        "actions": list(format!("/v2/images/{image}/actions"), "actions").await,
        "events": list("/v2/events?what=image&per_page=200".into(), "events").await,
        "job": job_of(api, image).await,
    })
}

#[tokio::test]
async fn an_import_cut_off_by_a_kill_goes_on_where_it_was() {
    let (mut server, files) = (Server::start(), Files::start().await);
    let (held, disk) = held(&files, "held.img", 1);
    let api = server.api();
    let id = import(&api, "held", &held.url).await;
    held_up(&api, id).await;
    server.kill();
    server.start_again();
    held.release();
    let api = server.api();
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id, "raw").await == disk);
    let asked = held.asked();
    assert!(
        asked.len() == 2 && asked[1] > 0,
        "the download went on: {asked:?}"
    );
    let seen = seen(&api, id).await;
    assert_eq!(seen["actions"].as_array().map(Vec::len), Some(1), "{seen:#}");
    assert_eq!(seen["actions"][0]["status"], "completed", "{seen:#}");
    assert_eq!(seen["job"]["attempts"], 2, "{seen:#}");
    let imports = seen["events"].as_array().expect("a list").iter();
    assert_eq!(imports.filter(|e| e["what"] == "image.import").count(), 1);
}

#[tokio::test]
async fn a_running_import_is_listed_and_cancelled() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    for way in ["remote", "local"] {
        let (held, _) = held(&files, &format!("{way}.img"), 2);
        let id = import(&api, way, &held.url).await;
        let job = held_up(&api, id).await;
        let command = |words: &[&str]| match way {
            "remote" => server.remote(words),
            _ => server.local(words),
        };
        let listed: Value =
            serde_json::from_str(&run_ok(&mut command(&["jobs", "--json"]))).expect("one JSON document");
        let listed = listed["jobs"].as_array().expect("a list");
        assert!(listed.iter().any(|j| j["id"] == job["id"]), "{listed:#?}");
        run_ok(&mut command(&["jobs", "cancel", &job["id"].to_string()]));
        let image = settled(&api, id).await;
        assert_eq!(image["status"], "deleted", "{image:#}");
        assert_eq!(image["error_message"], "The import was cancelled.");
        let seen = seen(&api, id).await;
        assert_eq!(seen["actions"][0]["status"], "errored", "{seen:#}");
        assert_eq!(seen["job"]["status"], "cancelled", "{seen:#}");
        let again = api
            .post(&format!("/v2/jobs/{}/cancel", job["id"]), &json!({}))
            .await;
        assert_eq!(again.status, 409, "what has ended cannot be cancelled: {again:?}");
    }
}

#[tokio::test]
async fn two_servers_share_the_work() {
    let Some(place) = world::place_if_there("postgres+s3") else {
        return;
    };
    let setup = Setup::default().arg("--jobs-workers=1");
    let first = setup.clone().at(place).start();
    let second = setup.start_beside(&first);
    let (api, files) = (first.api(), Files::start().await);
    let (one, disk) = held(&files, "one.img", 3);
    let (two, _) = held(&files, "two.img", 4);
    let ids = [
        import(&api, "one", &one.url).await,
        import(&api, "two", &two.url).await,
    ];
    for id in ids {
        held_up(&api, id).await;
    }
    for server in [&first, &second] {
        assert_eq!(
            server.log_text().matches("job started").count(),
            1,
            "each has one of the two"
        );
    }
    one.release();
    two.release();
    for id in ids {
        assert_eq!(settled(&second.api(), id).await["status"], "available");
    }
    assert!(downloaded(&second.api(), ids[0], "raw").await == disk);
}

#[tokio::test]
async fn a_server_that_slept_past_its_lease_changes_nothing() {
    let Some(place) = world::place_if_there("postgres+s3") else {
        return;
    };
    let setup = Setup::default().arg("--jobs-lease-seconds=3");
    let sleeper = setup.clone().at(place).start();
    let files = Files::start().await;
    let (held, disk) = held(&files, "held.img", 5);
    let id = import(&sleeper.api(), "held", &held.url).await;
    held_up(&sleeper.api(), id).await;
    sleeper.signal(Signal::STOP);

    let other = setup.start_beside(&sleeper);
    let api = other.api();
    until("the other server to take the job over", 30, || async {
        (job_of(&api, id).await["attempts"] == 2).then_some(())
    })
    .await;
    held.release();
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    until("the checksum, which is the last change", 30, || async {
        let jobs = api.get("/v2/jobs").await.expect(200);
        (jobs["jobs"].as_array().map(Vec::len) == Some(0)).then_some(())
    })
    .await;
    let before = seen(&api, id).await;

    sleeper.signal(Signal::CONT);
    until("the sleeper to see that its lease is over", 30, || async {
        sleeper
            .log_text()
            .contains("lost the lease of a job")
            .then_some(())
    })
    .await;
    assert_eq!(seen(&api, id).await, before);
    assert_eq!(seen(&sleeper.api(), id).await, before);
    assert!(downloaded(&sleeper.api(), id, "raw").await == disk);
    run_ok(&mut other.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn slow_addresses_of_one_team_do_not_hold_up_another() {
    let (server, files) = (Server::start(), Files::start().await);
    run_ok(&mut server.local(&["team", "create", "others"]));
    let (api, others) = (server.api(), server.api_with(&["--team", "others"]));
    let mut slow = Vec::new();
    for n in 0..6 {
        let (held, _) = held(&files, &format!("slow{n}.img"), n);
        slow.push((import(&api, &format!("slow{n}"), &held.url).await, held));
    }
    // As many as a team may have at once on a server of four workers.
    for (id, _) in &slow[..3] {
        held_up(&api, *id).await;
    }
    let url = files.put("quick.img", disks::raw(4, 9));
    let image = imported(&others, "quick", &url).await;
    assert_eq!(image["status"], "available");
    for (id, _) in &slow[3..] {
        assert_eq!(
            job_of(&api, *id).await["status"],
            "queued",
            "its turn has not come"
        );
    }
    // A cancelled one does not wait for its turn.
    let job = job_of(&api, slow[5].0).await;
    api.post(&format!("/v2/jobs/{}/cancel", job["id"]), &json!({}))
        .await
        .expect(202);
    assert_eq!(settled(&api, slow[5].0).await["status"], "deleted");
    for (id, held) in &slow[..5] {
        held.release();
        assert_eq!(settled(&api, *id).await["status"], "available");
    }
}
