//! `/v2/account`: the user and team behind a token.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Caller, service};
use crate::app::App;
use crate::platform::error::Result;

/// What DigitalOcean shows as limits. Cistern sets none here, but the fields are required and scripts read them.
const LIMIT: u32 = 1_000_000;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get))
}

/// The caller's user and team.
#[derive(Serialize, ToSchema)]
struct AccountView {
    droplet_limit: u32,
    /// There are no floating addresses here.
    floating_ip_limit: u32,
    reserved_ip_limit: u32,
    volume_limit: u32,
    email: String,
    name: String,
    uuid: String,
    /// Accounts are made by the installation's owner, who vouches for the address.
    email_verified: bool,
    /// `active`.
    status: &'static str,
    status_message: &'static str,
    team: TeamView,
}

/// A team's identity.
#[derive(Serialize, ToSchema)]
struct TeamView {
    uuid: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
struct AccountAnswer {
    account: AccountView,
}

/// Show the account
#[utoipa::path(get, path = "/v2/account", tag = "Account", operation_id = "account_get",
    security(("token" = ["account:read"])), responses((status = 200, body = AccountAnswer)))]
async fn get(State(app): State<App>, caller: Caller) -> Result<Json<AccountAnswer>> {
    let (user, team) = service::account_get(&app, &caller).await?;
    let account = AccountView {
        droplet_limit: LIMIT,
        floating_ip_limit: 0,
        reserved_ip_limit: 0,
        volume_limit: LIMIT,
        email: user.email,
        name: user.name,
        uuid: user.uuid,
        email_verified: true,
        status: "active",
        status_message: "",
        team: TeamView {
            uuid: team.uuid,
            name: team.name,
        },
    };
    Ok(Json(AccountAnswer { account }))
}
