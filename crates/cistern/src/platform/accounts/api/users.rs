//! `/v2/users` and `/v2/teams`: the installation's, so for operators only.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::members::{MemberAnswer, MemberBody};
use crate::app::App;
use crate::platform::accounts::service::{self, UserChange, UserNew};
use crate::platform::accounts::{Caller, Role, rows};
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Body;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::origin::Origin;
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::{Error, Result};
use crate::platform::paging::PageQuery;

/// The routes of users and teams.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update))
        .routes(routes!(sign_in_link))
        .routes(routes!(team_list, team_create))
        .routes(routes!(team_update))
        .routes(routes!(team_members, team_member_add))
}

/// A person of the installation.
#[derive(Serialize, ToSchema)]
pub struct UserBody {
    id: i64,
    uuid: String,
    email: String,
    name: String,
    is_operator: bool,
    /// Whether they have a password; without one they sign in by link.
    has_password: bool,
    is_disabled: bool,
    created_at: String,
}

#[derive(Serialize, ToSchema)]
struct UserAnswer {
    user: UserBody,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
struct UserList {
    users: Vec<UserBody>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserCreate {
    email: String,
    name: Option<String>,
    /// The first team; left out, the caller's.
    team_id: Option<i64>,
    /// `owner`, `member` or `viewer`; left out, `member`.
    role: Option<String>,
    #[serde(default)]
    is_operator: bool,
}

/// What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserUpdate {
    email: Option<String>,
    name: Option<String>,
    is_operator: Option<bool>,
    is_disabled: Option<bool>,
}

/// A link that signs in once.
#[derive(Serialize, ToSchema)]
struct LinkAnswer {
    url: String,
    expires_at: String,
}

/// A team.
#[derive(Serialize, ToSchema)]
struct TeamBody {
    id: i64,
    uuid: String,
    name: String,
    created_at: String,
}

#[derive(Serialize, ToSchema)]
struct TeamAnswer {
    team: TeamBody,
}

/// A page of teams.
#[derive(Serialize, ToSchema)]
struct TeamList {
    teams: Vec<TeamBody>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TeamName {
    name: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TeamMemberAdd {
    user_id: i64,
    /// `owner`, `member` or `viewer`.
    role: String,
}

/// A page of a team's members.
#[derive(Serialize, ToSchema)]
struct TeamMembers {
    members: Vec<MemberBody>,
    #[serde(flatten)]
    paging: Paging,
}

fn body(user: rows::user::Model) -> UserBody {
    UserBody {
        id: user.id,
        uuid: user.uuid,
        email: user.email,
        name: user.name,
        is_operator: user.is_operator,
        has_password: user.password_hash.is_some(),
        is_disabled: user.disabled_at.is_some(),
        created_at: wire(user.created_at),
    }
}

fn team_body(team: rows::team::Model) -> TeamBody {
    TeamBody {
        id: team.id,
        uuid: team.uuid,
        name: team.name,
        created_at: wire(team.created_at),
    }
}

/// List users (operators)
#[utoipa::path(get, path = "/v2/users", operation_id = "user_list", tag = "Accounts", security(("token" = ["user:read"])), params(PageQuery),
    responses((status = 200, body = UserList), (status = 403, body = ErrorBody)))]
async fn list(State(app): State<App>, paged: Paged) -> Result<Json<UserList>> {
    let listed = service::user_list(&app, paged.page).await?;
    Ok(Json(UserList {
        paging: paged.paging(listed.total),
        users: listed.rows.into_iter().map(body).collect(),
    }))
}

/// Make a user (operators)
#[utoipa::path(post, path = "/v2/users", operation_id = "user_create", tag = "Accounts", security(("token" = ["user:create"])),
    request_body = UserCreate, responses((status = 201, body = UserAnswer), (status = 409, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<UserCreate>,
) -> Result<(StatusCode, Json<UserAnswer>)> {
    let role: Role = new.role.as_deref().unwrap_or("member").parse()?;
    let new = UserNew {
        email: &new.email,
        name: new.name.as_deref(),
        team: (new.team_id.unwrap_or(caller.team_id), role),
        is_operator: new.is_operator,
    };
    let user = body(service::user_create_as(&app, &caller.who, &new).await?);
    Ok((StatusCode::CREATED, Json(UserAnswer { user })))
}

/// One user (operators)
#[utoipa::path(get, path = "/v2/users/{user_id}", operation_id = "user_get", tag = "Accounts", security(("token" = ["user:read"])),
    params(("user_id" = i64, Path)), responses((status = 200, body = UserAnswer), (status = 404, body = ErrorBody)))]
