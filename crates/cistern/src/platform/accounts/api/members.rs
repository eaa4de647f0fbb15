//! `/v2/members`: of the caller's own team.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::accounts::service::{self, MemberView};
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Body;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;

/// The routes of members.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(update, remove))
}

/// A member of a team.
#[derive(Serialize, ToSchema)]
pub struct MemberBody {
    user_id: i64,
    uuid: String,
    email: String,
    name: String,
    /// `owner`, `member` or `viewer`.
    role: &'static str,
    is_disabled: bool,
    created_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct MemberAnswer {
    pub member: MemberBody,
}

/// A page of members.
#[derive(Serialize, ToSchema)]
struct MemberList {
    members: Vec<MemberBody>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MemberUpdate {
    /// `owner`, `member` or `viewer`.
    role: String,
}

impl From<MemberView> for MemberBody {
    fn from(view: MemberView) -> Self {
        Self {
            user_id: view.user.id,
            uuid: view.user.uuid,
            email: view.user.email,
            name: view.user.name,
            role: view.role.as_str(),
            is_disabled: view.user.disabled_at.is_some(),
            created_at: wire(view.since),
        }
    }
}

/// List the members of your team
#[utoipa::path(get, path = "/v2/members", operation_id = "member_list", tag = "Accounts", security(("token" = ["member:read"])), params(PageQuery),
    responses((status = 200, body = MemberList)))]
async fn list(State(app): State<App>, caller: Caller, paged: Paged) -> Result<Json<MemberList>> {
    let listed = service::member_list(&app, caller.team_id, paged.page).await?;
    Ok(Json(MemberList {
        paging: paged.paging(listed.total),
        members: listed.rows.into_iter().map(MemberBody::from).collect(),
    }))
}

/// Give a member another role (owners)
#[utoipa::path(put, path = "/v2/members/{user_id}", operation_id = "member_update", tag = "Accounts", security(("token" = ["member:update"])),
    params(("user_id" = i64, Path)), request_body = MemberUpdate,
    responses((status = 200, body = MemberAnswer), (status = 409, body = ErrorBody)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(change): Body<MemberUpdate>,
) -> Result<Json<MemberAnswer>> {
    let role = change.role.parse()?;
    let view = service::member_set_role(&app, &caller.who, caller.team_id, id, role).await?;
    let member = MemberBody::from(view);
    Ok(Json(MemberAnswer { member }))
}

/// Remove a member (owners); their tokens of this team end
#[utoipa::path(delete, path = "/v2/members/{user_id}", operation_id = "member_remove", tag = "Accounts", security(("token" = ["member:delete"])),
    params(("user_id" = i64, Path)), responses((status = 204), (status = 409, body = ErrorBody)))]
async fn remove(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<StatusCode> {
    service::member_remove(&app, &caller.who, caller.team_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
