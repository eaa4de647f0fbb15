//! Two that change the same things at the same moment on PostgreSQL, where writers do not take turns: what a request
//! has looked at, somebody else changes before it writes. The somebody else is the test, in a transaction that it ends
//! when the server waits for it.

use reqwest::Method;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, TransactionTrait};
use serde_json::{Value, json};

use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::{import, imported};
use crate::harness::process::run_ok;
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until, world};
use crate::migrate::{database, execute, texts};

/// What the other one begins with where a team's projects or members change.
const TEAM: &str = "SELECT id FROM team FOR UPDATE";

/// A server on PostgreSQL; none where that is not installed.
fn server() -> Option<Server> {
    let place = world::place_if_there("postgres+folder")?;
    Some(Setup::default().at(place).start())
}

/// What the other one does: `before` the request, and `then` when the request waits for it in a statement that begins
/// with `in_statement`.
#[derive(Default)]
struct Other<'a> {
    before: &'a [&'a str],
    in_statement: &'a str,
    then: &'a [&'a str],
}

#[expect(
    clippy::disallowed_methods,
    reason = "a writer on PostgreSQL that is not the server's"
)]
async fn begun(db: &DatabaseConnection) -> DatabaseTransaction {
    db.begin().await.expect("begins")
}

/// Sends a request beside the other one's changes, which are committed when it waits for them or has its answer.
async fn beside(
    server: &Server,
    api: &Api,
    other: Other<'_>,
    (method, path, body): (Method, &str, Value),
) -> Answer {
    let db = database(server).await;
    let tx = begun(&db).await;
    for sql in other.before {
        tx.execute_unprepared(sql).await.expect(sql);
    }
    let (api, path) = (api.clone(), path.to_owned());
    let sent = tokio::spawn(async move { api.send_unjudged(method, &path, Some(&body)).await });
    let waiting = format!(
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query \
         LIKE '{}%'",
        other.in_statement
    );
    until("the server to wait, or to answer", 60, || async {
        (sent.is_finished() || !texts(&db, &waiting).await.is_empty()).then_some(())
    })
    .await;
    for sql in other.then {
        tx.execute_unprepared(sql).await.expect(sql);
    }
    tx.commit().await.expect("commits");
    sent.await.expect("an answer")
}

/// The same where all is done before.
async fn beside_done(server: &Server, before: &[&str], method: Method, path: &str, body: Value) -> Answer {
    let other = Other {
        before,
        ..Other::default()
    };
    beside(server, &server.api(), other, (method, path, body)).await
}

async fn project(api: &Api, name: &str) -> String {
    let body = json!({ "name": name, "purpose": "IoT" });
    let made = api.post("/v2/projects", &body).await.expect(201);
    format!("/v2/projects/{}", made["project"]["id"].as_str().expect("an id"))
}

