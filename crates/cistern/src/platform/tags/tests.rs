//! `/v2/tags` on a real router. Databases with ids such as `1-a` are planted as existing in team 1.

use serde_json::{Value, json};

use super::{rows, service};
use crate::testing::api::Tester;

fn database(id: &str) -> Value {
    json!({ "resource_id": id, "resource_type": "database" })
}

async fn tag(api: &Tester, name: &str) -> Value {
    api.get(&format!("/v2/tags/{name}")).await.ok(200)["tag"].take()
}

#[tokio::test]
async fn a_tag_keeps_its_capitals_and_can_be_made_again() {
    let api = Tester::new().await;
    let made = api.post("/v2/tags", json!({ "name": "PROD" })).await.ok(201);
    let none = json!({ "count": 0 });
    let resources = json!({
        "count": 0, "droplets": none, "images": none, "volumes": none, "volume_snapshots": none, "databases": none
    });
    assert_eq!(made["tag"], json!({ "name": "PROD", "resources": resources }));
    let again = api.post("/v2/tags", json!({ "name": "prod" })).await.ok(201);
    assert_eq!(again["tag"]["name"], "PROD");
    assert_eq!(tag(&api, "PROD").await["name"], "PROD");
    api.get("/v2/tags/prod").await.refused(404, "not_found");
    assert_eq!(api.get("/v2/tags").await.ok(200)["meta"]["total"], 1);
    assert_eq!(api.delete("/v2/tags/PROD").await.status, 204);
    api.delete("/v2/tags/PROD").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_bad_name_has_the_body_of_its_own() {
    let api = Tester::new().await;
    let bad = api.post("/v2/tags", json!({ "name": "a b" })).await.ok(400);
    assert_eq!(bad["root_causes"][0], bad["error"]);
    assert!(
        bad["message"].as_str().expect("a message").contains("`a b`"),
        "{bad}"
    );
    api.post("/v2/tags", json!({}))
        .await
        .refused(422, "unprocessable_entity");
}

#[tokio::test]
async fn things_are_tagged_counted_and_untagged() {
    let api = Tester::new().await;
    api.post("/v2/tags", json!({ "name": "a" })).await.ok(201);
    let path = "/v2/tags/a/resources";
    let both = json!({ "resources": [database("1-x"), database("1-y")] });
    for _ in 0..2 {
        assert_eq!(api.post(path, both.clone()).await.status, 204);
    }
    let resources = &tag(&api, "a").await["resources"];
    let last = "http://cistern.test/v2/databases/1-y";
    assert_eq!(
        resources["databases"],
        json!({ "count": 2, "last_tagged_uri": last })
    );
    assert_eq!(
        (&resources["count"], &resources["last_tagged_uri"]),
        (&2.into(), &last.into())
    );

    let one = json!({ "resources": [database("1-y")] });
    for _ in 0..2 {
        assert_eq!(api.send("DELETE", path, Some(one.clone())).await.status, 204);
    }
    let resources = &tag(&api, "a").await["resources"];
    let last = "http://cistern.test/v2/databases/1-x";
    assert_eq!(
        resources["databases"],
        json!({ "count": 1, "last_tagged_uri": last })
    );

    assert_eq!(api.delete("/v2/tags/a").await.status, 204);
    assert_eq!(rows::link_count(api.app.db.conn()).await.expect("counts"), 0);
}

#[tokio::test]
async fn only_what_is_the_teams_is_tagged_all_or_none() {
    let api = Tester::new().await;
    api.post("/v2/tags", json!({ "name": "a" })).await.ok(201);
    let path = "/v2/tags/a/resources";
    for foreign in [
        database("2-x"),
        json!({ "resource_id": 7, "resource_type": "droplet" }),
    ] {
        let mixed = json!({ "resources": [database("1-x"), foreign] });
        api.post(path, mixed).await.refused(404, "not_found");
    }
    assert_eq!(tag(&api, "a").await["resources"]["count"], 0);
    let unknown = json!({ "resources": [{ "resource_id": "1", "resource_type": "vpc" }] });
    api.post(path, unknown).await.refused(422, "unprocessable_entity");
    let known = json!({ "resources": [database("1-x")] });
    api.post("/v2/tags/b/resources", known.clone())
        .await
        .refused(404, "not_found");

    let other = api.other_team().await;
    for answer in [
        other.get("/v2/tags/a").await,
        other.delete("/v2/tags/a").await,
        other.post(path, known).await,
    ] {
        answer.refused(404, "not_found");
    }
    assert_eq!(other.get("/v2/tags").await.ok(200)["meta"]["total"], 0);
}

#[tokio::test]
async fn what_may_not_be_read_is_not_counted() {
    let api = Tester::new().await;
    let known = json!({ "resources": [database("1-x")] });
    api.post("/v2/tags", json!({ "name": "a" })).await.ok(201);
    let tagger = api.narrowed("tag:*").await;
    let said = tagger
        .post("/v2/tags/a/resources", known.clone())
        .await
        .refused(403, "forbidden");
    assert!(said.contains("lacks the scope database:update;"), "{said}");
    let tagger = api.narrowed("tag:*,database:update").await;
    assert_eq!(tagger.post("/v2/tags/a/resources", known).await.status, 204);
    assert_eq!(tag(&tagger, "a").await["resources"]["count"], 0);
    assert_eq!(tag(&api, "a").await["resources"]["count"], 1);
    let reader = api.narrowed("tag:read,database:*").await;
    reader
        .post("/v2/tags", json!({ "name": "b" }))
        .await
        .refused(403, "forbidden");
    reader.delete("/v2/tags/a").await.refused(403, "forbidden");
}

#[tokio::test]
async fn setting_the_tags_of_a_thing_makes_them_exactly_these() {
    let api = Tester::new().await;
    let set = async |names: &[&str], id: &str| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let tx = api.app.db.write().await.expect("opens");
        let now = api.app.clock.now();
        service::tags_set_in_tx(&*tx, now, 1, &names, "image", id)
            .await
            .expect("sets");
        tx.commit().await.expect("commits");
    };
    let of = async |id: &str| {
        let ids = [id.to_owned()];
        let mut tags = service::tags_of(api.app.db.conn(), 1, "image", &ids)
            .await
            .expect("reads");
        tags.remove(id).unwrap_or_default()
    };
    set(&["Web", "a", "web"], "7").await;
    set(&["A"], "8").await;
    assert_eq!(
        (of("7").await, of("8").await),
        (vec!["Web".to_owned(), "a".into()], vec!["a".to_owned()])
    );
    assert_eq!(tag(&api, "a").await["resources"]["images"]["count"], 2);
    set(&["b", "a"], "7").await;
    assert_eq!(of("7").await, ["a", "b"]);
    assert_eq!(tag(&api, "Web").await["resources"]["count"], 0);
    set(&[], "7").await;
    assert!(of("7").await.is_empty());
    let images = tag(&api, "a").await["resources"]["images"].take();
    assert_eq!(
        images,
        json!({ "count": 1, "last_tagged_uri": "http://cistern.test/v2/images/8" })
    );
    let other_team = service::tags_of(api.app.db.conn(), 2, "image", &["8".into()])
        .await
        .expect("reads");
    assert!(other_team.is_empty());
}

#[tokio::test]
async fn pages_hold_beyond_two_hundred() {
    let api = Tester::new().await;
    let tx = api.app.db.write().await.expect("opens");
    for n in 0..401 {
        let now = api.app.clock.now();
        rows::tag_upsert(&*tx, now, 1, &format!("t{n}"))
            .await
            .expect("inserts");
    }
    tx.commit().await.expect("commits");
    let last = api.get("/v2/tags?page=3&per_page=200").await.ok(200);
    assert_eq!(
        (&last["tags"][0]["name"], last["tags"].as_array().map(Vec::len)),
        (&"t400".into(), Some(1))
    );
    assert_eq!(last["meta"]["total"], 401);
}
