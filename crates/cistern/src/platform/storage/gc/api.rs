//! `/v2/store/gc`, for operators.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{Report, Wish};
use super::service::{self, Run};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::extract::Body;
use crate::platform::clock::wire;
use crate::platform::error::{Error, Result};

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(gc_start))
        .routes(routes!(gc_get))
}

/// A run of garbage collection.
#[derive(Serialize, ToSchema)]
struct GcView {
    /// Its number, a job's.
    id: i64,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    status: String,
    /// Why it could not be done.
    error: Option<String>,
    /// How far it is, while it runs.
    progress: Option<serde_json::Value>,
    /// What it did, once it is done.
    report: Option<Report>,
    created_at: String,
    finished_at: Option<String>,
}

/// One run.
#[derive(Serialize, ToSchema)]
struct GcAnswer {
    gc: GcView,
}

impl GcAnswer {
    fn new(Run { job, report }: Run) -> Self {
        let gc = GcView {
            id: job.id,
            status: job.status,
            error: job.error,
            progress: job.progress.filter(|_| job.finished_at.is_none()),
            report,
            created_at: wire(job.created_at),
            finished_at: job.finished_at.map(wire),
        };
        Self { gc }
    }
}

/// Free what nothing needs
#[utoipa::path(post, path = "/v2/store/gc", tag = "Store", operation_id = "store_gc", request_body = Wish,
    security(("token" = ["store:update"])), responses((status = 202, body = GcAnswer)))]
async fn gc_start(
    State(app): State<App>,
    caller: Caller,
    Body(wish): Body<Wish>,
) -> Result<(StatusCode, Json<GcAnswer>)> {
    let started = service::gc_start(&app, &caller, wish).await?;
    Ok((StatusCode::ACCEPTED, Json(GcAnswer::new(started))))
}

/// What was freed
#[utoipa::path(get, path = "/v2/store/gc/{job_id}", tag = "Store", operation_id = "store_gc_get",
    params(("job_id" = i64, Path)), security(("token" = ["store:read"])),
    responses((status = 200, body = GcAnswer)))]
async fn gc_get(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<GcAnswer>> {
    let id = id.parse().map_err(|_| Error::NotFound)?;
    Ok(Json(GcAnswer::new(service::gc_get(&app, &caller, id).await?)))
}
