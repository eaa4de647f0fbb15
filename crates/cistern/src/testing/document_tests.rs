//! Our OpenAPI document beside DigitalOcean's: the same operations, asking for the same scopes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::api::Tester;
use super::schema::Schema;
use crate::platform::accounts::need::{Need, need};

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

/// A script that was written for DigitalOcean may ask for any of its scopes, also those of what is not built here.
#[tokio::test]
async fn every_scope_of_digitaloceans_is_taken_and_every_one_of_ours_opens_something() {
    let api = Tester::new().await;
    let asked = crate::routes::scopes_asked();
    assert!(
        asked.contains("image:create") && asked.contains("job:update"),
        "{asked:?}"
    );
    let Some(theirs) = Schema::load() else { return };
    let mut scopes: BTreeSet<String> = asked.clone();
    let operations = theirs
        .paths
        .values()
        .flat_map(|item| item.as_object().expect("operations").values());
    for security in operations.filter_map(|operation| operation.get("security")) {
        let schemes = security[0].as_object().expect("a security scheme").values();
        let of_operation = schemes.flat_map(|s| s.as_array().expect("scopes").iter());
        scopes.extend(of_operation.map(|s| s.as_str().expect("a scope").to_owned()));
    }
    assert!(
        scopes.contains("droplet:create") && scopes.len() > 60,
        "{scopes:?}"
    );
    let answer = api
        .post(
            "/v2/tokens",
            serde_json::json!({ "name": "all of them", "scopes": scopes }),
        )
        .await
        .ok(201);
    assert_eq!(
        answer["token"]["warnings"],
        Value::Null,
        "an operator and owner may all of it"
    );
}

/// The table of `docs/api.md`: a row a scope, with what it opens and who may at least.
#[tokio::test]
async fn the_table_of_scopes_is_what_the_operations_ask_for() {
    let mut opens: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, item) in ours(&Tester::new().await).await {
        for (method, operation) in item.as_object().expect("a path has operations") {
            let scopes = operation.get("security").and_then(|s| s[0]["token"].as_array());
            let scopes: Vec<&str> = scopes.into_iter().flatten().filter_map(Value::as_str).collect();
            for scope in &scopes {
                let others: Vec<&str> = scopes.iter().copied().filter(|other| other != scope).collect();
                let also = if others.is_empty() {
                    String::new()
                } else {
                    format!(" (also wants {})", others.join(", "))
                };
                let operation = format!("`{} {path}`{also}", method.to_uppercase());
                opens.entry((*scope).to_owned()).or_default().push(operation);
            }
        }
    }
    let rows = opens.iter().map(|(scope, operations)| {
        let who = match need(scope) {
            Need::Role(role) => role.as_str(),
            Need::Operator => "operator",
            Need::Nobody => panic!("nobody may {scope}"),
        };
        format!("| {scope} | {} | {who} |\n", operations.join(", "))
    });
    let wanted: String = rows.collect();
    assert!(opens.len() > 30, "{wanted}");
    let text = include_str!("../../../../docs/api.md");
    let (_, table) = text
        .split_once("| scope | opens | at least |\n|---|---|---|\n")
        .expect("the table");
    let (table, _) = table.split_once("\n\n").expect("text behind the table");
    assert!(
        format!("{table}\n") == wanted,
        "docs/api.md should have this table of scopes:\n{wanted}"
    );
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
