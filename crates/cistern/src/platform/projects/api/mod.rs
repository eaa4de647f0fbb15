//! `/v2/projects`.

mod bodies;
mod views;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::bodies::{ProjectAssign, ProjectCreate, ProjectPatch, ProjectPut};
use self::views::{
    ProjectAnswer, ProjectList, ResourceAnswer, ResourceList, assigned_view, project_view, resource_view,
};
use super::model::Change;
use super::rows::project;
use super::service::{self, Which};
use crate::app::App;
use crate::platform::accounts::{Caller, service as accounts};
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Body;
use crate::platform::api::list::Paged;
use crate::platform::api::origin::Origin;
use crate::platform::api::path::Path;
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;

/// The routes of this room. The default project has paths of its own, as in DigitalOcean's specification.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(default_get, default_put, default_patch))
        .routes(routes!(default_resources, default_assign))
        .routes(routes!(get, put, patch, delete))
        .routes(routes!(resources, assign))
}

async fn answer(app: &App, caller: &Caller, row: project::Model) -> Result<Json<ProjectAnswer>> {
    let team = accounts::team_of(app, caller).await?;
    Ok(Json(ProjectAnswer {
        project: project_view(row, &team),
    }))
}

async fn update(app: &App, caller: &Caller, which: Which, change: Change) -> Result<Json<ProjectAnswer>> {
    let row = service::project_update(app, caller, &which, change).await?;
    answer(app, caller, row).await
}

async fn resource_page(
    app: &App,
    caller: &Caller,
    origin: &Origin,
    paged: &Paged,
    which: Which,
) -> Result<Json<ResourceList>> {
    let listed = service::resource_list(app, caller, &which, paged.page).await?;
    Ok(Json(ResourceList {
        paging: paged.paging(listed.total),
        resources: listed
            .rows
            .iter()
            .map(|row| resource_view(row, origin.base_url()))
            .collect(),
    }))
}

async fn resource_assign(
    app: &App,
    caller: &Caller,
    origin: &Origin,
    which: Which,
    body: &ProjectAssign,
) -> Result<Json<ResourceAnswer>> {
    let assigned = service::resource_assign(app, caller, &which, &body.resources).await?;
    let resources = assigned
        .iter()
        .map(|one| assigned_view(one, origin.base_url()))
        .collect();
    Ok(Json(ResourceAnswer { resources }))
}

/// List the projects
#[utoipa::path(get, path = "/v2/projects", tag = "Projects", operation_id = "projects_list", params(PageQuery),
    security(("token" = ["project:read"])), responses((status = 200, body = ProjectList)))]
async fn list(State(app): State<App>, caller: Caller, paged: Paged) -> Result<Json<ProjectList>> {
    let listed = service::project_list(&app, &caller, paged.page).await?;
    let team = accounts::team_of(&app, &caller).await?;
    Ok(Json(ProjectList {
        paging: paged.paging(listed.total),
        projects: listed
            .rows
            .into_iter()
            .map(|row| project_view(row, &team))
            .collect(),
    }))
}

/// Make a project
#[utoipa::path(post, path = "/v2/projects", tag = "Projects", operation_id = "projects_create",
    security(("token" = ["project:create"])), responses((status = 201, body = ProjectAnswer)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<ProjectCreate>,
) -> Result<(StatusCode, Json<ProjectAnswer>)> {
    let row = service::project_create(&app, &caller, body.into()).await?;
    Ok((StatusCode::CREATED, answer(&app, &caller, row).await?))
}

/// Show the default project
#[utoipa::path(get, path = "/v2/projects/default", tag = "Projects", operation_id = "projects_get_default",
    security(("token" = ["project:read"])), responses((status = 200, body = ProjectAnswer)))]
async fn default_get(State(app): State<App>, caller: Caller) -> Result<Json<ProjectAnswer>> {
    let row = service::project_get(&app, &caller, &Which::Default).await?;
    answer(&app, &caller, row).await
}

/// Show a project
#[utoipa::path(get, path = "/v2/projects/{project_id}", tag = "Projects", operation_id = "projects_get", params(("project_id" = String, Path, description = "its UUID")),
    security(("token" = ["project:read"])), responses((status = 200, body = ProjectAnswer)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(uuid): Path<String>,
) -> Result<Json<ProjectAnswer>> {
    let row = service::project_get(&app, &caller, &Which::Uuid(uuid)).await?;
    answer(&app, &caller, row).await
}

