//! The one list of API routes: every room's `api::routes()`, and the OpenAPI document made from the same list.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::routing::get;
use axum::{Json, middleware};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::platform::accounts::scopes::Asked;
use crate::platform::api::door::{self, Doors};
use crate::platform::{accounts, actions, events, jobs, projects, regions, sizes, ssh_keys, tags};

/// The document's head; the paths come from the routes.
#[derive(OpenApi)]
#[openapi(info(
    title = "Cistern",
    description = "DigitalOcean's API v2 for images and what belongs to them, and Cistern's own additions in its style."
))]
struct Document;

/// All routes of the API listener below `/v2` and `/v1`, with the document at `/v2/openapi.json`.
///
/// Every operation's door stands before its handler.
pub fn api(app: &App) -> axum::Router<App> {
    let (router, mut document) = collect().split_for_parts();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", bearer);
    let doors = Doors::new(app, &document);
    router
        .route_layer(middleware::from_fn_with_state(doors, door::layer))
        .route("/v2/openapi.json", get(|| async move { Json(document) }))
}

/// What the operations ask for, as the document says it.
pub fn scopes_asked() -> &'static Asked {
    static ASKED: LazyLock<Asked> = LazyLock::new(|| {
        let operations = door::operations(&collect().into_openapi());
        let scopes = operations.into_values().flat_map(HashMap::into_values);
        scopes.flatten().flatten().collect()
    });
    &ASKED
}

fn collect() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(accounts::account_api::routes())
        .merge(accounts::api::routes())
        .merge(actions::api::routes())
        .merge(events::api::routes())
        .merge(jobs::api::routes())
        .merge(projects::api::routes())
        .merge(regions::api::routes())
        .merge(sizes::api::routes())
        .merge(ssh_keys::api::routes())
        .merge(tags::api::routes())
        .merge(crate::images::api::routes())
        .merge(crate::images::download::api::routes())
        .merge(crate::images::uploads::api::routes())
        .merge(crate::platform::storage::api::routes())
        .merge(crate::platform::storage::gc::api::routes())
}
