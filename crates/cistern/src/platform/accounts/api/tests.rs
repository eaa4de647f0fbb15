//! Tokens, members, users and OAuth through the router.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::platform::accounts::service::{member_add, user_create};
use crate::platform::accounts::{Role, Scopes};
use crate::platform::events::Who;
use crate::testing::api::Tester;

/// A further user of the first team with a token.
async fn member(owner: &Tester, email: &str, role: Role) -> (Tester, i64) {
    let user = user_create(&owner.app, &Who::default(), email, 1, role, false)
        .await
        .expect("a new user");
    (owner.with_token(1, user.id, Scopes::all()).await, user.id)
}

/// Makes a token through the API: a tester that uses it, and the answer.
async fn token(by: &Tester, body: Value) -> (Tester, Value) {
    let mut answer = by.post("/v2/tokens", body).await.ok(201);
    let token = answer["token"].take();
    let text = token["access_token"]
        .as_str()
        .expect("the text is shown")
        .to_owned();
    (by.with_text(&text), token)
}

#[tokio::test]
async fn a_tokens_text_is_shown_once_and_revoking_ends_it() {
    let owner = Tester::new().await;
    let (made, view) = token(
        &owner,
        json!({ "name": "ci", "scopes": ["token:read", "image:*"] }),
    )
    .await;
    let text = made.text().to_owned();
    assert!(text.starts_with("dop_v1_") && text.len() == 71, "{text}");
    let list = owner.get("/v2/tokens").await.ok(200);
    assert_eq!(list["meta"]["total"], 2);
    assert_eq!(list["tokens"][0]["name"], "ci");
    assert_eq!(list["tokens"][0]["scopes"], json!(["token:read", "image:*"]));
    assert!(
        !list.to_string().contains(&text),
        "only the first answer shows it"
    );
    let path = format!("/v2/tokens/{}", view["id"]);
    made.get(&path).await.ok(200);
    owner.delete(&path).await.ok(204);
    made.get(&path).await.refused(401, "unauthorized");
    owner.get(&path).await.refused(404, "not_found");
    owner.delete(&path).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_token_never_grants_more_than_its_maker_may_now() {
    let owner = Tester::new().await;
    let (maker, _) = token(
        &owner,
        json!({ "name": "maker", "scopes": ["token:*", "tag:read"] }),
    )
    .await;
    for more in [
        json!(["tag:*"]),
        json!(["*:*"]),
        json!(["tag:read", "image:read"]),
    ] {
        maker
            .post("/v2/tokens", json!({ "name": "more", "scopes": more }))
            .await
            .refused(422, "unprocessable_entity");
    }
    let (same, view) = token(&maker, json!({ "name": "same" })).await;
    assert_eq!(
        view["scopes"],
        json!(["token:*", "tag:read"]),
        "no scopes means the maker's"
    );
    same.get("/v2/tags").await.ok(200);
    same.post("/v2/tags", json!({ "name": "x" }))
        .await
        .refused(403, "forbidden");
    let (unable, _) = token(&owner, json!({ "name": "unable", "scopes": ["tag:read"] })).await;
    unable
        .post("/v2/tokens", json!({ "name": "x" }))
        .await
        .refused(403, "forbidden");
    for bad in [
        json!([]),
        json!(["images:read"]),
        json!(["tag:read", "image:write"]),
        json!("upload:create"),
        json!("tag"),
        json!(7),
    ] {
        owner
            .post("/v2/tokens", json!({ "name": "x", "scopes": bad }))
            .await
            .refused(422, "unprocessable_entity");
    }
}

#[tokio::test]
async fn a_token_ends_in_time_and_so_does_what_it_made() {
    let owner = Tester::new().await;
    let (short, view) = token(&owner, json!({ "name": "short", "expiry_seconds": 60 })).await;
    let (child, of_child) = token(&short, json!({ "name": "child", "expiry_seconds": 3600 })).await;
    let (unbounded, of_unbounded) = token(&short, json!({ "name": "unbounded" })).await;
    assert_eq!(of_child["expires_at"], view["expires_at"]);
    assert_eq!(of_unbounded["expires_at"], view["expires_at"]);
    for bad in [0, -1, i64::MAX] {
        let body = json!({ "name": "x", "expiry_seconds": bad });
        owner
            .post("/v2/tokens", body)
            .await
            .refused(422, "unprocessable_entity");
    }
    owner.app.clock.advance(TimeDelta::seconds(60));
    for over in [short, child, unbounded] {
        over.get("/v2/tokens").await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn members_manage_their_own_tokens_and_owners_all() {
    let owner = Tester::new().await;
    let (viewer, viewer_id) = member(&owner, "v@example.com", Role::Viewer).await;
    let (own, view) = token(&viewer, json!({ "name": "mine" })).await;
    own.post("/v2/tags", json!({ "name": "x" }))
        .await
        .refused(403, "forbidden");
    let seen = viewer.get("/v2/tokens").await.ok(200);
    assert_eq!(seen["meta"]["total"], 2, "only their own");
    assert!(
        seen["tokens"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|t| t["user_id"] == viewer_id)
    );
    viewer.delete("/v2/tokens/1").await.refused(404, "not_found");
    viewer.get("/v2/tokens/1").await.refused(404, "not_found");
    assert_eq!(
        owner.get("/v2/tokens").await.ok(200)["meta"]["total"],
        3,
        "the whole team's"
    );
    let other = owner.other_team().await;
    let path = format!("/v2/tokens/{}", view["id"]);
    other.delete(&path).await.refused(404, "not_found");
    owner.delete(&path).await.ok(204);
    own.get("/v2/tokens").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn demoting_removing_and_disabling_work_at_once() {
    let owner = Tester::new().await;
    let (second, id) = member(&owner, "o2@example.com", Role::Owner).await;
    let path = format!("/v2/members/{id}");
    second.put(&path, json!({ "role": "owner" })).await.ok(200);
    second.post("/v2/tags", json!({ "name": "a" })).await.ok(201);

    owner.put(&path, json!({ "role": "viewer" })).await.ok(200);
    second
        .put(&path, json!({ "role": "owner" }))
        .await
        .refused(403, "forbidden");
    second
        .post("/v2/tags", json!({ "name": "b" }))
        .await
        .refused(403, "forbidden");
    second.get("/v2/tags").await.ok(200);

    let user = format!("/v2/users/{id}");
    owner.put(&user, json!({ "is_disabled": true })).await.ok(200);
    second.get("/v2/tags").await.refused(401, "unauthorized");
    owner.put(&user, json!({ "is_disabled": false })).await.ok(200);
    second.get("/v2/tags").await.ok(200);

    owner.delete(&path).await.ok(204);
    second.get("/v2/tags").await.refused(401, "unauthorized");
    member_add(&owner.app, &Who::default(), 1, id, Role::Viewer)
        .await
        .expect("comes back");
    second.get("/v2/tags").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn the_last_owner_and_the_last_operator_stay() {
    let owner = Tester::new().await;
    let (other, id) = member(&owner, "m@example.com", Role::Member).await;
    owner
        .put("/v2/members/1", json!({ "role": "member" }))
        .await
        .refused(409, "conflict");
    owner.delete("/v2/members/1").await.refused(409, "conflict");
    owner
        .put("/v2/users/1", json!({ "is_operator": false }))
        .await
        .refused(409, "conflict");
    owner
        .put("/v2/users/1", json!({ "is_disabled": true }))
        .await
        .refused(409, "conflict");
    other
        .put(&format!("/v2/members/{id}"), json!({ "role": "owner" }))
        .await
        .refused(403, "forbidden");

    owner
        .put(&format!("/v2/members/{id}"), json!({ "role": "owner" }))
        .await
        .ok(200);
    owner
        .put(&format!("/v2/users/{id}"), json!({ "is_disabled": true }))
        .await
        .ok(200);
    owner.delete("/v2/members/1").await.refused(409, "conflict");
    owner
        .put(
            &format!("/v2/users/{id}"),
            json!({ "is_disabled": false, "is_operator": true }),
        )
        .await
        .ok(200);
    owner.delete("/v2/members/1").await.ok(204);
}

#[tokio::test]
async fn users_and_teams_are_the_operators() {
    let operator = Tester::new().await;
    let other = operator.other_team().await;
    for path in [
        "/v2/users",
        "/v2/users/1",
        "/v2/teams",
        "/v2/teams/1/members",
        "/v2/jobs",
        "/v2/events?all=true",
    ] {
        other.get(path).await.refused(403, "forbidden");
        operator.get(path).await.ok(200);
    }
    other
        .post("/v2/teams", json!({ "name": "x" }))
        .await
        .refused(403, "forbidden");
    let theirs = user_create(
        &operator.app,
        &Who::default(),
        "t@example.com",
        1,
        Role::Owner,
        false,
    )
    .await
    .expect("a new user");
    other
        .put(&format!("/v2/members/{}", theirs.id), json!({ "role": "viewer" }))
        .await
        .refused(404, "not_found");

    let team = operator.post("/v2/teams", json!({ "name": "Web" })).await.ok(201)["team"].take();
    operator
        .post("/v2/teams", json!({ "name": "Web" }))
        .await
        .refused(409, "conflict");
    let new = json!({ "email": "Ann@Example.com", "name": "Ann", "team_id": team["id"], "role": "owner" });
    let user = operator.post("/v2/users", new.clone()).await.ok(201)["user"].take();
    assert_eq!(
        (&user["email"], &user["name"]),
        (&json!("ann@example.com"), &json!("Ann"))
    );
    operator.post("/v2/users", new).await.refused(409, "conflict");
    let members = operator
        .get(&format!("/v2/teams/{}/members", team["id"]))
        .await
        .ok(200);
    let of = |member: usize| {
        (
            members["members"][member]["user_id"].clone(),
            members["members"][member]["role"].clone(),
        )
    };
    assert_eq!(of(0), (json!(1), json!("owner")), "who makes a team owns it");
    assert_eq!(of(1), (user["id"].clone(), json!("owner")));
    operator
        .post(
            &format!("/v2/teams/{}/members", team["id"]),
            json!({ "user_id": user["id"], "role": "viewer" }),
        )
        .await
        .refused(409, "conflict");
    operator
        .put(&format!("/v2/teams/{}", team["id"]), json!({ "name": "Sites" }))
        .await
        .ok(200);

    let path = format!("/v2/users/{}/sign_in_link", user["id"]);
    let link = operator.post(&path, json!({})).await.ok(201);
    assert!(
        link["url"]
            .as_str()
            .expect("a link")
            .starts_with("http://cistern.test/sign-in/")
    );
    let narrow = operator.narrowed("user:*").await;
    narrow.post(&path, json!({})).await.refused(403, "forbidden");
}

#[tokio::test]
async fn oauth_is_as_doctl_wants_it() {
    let owner = Tester::new().await;
    let info = owner.get("/v1/oauth/token/info").await.ok(200);
    assert_eq!(info["resource_owner_id"], 1);
    assert_eq!(info["scopes"], json!(["*:*"]));
    assert_eq!(info["expires_in_seconds"], Value::Null);
    assert!(
        info["created_at"].is_i64() && info["application"].is_object(),
        "{info}"
    );

    // A token that may do nothing else may still end itself.
    let (narrow, _) = token(
        &owner,
        json!({ "name": "docker", "scopes": ["registry:read"], "expiry_seconds": 100 }),
    )
    .await;
    let left = narrow.get("/v1/oauth/token/info").await.ok(200)["expires_in_seconds"].take();
    assert!(
        (1..=100).contains(&left.as_i64().expect("whole seconds")),
        "{left}"
    );
    let form = format!("token={}", narrow.text());
    owner
        .send_form("/v1/oauth/revoke", &form)
        .await
        .refused(403, "forbidden");
    narrow.get("/v1/oauth/token/info").await.ok(200);
    narrow.send_form("/v1/oauth/revoke", &form).await.ok(200);
    narrow
        .get("/v1/oauth/token/info")
        .await
        .refused(401, "unauthorized");
    narrow.send_form("/v1/oauth/revoke", &form).await.ok(200);

    let unknown = format!("dop_v1_{}", "0".repeat(64));
    let stranger = owner.with_text(&unknown);
    stranger
        .send_form("/v1/oauth/revoke", &format!("token={unknown}"))
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn events_tell_who_did_what_and_who_was_refused_and_no_secret() {
    let owner = Tester::new().await;
    let (made, view) = token(
        &owner,
        json!({ "name": "soon gone", "scopes": ["tag:read", "event:read"] }),
    )
    .await;
    made.post("/v2/tags", json!({ "name": "x" }))
        .await
        .refused(403, "forbidden");
    owner.delete(&format!("/v2/tokens/{}", view["id"])).await.ok(204);
    made.get("/v2/tags").await.refused(401, "unauthorized");

    let all = owner.get("/v2/events?per_page=200").await.ok(200);
    let events = all["events"].as_array().expect("a list");
    let find = |what: &str| {
        events
            .iter()
            .find(|e| e["what"] == what)
            .unwrap_or_else(|| panic!("{what} in {all}"))
    };
    let refused = find("request.refuse");
    assert_eq!(refused["token_id"], view["id"]);
    assert_eq!(
        refused["detail"],
        json!({ "method": "POST", "route": "/v2/tags", "status": 403,
            "reason": "You do not have permission to perform this action. The token lacks the scope tag:create; use one \
                that has it." })
    );
    assert_eq!(find("token.use")["detail"]["reason"], "revoked");
    let revoked = find("token.revoke");
    assert_eq!(
        (&revoked["user"], &revoked["outcome"]),
        (&json!("owner@localhost"), &json!("ok"))
    );
    assert_eq!(revoked["address"], "127.0.0.1");
    let text = all.to_string();
    for secret in [owner.text(), made.text()] {
        assert!(
            !text.contains(secret) && !text.contains(&secret[7..]),
            "a secret in {text}"
        );
    }

    let refusals = owner.get("/v2/events?outcome=refused").await.ok(200);
    assert_eq!(refusals["events"].as_array().expect("a list").len(), 2);
    let tokens = owner.get("/v2/events?what=token").await.ok(200);
    assert!(
        tokens["events"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|e| { e["what"].as_str().is_some_and(|w| w.starts_with("token.")) })
    );
    let other = owner.other_team().await;
    let seen = other.get("/v2/events?per_page=200").await.ok(200);
    let own = |e: &Value| e["team_id"] == 2;
    assert!(
        seen["events"].as_array().expect("a list").iter().all(own),
        "{seen}"
    );
}

#[tokio::test]
async fn events_are_paged_by_id_without_gaps() {
    let owner = Tester::new().await;
    for n in 0..7 {
        owner
            .post("/v2/tokens", json!({ "name": format!("t{n}") }))
            .await
            .ok(201);
    }
    let mut path = "/v2/events?what=token.create&per_page=3".to_owned();
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let page = owner.get(&path).await.ok(200);
        ids.extend(
            page["events"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|e| e["id"].as_i64()),
        );
        let Some(next) = page["links"]["pages"]["next"].as_str() else {
            break;
        };
        path = next
            .strip_prefix("http://cistern.test")
            .expect("absolute")
            .to_owned();
    }
    assert_eq!(ids.len(), 8);
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let after = owner
        .get(&format!("/v2/events?what=token.create&after={}", ids[2]))
        .await
        .ok(200);
    let after: Vec<i64> = after["events"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|e| e["id"].as_i64())
        .collect();
    assert_eq!(after, [ids[1], ids[0]]);
    for bad in [
        "outcome=bad",
        "per_page=201",
        "per_page=0",
        "before=1&after=1",
        "since=yesterday",
        "wat=x",
    ] {
        owner
            .get(&format!("/v2/events?{bad}"))
            .await
            .refused(422, "unprocessable_entity");
    }
}