/// Replace the default project
#[utoipa::path(put, path = "/v2/projects/default", tag = "Projects", operation_id = "projects_update_default",
    security(("token" = ["project:update"])), responses((status = 200, body = ProjectAnswer)))]
async fn default_put(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<ProjectPut>,
) -> Result<Json<ProjectAnswer>> {
    update(&app, &caller, Which::Default, body.into()).await
}

/// Replace a project
#[utoipa::path(put, path = "/v2/projects/{project_id}", tag = "Projects", operation_id = "projects_update", params(("project_id" = String, Path, description = "its UUID")),
    security(("token" = ["project:update"])), responses((status = 200, body = ProjectAnswer)))]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(uuid): Path<String>,
    Body(body): Body<ProjectPut>,
) -> Result<Json<ProjectAnswer>> {
    update(&app, &caller, Which::Uuid(uuid), body.into()).await
}

/// Change the default project
#[utoipa::path(patch, path = "/v2/projects/default", tag = "Projects", operation_id = "projects_patch_default",
    security(("token" = ["project:update"])), responses((status = 200, body = ProjectAnswer)))]
async fn default_patch(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<ProjectPatch>,
) -> Result<Json<ProjectAnswer>> {
    update(&app, &caller, Which::Default, body.into()).await
}

/// Change a project
#[utoipa::path(patch, path = "/v2/projects/{project_id}", tag = "Projects", operation_id = "projects_patch", params(("project_id" = String, Path, description = "its UUID")),
    security(("token" = ["project:update"])), responses((status = 200, body = ProjectAnswer)))]
async fn patch(
    State(app): State<App>,
    caller: Caller,
    Path(uuid): Path<String>,
    Body(body): Body<ProjectPatch>,
) -> Result<Json<ProjectAnswer>> {
    update(&app, &caller, Which::Uuid(uuid), body.into()).await
}

/// Delete a project
///
/// Only an empty one that is not the default can be deleted.
#[utoipa::path(delete, path = "/v2/projects/{project_id}", tag = "Projects", operation_id = "projects_delete", params(("project_id" = String, Path, description = "its UUID")),
    security(("token" = ["project:delete"])), responses((status = 204), (status = 412, body = ErrorBody)))]
async fn delete(State(app): State<App>, caller: Caller, Path(uuid): Path<String>) -> Result<StatusCode> {
    service::project_delete(&app, &caller, &Which::Uuid(uuid)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List what belongs to the default project
#[utoipa::path(get, path = "/v2/projects/default/resources", tag = "Projects", operation_id = "projects_list_resources_default", params(PageQuery),
    security(("token" = ["project:read"])), responses((status = 200, body = ResourceList)))]
async fn default_resources(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    paged: Paged,
) -> Result<Json<ResourceList>> {
    resource_page(&app, &caller, &origin, &paged, Which::Default).await
}

/// List what belongs to a project
#[utoipa::path(get, path = "/v2/projects/{project_id}/resources", tag = "Projects", operation_id = "projects_list_resources", params(("project_id" = String, Path, description = "its UUID"), PageQuery),
    security(("token" = ["project:read"])), responses((status = 200, body = ResourceList)))]
async fn resources(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    paged: Paged,
    Path(uuid): Path<String>,
) -> Result<Json<ResourceList>> {
    resource_page(&app, &caller, &origin, &paged, Which::Uuid(uuid)).await
}

/// Put resources into the default project
#[utoipa::path(post, path = "/v2/projects/default/resources", tag = "Projects", operation_id = "projects_assign_resources_default",
    security(("token" = ["project:assign_resource"])), responses((status = 200, body = ResourceAnswer)))]
async fn default_assign(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Body(body): Body<ProjectAssign>,
) -> Result<Json<ResourceAnswer>> {
    resource_assign(&app, &caller, &origin, Which::Default, &body).await
}

/// Put resources into a project
#[utoipa::path(post, path = "/v2/projects/{project_id}/resources", tag = "Projects", operation_id = "projects_assign_resources", params(("project_id" = String, Path, description = "its UUID")),
    security(("token" = ["project:assign_resource"])), responses((status = 200, body = ResourceAnswer)))]
async fn assign(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Path(uuid): Path<String>,
    Body(body): Body<ProjectAssign>,
) -> Result<Json<ResourceAnswer>> {
    resource_assign(&app, &caller, &origin, Which::Uuid(uuid), &body).await
}
