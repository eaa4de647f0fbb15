//! Events: each change, sign-in and refusal, with who, from where and under which request; with the change or not at
//! all; for a set time.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::auth::made;
use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::run_ok;
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until};
use crate::migrate::{database, execute};

async fn events(api: &Api) -> Vec<Value> {
    let answer = api.get("/v2/events?all=true&per_page=200").await.expect(200);
    answer["events"].as_array().expect("a list").clone()
}

/// The event under the request of `answer`.
async fn event_of(api: &Api, answer: &Answer) -> Value {
    let id = answer.headers["x-request-id"].to_str().expect("text");
    let all = events(api).await;
    let found: Vec<_> = all.iter().filter(|e| e["request_id"] == id).collect();
    assert_eq!(found.len(), 1, "{answer:?}: {found:#?}");
    found[0].clone()
}

#[tokio::test]
async fn each_change_is_an_event_with_who_and_from_where() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let image = imported(&api, "i", &files.put("i.img", disks::raw(1, 1))).await["id"].clone();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk7AE7Vbqq9MsChdGqqsmYuFtJ0FBoLp/yy3fCIYiNh test";
    let image = format!("/v2/images/{image}");
    let changes = [
        ("POST", "/v2/tags", json!({ "name": "t" }), "tag.create"),
        ("DELETE", "/v2/tags/t", json!({}), "tag.delete"),
        (
            "POST",
            "/v2/account/keys",
            json!({ "name": "k", "public_key": key }),
            "ssh_key.create",
        ),
        (
            "POST",
            "/v2/projects",
            json!({ "name": "p", "purpose": "Web Application" }),
            "project.create",
        ),
        ("POST", "/v2/tokens", json!({ "name": "t" }), "token.create"),
        (
            "POST",
            "/v2/users",
            json!({ "email": "u@example.com" }),
            "user.create",
        ),
        ("POST", "/v2/teams", json!({ "name": "others" }), "team.create"),
        ("PUT", &image, json!({ "name": "renamed" }), "image.update"),
        ("DELETE", &image, json!({}), "image.delete"),
        ("POST", &format!("{image}/restore"), json!({}), "image.restore"),
        (
            "POST",
            "/v2/images",
            json!({ "name": "j", "region": "nyc3", "url": "http://127.0.0.1:9/x" }),
            "image.create",
        ),
    ];
    for (method, path, body, what) in changes {
        let method: Method = method.parse().expect("a method");
        let answer = api.send_unjudged(method, path, Some(&body)).await;
        assert!(answer.status.is_success(), "{what}: {answer:?}");
        let event = event_of(&api, &answer).await;
        assert_eq!(event["what"], what, "{event:#}");
        assert_eq!(event["outcome"], "ok", "{event:#}");
        assert_eq!(event["address"], "127.0.0.1", "{event:#}");
        assert_eq!(event["user"], "owner@localhost", "{event:#}");
        assert!(event["token_id"].is_i64(), "{event:#}");
        assert!(event["resource_id"].is_string(), "{event:#}");
    }
}

#[tokio::test]
async fn refusals_and_sign_ins_are_events() {
    let server = Server::start();
    let api = server.api();
    let (narrow, narrow_id) = made(&api, json!({ "name": "n", "scopes": ["tag:read"] })).await;
    let narrow = api.with_token(&narrow);
    let refused = narrow.post("/v2/tags", &json!({ "name": "t" })).await;
    assert_eq!(refused.status, 403);
    let event = event_of(&api, &refused).await;
    assert_eq!(event["what"], "request.refuse");
    assert_eq!(event["outcome"], "refused");
    assert_eq!(event["token_id"].to_string(), narrow_id);
    assert_eq!(event["detail"]["route"], "/v2/tags");

    api.delete(&format!("/v2/tokens/{narrow_id}")).await.expect(204);
    let refused = narrow.get("/v2/tags").await;
    assert_eq!(refused.status, 401);
    let event = event_of(&api, &refused).await;
    assert_eq!(
        (&event["what"], &event["outcome"]),
        (&json!("token.use"), &json!("refused"))
    );

    let sign_in = |form: &'static str| {
        let request = api.with_token("").request(Method::POST, "/");
        let origin = server.api_url.clone();
        async move {
            let request = request.header("origin", origin);
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            request.body(form).send().await.expect("answers").status()
        }
    };
    server.password_set("correct horse battery staple");
    let status = sign_in("email=owner%40localhost&password=wrong").await;
    assert!(status.is_client_error(), "{status}");
    let status = sign_in("email=owner%40localhost&password=correct+horse+battery+staple").await;
    assert!(status.is_redirection(), "{status}");
    let of = async |outcome: &str| {
        let path = format!("/v2/events?what=sign_in&outcome={outcome}&all=true");
        api.get(&path).await.expect(200)["events"]
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(of("refused").await, Some(1));
    assert!(of("ok").await >= Some(1));
    let passwords = events(&api).await;
    assert!(passwords.iter().any(|e| e["what"] == "user.password"));
}

