//! A client of the API that checks what holds for every answer.

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;

use crate::schema::Schema;

/// DigitalOcean's schema, where it is at hand.
fn schema() -> Option<&'static Schema> {
    static SCHEMA: std::sync::OnceLock<Option<Schema>> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(Schema::load).as_ref()
}

/// Talks to one server with one token.
#[derive(Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    /// The server's address.
    pub(crate) url: String,
    /// The token, empty for none.
    pub(crate) token: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, where it is JSON.
    pub(crate) json: Value,
    /// The body.
    pub(crate) bytes: bytes::Bytes,
}

impl Api {
    pub(crate) fn new(url: &str, token: &str) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without a proxy");
        Self {
            client,
            url: url.into(),
            token: token.into(),
        }
    }

    /// The same server with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.into(),
            ..self.clone()
        }
    }

    /// The same caller at another address, by a client that knows how to reach and trust it.
    pub(crate) fn through(&self, client: reqwest::Client, url: &str) -> Self {
        Self {
            client,
            url: url.into(),
            token: self.token.clone(),
        }
    }

    /// A request to be added to.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    /// Sends a request and checks the answer's form.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.send_unjudged(method.clone(), path, body).await;
        answer.check(&method, path);
        answer
    }

    /// Sends a request.
    pub(crate) async fn send_unjudged(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.request(method.clone(), path);
        if path.starts_with("/v2/uploads") {
            request = request
                .header("tus-resumable", "1.0.0")
                .header("upload-offset", "0");
        }
        let is_chunk =
            path.starts_with("/v2/uploads/") && (method == Method::PATCH || method == Method::POST);
        if is_chunk {
            // What tus asks for before it looks for the upload.
            request = request
                .header("x-http-method-override", "PATCH")
                .header("content-type", "application/offset+octet-stream")
                .body("x");
        } else if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response
            .bytes()
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: body: {e}"));
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status,
            headers,
            json,
            bytes,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }
}

impl Answer {
    /// Fails the test unless the status is this one; returns the JSON.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.bytes)
        );
        self.json
    }

    /// What holds for every answer below `/v2`: a request id, rate-limit headers, and the form of errors.
    fn check(&self, method: &Method, path: &str) {
        if !path.starts_with("/v2/") {
            return;
        }
        let at = format!("{method} {path} -> {}", self.status);
        let id = self
            .headers
            .get("x-request-id")
            .unwrap_or_else(|| panic!("{at}: no x-request-id"));
        if self.status.is_client_error() || self.status.is_server_error() {
            assert!(
                self.json["id"].is_string() && self.json["message"].is_string(),
                "{at}: {:?}",
                self.bytes
            );
            assert_eq!(
                self.json["request_id"].as_str(),
                id.to_str().ok(),
                "{at}: {:?}",
                self.bytes
            );
        }
        if let Some(schema) = schema()
            && let Err(fault) = schema.check(method.as_str(), path, self.status.as_u16(), &self.bytes)
        {
            panic!("{fault}");
        }
    }
}
