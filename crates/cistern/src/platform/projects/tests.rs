//! `/v2/projects` on a real router. Domains and vpcs with ids such as `1-a` are planted as existing in team 1.

use serde_json::{Value, json};

use super::service;
use crate::testing::api::Tester;

fn new(name: &str) -> Value {
    json!({ "name": name, "purpose": "Web Application", "environment": "production" })
}

async fn make(api: &Tester, name: &str) -> String {
    let made = api.post("/v2/projects", new(name)).await.ok(201);
    made["project"]["id"].as_str().expect("an id").to_owned()
}

/// The names of the projects, the default one with a star.
async fn names(api: &Tester) -> Vec<String> {
    let list = api.get("/v2/projects").await.ok(200);
    let star = |p: &Value| if p["is_default"] == true { "*" } else { "" };
    let text = |p: &Value| format!("{}{}", p["name"].as_str().expect("a name"), star(p));
    list["projects"]
        .as_array()
        .expect("a list")
        .iter()
        .map(text)
        .collect()
}

#[tokio::test]
async fn a_team_always_has_exactly_one_default_project() {
    let api = Tester::new().await;
    assert_eq!(names(&api).await, ["Default*"]);
    let default = api.get("/v2/projects/default").await.ok(200)["project"].take();
    assert_eq!(default["purpose"], "Just trying out DigitalOcean");
    let id = make(&api, "web").await;
    let patched = api
        .send(
            "PATCH",
            &format!("/v2/projects/{id}"),
            Some(json!({ "is_default": true })),
        )
        .await;
    assert_eq!(patched.ok(200)["project"]["is_default"], true);
    assert_eq!(names(&api).await, ["Default", "web*"]);
    assert_eq!(api.get("/v2/projects/default").await.ok(200)["project"]["id"], id);
    let unset = api
        .send(
            "PATCH",
            "/v2/projects/default",
            Some(json!({ "is_default": false })),
        )
        .await;
    unset.refused(422, "unprocessable_entity");
    api.delete(&format!("/v2/projects/{id}"))
        .await
        .refused(412, "precondition_failed");

    let mut second = new("second");
    second["is_default"] = true.into();
    api.post("/v2/projects", second).await.ok(201);
    assert_eq!(names(&api).await, ["Default", "web", "second*"]);
    let other = api.other_team().await;
    assert_eq!(names(&other).await, ["Default*"]);
}

#[tokio::test]
async fn a_project_is_made_changed_and_deleted() {
    let api = Tester::new().await;
    let id = make(&api, "web").await;
    let path = format!("/v2/projects/{id}");
    let project = api.get(&path).await.ok(200)["project"].take();
    assert_eq!(
        (&project["environment"], &project["description"]),
        (&"Production".into(), &"".into())
    );
    api.post("/v2/projects", new("web"))
        .await
        .refused(409, "conflict");
    api.post("/v2/projects", new(""))
        .await
        .refused(422, "unprocessable_entity");
    api.post("/v2/projects", json!({ "name": "x" }))
        .await
        .refused(422, "unprocessable_entity");

    let change = json!({ "purpose": "mine", "environment": null, "description": "d" });
    let patched = api.send("PATCH", &path, Some(change)).await.ok(200)["project"].take();
    let fields = ["name", "purpose", "environment", "description"].map(|key| patched[key].clone());
    assert_eq!(json!(fields), json!(["web", "Other: mine", "Production", "d"]));
    let all = json!({ "name": "n", "description": "", "purpose": "IoT", "environment": "Staging", "is_default": false });
    let put = api.send("PUT", &path, Some(all)).await.ok(200)["project"].take();
    assert_eq!(json!([put["name"], put["environment"]]), json!(["n", "Staging"]));
    let part = api.send("PUT", &path, Some(json!({ "name": "n" }))).await;
    part.refused(422, "unprocessable_entity");
    let taken = api.send("PATCH", &path, Some(json!({ "name": "Default" }))).await;
    taken.refused(409, "conflict");

    let other = api.other_team().await;
    other.get(&path).await.refused(404, "not_found");
    other.delete(&path).await.refused(404, "not_found");
    other
        .send("PATCH", &path, Some(json!({ "name": "x" })))
        .await
        .refused(404, "not_found");
    assert_eq!(api.delete(&path).await.status, 204);
    api.get(&path).await.refused(404, "not_found");
    api.get("/v2/projects/nonsense").await.refused(404, "not_found");
}

