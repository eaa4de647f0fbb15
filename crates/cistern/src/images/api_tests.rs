//! `/v2/images` over the router; every answer is also held against DigitalOcean's schema.

use serde_json::{Value, json};

use crate::testing::api::Tester;

fn body(name: &str) -> Value {
    json!({
        "name": name, "url": "https://u:s3cret@host.example/disk.qcow2?sig=s3cret", "region": "nyc3",
        "distribution": "Ubuntu", "description": "for tests", "tags": ["prod", "base-image"],
    })
}

async fn created(api: &Tester, name: &str) -> (i64, Value) {
    let mut answer = api.post("/v2/images", body(name)).await.ok(202);
    let image = answer["image"].take();
    (image["id"].as_i64().expect("an integer id"), image)
}

#[tokio::test]
async fn a_new_image_is_as_clients_expect_it() {
    let api = Tester::new().await;
    let (id, image) = created(&api, "web").await;
    for (key, expected) in [
        ("status", json!("NEW")),
        ("type", json!("custom")),
        ("public", json!(false)),
        ("regions", json!([])),
        ("slug", json!(null)),
        ("distribution", json!("Ubuntu")),
        ("description", json!("for tests")),
        ("tags", json!(["prod", "base-image"])),
        ("error_message", json!("")),
        ("source", json!("https://host.example/disk.qcow2?redacted")),
    ] {
        assert_eq!(image[key], expected, "{key}");
    }
    let shown = api.get(&format!("/v2/images/{id}")).await.ok(200);
    assert_eq!(shown["image"], image);
    let actions = api.get(&format!("/v2/images/{id}/actions")).await.ok(200);
    let action = &actions["actions"][0];
    assert_eq!(
        (&action["type"], &action["resource_id"]),
        (&json!("create"), &json!(id))
    );
    let path = format!("/v2/images/{id}/actions/{}", action["id"]);
    assert_eq!(api.get(&path).await.ok(200)["action"]["region_slug"], "nyc3");
    assert!(!actions.to_string().contains("s3cret"));
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let api = Tester::new().await;
    for number in 0..3 {
        created(&api, &format!("n{number}")).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let images = list["images"].as_array().expect("a list");
        images
            .iter()
            .map(|i| i["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let page = api.get("/v2/images?private=true&per_page=2").await.ok(200);
    assert_eq!(names(&page), ["n2", "n1"]);
    assert_eq!(page["meta"]["total"], 3);
    assert!(
        page["links"]["pages"]["last"]
            .as_str()
            .expect("a link")
            .contains("page=2")
    );
    assert_eq!(
        names(&api.get("/v2/images?private=true&per_page=2&page=2").await.ok(200)),
        ["n0"]
    );
    assert_eq!(names(&api.get("/v2/images?tag_name=PROD").await.ok(200)).len(), 3);
    assert_eq!(
        api.get("/v2/images?tag_name=none").await.ok(200)["meta"]["total"],
        0
    );
    for public in ["/v2/images?type=application", "/v2/images?type=distribution"] {
        assert_eq!(api.get(public).await.ok(200)["meta"]["total"], 0, "{public}");
    }
    api.get("/v2/images?type=other")
        .await
        .refused(422, "unprocessable_entity");
    let tag = api.get("/v2/tags/prod").await.ok(200);
    assert_eq!(tag["tag"]["resources"]["images"]["count"], 3);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_sentence() {
    let api = Tester::new().await;
    for (key, value, word) in [
        ("name", json!(" "), "name"),
        ("url", json!("not an address"), "url"),
        ("url", json!(null), "url"),
        ("url", json!("ftp://host/a.img"), "http"),
        ("url", json!("http://169.254.169.254/x"), "does not fetch"),
        ("region", json!("mars1"), "region"),
        ("region", json!(""), "region"),
        ("tags", json!(["no spaces"]), "tag"),
        ("expected_sha256", json!("abc"), "SHA-256"),
        ("upload", json!("00000000-0000-4000-8000-000000000000"), "both"),
    ] {
        let mut body = body("web");
        body[key] = value;
        let message = api
            .send_unchecked("POST", "/v2/images", Some(body))
            .await
            .refused(422, "unprocessable_entity");
        assert!(
            message.to_lowercase().contains(&word.to_lowercase()),
            "{key}: {message}"
        );
        assert!(!message.contains("s3cret"), "{message}");
    }
    assert_eq!(
        api.get("/v2/images?private=true").await.ok(200)["meta"]["total"],
        0
    );
}

#[tokio::test]
async fn an_image_is_changed_protected_deleted_and_gone_for_others() {
    let api = Tester::new().await;
    let (id, _) = created(&api, "web").await;
    let path = format!("/v2/images/{id}");
    let change = json!({ "name": "new", "distribution": "Alpine", "description": "", "protected": true });
    let image = api.send("PUT", &path, Some(change)).await.ok(200);
    assert_eq!(image["image"]["name"], "new");
    assert_eq!(image["image"]["distribution"], "Unknown");
    assert_eq!(image["image"]["description"], "");
    let message = api.delete(&path).await.refused(422, "unprocessable_entity");
    assert!(message.contains("protected"), "{message}");
    let other = api.other_team().await;
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}/actions")),
    ] {
        other.send(method, &path, None).await.refused(404, "not_found");
    }
    api.send("PUT", &path, Some(json!({ "protected": false })))
        .await
        .ok(200);
    api.delete(&path).await.ok(204);
    // Terraform and Packer take the tombstone for "gone", and this text for "gone before".
    assert_eq!(api.get(&path).await.ok(200)["image"]["status"], "deleted");
    let again = api.delete(&path).await.refused(422, "unprocessable_entity");
    assert_eq!(again, "Image Can not delete an already deleted image.");
    for missing in ["/v2/images/999", "/v2/images/no-such-slug"] {
        api.get(missing).await.refused(404, "not_found");
    }
    api.delete("/v2/images/abc").await.refused(404, "not_found");
}

#[tokio::test]
async fn an_action_that_cannot_be_done_says_why() {
    let api = Tester::new().await;
    let (id, _) = created(&api, "web").await;
    let path = format!("/v2/images/{id}/actions");
    for (body, word) in [
        (
            json!({ "type": "transfer", "region": "ams3" }),
            "still being imported",
        ),
        (
            json!({ "type": "transfer", "region": "mars1" }),
            "`mars1` is not a region",
        ),
        (json!({ "type": "transfer", "region": "" }), "`region` is missing"),
        (json!({ "type": "transfer" }), "`region` is missing"),
        (json!({ "type": "convert" }), "Only a backup"),
        (json!({ "type": "dance", "region": "ams3" }), "`type`"),
        (json!({}), "`type`"),
    ] {
        let answer = api.send_unchecked("POST", &path, Some(body.clone())).await;
        let message = answer.refused(422, "unprocessable_entity");
        assert!(message.contains(word), "{body}: {message}");
    }
    assert_eq!(
        api.get(&path).await.ok(200)["meta"]["total"],
        1,
        "only its import"
    );

    let transfer = json!({ "type": "transfer", "region": "ams3" });
    let other = api.other_team().await;
    for (api, path) in [(&other, path.as_str()), (&api, "/v2/images/999/actions")] {
        api.post(path, transfer.clone()).await.refused(404, "not_found");
    }
    api.delete(&format!("/v2/images/{id}")).await.ok(204);
    api.post(&path, transfer).await.refused(404, "not_found");
}
