//! Every door: each route with no, a wrong, an expired, a revoked and a narrow token, and with another team's.
//!
//! The table is written by hand on purpose: a route that is added without a row here fails the suite, and so does a row
//! whose scope is not what the OpenAPI document says.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::run_ok;
use crate::harness::{Server, disks, until};

/// Method, path, and the scope it needs: `-` for none and no token either, `*` for any valid token.
pub(crate) const ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/v1/oauth/revoke", "-"),
    ("GET", "/v1/oauth/token/info", "*"),
    ("GET", "/v2/account", "account:read"),
    ("GET", "/v2/account/keys", "ssh_key:read"),
    ("POST", "/v2/account/keys", "ssh_key:create"),
    (
        "DELETE",
        "/v2/account/keys/{ssh_key_identifier}",
        "ssh_key:delete",
    ),
    ("GET", "/v2/account/keys/{ssh_key_identifier}", "ssh_key:read"),
    ("PUT", "/v2/account/keys/{ssh_key_identifier}", "ssh_key:update"),
    ("GET", "/v2/actions", "actions:read"),
    ("GET", "/v2/actions/{action_id}", "actions:read"),
    ("GET", "/v2/events", "event:read"),
    ("GET", "/v2/images", "image:read"),
    ("POST", "/v2/images", "image:create"),
    ("DELETE", "/v2/images/{image_id}", "image:delete"),
    ("GET", "/v2/images/{image_id}", "image:read"),
    ("PUT", "/v2/images/{image_id}", "image:update"),
    ("GET", "/v2/images/{image_id}/actions", "image:read"),
    ("POST", "/v2/images/{image_id}/actions", "image:update"),
    ("GET", "/v2/images/{image_id}/actions/{action_id}", "image:read"),
    ("GET", "/v2/images/{image_id}/download", "image:read"),
    ("POST", "/v2/images/{image_id}/restore", "image:update"),
    ("GET", "/v2/jobs", "job:read"),
    ("GET", "/v2/jobs/{job_id}", "job:read"),
    ("POST", "/v2/jobs/{job_id}/cancel", "job:update"),
    ("GET", "/v2/members", "member:read"),
    ("DELETE", "/v2/members/{user_id}", "member:delete"),
    ("PUT", "/v2/members/{user_id}", "member:update"),
    ("GET", "/v2/projects", "project:read"),
    ("POST", "/v2/projects", "project:create"),
    ("GET", "/v2/projects/default", "project:read"),
    ("PATCH", "/v2/projects/default", "project:update"),
    ("PUT", "/v2/projects/default", "project:update"),
    ("GET", "/v2/projects/default/resources", "project:read"),
    (
        "POST",
        "/v2/projects/default/resources",
        "project:assign_resource",
    ),
    ("DELETE", "/v2/projects/{project_id}", "project:delete"),
    ("GET", "/v2/projects/{project_id}", "project:read"),
    ("PATCH", "/v2/projects/{project_id}", "project:update"),
    ("PUT", "/v2/projects/{project_id}", "project:update"),
    ("GET", "/v2/projects/{project_id}/resources", "project:read"),
    (
        "POST",
        "/v2/projects/{project_id}/resources",
        "project:assign_resource",
    ),
    ("GET", "/v2/regions", "regions:read"),
    ("GET", "/v2/sizes", "sizes:read"),
    ("GET", "/v2/store/stats", "store:read"),
    ("POST", "/v2/store/verify", "store:update"),
    ("GET", "/v2/store/verify/{job_id}", "store:read"),
    ("GET", "/v2/tags", "tag:read"),
    ("POST", "/v2/tags", "tag:create"),
    ("DELETE", "/v2/tags/{tag_id}", "tag:delete"),
    ("GET", "/v2/tags/{tag_id}", "tag:read"),
    ("DELETE", "/v2/tags/{tag_id}/resources", "tag:delete"),
    ("POST", "/v2/tags/{tag_id}/resources", "tag:create"),
    ("GET", "/v2/teams", "team:read"),
    ("POST", "/v2/teams", "team:create"),
    ("PUT", "/v2/teams/{team_id}", "team:update"),
    ("GET", "/v2/teams/{team_id}/members", "team:read"),
    ("POST", "/v2/teams/{team_id}/members", "team:update"),
    ("GET", "/v2/tokens", "token:read"),
    ("POST", "/v2/tokens", "token:create"),
    ("DELETE", "/v2/tokens/{token_id}", "token:delete"),
    ("GET", "/v2/tokens/{token_id}", "token:read"),
    ("OPTIONS", "/v2/uploads", "-"),
    ("POST", "/v2/uploads", "image:create"),
    ("DELETE", "/v2/uploads/{id}", "image:create"),
    ("HEAD", "/v2/uploads/{id}", "image:create"),
    ("PATCH", "/v2/uploads/{id}", "image:create"),
    ("POST", "/v2/uploads/{id}", "image:create"),
    ("GET", "/v2/users", "user:read"),
    ("POST", "/v2/users", "user:create"),
    ("GET", "/v2/users/{user_id}", "user:read"),
    ("PUT", "/v2/users/{user_id}", "user:update"),
    ("POST", "/v2/users/{user_id}/sign_in_link", "user:update"),
];