#[tokio::test]
async fn a_change_whose_event_cannot_be_written_is_not_made() {
    let server = Server::start();
    let api = server.api();
    let db = database(&server).await;
    execute(&db, "ALTER TABLE event RENAME TO event_away").await;
    let tag = json!({ "name": "t" });
    assert_eq!(api.post("/v2/tags", &tag).await.status, 500);
    let project = json!({ "name": "p", "purpose": "Web Application" });
    assert_eq!(api.post("/v2/projects", &project).await.status, 500);
    let image = json!({ "name": "i", "region": "nyc3", "url": "http://127.0.0.1:9/x" });
    assert_eq!(api.post("/v2/images", &image).await.status, 500);
    let token = json!({ "name": "t" });
    assert_eq!(api.post("/v2/tokens", &token).await.status, 500);
    execute(&db, "ALTER TABLE event_away RENAME TO event").await;
    for (path, count) in [
        ("/v2/tags", 0),
        ("/v2/projects", 1),
        ("/v2/images?private=true", 0),
        ("/v2/actions", 0),
        ("/v2/tokens", 1),
    ] {
        let list = api.get(path).await.expect(200);
        assert_eq!(list["meta"]["total"], count, "{path}: {list:#}");
    }
    let jobs = api.get("/v2/jobs?all=true").await.expect(200);
    assert_eq!(jobs["jobs"], json!([]));
    api.post("/v2/tags", &tag).await.expect(201);
}

#[tokio::test]
async fn events_are_kept_for_a_set_time() {
    let mut server = Setup::default().arg("--events-retention-days=1").start();
    server
        .api()
        .post("/v2/tags", &json!({ "name": "t" }))
        .await
        .expect(201);
    server.terminate();
    let db = database(&server).await;
    execute(
        &db,
        "UPDATE event SET at = '2020-01-01 00:00:00+00:00' WHERE what = 'tag.create'",
    )
    .await;
    server.start_again();
    let api = server.api();
    until("the old event to go", 20, || async {
        let all = events(&api).await;
        (!all.iter().any(|e| e["what"] == "tag.create")).then_some(())
    })
    .await;
    assert!(
        events(&api).await.iter().any(|e| e["what"] == "token.create"),
        "what is not old stays"
    );
}

#[tokio::test]
async fn the_command_prints_a_document_a_line() {
    let server = Server::start();
    server
        .api()
        .post("/v2/tags", &json!({ "name": "t" }))
        .await
        .expect(201);
    let wire: BTreeSet<i64> = events(&server.api())
        .await
        .iter()
        .filter_map(|e| e["id"].as_i64())
        .collect();
    for mut command in [
        server.remote(&["events", "--lines", "--all"]),
        server.local(&["events", "--lines"]),
    ] {
        let text = run_ok(&mut command);
        let ids = text.lines().map(|line| {
            let event: Value = serde_json::from_str(line).expect("a JSON document a line");
            event["id"].as_i64().expect("an id")
        });
        assert_eq!(ids.collect::<BTreeSet<_>>(), wire);
    }
}

#[tokio::test]
async fn the_log_names_requests_and_jobs() {
    let (server, files) = (
        Setup::default().arg("--log-format=json").start(),
        Files::start().await,
    );
    let api = server.api();
    let answer = api.post("/v2/tags", &json!({ "name": "t" })).await;
    imported(&api, "i", &files.put("i.img", disks::raw(1, 1))).await;
    let text = server.log_text();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let id = answer.headers["x-request-id"].to_str().expect("text");
    assert!(
        lines.iter().any(|line| line.to_string().contains(id)),
        "the request is in the log"
    );
    let started = lines.iter().find(|line| line.to_string().contains("job started"));
    let started = started.expect("the job is in the log").to_string();
    assert!(started.contains("\"job_id\":1"), "{started}");
}
