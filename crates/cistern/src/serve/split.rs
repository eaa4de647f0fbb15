//! API, console and registry on one port, told apart by host name.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use crate::config::Hosts;
use crate::platform::api::origin::host_name;
use crate::platform::error::Error;

/// What both the API's and the console's name answer.
const WATCHING: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// A router that gives `registry` what is asked of `registry_host`, and `api` everything else: names of the API and
/// the console, and requests by address such as health checks.
pub fn by_host(api: Router, registry: Router, registry_host: &str) -> Router {
    let host = registry_host.to_ascii_lowercase();
    Router::new().fallback(move |request: Request| {
        let is_registry = host_name(request.uri(), request.headers()).is_some_and(|h| h == host);
        let router = if is_registry {
            registry.clone()
        } else {
            api.clone()
        };
        forward(router, request)
    })
}

async fn forward(router: Router, request: Request) -> Response {
    router
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {})
}

/// Where API and console have names of their own, each answers under its own alone: a cookie of the console's and what
/// pages may do stay there. Any other name, and an address, reaches both.
pub async fn own_name(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_api = path.starts_with("/v1/") || path.starts_with("/v2/") || path == "/v2";
    let strange = if is_api { &hosts.console } else { &hosts.api };
    let has_both = hosts.api.is_some() && hosts.console.is_some() && hosts.api != hosts.console;
    let asked = host_name(request.uri(), request.headers());
    let is_strange = asked
        .zip(strange.as_ref())
        .is_some_and(|(asked, strange)| asked.eq_ignore_ascii_case(strange));
    if has_both && is_strange && !WATCHING.contains(&path) {
        return Error::NotFound.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;

    use super::*;

    async fn asked(uri: &str, host: Option<&str>) -> String {
        let named = |name: &'static str| Router::new().route("/v2/", get(move || async move { name }));
        let router = by_host(named("api"), named("registry"), "Registry.example.com");
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = router
            .oneshot(request.body(Body::empty()).expect("a request"))
            .await
            .expect("infallible");
        let body = axum::body::to_bytes(response.into_body(), 100)
            .await
            .expect("a short body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn api_and_console_answer_under_their_own_names() {
        let hosts = Hosts {
            api: Some("api.example.com".into()),
            console: Some("Console.example.com".into()),
            registry: None,
        };
        let router = Router::new()
            .fallback(|| async { "ok" })
            .layer(axum::middleware::from_fn_with_state(Arc::new(hosts), own_name));
        for (host, path, status) in [
            ("api.example.com", "/v2/account", 200),
            ("api.example.com:8080", "/", 404),
            ("api.example.com", "/sign-in/x", 404),
            ("api.example.com", "/healthz", 200),
            ("console.example.com", "/", 200),
            ("console.example.com", "/v2/account", 404),
            ("console.example.com", "/v1/oauth/token/info", 404),
            ("console.example.com", "/readyz", 200),
            ("127.0.0.1:8080", "/", 200),
            ("127.0.0.1:8080", "/v2/account", 200),
        ] {
            let request = Request::builder().uri(path).header("host", host);
            let request = request.body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), status, "{host}{path}");
        }
    }

    #[tokio::test]
    async fn the_host_decides() {
        assert_eq!(asked("/v2/", Some("registry.example.com")).await, "registry");
        assert_eq!(
            asked("/v2/", Some("REGISTRY.example.com.:8080")).await,
            "registry"
        );
        assert_eq!(
            asked("https://registry.example.com/v2/", None).await,
            "registry",
            "HTTP/2"
        );
        for other in [
            "api.example.com",
            "127.0.0.1:8080",
            "registry.example.com.evil",
            "[::1]:8080",
        ] {
            assert_eq!(asked("/v2/", Some(other)).await, "api", "{other}");
        }
        assert_eq!(asked("/v2/", None).await, "api");
    }
}
