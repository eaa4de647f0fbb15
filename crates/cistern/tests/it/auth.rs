//! Every door: each route with no, a wrong, an expired, a revoked and a narrow token, and with another team's.
//!
//! The table ([`ROUTES`], [`OUTSIDE`]) is written by hand on purpose: a route that is added without a row there fails
//! the suite, and so does a row whose scopes are not what the OpenAPI document says. The local socket's door is in
//! `src/images/local/tests.rs`.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::doors::OUTSIDE;
pub(crate) use crate::doors::ROUTES;
use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::run_ok;
use crate::harness::{Server, disks, until};

/// Routes of the installation: only operators may, so another team's owner is refused rather than told "not found".
const INSTALLATION: [&str; 5] = ["/v2/store", "/v2/jobs", "/v2/users", "/v2/teams", "/v2/gc"];

#[tokio::test]
async fn the_table_is_the_document() {
    let server = Server::start();
    let document = server.api().get("/v2/openapi.json").await.expect(200);
    let mut documented = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let scopes = operation["security"][0]["token"].as_array();
            let scopes = scopes.map(|list| {
                list.iter()
                    .map(|s| s.as_str().expect("text").to_owned())
                    .collect()
            });
            documented.insert((method.to_uppercase(), path.clone()), scopes);
        }
    }
    let listed: BTreeSet<_> = ROUTES
        .iter()
        .map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned()))
        .collect();
    let missing: Vec<_> = documented.keys().filter(|key| !listed.contains(*key)).collect();
    assert!(
        missing.is_empty(),
        "routes without a row in this table: {missing:?}"
    );
    for (method, path, scope) in ROUTES {
        let found = documented.get(&((*method).to_owned(), (*path).to_owned()));
        let found = found.unwrap_or_else(|| panic!("{method} {path} is in the table, not in the document"));
        let wanted = (*scope != "-").then(|| scopes_of(scope));
        assert_eq!(*found, wanted, "{method} {path}");
    }
}

/// The scopes of a row.
pub(crate) fn scopes_of(scope: &str) -> Vec<String> {
    if matches!(scope, "-" | "*") {
        return Vec::new();
    }
    scope.split(' ').map(str::to_owned).collect()
}