async fn get(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<UserAnswer>> {
    let user = body(service::user_get(&app, id).await?);
    Ok(Json(UserAnswer { user }))
}

/// Change a user, or disable them (operators)
#[utoipa::path(put, path = "/v2/users/{user_id}", operation_id = "user_update", tag = "Accounts", security(("token" = ["user:update"])),
    params(("user_id" = i64, Path)), request_body = UserUpdate,
    responses((status = 200, body = UserAnswer), (status = 409, body = ErrorBody)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(change): Body<UserUpdate>,
) -> Result<Json<UserAnswer>> {
    let change = UserChange {
        email: change.email,
        name: change.name,
        is_operator: change.is_operator,
        is_disabled: change.is_disabled,
    };
    let user = body(service::user_change(&app, &caller.who, id, &change).await?);
    Ok(Json(UserAnswer { user }))
}

/// Make a link that signs a user in to the console once, within a day (operators, by a token without narrowed scopes)
#[utoipa::path(post, path = "/v2/users/{user_id}/sign_in_link", operation_id = "user_sign_in_link", tag = "Accounts",
    security(("token" = ["user:update"])), params(("user_id" = i64, Path)),
    responses((status = 201, body = LinkAnswer), (status = 404, body = ErrorBody)))]
async fn sign_in_link(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Path(id): Path<i64>,
) -> Result<(StatusCode, Json<LinkAnswer>)> {
    // Who signs in by it may do everything; a narrowed token must not become that.
    if !caller.scopes.is_all() {
        return Err(Error::forbidden(
            "The token is narrowed to scopes, and a sign-in link opens everything; use a token without scopes.",
        ));
    }
    let link = service::link_create(&app, &caller.who, id, None).await?;
    let answer = LinkAnswer {
        url: format!(
            "{}/sign-in/{}",
            app.config.console_url(origin.base_url()),
            link.secret
        ),
        expires_at: wire(link.expires_at),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// List teams (operators)
#[utoipa::path(get, path = "/v2/teams", operation_id = "team_list", tag = "Accounts", security(("token" = ["team:read"])), params(PageQuery),
    responses((status = 200, body = TeamList), (status = 403, body = ErrorBody)))]
async fn team_list(State(app): State<App>, paged: Paged) -> Result<Json<TeamList>> {
    let listed = service::team_list(&app, paged.page).await?;
    Ok(Json(TeamList {
        paging: paged.paging(listed.total),
        teams: listed.rows.into_iter().map(team_body).collect(),
    }))
}

/// Make a team and be its first owner (operators)
#[utoipa::path(post, path = "/v2/teams", operation_id = "team_create", tag = "Accounts", security(("token" = ["team:create"])),
    request_body = TeamName, responses((status = 201, body = TeamAnswer), (status = 409, body = ErrorBody)))]
async fn team_create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<TeamName>,
) -> Result<(StatusCode, Json<TeamAnswer>)> {
    let team = team_body(service::team_create(&app, &caller.who, &new.name, caller.user_id).await?);
    Ok((StatusCode::CREATED, Json(TeamAnswer { team })))
}

/// Rename a team (operators)
#[utoipa::path(put, path = "/v2/teams/{team_id}", operation_id = "team_update", tag = "Accounts", security(("token" = ["team:update"])),
    params(("team_id" = i64, Path)), request_body = TeamName,
    responses((status = 200, body = TeamAnswer), (status = 404, body = ErrorBody)))]
async fn team_update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(change): Body<TeamName>,
) -> Result<Json<TeamAnswer>> {
    let team = team_body(service::team_rename(&app, &caller.who, id, &change.name).await?);
    Ok(Json(TeamAnswer { team }))
}

/// List a team's members (operators)
#[utoipa::path(get, path = "/v2/teams/{team_id}/members", operation_id = "team_members", tag = "Accounts", security(("token" = ["team:read"])),
    params(("team_id" = i64, Path), PageQuery), responses((status = 200, body = TeamMembers)))]
async fn team_members(
    State(app): State<App>,
    Path(id): Path<i64>,
    paged: Paged,
) -> Result<Json<TeamMembers>> {
    let listed = service::member_list(&app, id, paged.page).await?;
    Ok(Json(TeamMembers {
        paging: paged.paging(listed.total),
        members: listed.rows.into_iter().map(MemberBody::from).collect(),
    }))
}

/// Make a user a member of a team (operators)
#[utoipa::path(post, path = "/v2/teams/{team_id}/members", operation_id = "team_member_add", tag = "Accounts", security(("token" = ["team:update"])),
    params(("team_id" = i64, Path)), request_body = TeamMemberAdd,
    responses((status = 201, body = MemberAnswer), (status = 409, body = ErrorBody)))]
async fn team_member_add(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(new): Body<TeamMemberAdd>,
) -> Result<(StatusCode, Json<MemberAnswer>)> {
    let view = service::member_add(&app, &caller.who, id, new.user_id, new.role.parse()?).await?;
    let member = MemberBody::from(view);
    Ok((StatusCode::CREATED, Json(MemberAnswer { member })))
}
