//! `/v2/jobs`: the installation's long work, for operators. A job's payload is not shown.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::{self, JobRow};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Query;
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::Result;

/// The routes of jobs.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(cancel))
}

/// A job.
#[derive(Serialize, ToSchema)]
pub struct JobBody {
    id: i64,
    /// `resource.verb`.
    kind: String,
    /// What it works on, such as `image 7`.
    about: Option<String>,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    status: String,
    /// What its kind tells of the work so far.
    progress: Option<Value>,
    attempts: i32,
    max_attempts: i32,
    /// When it is due, where it waits.
    run_at: String,
    /// Only this server may run it.
    node: Option<String>,
    team_id: Option<i64>,
    /// The action that shows it.
    action_id: Option<i64>,
    cancel_requested: bool,
    /// Why it failed, or failed last.
    error: Option<String>,
    created_at: String,
    finished_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct JobAnswer {
    job: JobBody,
}

#[derive(Serialize, ToSchema)]
struct JobList {
    jobs: Vec<JobBody>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobQuery {
    /// Also those that have ended.
    all: Option<bool>,
    /// Only ids below this one.
    before: Option<i64>,
}

impl From<JobRow> for JobBody {
    fn from(row: JobRow) -> Self {
        Self {
            id: row.id,
            about: about(&row.payload),
            kind: row.kind,
            status: row.status,
            progress: row.progress,
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            run_at: wire(row.run_at),
            node: row.node,
            team_id: row.team_id,
            action_id: row.action_id,
            cancel_requested: row.cancel_requested,
            error: row.error,
            created_at: wire(row.created_at),
            finished_at: row.finished_at.map(wire),
        }
    }
}

/// What a payload names by a number: `{"image_id": 7}` is about `image 7`.
fn about(payload: &Value) -> Option<String> {
    let named =
        |(key, value): (&String, &Value)| Some(format!("{} {}", key.strip_suffix("_id")?, value.as_i64()?));
    payload.as_object()?.iter().find_map(named)
}

/// List jobs, newest first, 200 at most (operators)
#[utoipa::path(get, path = "/v2/jobs", operation_id = "job_list", tag = "Jobs", security(("token" = ["job:read"])), params(JobQuery),
    responses((status = 200, body = JobList), (status = 403, body = ErrorBody)))]
async fn list(State(app): State<App>, Query(query): Query<JobQuery>) -> Result<Json<JobList>> {
    let rows = service::job_list(&app, !query.all.unwrap_or(false), query.before).await?;
    Ok(Json(JobList {
        jobs: rows.into_iter().map(JobBody::from).collect(),
    }))
}

/// One job (operators)
#[utoipa::path(get, path = "/v2/jobs/{job_id}", operation_id = "job_get", tag = "Jobs", security(("token" = ["job:read"])),
    params(("job_id" = i64, Path)), responses((status = 200, body = JobAnswer), (status = 404, body = ErrorBody)))]
async fn get(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<JobAnswer>> {
    let job = service::job_get(&app, id).await?.into();
    Ok(Json(JobAnswer { job }))
}

/// Ask a job to stop (operators)
#[utoipa::path(post, path = "/v2/jobs/{job_id}/cancel", operation_id = "job_cancel", tag = "Jobs", security(("token" = ["job:update"])),
    params(("job_id" = i64, Path)), responses((status = 202, body = JobAnswer), (status = 409, body = ErrorBody)))]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<(StatusCode, Json<JobAnswer>)> {
    let job = service::job_cancel(&app, &caller.who, id).await?.into();
    Ok((StatusCode::ACCEPTED, Json(JobAnswer { job })))
}
