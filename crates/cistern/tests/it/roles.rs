//! Roles at the wire: who may do what, that a token never allows more than its user's present role, and what is known
//! of a token.

use serde_json::{Value, json};

use crate::auth::{ROUTES, call, made, scopes_of};
use crate::harness::Server;
use crate::harness::api::Api;
use crate::harness::process::run_ok;

/// Written down a second time, so that a change of the rules shows: who may do `scope`, of viewer, member, owner and
/// operator.
fn may(scope: &str) -> [bool; 4] {
    let (resource, verb) = scope.split_once(':').expect("resource:verb");
    match (resource, verb) {
        ("gc" | "job" | "limit" | "store" | "team" | "user", _) => [false, false, false, true],
        ("token", _) | (_, "read") => [true; 4],
        ("member", _) => [false, false, true, true],
        _ => [false, true, true, true],
    }
}

/// The same of an operation that needs all of these.
fn may_all(scopes: &str) -> [bool; 4] {
    let each = scopes_of(scopes).into_iter().map(|scope| may(&scope));
    each.fold([true; 4], |all, one| std::array::from_fn(|i| all[i] && one[i]))
}

/// What a refusal says that this role lacks for an operation of these scopes.
fn missing(role: &str, scopes: &str) -> String {
    match may_all(scopes) {
        [_, _, false, _] => "This is for operators".to_owned(),
        [_, false, ..] => format!("needs the role owner, and yours is {role};"),
        _ => format!("needs the role member, and yours is {role};"),
    }
}

/// A user of the first team, and a token of theirs.
async fn user(server: &Server, role: &str) -> (i64, Api) {
    let email = format!("{role}@example.com");
    run_ok(&mut server.local(&["user", "create", &email, "--role", role]));
    let members = server.api().get("/v2/members").await.expect(200);
    let mut members = members["members"].as_array().expect("a list").iter();
    let id = members.find(|m| m["email"] == email.as_str()).expect("is one")["user_id"]
        .as_i64()
        .expect("an id");
    (id, server.api_with(&["--user", &email]))
}

#[tokio::test]
async fn each_role_may_what_the_table_says_on_every_route() {
    let server = Server::start();
    let callers = [
        user(&server, "viewer").await.1,
        user(&server, "member").await.1,
        user(&server, "owner").await.1,
        server.api(),
    ];
    let mut refused = 0;
    for (method, path, scope) in ROUTES {
        if matches!(*scope, "-" | "*") {
            continue;
        }
        // Things that are not there: whoever may is told so, and nothing changes.
        let path: Vec<&str> = path
            .split('/')
            .map(|part| if part.starts_with('{') { "999999" } else { part })
            .collect();
        let path = path.join("/");
        for ((name, api), may) in ["viewer", "member", "owner", "operator"]
            .iter()
            .zip(&callers)
            .zip(may_all(scope))
        {
            let answer = call(api, method, &path).await;
            let status = answer.status.as_u16();
            assert_ne!(status, 401, "{name}: {method} {path}");
            assert_eq!(status != 403, may, "{name}: {method} {path} -> {status}");
            if !may && *method != "HEAD" {
                let said = answer.json["message"].as_str().expect("a sentence");
                assert!(
                    said.contains(&missing(name, scope)),
                    "{name}: {method} {path}: {said}"
                );
            }
            refused += u32::from(!may);
        }
    }
    assert!(refused > 50, "the roles differ: {refused}");
}

#[tokio::test]
async fn a_token_loses_at_once_what_its_user_loses() {
    let server = Server::start();
    let boss = server.api();
    let (id, owner) = user(&server, "owner").await;
    let narrow = made(
        &owner,
        json!({ "name": "n", "scopes": ["tag:create", "member:update"] }),
    )
    .await;
    let tokens = [owner.clone(), owner.with_token(&narrow.0)];
    let tag = json!({ "name": "x" });
    let member = format!("/v2/members/{id}");
    let nobody = "/v2/members/999999";
    let role = |role: &'static str| {
        let (boss, member) = (boss.clone(), member.clone());
        async move { boss.put(&member, &json!({ "role": role })).await.expect(200) }
    };
    let statuses = async || {
        let mut out = Vec::new();
        for token in &tokens {
            out.push(token.post("/v2/tags", &tag).await.status.as_u16());
            let body = json!({ "role": "viewer" });
            out.push(token.put(nobody, &body).await.status.as_u16());
        }
        out
    };
    assert_eq!(statuses().await, [201, 404, 201, 404]);
    role("member").await;
    assert_eq!(statuses().await, [201, 403, 201, 403]);
    role("viewer").await;
    assert_eq!(statuses().await, [403, 403, 403, 403]);
    owner.get("/v2/tags").await.expect(200);
    role("owner").await;
    assert_eq!(statuses().await, [201, 404, 201, 404]);
    boss.delete(&member).await.expect(204);
    assert_eq!(statuses().await, [401, 401, 401, 401]);
}

#[tokio::test]
async fn who_may_less_makes_no_token_that_may_more() {
    let server = Server::start();
    let narrow = made(
        &server.api(),
        json!({ "name": "n", "scopes": ["token:create", "tag:read"] }),
    )
    .await;
    let narrow = server.api().with_token(&narrow.0);
    let more = json!({ "name": "more", "scopes": ["image:read"] });
    assert_eq!(narrow.post("/v2/tokens", &more).await.status, 422);
    // Without scopes it is the same as the token that makes it.
    let same = made(&narrow, json!({ "name": "same" })).await;
    let same = narrow.with_token(&same.0);
    same.get("/v2/tags").await.expect(200);
    assert_eq!(same.get("/v2/images").await.status, 403);

    // What a viewer makes is a viewer's.
    let (_, viewer) = user(&server, "viewer").await;
    let made = made(
        &viewer,
        json!({ "name": "all", "scopes": ["tag:create", "tag:read"] }),
    )
    .await;
    let made = viewer.with_token(&made.0);
    made.get("/v2/tags").await.expect(200);
    let body = json!({ "name": "told", "scopes": ["tag:create", "tag:read"] });
    let told = viewer.post("/v2/tokens", &body).await.expect(201);
    let idle = "The scope tag:create opens nothing for now: its user is viewer, and this needs member.";
    assert_eq!(told["token"]["warnings"], json!([idle]), "{told:#}");
    assert_eq!(made.post("/v2/tags", &json!({ "name": "x" })).await.status, 403);
}

#[tokio::test]
async fn a_token_tells_when_it_was_used_and_ends_itself() {
    let server = Server::start();
    let api = server.api();
    let (text, id) = made(&api, json!({ "name": "t", "expiry_seconds": 3600 })).await;
    let shown = async || api.get(&format!("/v2/tokens/{id}")).await.expect(200)["token"].take();
    let before = shown().await;
    assert_eq!(before["last_used_at"], Value::Null);
    assert!(before.get("access_token").is_none(), "{before:#}");
    assert_eq!(before["hint"], text[text.len() - 4..], "{before:#}");
    let token = api.with_token(&text);
    let info = token.get("/v1/oauth/token/info").await.expect(200);
    let left = info["expires_in_seconds"].as_i64().expect("a number");
    assert!((1..=3600).contains(&left), "{info:#}");
    assert!(shown().await["last_used_at"].is_string());
    let revoke = token
        .request(reqwest::Method::POST, "/v1/oauth/revoke")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={text}"));
    assert!(revoke.send().await.expect("answers").status().is_success());
    assert_eq!(token.get("/v2/account").await.status, 401);
    assert_eq!(api.get(&format!("/v2/tokens/{id}")).await.status, 404);
}