/// Tokens that open nothing, by what is wrong with them.
async fn bad_tokens(api: &Api) -> [(&'static str, String); 5] {
    let revoked = made(api, json!({ "name": "revoked" })).await;
    api.delete(&format!("/v2/tokens/{}", revoked.1)).await.expect(204);
    let expired = made(api, json!({ "name": "expired", "expiry_seconds": 1 })).await;
    until("a token to expire", 20, || async {
        (api.with_token(&expired.0).get("/v2/account").await.status == 401).then_some(())
    })
    .await;
    [
        ("no", String::new()),
        ("a wrong", format!("dop_v1_{}", "0".repeat(64))),
        ("a strange", "x".to_owned()),
        ("an expired", expired.0),
        ("a revoked", revoked.0),
    ]
}

/// An owner's token of another team, whose user does not run the installation.
pub(crate) fn other_team(server: &Server) -> Api {
    run_ok(&mut server.local(&["team", "create", "others"]));
    let user = "user create o@example.com --team others --role owner";
    run_ok(&mut server.local(&user.split(' ').collect::<Vec<_>>()));
    server.api_with(&["--team", "others", "--user", "o@example.com"])
}

#[tokio::test]
async fn a_token_that_is_none_opens_nothing() {
    let server = Server::start();
    let api = server.api();
    let bad = bad_tokens(&api).await;
    for (method, path, scope) in ROUTES {
        if *scope == "-" {
            continue;
        }
        for (what, token) in &bad {
            let answer = call(&api.with_token(token), method, &sample(path, &BTreeMap::new())).await;
            assert_eq!(
                answer.status, 401,
                "{method} {path} with {what} token: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_opens_only_with_every_scope_of_a_door() {
    let server = Server::start();
    let api = server.api();
    let all: BTreeSet<String> = ROUTES.iter().flat_map(|(_, _, scope)| scopes_of(scope)).collect();
    let mut lacking = BTreeMap::new();
    for scope in &all {
        // Whoever may change a project may put things into it, as DigitalOcean has it.
        let implies = |other: &str| scope == "project:assign_resource" && other == "project:update";
        let others: Vec<&String> = all.iter().filter(|o| *o != scope && !implies(o)).collect();
        let body = json!({ "name": "lacks one", "scopes": others });
        lacking.insert(scope.clone(), made(&api, body).await.0);
    }
    for (method, path, scope) in ROUTES {
        let scopes = scopes_of(scope);
        let path = sample(path, &BTreeMap::new());
        for missing in &scopes {
            let answer = call(&api.with_token(&lacking[missing]), method, &path).await;
            assert_eq!(
                answer.status, 403,
                "{method} {path} without {missing}: {answer:?}"
            );
            if method != &"HEAD" {
                let said = answer.json["message"].as_str().expect("a sentence");
                let lacks = format!("The token lacks the scope {missing};");
                assert!(said.contains(&lacks), "{method} {path}: {answer:?}");
            }
        }
        if scopes.is_empty() {
            continue;
        }
        // A link signs in to everything, so a narrowed token makes none, whatever its scopes.
        if path.ends_with("/sign_in_link") {
            continue;
        }
        let narrow = made(&api, json!({ "name": "just these", "scopes": scopes })).await;
        let status = call(&api.with_token(&narrow.0), method, &path).await.status;
        assert!(
            status != 401 && status != 403,
            "{method} {path} with {scope}: {status}"
        );
    }
    let info = api
        .with_token(&lacking["tag:read"])
        .get("/v1/oauth/token/info")
        .await;
    assert_eq!(info.status, 200, "any token may ask what it is");
}

#[tokio::test]
async fn what_stands_outside_the_document_gives_no_more_with_a_token() {
    let server = Server::start();
    let api = server.api();
    let narrow = made(&api, json!({ "name": "narrow", "scopes": ["sizes:read"] }))
        .await
        .0;
    let theirs = other_team(&server).token;
    let good = [("a narrow", narrow), ("another team's", theirs)];
    let bad = bad_tokens(&api).await;
    let ask = async |listener: &str, token: &str, method: &str, path: &str| {
        let url = if listener == "api" {
            &server.api_url
        } else {
            &server.registry_url
        };
        let method: Method = method.parse().expect("a method");
        let answer = Api::new(url, token).send_unjudged(method, path, None).await;
        (answer.status.as_u16(), answer.bytes)
    };
    for (listener, method, path, without, with, why) in OUTSIDE {
        let path = sample(path, &BTreeMap::new());
        let kinds = bad.iter().map(|kind| (kind, without));
        for ((what, token), status) in kinds.chain(good.iter().map(|kind| (kind, with))) {
            let (found, _) = ask(listener, token, method, &path).await;
            assert_eq!(
                found, *status,
                "{listener} {method} {path} with {what} token: {why}"
            );
        }
    }
    // What no route knows.
    for (listener, without, with) in [("api", 404, 404), ("registry", 401, 404)] {
        for (what, token) in &bad {
            let (found, _) = ask(listener, token, "GET", "/v2/team/repository/manifests/1").await;
            assert_eq!(found, without, "{listener} with {what} token");
        }
        for (what, token) in &good {
            let (found, _) = ask(listener, token, "GET", "/v2/team/repository/manifests/1").await;
            assert_eq!(found, with, "{listener} with {what} token");
        }
    }
}

#[tokio::test]
async fn what_uploads_can_do_is_told_to_all_and_the_socket_only_to_who_may_import() {
    let server = Server::start();
    let api = server.api();
    let narrow = made(&api, json!({ "name": "n", "scopes": ["image:read"] }))
        .await
        .0;
    let options = async |token: &str| {
        let answer = call(&api.with_token(token), "OPTIONS", "/v2/uploads").await;
        let has_socket = answer.headers.contains_key("cistern-socket");
        (answer.status.as_u16(), has_socket)
    };
    assert_eq!(options(&api.token).await, (204, true));
    assert_eq!(options(&narrow).await, (204, false));
    for (what, token) in bad_tokens(&api).await {
        let status = if token.is_empty() { 204 } else { 401 };
        assert_eq!(options(&token).await, (status, false), "{what} token");
    }
}

/// RFC 7009: who holds a token may end it, also one that is over (2.2); another's is refused (2.1), and whether there
/// is such a token is not told.
#[tokio::test]
async fn whoever_holds_a_token_may_end_it_and_no_other() {
    let server = Server::start();
    let api = server.api();
    let revoke = async |bearer: &str, text: &str| {
        let request = api.with_token(bearer).request(Method::POST, "/v1/oauth/revoke");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let sent = request.body(format!("token={text}")).send().await;
        sent.expect("answers").status().as_u16()
    };
    for (what, token) in bad_tokens(&api).await {
        let was_good_once = matches!(what, "an expired" | "a revoked");
        let wanted = if was_good_once { 200 } else { 401 };
        assert_eq!(revoke(&token, &token).await, wanted, "{what} token");
        assert_eq!(revoke(&token, &api.token).await, 401, "{what} token ends another");
    }
    let theirs = other_team(&server);
    let unknown = format!("dop_v1_{}", "0".repeat(64));
    for other in [&api.token, &unknown] {
        assert_eq!(revoke(&theirs.token, other).await, 403);
    }
    let narrow = made(&api, json!({ "name": "n", "scopes": ["sizes:read"] }))
        .await
        .0;
    for token in [&narrow, &theirs.token] {
        assert_eq!(revoke(token, token).await, 200);
        assert_eq!(api.with_token(token).get("/v2/sizes").await.status, 401);
    }
    api.get("/v2/account").await.expect(200);
}

#[tokio::test]
async fn what_another_team_has_is_as_if_it_were_not() {
    let (server, files) = (Server::start(), Files::start().await);
    let ours = server.api();
    let things = things(&ours, &files).await;
    let theirs = other_team(&server);
    let nothing: BTreeMap<_, _> = things
        .keys()
        .map(|name| {
            (
                *name,
                if things[name].contains('-') {
                    "5f0c9c3e-0000-4000-8000-000000000000"
                } else {
                    "999999"
                }
                .to_owned(),
            )
        })
        .collect();
    for (method, path, scope) in ROUTES {
        if *scope == "-" || !path.contains('{') {
            continue;
        }
        let body = acceptable(method, path);
        let real = call_with(&theirs, method, &sample(path, &things), &body).await;
        let fake = call_with(&theirs, method, &sample(path, &nothing), &body).await;
        let at = format!("{method} {path}");
        if INSTALLATION.iter().any(|prefix| path.starts_with(prefix)) {
            assert_eq!(real.status, 403, "{at}: {real:?}");
        } else {
            assert_eq!(real.status, 404, "{at}: {real:?}");
        }
        assert_eq!(
            real.status, fake.status,
            "{at} tells that it exists:\n{real:?}\n{fake:?}"
        );
        assert_eq!(
            real.json["message"], fake.json["message"],
            "{at} tells that it exists"
        );
    }
    for (path, key) in [
        ("/v2/images?private=true", "images"),
        ("/v2/actions", "actions"),
        ("/v2/account/keys", "ssh_keys"),
        ("/v2/tags", "tags"),
    ] {
        let list = theirs.get(path).await.expect(200);
        assert_eq!(list[key].as_array().map(Vec::len), Some(0), "{path}: {list:#}");
    }
}

/// One thing of each kind that belongs to a team, by the name of its path parameter.
async fn things(api: &Api, files: &Files) -> BTreeMap<&'static str, String> {
    let image = imported(api, "ours", &files.put("ours.img", disks::raw(1, 1))).await["id"].to_string();
    let action =
        api.get(&format!("/v2/images/{image}/actions")).await.expect(200)["actions"][0]["id"].to_string();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk7AE7Vbqq9MsChdGqqsmYuFtJ0FBoLp/yy3fCIYiNh test";
    let key = api
        .post("/v2/account/keys", &json!({ "name": "k", "public_key": key }))
        .await
        .expect(201);
    api.post("/v2/tags", &json!({ "name": "our-tag" }))
        .await
        .expect(201);
    let project = json!({ "name": "p", "purpose": "Web Application" });
    let project = api.post("/v2/projects", &project).await.expect(201);
    let token = made(api, json!({ "name": "t" })).await.1;
    // Of our team alone: who runs the installation owns every team they make.
    let member = json!({ "email": "ours@example.com" });
    let member = api.post("/v2/users", &member).await.expect(201);
    let upload = api
        .request(Method::POST, "/v2/uploads")
        .header("tus-resumable", "1.0.0")
        .header("upload-length", "1000")
        .send()
        .await
        .expect("answers");
    assert_eq!(upload.status(), 201);
    let location = upload.headers()["location"].to_str().expect("text").to_owned();
    BTreeMap::from([
        ("image_id", image),
        ("action_id", action),
        ("ssh_key_identifier", key["ssh_key"]["id"].to_string()),
        ("tag_id", "our-tag".to_owned()),
        (
            "project_id",
            project["project"]["id"].as_str().expect("an id").to_owned(),
        ),
        ("token_id", token),
        ("id", location.rsplit('/').next().expect("an id").to_owned()),
        ("user_id", member["user"]["id"].to_string()),
        ("team_id", "1".to_owned()),
        ("job_id", "1".to_owned()),
    ])
}

/// Makes a token: its text and its id.
pub(crate) async fn made(api: &Api, body: Value) -> (String, String) {
    let answer = api.post("/v2/tokens", &body).await.expect(201);
    let token = &answer["token"];
    let text = ["token", "text", "access_token", "value"]
        .iter()
        .find_map(|key| token[*key].as_str());
    (
        text.unwrap_or_else(|| panic!("{answer:#}")).to_owned(),
        token["id"].to_string(),
    )
}

/// A path with its parameters filled in.
fn sample(path: &str, things: &BTreeMap<&'static str, String>) -> String {
    path.split('/')
        .map(
            |part| match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) => things.get(name).cloned().unwrap_or_else(|| "999999".into()),
                None => part.to_owned(),
            },
        )
        .collect::<Vec<_>>()
        .join("/")
}

/// A body that an operation on a thing takes, so that it looks for the thing.
fn acceptable(method: &str, path: &str) -> Value {
    match (method, path) {
        ("PUT" | "PATCH", path) if path.starts_with("/v2/projects/") => json!({
            "name": "n", "description": "d", "purpose": "Web Application", "environment": "Production",
            "is_default": false,
        }),
        ("PUT", "/v2/members/{user_id}") => json!({ "role": "viewer" }),
        ("POST", "/v2/images/{image_id}/actions") => json!({ "type": "transfer", "region": "nyc3" }),
        ("POST", "/v2/projects/{project_id}/resources") => json!({ "resources": [] }),
        ("POST" | "DELETE", "/v2/tags/{tag_id}/resources") => {
            json!({ "resources": [{ "resource_id": "1", "resource_type": "image" }] })
        }
        _ => json!({ "name": "n" }),
    }
}

pub(crate) async fn call(api: &Api, method: &str, path: &str) -> Answer {
    call_with(api, method, path, &json!({})).await
}

async fn call_with(api: &Api, method: &str, path: &str, body: &Value) -> Answer {
    let method: Method = method.parse().expect("a method");
    let has_body = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    api.send_unjudged(method, path, has_body.then_some(body)).await
}
