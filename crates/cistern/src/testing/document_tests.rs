//! Our OpenAPI document beside DigitalOcean's: the same operations, asking for the same scopes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::api::Tester;
use super::schema::Schema;

/// What is complete: nothing of it may be missing.
const ROOMS: [&str; 6] = ["account", "actions", "projects", "regions", "sizes", "tags"];

/// `METHOD /path/{}` with the scopes that it asks for; the names of path parameters are not compared.
fn operations(paths: &Map<String, Value>) -> BTreeMap<String, BTreeSet<String>> {
    let mut out = BTreeMap::new();
    for (path, item) in paths {
        let room = path.strip_prefix("/v2/").and_then(|rest| rest.split('/').next());
        if !room.is_some_and(|room| ROOMS.contains(&room)) {
            continue;
        }
        let names: Vec<&str> = path
            .split('/')
            .map(|part| if part.starts_with('{') { "{}" } else { part })
            .collect();
        for (method, operation) in item.as_object().expect("a path has operations") {
            if let Some(security) = operation.get("security") {
                let schemes = security[0].as_object().expect("a security scheme").values();
                let scopes = schemes.flat_map(|s| s.as_array().expect("scopes").iter());
                let scopes = scopes.map(|s| s.as_str().expect("a scope").to_owned()).collect();
                out.insert(format!("{} {}", method.to_uppercase(), names.join("/")), scopes);
            }
        }
    }
    out
}

async fn ours(api: &Tester) -> Map<String, Value> {
    let document = api.get("/v2/openapi.json").await.ok(200);
    document["paths"]
        .as_object()
        .expect("the document has paths")
        .clone()
}

#[tokio::test]
async fn our_operations_and_scopes_are_digitaloceans() {
    let api = Tester::new().await;
    let ours = operations(&ours(&api).await);
    assert!(ours.len() >= 29, "{ours:#?}");
    if let Some(theirs) = Schema::load() {
        assert_eq!(ours, operations(&theirs.paths));
    }
}

#[tokio::test]
async fn every_operation_asks_for_its_scopes_and_for_a_token() {
    let api = Tester::new().await;
    // A scope that none of these operations asks for.
    let narrow = api.narrowed("vpc:read").await;
    let stranger = api.stranger();
    for (operation, scopes) in operations(&ours(&api).await) {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        let body = body_for(method, path);
        let path = path.replace("{}", "1");
        narrow
            .send(method, &path, body.clone())
            .await
            .refused(403, "forbidden");
        stranger
            .send(method, &path, body.clone())
            .await
            .refused(401, "unauthorized");
        let scopes: Vec<String> = scopes.into_iter().collect();
        let enough = api.narrowed(&scopes.join(",")).await;
        let answer = enough.send(method, &path, body).await;
        assert!(
            ![401, 403, 500].contains(&answer.status),
            "{method} {path}: {}",
            answer.body
        );
    }
}

/// A body that is understood, where there has to be one.
fn body_for(method: &str, path: &str) -> Option<Value> {
    let text = match (method, path) {
        ("GET", _) => return None,
        ("DELETE", path) if !path.ends_with("/resources") => return None,
        (_, path) if path.ends_with("/resources") => r#"{"resources":[]}"#,
        (_, "/v2/account/keys") => r#"{"name":"a","public_key":"b"}"#,
        _ => r#"{"name":"a","description":"","purpose":"IoT","environment":"Staging","is_default":true}"#,
    };
    Some(serde_json::from_str(text).expect("JSON"))
}

/// What we have and DigitalOcean has not stands in `docs/api.md`, with its scope, and nothing else does.
#[tokio::test]
async fn what_is_ours_alone_is_documented() {
    let Some(theirs) = Schema::load() else { return };
    let shape = |path: &str| -> Vec<String> {
        let parts = path.split('/');
        parts
            .map(|part| if part.starts_with('{') { "{}" } else { part }.to_owned())
            .collect()
    };
    let known: BTreeSet<(String, Vec<String>)> = theirs
        .paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path has operations").keys();
            methods.map(|method| (method.to_uppercase(), shape(path)))
        })
        .collect();
    let mut additions = BTreeSet::new();
    for (path, item) in ours(&Tester::new().await).await {
        for (method, operation) in item.as_object().expect("a path has operations") {
            let method = method.to_uppercase();
            if known.contains(&(method.clone(), shape(&path))) {
                continue;
            }
            let scope = match operation.get("security").map(|s| &s[0]["token"]) {
                None => "*open*".to_owned(),
                Some(scopes) => scopes[0].as_str().map_or("any".to_owned(), |s| format!("`{s}`")),
            };
            additions.insert(format!("| `{method} {path}` | {scope} |"));
        }
    }
    let text = include_str!("../../../../docs/api.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .map(|row| row.splitn(4, '|').take(3).collect::<Vec<_>>().join("|") + "|")
        .collect();
    assert!(additions.len() > 30, "{additions:#?}");
    assert_eq!(documented, additions);
}
