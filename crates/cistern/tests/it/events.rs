//! Events: each change, sign-in and refusal, with who, from where and under which request; with the change or not at
//! all; for a set time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use sea_orm::{ConnectionTrait, DbBackend, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use serde_json::{Value, json};

use crate::auth::{made, other_team};
use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::{document, run_ok};
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until};
use crate::migrate::{database, execute};

async fn events(api: &Api) -> Vec<Value> {
    let answer = api.get("/v2/events?all=true&per_page=200").await.expect(200);
    answer["events"].as_array().expect("a list").clone()
}

/// The one event under the request of `answer`; a refusal's may come a moment after the answer.
async fn event_of(api: &Api, answer: &Answer) -> Value {
    let id = answer.headers["x-request-id"].to_str().expect("text");
    let found = until("the event of a request", 20, || async {
        let mut all = events(api).await;
        all.retain(|e| e["request_id"] == id);
        (!all.is_empty()).then_some(all)
    })
    .await;
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
        if what == "image.update" {
            assert_eq!(event["detail"], body, "{event:#}");
        }
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
    assert_eq!(event["detail"]["reason"], refused.json["message"]);
    let reason = event["detail"]["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("The token lacks the scope tag:create;"),
        "{reason}"
    );

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

/// Who, from where, what and why; nothing of what was sent.
fn refusal_check(event: &Value, method: &str, status: u16, reason: &str) {
    let at = format!("{event:#}");
    assert_eq!(event["what"], "request.refuse", "{at}");
    assert_eq!(event["outcome"], "refused", "{at}");
    assert_eq!(event["address"], "127.0.0.1", "{at}");
    assert!(event["token_id"].is_i64() && event["user"].is_string(), "{at}");
    assert_eq!(event["detail"]["method"], method, "{at}");
    assert_eq!(event["detail"]["status"], status, "{at}");
    let found = event["detail"]["reason"].as_str().unwrap_or_default();
    assert!(found.contains(reason), "{at}");
    assert!(!at.contains("canary"), "{at}");
}

#[tokio::test]
async fn every_refusal_is_an_event_of_the_callers_team_with_its_reason_and_no_secret() {
    // Fetching from private addresses is not allowed here.
    let server = Setup::strict().start();
    let api = server.api();
    let theirs = other_team(&server);
    api.post("/v2/tags", &json!({ "name": "canary-tag" }))
        .await
        .expect(201);
    let project = json!({ "name": "p", "purpose": "Web Application" });
    let project = api.post("/v2/projects", &project).await.expect(201);
    let project = project["project"]["id"].as_str().expect("an id").to_owned();
    let url = "http://someone:canary-pw@169.254.169.254/latest?signature=canary-sig";
    let image = json!({ "name": "canary-name", "region": "nyc3", "url": url });
    let region = json!({ "name": "i", "region": "canary-region", "url": "http://example.com/" });
    let user = json!({ "email": "owner@localhost" });
    let tag = "/v2/tags/canary-tag";
    let project = format!("/v2/projects/{project}");
    let none = "/v2/projects/5f0c9c3e-0000-4000-8000-000000000000";
    let table = [
        (
            &api,
            "POST",
            "/v2/images",
            &image,
            422,
            "does not fetch from there",
        ),
        (&api, "POST", "/v2/images", &region, 422, "lists them"),
        (&api, "POST", "/v2/users", &user, 409, "there is a user"),
        (&theirs, "POST", "/v2/users", &user, 403, "for operators"),
        (&theirs, "GET", "/v2/jobs/1", &Value::Null, 403, "for operators"),
        (&theirs, "DELETE", tag, &Value::Null, 404, "could not be found"),
        (&theirs, "GET", tag, &Value::Null, 404, "could not be found"),
        (&theirs, "GET", &project, &Value::Null, 404, "could not be found"),
        (&theirs, "GET", none, &Value::Null, 404, "could not be found"),
    ];
    let mut told = Vec::new();
    for (caller, method, path, body, status, reason) in table {
        let body = (!body.is_null()).then_some(body);
        let answer = caller
            .send_unjudged(method.parse().expect("a method"), path, body)
            .await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let event = event_of(&api, &answer).await;
        refusal_check(&event, method, status, reason);
        told.push(event);
    }
    // What is another team's, and what is not there, are told alike.
    let (real, fake) = (&told[7]["detail"], &told[8]["detail"]);
    assert!(
        project.ends_with(real["ids"]["project_id"].as_str().expect("an id")),
        "{real}"
    );
    for key in ["method", "route", "status", "reason"] {
        assert_eq!(real[key], fake[key]);
    }
    // Each team's owner sees their own, in the API and with the command.
    let refused = theirs.get("/v2/events?outcome=refused").await.expect(200);
    let seen: Vec<_> = refused["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| &e["id"])
        .collect();
    let own: Vec<_> = told[3..].iter().rev().map(|e| &e["id"]).collect();
    assert_eq!(seen, own, "{refused:#}");
    let mut command = server.remote(&["events", "--outcome", "refused"]);
    let text = run_ok(command.env("CISTERN_TOKEN", &theirs.token));
    assert!(
        text.contains("request.refuse") && text.contains("GET /v2/jobs/{job_id} -> 403: You do not have"),
        "{text}"
    );
}

#[tokio::test]
async fn strangers_leave_an_event_a_minute_for_the_operator() {
    let mut server = Setup::default().arg("--trusted-proxies=127.0.0.1/32").start();
    let api = server.api();
    let theirs = other_team(&server);
    let ask = async |url: &str, token: &str, address: &str| {
        let path = if url == server.api_url {
            "/v2/account"
        } else {
            "/v2/"
        };
        let request = Api::new(url, token).request(Method::GET, path);
        let answer = request
            .header("x-forwarded-for", address)
            .send()
            .await
            .expect("answers");
        assert_eq!(answer.status(), 401);
    };
    let wrong = format!("dop_v1_{}", "0".repeat(64));
    ask(&server.registry_url, &wrong, "192.0.2.1").await;
    ask(&server.api_url, "", "192.0.2.2").await;
    for _ in 0..30 {
        ask(&server.api_url, &wrong, "192.0.2.3").await;
    }
    let of = async |address: &str| {
        let mut all = events(&api).await;
        all.retain(|e| e["address"] == address);
        all
    };
    for (address, what, reason) in [
        ("192.0.2.1", "token.use", "unknown"),
        ("192.0.2.2", "request.refuse", "Unable to authenticate you."),
        ("192.0.2.3", "token.use", "unknown"),
    ] {
        let found = until("a stranger's event", 20, || async {
            let found = of(address).await;
            (!found.is_empty()).then_some(found)
        })
        .await;
        // A minute may have ended in between.
        assert!(found.len() <= 2, "{found:#?}");
        assert_eq!(
            (&found[0]["what"], &found[0]["outcome"]),
            (&json!(what), &json!("refused"))
        );
        assert_eq!(found[0]["detail"]["reason"], reason, "{found:#?}");
        assert_eq!(found[0]["team_id"], Value::Null, "{found:#?}");
    }
    let seen = theirs.get("/v2/events?outcome=refused").await.expect(200);
    assert_eq!(seen["events"], json!([]), "no team's owner sees them");

    assert!(server.terminate().success(), "{}", server.log_text());
    server.start_again();
    let api = server.api();
    let told: u64 = events(&api)
        .await
        .iter()
        .filter(|event| event["address"] == "192.0.2.3")
        .map(|event| u64::from(event["detail"]["reason"].is_string()) + left_out(event))
        .sum();
    assert_eq!(told, 30, "what a stop finds left out is told");
}

fn left_out(event: &Value) -> u64 {
    event["detail"]["left_out"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn a_token_that_calls_too_often_leaves_an_event_of_its_team() {
    let server = Setup::default().arg("--rate-limit-per-minute=5").start();
    let answers = async {
        let mut last = 200;
        for _ in 0..12 {
            last = server.api().get("/v2/account").await.status.as_u16();
        }
        last
    };
    assert_eq!(answers.await, 429);
    // Not by the API, which refuses by now.
    let found = until("the event", 20, || async {
        let lines = run_ok(&mut server.local(&["events", "--lines", "--outcome", "refused"]));
        lines
            .lines()
            .next()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
    })
    .await;
    assert_eq!(
        (&found["what"], &found["detail"]["status"]),
        (&json!("request.refuse"), &json!(429))
    );
    assert!(
        found["token_id"].is_i64() && found["team_id"].is_i64(),
        "{found:#}"
    );
}

#[tokio::test]
async fn a_refusal_waits_for_no_event() {
    let server = Server::start();
    let api = server.api();
    // Notes that the token was used, which it does once a minute.
    api.get("/v2/account").await.expect(200);
    let db = database(&server).await;
    // Writers wait, for up to half a minute on SQLite and for ever on PostgreSQL.
    let now = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let held = db.begin_with_options(now).await.expect("begins");
    held.execute_unprepared("UPDATE event SET what = what")
        .await
        .expect("locks");
    if db.get_database_backend() == DbBackend::Postgres {
        held.execute_unprepared("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
            .await
            .expect("locks");
    }
    let began = Instant::now();
    let missing = api.get("/v2/tags/none").await;
    assert_eq!(missing.status, 404);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    held.rollback().await.expect("lets go");
    assert_eq!(event_of(&api, &missing).await["detail"]["status"], 404);

    // And one that cannot be written at all changes no answer.
    execute(&db, "ALTER TABLE event RENAME TO event_away").await;
    assert_eq!(api.get("/v2/tags/none").await.status, 404);
    assert_eq!(api.with_token("x").get("/v2/tags").await.status, 401);
    api.get("/v2/tags").await.expect(200);
    execute(&db, "ALTER TABLE event_away RENAME TO event").await;
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

#[tokio::test]
async fn taking_the_database_as_it_is_is_an_event() {
    let mut server = Setup::default().start();
    assert_eq!(server.terminate().code(), Some(0));
    run_ok(&mut server.local(&["recover", "--keep-database"]));
    let told = document(&mut server.local(&["events", "--what", "store.recover"]));
    let told = told["events"].as_array().expect("a list");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["detail"]["keep_database"], true, "{told:?}");
}
