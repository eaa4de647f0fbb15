//! `/v2/account/keys`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{rows, service};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::extract::Body;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::path::Path;
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
}

/// A public key.
#[derive(Serialize, ToSchema)]
struct SshKeyView {
    id: i64,
    /// MD5, with colons.
    fingerprint: String,
    public_key: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
struct SshKeyAnswer {
    ssh_key: SshKeyView,
}

/// A page of keys.
#[derive(Serialize, ToSchema)]
struct SshKeyList {
    ssh_keys: Vec<SshKeyView>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
struct SshKeyCreate {
    /// A name for people.
    name: String,
    /// A line as in `id_ed25519.pub`.
    public_key: String,
}

#[derive(Deserialize, ToSchema)]
struct SshKeyUpdate {
    /// The new name.
    name: Option<String>,
}

fn view(row: rows::Model) -> SshKeyView {
    SshKeyView {
        id: row.id,
        fingerprint: row.fingerprint,
        public_key: row.public_key,
        name: row.name,
    }
}

fn answer(row: rows::Model) -> Json<SshKeyAnswer> {
    Json(SshKeyAnswer { ssh_key: view(row) })
}

/// List the SSH keys
#[utoipa::path(get, path = "/v2/account/keys", tag = "SSH Keys", operation_id = "sshKeys_list", params(PageQuery),
    security(("token" = ["ssh_key:read"])), responses((status = 200, body = SshKeyList)))]
async fn list(State(app): State<App>, caller: Caller, paged: Paged) -> Result<Json<SshKeyList>> {
    let listed = service::key_list(&app, &caller, paged.page).await?;
    Ok(Json(SshKeyList {
        paging: paged.paging(listed.total),
        ssh_keys: listed.rows.into_iter().map(view).collect(),
    }))
}

/// Add an SSH key
#[utoipa::path(post, path = "/v2/account/keys", tag = "SSH Keys", operation_id = "sshKeys_create",
    security(("token" = ["ssh_key:create"])), responses((status = 201, body = SshKeyAnswer)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<SshKeyCreate>,
) -> Result<(StatusCode, Json<SshKeyAnswer>)> {
    let row = service::key_create(&app, &caller, &body.name, &body.public_key).await?;
    Ok((StatusCode::CREATED, answer(row)))
}

/// Show an SSH key
#[utoipa::path(get, path = "/v2/account/keys/{ssh_key_identifier}", tag = "SSH Keys", operation_id = "sshKeys_get",
    params(("ssh_key_identifier" = String, Path, description = "its id or its fingerprint")),
    security(("token" = ["ssh_key:read"])), responses((status = 200, body = SshKeyAnswer)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(which): Path<String>,
) -> Result<Json<SshKeyAnswer>> {
    Ok(answer(service::key_get(&app, &caller, &which).await?))
}

/// Rename an SSH key
#[utoipa::path(put, path = "/v2/account/keys/{ssh_key_identifier}", tag = "SSH Keys", operation_id = "sshKeys_update",
    params(("ssh_key_identifier" = String, Path, description = "its id or its fingerprint")),
    security(("token" = ["ssh_key:update"])), responses((status = 200, body = SshKeyAnswer)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(which): Path<String>,
    Body(body): Body<SshKeyUpdate>,
) -> Result<Json<SshKeyAnswer>> {
    Ok(answer(
        service::key_update(&app, &caller, &which, body.name.as_deref()).await?,
    ))
}

/// Remove an SSH key
#[utoipa::path(delete, path = "/v2/account/keys/{ssh_key_identifier}", tag = "SSH Keys",
    operation_id = "sshKeys_delete",
    params(("ssh_key_identifier" = String, Path, description = "its id or its fingerprint")),
    security(("token" = ["ssh_key:delete"])), responses((status = 204)))]
async fn delete(State(app): State<App>, caller: Caller, Path(which): Path<String>) -> Result<StatusCode> {
    service::key_delete(&app, &caller, &which).await?;
    Ok(StatusCode::NO_CONTENT)
}