#[tokio::test]
async fn resources_move_between_projects() {
    let api = Tester::new().await;
    let id = make(&api, "web").await;
    let path = format!("/v2/projects/{id}/resources");
    let urns = json!({ "resources": ["do:domain:1-a", "do:domain:2-a", "do:vpc:1-b", "do:droplet:3"] });
    let statuses = |answer: Value| -> Vec<String> {
        let list = answer["resources"].as_array().expect("a list").clone();
        list.iter()
            .map(|r| r["status"].as_str().expect("a status").to_owned())
            .collect()
    };
    let first = api.post(&path, urns.clone()).await.ok(200);
    assert_eq!(
        first["resources"][0]["links"]["self"],
        "http://cistern.test/v2/domains/1-a"
    );
    assert_eq!(
        statuses(first),
        ["assigned", "not_found", "assigned", "not_found"]
    );
    let again = api.post(&path, urns).await.ok(200);
    assert_eq!(
        statuses(again),
        ["already_assigned", "not_found", "already_assigned", "not_found"]
    );
    let listed = api.get(&path).await.ok(200);
    assert_eq!(
        (&listed["meta"]["total"], &listed["resources"][1]["urn"]),
        (&2.into(), &"do:vpc:1-b".into())
    );
    let narrow = api.narrowed("project:read,vpc:read").await;
    assert_eq!(narrow.get(&path).await.ok(200)["meta"]["total"], 1);

    let refused = api
        .delete(&format!("/v2/projects/{id}"))
        .await
        .refused(412, "precondition_failed");
    assert!(refused.contains("resources"), "{refused}");
    let bad = api
        .post(&path, json!({ "resources": ["do:domain:1-a", "urn:x"] }))
        .await;
    bad.refused(422, "unprocessable_entity");
    let moved = json!({ "resources": ["do:domain:1-a", "do:vpc:1-b"] });
    api.post("/v2/projects/default/resources", moved).await.ok(200);
    assert_eq!(
        api.get("/v2/projects/default/resources").await.ok(200)["meta"]["total"],
        2
    );
    assert_eq!(api.delete(&format!("/v2/projects/{id}")).await.status, 204);
}

#[tokio::test]
async fn what_is_gone_leaves_its_project() {
    let api = Tester::new().await;
    let path = "/v2/projects/default/resources";
    let urns = json!({ "resources": ["do:domain:1-a"] });
    api.post(path, urns).await.ok(200);
    assert_eq!(api.get(path).await.ok(200)["meta"]["total"], 1);
    let tx = api.app.db.write().await.expect("opens");
    service::resource_forget_in_tx(&*tx, "domain", "1-a")
        .await
        .expect("forgets");
    tx.commit().await.expect("commits");
    assert_eq!(api.get(path).await.ok(200)["meta"]["total"], 0);
}

#[tokio::test]
async fn updating_grants_assigning_and_reading_neither() {
    let api = Tester::new().await;
    let path = "/v2/projects/default/resources";
    let urns = json!({ "resources": ["do:domain:1-a"] });
    let status = |answer: Value| answer["resources"][0]["status"].clone();
    let reader = api.narrowed("project:read,domain:read").await;
    reader.post(path, urns.clone()).await.refused(403, "forbidden");
    reader
        .post("/v2/projects", new("x"))
        .await
        .refused(403, "forbidden");
    let blind = api.narrowed("project:assign_resource").await;
    assert_eq!(status(blind.post(path, urns.clone()).await.ok(200)), "not_found");
    let updater = api.narrowed("project:update,domain:read").await;
    assert_eq!(status(updater.post(path, urns).await.ok(200)), "assigned");
}

#[tokio::test]
async fn two_first_requests_make_one_default_project() {
    let api = Tester::new().await;
    let (a, b) = tokio::join!(api.get("/v2/projects/default"), api.get("/v2/projects/default"));
    assert_eq!(a.ok(200)["project"]["id"], b.ok(200)["project"]["id"]);
}
