//! Driving the API's router in tests, without a socket: every answer is checked against DigitalOcean's schema.

use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, header};
use axum::middleware::from_fn_with_state;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::schema::Schema;
use crate::app::App;
use crate::platform::accounts::service::{TokenSpec, team_create, token_create, user_create};
use crate::platform::accounts::{Role, Scopes};
use crate::platform::api::origin::{Network, Origin, Peer};
use crate::platform::events::Who;
use crate::platform::events::api::refusals;

static SCHEMA: LazyLock<Option<Schema>> = LazyLock::new(Schema::load);

/// A service of its own with its router, and a token that may do everything in the first team.
pub struct Tester {
    /// The service.
    pub app: App,
    router: Router,
    token: String,
    dir: std::sync::Arc<tempfile::TempDir>,
}

/// An answer.
pub struct Answer {
    /// What was asked, for failures.
    asked: String,
    /// Its status.
    pub status: u16,
    /// Its body; null where it has none.
    pub body: Value,
    raw: Vec<u8>,
}

impl Tester {
    /// A fresh service.
    pub async fn new() -> Self {
        let (app, dir) = crate::app::tests::app().await;
        let first = app
            .first_start()
            .await
            .expect("the first start")
            .expect("it is the first");
        let router = crate::routes::api(&app)
            .layer(from_fn_with_state(app.clone(), refusals))
            .with_state(app.clone());
        Self {
            app,
            router,
            token: first.token,
            dir: std::sync::Arc::new(dir),
        }
    }

    /// The same service, with a token of the same user that has only these scopes.
    pub async fn narrowed(&self, scopes: &str) -> Self {
        let scopes = Scopes::parse(scopes).expect("valid scopes");
        self.with_token(1, 1, scopes).await
    }

    /// The same service, with a token of another team.
    pub async fn other_team(&self) -> Self {
        let who = Who::default();
        let team = team_create(&self.app, &who, "Other", 1)
            .await
            .expect("a new team");
        let user = user_create(&self.app, &who, "other@localhost", team.id, Role::Owner, false)
            .await
            .expect("a new user");
        self.with_token(team.id, user.id, Scopes::all()).await
    }

    /// The same service, with a token that is none.
    pub fn stranger(&self) -> Self {
        self.with_text(&format!("dop_v1_{}", "0".repeat(64)))
    }

    /// The same service, with a new token of this user in this team.
    pub async fn with_token(&self, team_id: i64, user_id: i64, scopes: Scopes) -> Self {
        let spec = TokenSpec {
            team_id,
            user_id,
            name: "test",
            scopes,
            expires_at: None,
        };
        let made = token_create(&self.app, &Who::default(), &spec)
            .await
            .expect("a new token");
        self.with_text(&made.text)
    }

    /// The same service, with this token's text.
    pub fn with_text(&self, token: &str) -> Self {
        Self {
            app: self.app.clone(),
            router: self.router.clone(),
            token: token.to_owned(),
            dir: self.dir.clone(),
        }
    }

    /// The token's text.
    pub fn text(&self) -> &str {
        &self.token
    }

    /// `PUT path` with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    /// `DELETE path`, without a body.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    /// `POST path` with a form.
    pub async fn send_form(&self, path: &str, form: &str) -> Answer {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .extension(origin())
            .body(Body::from(form.to_owned()))
            .expect("a valid request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router answers");
        read(format!("POST {path}"), response).await
    }

    /// Any request. Panics where the answer does not fit DigitalOcean's schema.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let answer = self.send_unchecked(method, path, body).await;
        if let Some(schema) = SCHEMA.as_ref() {
            let verdict = schema.check(method, path, answer.status, &answer.raw);
            verdict.unwrap_or_else(|fault| panic!("{fault}"));
        }
        answer
    }

    /// Any request, where the answer has something that is ours alone, such as `do:image:7`.
    pub async fn send_unchecked(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .extension(origin());
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).expect("a valid request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router answers");
        read(format!("{method} {path}"), response).await
    }
}

/// Where the tests' requests come from.
pub fn origin() -> Origin {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let peer = Peer {
        address,
        is_tls: false,
        local: address,
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("cistern.test"));
    Origin::new(
        "test".into(),
        &peer,
        &"/".parse().expect("a path"),
        &headers,
        &Network::default(),
    )
}

async fn read(asked: String, response: Response<Body>) -> Answer {
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{asked}: {e}: {bytes:?}"))
    };
    Answer {
        asked,
        status,
        body,
        raw: bytes.to_vec(),
    }
}

impl Answer {
    /// The body, where the status is this.
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.body);
        self.body
    }

    /// The message, where it is an error with this status and word.
    pub fn refused(self, status: u16, id: &str) -> String {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.body);
        assert_eq!(self.body["id"], id, "{}: {}", self.asked, self.body);
        self.body["message"]
            .as_str()
            .expect("errors have a message")
            .to_owned()
    }
}
