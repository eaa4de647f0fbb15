//! What each listener answers, put together from the rooms' routes and the layers around all of them.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Router, middleware};

use super::edge::{self, Edge};
use super::health::{self, Phase, Readiness};
use super::split;
use crate::app::App;
use crate::config::Config;
use crate::platform::api::origin::Network;
use crate::platform::api::rate_limit::{self, RateLimiter};
use crate::platform::events;
use crate::registry::oci;

/// What the two listeners answer.
pub struct Routers {
    /// The API and the console.
    pub api: Router,
    /// The registry.
    pub registry: Router,
}

/// What is answered while the server starts.
pub fn starting(config: &Config, phase: &Phase) -> Routers {
    let make = |listener| {
        let router = Router::new()
            .route("/healthz", get(health::healthz))
            .fallback(health::starting)
            .with_state(phase.clone());
        edged(router, listener, config)
    };
    together(config, make("api"), make("registry"))
}

/// What is answered from then on.
pub fn running(app: &App, phase: &Phase) -> Routers {
    let limiter = Arc::new(RateLimiter::new(app.config.rate_limit.clone(), app.clock.clone()));
    let watching = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .method_not_allowed_fallback(edge::method_not_allowed)
        .with_state(Readiness::new(app.clone(), phase.clone()));
    let api = crate::routes::api(app)
        .merge(crate::console::pages::routes())
        .fallback(edge::not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&limiter),
            rate_limit::layer,
        ))
        .layer(middleware::from_fn_with_state(app.clone(), events::api::refusals))
        .with_state(app.clone())
        .merge(watching.clone())
        .layer(middleware::from_fn_with_state(
            Arc::new(app.config.host.clone()),
            split::own_name,
        ))
        .layer(DefaultBodyLimit::max(app.config.http.max_body_bytes));
    let registry = oci::routes(app.clone(), limiter).merge(watching);
    together(
        &app.config,
        edged(api, "api", &app.config),
        edged(registry, "registry", &app.config),
    )
}

/// Where one port serves both, both routers become the one that looks at the host name.
fn together(config: &Config, api: Router, registry: Router) -> Routers {
    match &config.host.registry {
        Some(host) if config.one_port() => {
            let both = split::by_host(api, registry, host);
            Routers {
                api: both.clone(),
                registry: both,
            }
        }
        _ => Routers { api, registry },
    }
}

fn edged(router: Router, listener: &'static str, config: &Config) -> Router {
    let external = if listener == "api" {
        &config.external_url.api
    } else {
        &config.external_url.registry
    };
    let network = Network {
        trusted_proxies: config.trusted_proxies.clone(),
        external_url: external.clone(),
    };
    router.layer(middleware::from_fn_with_state(
        Arc::new(Edge { listener, network }),
        edge::layer,
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::app::tests::app;

    include!("../../tests/it/doors.rs");

    /// Method and path of every route, as axum's router shows itself: `RouteId(1): "/path"` in its list of paths, and
    /// `RouteId(1): MethodRouter(… allow_header: Bytes(b"GET,HEAD") …)` in its list of routes.
    fn routes_of(router: &Router) -> BTreeSet<(String, String)> {
        let shown = format!("{router:?}");
        let (handlers, rest) = shown
            .split_once("node: Node { paths: {")
            .expect("axum shows its paths");
        let (paths, _) = rest.split_once("\"} }").expect("the list of paths ends");
        let entries = paths
            .split(", RouteId(")
            .map(|entry| entry.trim_start_matches("RouteId("));
        let paths: BTreeMap<&str, &str> = entries.filter_map(|entry| entry.split_once("): ")).collect();
        let mut out = BTreeSet::new();
        for entry in handlers.split("RouteId(").skip(1) {
            let (id, entry) = entry.split_once(')').expect("a number");
            let (_, allowed) = entry.split_once("allow_header: Bytes(b\"").expect("methods");
            let (allowed, _) = allowed.split_once('"').expect("they end");
            let path = paths[id].trim_matches('"');
            let methods: Vec<&str> = allowed.split(',').collect();
            // axum answers HEAD by GET's handler.
            let own = methods
                .iter()
                .filter(|m| **m != "HEAD" || !methods.contains(&"GET"));
            out.extend(own.map(|method| ((*method).to_owned(), path.to_owned())));
        }
        out
    }

    /// The table of the doors names every route of both listeners and nothing else.
    #[tokio::test]
    async fn the_table_of_doors_is_the_routers() {
        let (app, _dir) = app().await;
        let routers = running(&app, &Phase::default());
        let table = |listener: &str| {
            let outside = OUTSIDE.iter().filter(|row| row.0 == listener);
            outside.map(|row| (row.1, row.2)).collect::<Vec<_>>()
        };
        let documented = ROUTES.iter().map(|(method, path, _)| (*method, *path));
        let owned = |rows: Vec<(&str, &str)>| -> BTreeSet<(String, String)> {
            rows.iter()
                .map(|(m, p)| ((*m).to_owned(), (*p).to_owned()))
                .collect()
        };
        let api = documented.chain(table("api")).collect();
        for (router, rows) in [
            (&routers.api, owned(api)),
            (&routers.registry, owned(table("registry"))),
        ] {
            let found = routes_of(router);
            let missing: Vec<_> = found.difference(&rows).collect();
            assert!(
                missing.is_empty(),
                "routes without a row in tests/it/doors.rs: {missing:?}"
            );
            let gone: Vec<_> = rows.difference(&found).collect();
            assert!(
                gone.is_empty(),
                "rows of tests/it/doors.rs without a route: {gone:?}"
            );
        }
    }
}
