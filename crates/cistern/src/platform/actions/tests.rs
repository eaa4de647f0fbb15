//! `/v2/actions` on a real router.

use serde_json::json;

use super::{NewAction, action_create_in_tx, action_end_in_tx};
use crate::platform::jobs::{NewJob, job_enqueue_in_tx, rows as jobs};
use crate::testing::api::Tester;

async fn start(api: &Tester, region: Option<&str>, resource_id: Option<i64>) -> i64 {
    let tx = api.app.db.write().await.expect("opens");
    let new = NewAction {
        team_id: 1,
        kind: "create",
        resource_type: "image",
        resource_id,
        region,
    };
    let row = action_create_in_tx(&*tx, api.app.clock.now(), &new)
        .await
        .expect("inserts");
    tx.commit().await.expect("commits");
    row.id
}

#[tokio::test]
async fn an_action_is_shown_as_clients_wait_for_it() {
    let api = Tester::new().await;
    let id = start(&api, Some("nyc3"), Some(7)).await;
    let path = format!("/v2/actions/{id}");
    let action = api.get(&path).await.ok(200)["action"].take();
    assert_eq!(
        json!([
            action["id"],
            action["status"],
            action["type"],
            action["resource_id"],
            action["region"]["slug"]
        ]),
        json!([id, "in-progress", "create", 7, "nyc3"])
    );
    assert_eq!(
        json!([action["completed_at"], action["region_slug"]]),
        json!([null, "nyc3"])
    );
    assert!(action.get("error").is_none() && action.get("progress").is_none());

    let tx = api.app.db.write().await.expect("opens");
    let why = Some("the disk is not a disk");
    action_end_in_tx(&*tx, api.app.clock.now(), id, why)
        .await
        .expect("ends");
    tx.commit().await.expect("commits");
    let action = api.get(&path).await.ok(200)["action"].take();
    assert_eq!(
        json!([action["status"], action["error"]]),
        json!(["errored", why])
    );
    assert!(action["completed_at"].is_string());
}

#[tokio::test]
async fn without_a_region_and_an_id_there_is_none() {
    let api = Tester::new().await;
    let id = start(&api, None, None).await;
    let action = api.get(&format!("/v2/actions/{id}")).await.ok(200)["action"].take();
    assert!(
        action.get("region").is_none(),
        "doctl fails on a region that is null"
    );
    assert!(action["resource_id"].is_null() && action["region_slug"].is_null());
    let gone = start(&api, Some("elsewhere"), None).await;
    let action = api.get(&format!("/v2/actions/{gone}")).await.ok(200)["action"].take();
    assert!(action.get("region").is_none());
}

#[tokio::test]
async fn progress_is_the_running_jobs() {
    let api = Tester::new().await;
    let id = start(&api, None, Some(7)).await;
    let now = api.app.clock.now();
    let later = now + chrono::TimeDelta::seconds(30);
    let tx = api.app.db.write().await.expect("opens");
    let new = NewJob {
        kind: "image.import",
        payload: json!({}),
        team_id: Some(1),
        action_id: Some(id),
        node: None,
        priority: 0,
    };
    job_enqueue_in_tx(&*tx, now, new, 3).await.expect("inserts");
    tx.commit().await.expect("commits");
    let wanted = jobs::Wanted {
        now,
        wait_max: chrono::TimeDelta::minutes(5),
        node: "n",
        least_priority: i32::MIN,
        busy: &[],
    };
    let lease = jobs::Lease {
        owner: "n/1",
        until: later,
    };
    let job = jobs::job_claim(api.app.db.conn(), wanted, Some(1), lease)
        .await
        .expect("claims")
        .expect("waits");
    let progress = json!({ "step": "fetch", "done": 5 });
    jobs::job_heartbeat(
        api.app.db.conn(),
        job.id,
        job.fence,
        later,
        Some(progress.clone()),
    )
    .await
    .expect("beats");
    let path = format!("/v2/actions/{id}");
    assert_eq!(api.get(&path).await.ok(200)["action"]["progress"], progress);
    assert_eq!(
        api.get("/v2/actions").await.ok(200)["actions"][0]["progress"],
        progress
    );

    let tx = api.app.db.write().await.expect("opens");
    action_end_in_tx(&*tx, now, id, None).await.expect("ends");
    tx.commit().await.expect("commits");
    let action = api.get(&path).await.ok(200)["action"].take();
    assert!(action.get("progress").is_none() && action["status"] == "completed");
}

#[tokio::test]
async fn the_list_is_the_teams_newest_first_in_pages() {
    let api = Tester::new().await;
    for _ in 0..203 {
        start(&api, None, None).await;
    }
    let first = api.get("/v2/actions?per_page=200").await.ok(200);
    assert_eq!(
        (&first["actions"][0]["id"], &first["meta"]["total"]),
        (&203.into(), &203.into())
    );
    let second = api.get("/v2/actions?per_page=200&page=2").await.ok(200);
    let ids: Vec<&serde_json::Value> = second["actions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| &a["id"])
        .collect();
    assert_eq!(json!(ids), json!([3, 2, 1]));

    let other = api.other_team().await;
    assert_eq!(other.get("/v2/actions").await.ok(200)["meta"]["total"], 0);
    other.get("/v2/actions/1").await.refused(404, "not_found");
    api.get("/v2/actions/nonsense").await.refused(404, "not_found");
    api.narrowed("image:read")
        .await
        .get("/v2/actions")
        .await
        .refused(403, "forbidden");
}