/// Routes of the installation: only operators may, so another team's owner is refused rather than told "not found".
const INSTALLATION: [&str; 5] = ["/v2/store", "/v2/jobs", "/v2/users", "/v2/teams", "/v2/gc"];

#[tokio::test]
async fn the_table_is_the_document() {
    let server = Server::start();
    let document = server.api().get("/v2/openapi.json").await.expect(200);
    let mut documented = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let scope = operation["security"][0]["token"][0].as_str().map(str::to_owned);
            documented.insert((method.to_uppercase(), path.clone()), scope);
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
        if !matches!(*scope, "-" | "*") {
            assert_eq!(found.as_deref(), Some(*scope), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_none_opens_nothing() {
    let server = Server::start();
    let api = server.api();
    let revoked = made(&api, json!({ "name": "revoked" })).await;
    api.delete(&format!("/v2/tokens/{}", revoked.1)).await.expect(204);
    let expired = made(&api, json!({ "name": "expired", "expiry_seconds": 1 })).await;
    until("a token to expire", 20, || async {
        (api.with_token(&expired.0).get("/v2/account").await.status == 401).then_some(())
    })
    .await;
    let wrong = format!("dop_v1_{}", "0".repeat(64));
    for (method, path, scope) in ROUTES {
        if *scope == "-" {
            continue;
        }
        for (what, token) in [
            ("no", ""),
            ("a wrong", &wrong),
            ("an expired", &expired.0),
            ("a revoked", &revoked.0),
            ("a strange", "x"),
        ] {
            let answer = call(&api.with_token(token), method, &sample(path, &BTreeMap::new())).await;
            assert_eq!(
                answer.status, 401,
                "{method} {path} with {what} token: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_narrow_token_opens_only_its_own_door() {
    let server = Server::start();
    let api = server.api();
    let narrow = made(
        &api,
        json!({ "name": "narrow", "scopes": ["sizes:read", "regions:read"] }),
    )
    .await;
    for (method, path, scope) in ROUTES {
        if matches!(*scope, "-" | "*" | "sizes:read" | "regions:read") {
            continue;
        }
        let answer = call(
            &api.with_token(&narrow.0),
            method,
            &sample(path, &BTreeMap::new()),
        )
        .await;
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }
    assert_eq!(api.with_token(&narrow.0).get("/v2/sizes").await.status, 200);
}

#[tokio::test]
async fn what_another_team_has_is_as_if_it_were_not() {
    let (server, files) = (Server::start(), Files::start().await);
    let ours = server.api();
    let things = things(&ours, &files).await;
    run_ok(&mut server.local(&["team", "create", "others"]));
    // An owner of the other team who does not run the installation.
    run_ok(&mut server.local(&[
        "user",
        "create",
        "o@example.com",
        "--team",
        "others",
        "--role",
        "owner",
    ]));
    let theirs = server.api_with(&["--team", "others", "--user", "o@example.com"]);
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
        let real = call(&theirs, method, &sample(path, &things)).await;
        let fake = call(&theirs, method, &sample(path, &nothing)).await;
        let at = format!("{method} {path}");
        if INSTALLATION.iter().any(|prefix| path.starts_with(prefix)) {
            assert_eq!(real.status, 403, "{at}: {real:?}");
        } else {
            assert!(!real.status.is_success(), "{at}: {real:?}");
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
                Some(name) => things.get(name).cloned().unwrap_or_else(|| "1".into()),
                None => part.to_owned(),
            },
        )
        .collect::<Vec<_>>()
        .join("/")
}

pub(crate) async fn call(api: &Api, method: &str, path: &str) -> Answer {
    let method: Method = method.parse().expect("a method");
    let body = (!matches!(method, Method::GET | Method::HEAD | Method::OPTIONS)).then(|| json!({}));
    api.send_unjudged(method, path, body.as_ref()).await
}
