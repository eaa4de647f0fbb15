//! What clients may send by accident or ill will: an answer of theirs to mend, never a fault of ours.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::files::Files;
use crate::harness::images::{import, settled};
use crate::harness::server::Setup;
use crate::harness::{Server, until};

#[tokio::test]
async fn the_character_nul_is_refused_wherever_it_stands() {
    let server = Server::start();
    let api = server.api();
    for path in [
        "/v2/images/%00",
        "/v2/tags/%00",
        "/v2/account/keys/%00",
        "/v2/projects/%00",
        "/v2/images?tag_name=%00",
        "/v2/events?what=%00",
    ] {
        assert_eq!(api.get(path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let body = json!({ "name": "a", "purpose": "Web Application", "description": "a\u{0}b" });
    let answer = api.post("/v2/projects", &body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
}

#[tokio::test]
async fn a_body_that_is_no_object_makes_nothing_and_names_no_type() {
    let server = Server::start();
    let api = server.api();
    for body in [
        json!(null),
        json!("x"),
        json!(["x", "http://127.0.0.1:9/x", null, "nyc3"]),
    ] {
        for path in ["/v2/images", "/v2/tags", "/v2/projects", "/v2/account/keys"] {
            let answer = api.send_unjudged(Method::POST, path, Some(&body)).await;
            assert_eq!(
                answer.status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{path}: {answer:?}"
            );
            let said = answer.json["message"].to_string();
            assert!(said.contains("the body must be a JSON object, not "), "{said}");
        }
    }
    let images = api.get("/v2/images?private=true").await.expect(200);
    assert_eq!(images["meta"]["total"], 0, "{images:#}");
    let body = json!({ "resources": [5] });
    let answer = api
        .send_unjudged(Method::POST, "/v2/tags/a/resources", Some(&body))
        .await;
    assert!(
        !answer.json["message"].to_string().contains("struct"),
        "{answer:?}"
    );
    // An escaped backslash and letters, which is not the character NUL.
    let body = json!({ "name": "a", "purpose": "Web Application", "description": "a\\u0000" });
    api.post("/v2/projects", &body).await.expect(201);
}

#[tokio::test]
async fn a_page_that_is_none_is_refused_with_a_sentence() {
    let server = Server::start();
    let api = server.api();
    for (query, sentence) in [
        ("page=abc", "`page` must be a whole number, written in digits"),
        ("page=", "`page` must be a whole number, written in digits"),
        (
            "per_page=1.5",
            "`per_page` must be a whole number, written in digits",
        ),
        ("page=0", "`page` counts from 1"),
        ("page=9223372036854775807", "`page` goes up to 4294967295"),
        ("page=99999999999999999999", "`page` is too large a number"),
        ("per_page=201", "`per_page` goes from 1 to 200"),
    ] {
        let answer = api.get(&format!("/v2/tags?{query}")).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{query}: {answer:?}"
        );
        assert_eq!(answer.json["message"], sentence, "{query}");
    }
}

#[tokio::test]
async fn a_host_that_is_none_is_not_believed() {
    let server = Server::start();
    let api = server.api();
    for host in ["x:99999", "x:abc", "x:"] {
        let request = api.request(Method::GET, "/v2/images").header("host", host);
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn one_token_is_one_caller_however_it_is_written() {
    let server = Setup::default().arg("--rate-limit-per-minute=5").start();
    let api = server.api();
    let spelled = |text: String| {
        let request = api.with_token("").request(Method::GET, "/v2/account");
        async move {
            request
                .header("authorization", text)
                .send()
                .await
                .expect("answers")
                .status()
        }
    };
    let token = &server.token;
    // The limit is of any minute: the sixth is refused at the latest when the fifth was counted.
    until("the limit", 20, || async {
        (spelled(format!("Bearer {token}")).await == StatusCode::TOO_MANY_REQUESTS).then_some(())
    })
    .await;
    for text in [
        format!("bearer {token}"),
        format!("BEARER   {token}"),
        format!("bEaReR {token} "),
    ] {
        assert_eq!(spelled(text.clone()).await, StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn what_failed_or_was_deleted_leaves_its_project() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let project = json!({ "name": "p", "purpose": "Web Application" });
    let project = api.post("/v2/projects", &project).await.expect(201)["project"]["id"].clone();
    let project = format!("/v2/projects/{}", project.as_str().expect("an id"));
    let id = import(&api, "fails", &files.put("letter.txt", b"not a disk".to_vec())).await;
    let urns = json!({ "resources": [format!("do:image:{id}")] });
    let assigned = api
        .send_unjudged(Method::POST, &format!("{project}/resources"), Some(&urns))
        .await;
    assert_eq!(assigned.status, StatusCode::OK, "{assigned:?}");
    assert_eq!(settled(&api, id).await["status"], "deleted");
    let deleted = api.delete(&project).await;
    // Assigned before or after the import failed: then it was not found, and nothing is in the project either.
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
}

#[tokio::test]
async fn tags_that_come_with_an_image_need_their_own_scope_and_leave_their_own_event() {
    let server = Server::start();
    let api = server.api();
    let narrow = server.api_with(&["--scopes", "image:create"]);
    let body = json!({ "name": "x", "url": "http://127.0.0.1:9/x", "region": "nyc3", "tags": ["sneaked"] });
    assert_eq!(
        narrow.post("/v2/images", &body).await.status,
        StatusCode::FORBIDDEN
    );
    api.post("/v2/images", &body).await.expect(202);
    let events = api.get("/v2/events?what=tag.create").await.expect(200);
    assert_eq!(events["events"][0]["resource_id"], "sneaked", "{events:#}");
}
