//! `/v2/store`, for operators.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{Report, StoreStats};
use super::service::{self, Verification};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::extract::Body;
use crate::platform::clock::wire;
use crate::platform::error::{Error, Result};

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stats))
        .routes(routes!(verify_start))
        .routes(routes!(verify_get))
}

/// The store's figures.
#[derive(Serialize, ToSchema)]
struct StatsAnswer {
    stats: StoreStats,
}

/// What to verify.
#[derive(Deserialize, ToSchema)]
struct VerifyCreate {
    /// Reads and hashes every stored byte; without it only what there should be is looked up.
    #[serde(default)]
    read_data: bool,
}

/// A verification.
#[derive(Serialize, ToSchema)]
struct VerifyView {
    /// Its number, a job's.
    id: i64,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    status: String,
    /// Why it could not be done.
    error: Option<String>,
    /// How far it is, while it runs.
    progress: Option<serde_json::Value>,
    /// What it found, once it is done.
    report: Option<Report>,
    created_at: String,
    finished_at: Option<String>,
}

/// One verification.
#[derive(Serialize, ToSchema)]
struct VerifyAnswer {
    verification: VerifyView,
}

impl VerifyAnswer {
    fn new(Verification { job, report }: Verification) -> Self {
        let verification = VerifyView {
            id: job.id,
            status: job.status,
            error: job.error,
            progress: job.progress.filter(|_| job.finished_at.is_none()),
            report,
            created_at: wire(job.created_at),
            finished_at: job.finished_at.map(wire),
        };
        Self { verification }
    }
}

/// Figures of the store
#[utoipa::path(get, path = "/v2/store/stats", tag = "Store", operation_id = "store_stats",
    security(("token" = ["store:read"])), responses((status = 200, body = StatsAnswer)))]
async fn stats(State(app): State<App>, caller: Caller) -> Result<Json<StatsAnswer>> {
    let stats = service::store_stats(&app, &caller).await?;
    Ok(Json(StatsAnswer { stats }))
}

/// Look for damage
#[utoipa::path(post, path = "/v2/store/verify", tag = "Store", operation_id = "store_verify", request_body = VerifyCreate,
    security(("token" = ["store:update"])), responses((status = 202, body = VerifyAnswer)))]
async fn verify_start(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<VerifyCreate>,
) -> Result<(StatusCode, Json<VerifyAnswer>)> {
    let started = service::verify_start(&app, &caller, body.read_data).await?;
    Ok((StatusCode::ACCEPTED, Json(VerifyAnswer::new(started))))
}

/// What was found
#[utoipa::path(get, path = "/v2/store/verify/{job_id}", tag = "Store", operation_id = "store_verify_get",
    params(("job_id" = i64, Path)), security(("token" = ["store:read"])),
    responses((status = 200, body = VerifyAnswer)))]
async fn verify_get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<VerifyAnswer>> {
    let id = id.parse().map_err(|_| Error::NotFound)?;
    Ok(Json(VerifyAnswer::new(
        service::verify_get(&app, &caller, id).await?,
    )))
}
