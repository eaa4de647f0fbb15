//! How a command talks to a server: `--url`, `--token`, `--ca-file`, or the variables of the same names.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use url::Url;

use super::{Context, Failure, Outcome};
use crate::config::Secret;
use crate::platform::error::Error;

/// Where a server is that nobody named.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Flags of every command that talks to a server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Remote {
    /// The server's address.
    #[arg(
        long,
        value_name = "URL",
        value_parser = address,
        help = "The server's address [env: CISTERN_URL] [default: http://127.0.0.1:8080]"
    )]
    pub url: Option<Url>,
    /// An API token.
    #[arg(long, value_name = "TOKEN", help = "An API token [env: CISTERN_TOKEN]")]
    pub token: Option<Secret>,
    /// A certificate authority to trust, PEM.
    #[arg(
        long,
        value_name = "FILE",
        help = "Trust this certificate authority, a PEM file [env: CISTERN_CA_FILE]"
    )]
    pub ca_file: Option<PathBuf>,
}

/// A connection to a server, signed in.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Secret,
}

impl Remote {
    /// The token.
    pub fn token(&self, context: &Context) -> Outcome<Secret> {
        self.token.clone().or_else(|| context.env.token()).ok_or_else(|| {
            Failure::Usage(
                "no token; give --token or set CISTERN_TOKEN. On the server's machine `cistern token create --data DIR` \
                 makes one"
                    .into(),
            )
        })
    }

    /// Prepares to talk; nothing is sent yet.
    pub fn client(&self, context: &Context) -> Outcome<Client> {
        let base = match (&self.url, context.env.url()) {
            (Some(url), _) => url.clone(),
            (None, text) => Url::parse(text.unwrap_or(DEFAULT_URL)).map_err(|e| {
                Failure::Usage(format!(
                    "CISTERN_URL is not an address such as {DEFAULT_URL}: {e}"
                ))
            })?,
        };
        let token = self.token(context)?;
        crate::serve::provider_install();
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(user_agent());
        if let Some(path) = self
            .ca_file
            .clone()
            .or_else(|| context.env.get("CISTERN_CA_FILE").map(PathBuf::from))
        {
            let problem =
                |e: String| Failure::Failed(format!("cannot use `{}` as an authority: {e}", path.display()));
            let pem = std::fs::read(&path).map_err(|e| problem(e.to_string()))?;
            let cert = reqwest::Certificate::from_pem(&pem).map_err(|e| problem(e.to_string()))?;
            http = http.add_root_certificate(cert);
        }
        let http = http
            .build()
            .map_err(|e| Failure::Failed(format!("could not prepare for HTTP: {}", chain(&e))))?;
        Ok(Client { http, base, token })
    }
}

impl Client {
    /// The server's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A request to a path such as `/v2/images?page=2`, signed in; send it with [`Client::send`].
    pub fn request(&self, method: Method, path: &str) -> Outcome<RequestBuilder> {
        let url = self
            .base
            .join(path)
            .map_err(|e| Failure::Failed(format!("`{path}` is not a path: {e}")))?;
        Ok(self.http.request(method, url).bearer_auth(self.token.expose()))
    }

    /// Sends it; anything but 2xx becomes the server's sentence.
    pub async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        accepted(self.answer(request).await?).await
    }

    async fn answer(&self, request: RequestBuilder) -> Outcome<Response> {
        request.send().await.map_err(|e| self.unreachable(&e))
    }

    /// Sends it and reads the JSON answer; `null` where there is none.
    pub async fn json(&self, request: RequestBuilder) -> Outcome<Value> {
        self.read(self.send(request).await?).await
    }

    async fn read(&self, response: Response) -> Outcome<Value> {
        let body = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body)
            .map_err(|_| Failure::Failed(format!("{} did not answer with JSON", self.base)))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Outcome<Value> {
        self.json(self.request(Method::GET, path)?).await
    }

    /// GET of what is watched. A server, or a proxy before it, that cannot say it just now (5xx) is one that does not
    /// answer.
    pub async fn look(&self, path: &str) -> Outcome<Value> {
        let response = self.answer(self.request(Method::GET, path)?).await?;
        let is_fault = response.status().is_server_error();
        match accepted(response).await {
            Ok(response) => self.read(response).await,
            Err(Failure::Failed(reason)) if is_fault => Err(Failure::Absent(reason)),
            Err(failure) => Err(failure),
        }
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.json(self.request(Method::POST, path)?.json(body)).await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.json(self.request(Method::PUT, path)?.json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Outcome<Value> {
        self.json(self.request(Method::DELETE, path)?).await
    }

    /// Why no answer came, as a sentence.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let reason = chain(error);
        let hint = if reason.contains("UnknownIssuer") || reason.contains("BadSignature") {
            "; name the authority of its certificate with --ca-file or CISTERN_CA_FILE"
        } else if reason.contains("InvalidContentType") {
            "; it does not speak TLS: try http:// in --url"
        } else if reason.contains("invalid HTTP version") {
            "; it may speak TLS: try https:// in --url"
        } else if reason.contains("not valid for name") {
            "; take one of these names in --url, or set `host.api` on the server to the name that you use"
        } else if error.is_connect() {
            "; is the server running, and is --url right?"
        } else {
            ""
        };
        Failure::Absent(format!("cannot talk to {}: {reason}{hint}", self.base))
    }
}

async fn accepted(response: Response) -> Outcome<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refusal(response).await)
}

fn address(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Err(format!(
            "`{text}` is not a server's address; write it as http://host:port, such as {DEFAULT_URL}"
        )),
    }
}

/// What the server said, with its request id, by which its log can be searched.
pub async fn refusal(response: Response) -> Failure {
    refusal_read(response).await.1
}

/// The same, and before it the server's word for programs; empty where it gave none.
pub async fn refusal_read(response: Response) -> (String, Failure) {
    let status = response.status();
    let path = response.url().path().to_owned();
    let bytes = response.bytes().await.unwrap_or_default();
    // The answer to a HEAD request has no body.
    let is_empty = bytes.is_empty();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = match body["message"].as_str() {
        Some(message) => message.to_owned(),
        None if status == StatusCode::NOT_FOUND => Error::NotFound.to_string(),
        None => format!("The server answered {status}."),
    };
    let hint = match status {
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED if !is_empty && body["id"].is_null() => {
            " This is not the address of a Cistern API; check --url."
        }
        StatusCode::UNAUTHORIZED => {
            " Check --token or CISTERN_TOKEN; `cistern token create` on the server's machine makes a token."
        }
        StatusCode::NOT_FOUND if path.starts_with("/v2/images/") => {
            " `cistern image list` shows the images that there are, and with --deleted those that were."
        }
        _ => "",
    };
    let message = format!("{message}{hint}");
    let message = match status {
        StatusCode::NOT_FOUND => format!("{message} ({path})"),
        _ => message,
    };
    let word = body["id"].as_str().unwrap_or_default().to_owned();
    let failure = match body["request_id"].as_str() {
        Some(id) if status == StatusCode::SERVICE_UNAVAILABLE => {
            Failure::Absent(format!("{message} (request {id})"))
        }
        Some(id) if status.is_server_error() => Failure::Failed(format!("{message} (request {id})")),
        _ => Failure::Failed(message),
    };
    (word, failure)
}

/// The innermost cause says what happened; reqwest's own text repeats the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn user_agent() -> String {
    format!("cistern/{}", env!("CARGO_PKG_VERSION"))
}
