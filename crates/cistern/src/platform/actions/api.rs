//! `/v2/actions`, and how an action is shown wherever one is.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::rows;
use super::service::{self, Followed};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;
use crate::platform::regions::{RegionView, region_find, region_view};

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// An action.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ActionView {
    /// Its id.
    pub id: i64,
    /// `in-progress`, `completed` or `errored`.
    pub status: String,
    /// What is done, such as `transfer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it began.
    pub started_at: String,
    /// When it ended; Terraform waits for this.
    pub completed_at: Option<String>,
    /// What it is done to; null for what has a UUID.
    pub resource_id: Option<i64>,
    /// `image`, `droplet`, `volume`.
    pub resource_type: String,
    /// The region; left out where there is none, because doctl fails on anything but an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionView>,
    /// The region's slug.
    pub region_slug: Option<String>,
    /// Why it failed; Cistern's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How far it is, as its kind of work tells it; Cistern's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<serde_json::Value>,
}

/// `{"action": …}`.
#[derive(Serialize, ToSchema)]
pub struct ActionAnswer {
    /// The action.
    pub action: ActionView,
}

/// A page of actions.
#[derive(Serialize, ToSchema)]
pub struct ActionList {
    /// Newest first.
    pub actions: Vec<ActionView>,
    /// `links` and `meta`.
    #[serde(flatten)]
    pub paging: Paging,
}

/// An action as it is shown, with what its job says of its progress.
pub fn view(row: rows::Model, progress: Option<serde_json::Value>) -> ActionView {
    ActionView {
        id: row.id,
        status: row.status,
        kind: row.kind,
        started_at: wire(row.started_at),
        completed_at: row.completed_at.map(wire),
        resource_id: row.resource_id,
        resource_type: row.resource_type,
        region: row.region.as_deref().and_then(region_find).map(region_view),
        region_slug: row.region,
        error: row.error,
        progress,
    }
}

impl From<Followed> for ActionView {
    fn from(followed: Followed) -> Self {
        view(followed.row, followed.progress)
    }
}

/// List the actions
///
/// Newest first.
#[utoipa::path(get, path = "/v2/actions", tag = "Actions", operation_id = "actions_list", params(PageQuery),
    security(("token" = ["actions:read"])), responses((status = 200, body = ActionList)))]
async fn list(State(app): State<App>, caller: Caller, paged: Paged) -> Result<Json<ActionList>> {
    let listed = service::action_list(&app, &caller, None, paged.page).await?;
    Ok(Json(ActionList {
        paging: paged.paging(listed.total),
        actions: listed.rows.into_iter().map(ActionView::from).collect(),
    }))
}

/// Show an action
#[utoipa::path(get, path = "/v2/actions/{action_id}", tag = "Actions", operation_id = "actions_get",
    params(("action_id" = i64, Path)),
    security(("token" = ["actions:read"])), responses((status = 200, body = ActionAnswer)))]
async fn get(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Json<ActionAnswer>> {
    let action = service::action_get(&app, &caller, id).await?.into();
    Ok(Json(ActionAnswer { action }))
}
