//! Two services on one port, told apart by host name.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tower::ServiceExt;

use crate::platform::api::origin::host_name;

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
