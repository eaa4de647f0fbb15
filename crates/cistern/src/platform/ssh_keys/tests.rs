//! `/v2/account/keys` and `/v2/account` on a real router.

use serde_json::json;

use super::known_tests::KEYS;
use crate::platform::events;
use crate::testing::api::Tester;

const PATH: &str = "/v2/account/keys";

#[tokio::test]
async fn a_key_lives_by_its_id_and_by_its_fingerprint() {
    let api = Tester::new().await;
    let (line, fingerprint) = KEYS[0];
    let made = api
        .post(
            PATH,
            json!({ "name": "laptop", "public_key": format!("{line}\n") }),
        )
        .await
        .ok(201);
    let key = &made["ssh_key"];
    assert_eq!(
        (&key["fingerprint"], &key["public_key"]),
        (&fingerprint.into(), &line.into())
    );
    let id = &key["id"];

    for which in [id.to_string(), fingerprint.to_owned(), fingerprint.to_uppercase()] {
        let found = api.get(&format!("{PATH}/{which}")).await.ok(200);
        assert_eq!(found["ssh_key"]["id"], *id);
    }
    let by_print = format!("{PATH}/{fingerprint}");
    let renamed = api
        .send("PUT", &by_print, Some(json!({ "name": "desk" })))
        .await
        .ok(200);
    assert_eq!(renamed["ssh_key"]["name"], "desk");
    let same = api.send("PUT", &by_print, Some(json!({}))).await.ok(200);
    assert_eq!(same["ssh_key"]["name"], "desk");
    api.send("PUT", &by_print, Some(json!({ "name": "" })))
        .await
        .refused(422, "unprocessable_entity");
    assert_eq!(api.delete(&format!("{PATH}/{id}")).await.status, 204);
    api.delete(&by_print).await.refused(404, "not_found");

    let filter = events::rows::Filter {
        team_id: Some(1),
        ..Default::default()
    };
    let seen = events::rows::event_list(api.app.db.conn(), &filter, 100)
        .await
        .expect("reads");
    let seen: Vec<&str> = seen
        .iter()
        .map(|e| e.what.as_str())
        .filter(|w| w.starts_with("ssh_key"))
        .collect();
    assert_eq!(seen, ["ssh_key.delete", "ssh_key.update", "ssh_key.create"]);
}

#[tokio::test]
async fn a_team_has_each_key_once_and_only_its_own() {
    let api = Tester::new().await;
    let new = json!({ "name": "laptop", "public_key": KEYS[0].0 });
    let id = api.post(PATH, new.clone()).await.ok(201)["ssh_key"]["id"].clone();
    let again = api
        .post(PATH, new.clone())
        .await
        .refused(422, "unprocessable_entity");
    assert_eq!(again, "SSH Key is already in use on your account");
    let bad = api
        .post(PATH, json!({ "name": "x", "public_key": "nonsense" }))
        .await;
    assert!(bad.refused(422, "unprocessable_entity").contains("OpenSSH"));
    api.post(PATH, json!({ "name": "x" }))
        .await
        .refused(422, "unprocessable_entity");

    let other = api.other_team().await;
    for path in [
        format!("{PATH}/{id}"),
        format!("{PATH}/{}", KEYS[0].1),
        format!("{PATH}/99"),
        format!("{PATH}/x"),
    ] {
        other.get(&path).await.refused(404, "not_found");
        other.delete(&path).await.refused(404, "not_found");
    }
    other.post(PATH, new).await.ok(201);
    assert_eq!(other.get(PATH).await.ok(200)["meta"]["total"], 1);
}

#[tokio::test]
async fn pages_hold_beyond_two_hundred() {
    let api = Tester::new().await;
    let tx = api.app.db.write().await.expect("opens");
    for n in 0..205 {
        let key = super::model::Key {
            line: format!("ssh-ed25519 {n}"),
            fingerprint: format!("{n}"),
        };
        let now = api.app.clock.now();
        super::rows::key_insert(&*tx, now, 1, "many", key)
            .await
            .expect("inserts");
    }
    tx.commit().await.expect("commits");
    let first = api.get("/v2/account/keys?page=1&per_page=200").await.ok(200);
    assert_eq!(
        (
            first["ssh_keys"].as_array().map(Vec::len),
            &first["meta"]["total"]
        ),
        (Some(200), &205.into())
    );
    let last = format!("http://cistern.test{PATH}?page=2&per_page=200");
    assert_eq!(first["links"]["pages"], json!({ "next": last, "last": last }));
    let second = api.get("/v2/account/keys?page=2&per_page=200").await.ok(200);
    assert_eq!(second["ssh_keys"].as_array().map(Vec::len), Some(5));
    let page = format!("http://cistern.test{PATH}?page=1&per_page=200");
    assert_eq!(second["links"]["pages"], json!({ "first": page, "prev": page }));
    api.get("/v2/account/keys?per_page=201")
        .await
        .refused(422, "unprocessable_entity");
}

#[tokio::test]
async fn scopes_are_kept() {
    let api = Tester::new().await;
    let reader = api.narrowed("ssh_key:read,account:read").await;
    reader.get(PATH).await.ok(200);
    let new = json!({ "name": "laptop", "public_key": KEYS[0].0 });
    reader.post(PATH, new).await.refused(403, "forbidden");
    reader
        .delete(&format!("{PATH}/1"))
        .await
        .refused(403, "forbidden");
    let account = reader.get("/v2/account").await.ok(200);
    assert_eq!(account["account"]["team"]["name"], "My Team");
    assert_eq!(account["account"]["status"], "active");
    let other = api.narrowed("image:read").await;
    other.get("/v2/account").await.refused(403, "forbidden");
    other.get(PATH).await.refused(403, "forbidden");
}