/// The names of the default projects, as the list has them.
async fn defaults(api: &Api) -> Vec<String> {
    let list = api.get("/v2/projects").await.expect(200);
    let all = list["projects"].as_array().expect("a list");
    let marked = all.iter().filter(|p| p["is_default"] == true);
    marked
        .map(|p| p["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn a_project_that_becomes_the_default_is_not_deleted() {
    let Some(server) = server() else { return };
    let api = server.api();
    let path = project(&api, "p").await;
    let becomes = [
        TEAM,
        "UPDATE project SET default_of = NULL",
        "UPDATE project SET default_of = team_id WHERE name = 'p'",
    ];
    beside_done(&server, &becomes, Method::DELETE, &path, Value::Null)
        .await
        .expect(412);
    assert_eq!(defaults(&api).await, ["p"]);
}

#[tokio::test]
async fn a_project_that_is_deleted_does_not_become_the_default() {
    let Some(server) = server() else { return };
    let api = server.api();
    let path = project(&api, "p").await;
    let deleted = [TEAM, "DELETE FROM project WHERE name = 'p'"];
    beside_done(
        &server,
        &deleted,
        Method::PATCH,
        &path,
        json!({ "is_default": true }),
    )
    .await
    .expect(404);
    assert_eq!(defaults(&api).await, ["Default"]);
}

#[tokio::test]
async fn of_two_that_become_the_default_the_last_is() {
    let Some(server) = server() else { return };
    let api = server.api();
    let (_, path) = (project(&api, "p").await, project(&api, "q").await);
    let becomes = [
        TEAM,
        "UPDATE project SET default_of = NULL",
        "UPDATE project SET default_of = team_id WHERE name = 'p'",
    ];
    beside_done(
        &server,
        &becomes,
        Method::PATCH,
        &path,
        json!({ "is_default": true }),
    )
    .await
    .expect(200);
    assert_eq!(defaults(&api).await, ["q"]);
}

#[tokio::test]
async fn projects_that_change_in_many_requests_at_once_keep_a_default() {
    let Some(server) = server() else { return };
    let api = server.api();
    for round in 0..20 {
        let path = project(&api, &format!("p{round}")).await;
        let body = json!({ "is_default": true });
        let (patched, deleted) = tokio::join!(api.send(Method::PATCH, &path, Some(&body)), api.delete(&path));
        let both = (patched.status.as_u16(), deleted.status.as_u16());
        assert!(matches!(both, (200, 412) | (404, 204)), "{both:?}");
        assert_eq!(defaults(&api).await.len(), 1);
    }
}

/// In both worlds: a team that an earlier version left in this state.
#[tokio::test]
async fn a_team_whose_default_project_lost_its_mark_gets_it_back() {
    let server = Server::start();
    let api = server.api();
    assert_eq!(defaults(&api).await, ["Default"]);
    let db = database(&server).await;
    execute(&db, "UPDATE project SET default_of = NULL").await;
    assert_eq!(defaults(&api).await, ["Default"]);
    execute(&db, "UPDATE project SET default_of = NULL").await;
    project(&api, "p").await;
    assert_eq!(defaults(&api).await, ["Default"]);
}

#[tokio::test]
async fn nothing_is_put_into_a_project_or_under_a_tag_that_is_deleted() {
    let Some(server) = server() else { return };
    let (api, files) = (server.api(), Files::start().await);
    let id = imported(&api, "i", &files.put("d.img", disks::raw(4, 1))).await["id"].clone();
    let path = project(&api, "p").await;
    let urns = json!({ "resources": [format!("do:image:{id}")] });
    let deleted = [TEAM, "DELETE FROM project WHERE name = 'p'"];
    beside_done(
        &server,
        &deleted,
        Method::POST,
        &format!("{path}/resources"),
        urns,
    )
    .await
    .expect(404);

    api.post("/v2/tags", &json!({ "name": "t" })).await.expect(201);
    let things = json!({ "resources": [{ "resource_id": id.to_string(), "resource_type": "image" }] });
    let deleted = ["DELETE FROM tag"];
    beside_done(&server, &deleted, Method::POST, "/v2/tags/t/resources", things)
        .await
        .expect(404);

    // One that an image brings along is made anew.
    api.post("/v2/tags", &json!({ "name": "t" })).await.expect(201);
    let url = files.put("e.img", disks::raw(4, 2));
    let image = json!({ "name": "j", "url": url, "region": "nyc3", "tags": ["t"] });
    beside_done(&server, &deleted, Method::POST, "/v2/images", image)
        .await
        .expect(202);
    api.get("/v2/tags/t").await.expect(200);
}

#[tokio::test]
async fn an_image_is_changed_and_deleted_as_it_is_then() {
    let Some(server) = server() else { return };
    let (api, files) = (server.api(), Files::start().await);
    let id = imported(&api, "i", &files.put("d.img", disks::raw(4, 1))).await["id"].clone();
    let path = format!("/v2/images/{id}");
    let protected = ["UPDATE image SET protected = true"];
    beside_done(&server, &protected, Method::DELETE, &path, Value::Null)
        .await
        .expect(422);
    let deleted = ["UPDATE image SET protected = false, status = 'deleted'"];
    beside_done(&server, &deleted, Method::PUT, &path, json!({ "name": "n" }))
        .await
        .expect(404);
}

/// A user of the first team, and a client with a token of theirs.
async fn member(server: &Server) -> (Value, Api) {
    run_ok(&mut server.local(&["user", "create", "m@example.com", "--role", "member"]));
    let list = server.api().get("/v2/members").await.expect(200);
    let mut members = list["members"].as_array().expect("a list").iter();
    let found = members.find(|m| m["email"] == "m@example.com").expect("is one");
    (
        found["user_id"].clone(),
        server.api_with(&["--user", "m@example.com"]),
    )
}

#[tokio::test]
async fn whoever_is_removed_from_a_team_leaves_no_token() {
    let Some(server) = server() else { return };
    let (id, api) = member(&server).await;
    // Its first use is noted here, so that the one below waits for nothing else.
    api.get("/v2/tokens").await.expect(200);
    let removed = [
        TEAM,
        &format!("DELETE FROM team_member WHERE user_id = {id}"),
        &format!("UPDATE api_token SET revoked_at = now() WHERE user_id = {id}"),
    ];
    let other = Other {
        before: &removed,
        ..Other::default()
    };
    beside(
        &server,
        &api,
        other,
        (Method::POST, "/v2/tokens", json!({ "name": "n" })),
    )
    .await
    .expect(422);
    let left = format!("SELECT name FROM api_token WHERE user_id = {id} AND revoked_at IS NULL");
    assert_eq!(texts(&database(&server).await, &left).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_change_of_a_user_or_key_takes_nothing_back_that_another_changed() {
    let Some(server) = server() else { return };
    let api = server.api();
    let (id, _) = member(&server).await;
    let promoted = [&*format!(
        "UPDATE user_account SET is_operator = true WHERE id = {id}"
    )];
    let path = format!("/v2/users/{id}");
    let user = beside_done(&server, &promoted, Method::PUT, &path, json!({ "name": "n" }))
        .await
        .expect(200);
    assert_eq!(user["user"]["is_operator"], true, "{user:#}");

    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk7AE7Vbqq9MsChdGqqsmYuFtJ0FBoLp/yy3fCIYiNh test";
    let body = json!({ "name": "k", "public_key": key });
    let made = api.post("/v2/account/keys", &body).await.expect(201);
    let path = format!("/v2/account/keys/{}", made["ssh_key"]["id"]);
    let deleted = ["DELETE FROM ssh_key"];
    beside_done(&server, &deleted, Method::PUT, &path, json!({ "name": "n" }))
        .await
        .expect(404);
}

/// What would be a deadlock if the server locked in another order than those that it runs beside.
#[tokio::test]
async fn what_several_lock_they_lock_in_one_order() {
    let Some(server) = server() else { return };
    let (api, files) = (server.api(), Files::start().await);
    for name in ["a", "b"] {
        api.post("/v2/tags", &json!({ "name": name })).await.expect(201);
    }
    // Tags, in the order of their names.
    let other = Other {
        before: &["SELECT id FROM tag WHERE name = 'a' FOR UPDATE"],
        then: &["SELECT id FROM tag WHERE name = 'b' FOR UPDATE"],
        ..Other::default()
    };
    let url = files.put("d.img", disks::raw(4, 1));
    let image = json!({ "name": "i", "url": url, "region": "nyc3", "tags": ["b", "a"] });
    let made = beside(&server, &api, other, (Method::POST, "/v2/images", image))
        .await
        .expect(202);
    assert_eq!(made["image"]["tags"], json!(["b", "a"]), "as they were put on");

    // A restore counts in the list of deleted images, then in the others: so does a delete.
    let id = imported(&api, "k", &url).await["id"].clone();
    let second = imported(&api, "l", &url).await["id"].clone();
    api.delete(&format!("/v2/images/{second}")).await.expect(204);
    let other = Other {
        before: &["UPDATE image_count SET rows = rows WHERE listing < 0"],
        in_statement: "INSERT INTO \"image_count\"",
        then: &["UPDATE image_count SET rows = rows WHERE listing > 0"],
    };
    let path = format!("/v2/images/{id}");
    beside(&server, &api, other, (Method::DELETE, &path, Value::Null))
        .await
        .expect(204);

    // An import that ends has its job, then the image: so has a delete.
    let held = files.put_held("h.img", disks::raw(4, 3), 4096);
    let id = import(&api, "h", &held.url).await;
    let job = format!("SELECT id FROM job WHERE id = (SELECT job_id FROM image WHERE id = {id}) FOR UPDATE");
    let image = format!("SELECT id FROM image WHERE id = {id} FOR UPDATE");
    let other = Other {
        before: &[&job],
        in_statement: "UPDATE \"job\" SET \"cancel_requested\"",
        then: &[&image],
    };
    let path = format!("/v2/images/{id}");
    beside(&server, &api, other, (Method::DELETE, &path, Value::Null))
        .await
        .expect(204);
}
