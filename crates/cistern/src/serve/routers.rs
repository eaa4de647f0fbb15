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
