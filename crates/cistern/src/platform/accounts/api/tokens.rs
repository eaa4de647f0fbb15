//! `/v2/tokens`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ScopeList;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::accounts::service::{self, TokenView};
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Body;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::{Error, Result};
use crate::platform::paging::PageQuery;

/// A hundred years: longer is a typing error.
const LIFETIME_MAX: i64 = 100 * 366 * 86_400;

/// The routes of tokens.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, revoke))
}

/// An API token.
#[derive(Serialize, ToSchema)]
struct TokenBody {
    id: i64,
    name: String,
    /// `resource:verb`; empty means everything its user may do.
    scopes: Vec<String>,
    /// The user it acts for.
    user_id: i64,
    /// That user's e-mail address.
    user: String,
    /// The last four characters of the text.
    hint: String,
    created_at: String,
    /// Null where it never ends.
    expires_at: Option<String>,
    /// To the minute; null where it was not used yet.
    last_used_at: Option<String>,
    /// The text, only in the answer that made it. It is kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    /// A sentence for each scope that opens nothing while its user's role is what it is; only in the answer that made
    /// it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct TokenAnswer {
    token: TokenBody,
}

/// A page of tokens.
#[derive(Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<TokenBody>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenCreate {
    /// For people.
    name: String,
    /// `resource:verb`, at most what the calling token has; left out, the same as that.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<ScopeList>,
    /// Seconds until it ends; left out, never, or with the calling token.
    #[serde(alias = "expires_in_seconds")]
    expiry_seconds: Option<i64>,
}

fn body(view: TokenView) -> TokenBody {
    TokenBody {
        id: view.id,
        name: view.name,
        scopes: view.scopes.list().to_vec(),
        user_id: view.user_id,
        user: view.email,
        hint: view.hint,
        created_at: wire(view.created_at),
        expires_at: view.expires_at.map(wire),
        last_used_at: view.last_used_at.map(wire),
        access_token: None,
        warnings: Vec::new(),
    }
}

/// List tokens: your own, and as an owner those of the whole team
#[utoipa::path(get, path = "/v2/tokens", operation_id = "token_list", tag = "Accounts", security(("token" = ["token:read"])), params(PageQuery),
    responses((status = 200, body = TokenList)))]
async fn list(State(app): State<App>, caller: Caller, paged: Paged) -> Result<Json<TokenList>> {
    let listed = service::token_list(&app, &caller, paged.page).await?;
    Ok(Json(TokenList {
        paging: paged.paging(listed.total),
        tokens: listed.rows.into_iter().map(body).collect(),
    }))
}

/// Make a token for yourself; its text is in this answer only
#[utoipa::path(post, path = "/v2/tokens", operation_id = "token_create", tag = "Accounts", security(("token" = ["token:create"])),
    request_body = TokenCreate, responses((status = 201, body = TokenAnswer), (status = 422, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<TokenCreate>,
) -> Result<(StatusCode, Json<TokenAnswer>)> {
    let scopes = new.scopes.map(|s| service::scopes_parse(&s.text())).transpose()?;
    let lifetime = match new.expiry_seconds {
        Some(seconds) if !(1..=LIFETIME_MAX).contains(&seconds) => {
            return Err(Error::invalid(format!(
                "`expiry_seconds` goes from 1 to {LIFETIME_MAX}; leave it out for a token that does not end"
            )));
        }
        seconds => seconds.map(TimeDelta::seconds),
    };
    let (view, made) = service::token_create_by(&app, &caller, &new.name, scopes, lifetime).await?;
    let mut token = body(view);
    token.access_token = Some(made.text);
    token.warnings = made.warnings;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token })))
}

/// One token
#[utoipa::path(get, path = "/v2/tokens/{token_id}", operation_id = "token_get", tag = "Accounts", security(("token" = ["token:read"])),
    params(("token_id" = i64, Path)), responses((status = 200, body = TokenAnswer), (status = 404, body = ErrorBody)))]
async fn get(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Json<TokenAnswer>> {
    let token = body(service::token_get(&app, &caller, id).await?);
    Ok(Json(TokenAnswer { token }))
}

/// Revoke a token: your own, or as an owner anyone's of the team
#[utoipa::path(delete, path = "/v2/tokens/{token_id}", operation_id = "token_revoke", tag = "Accounts", security(("token" = ["token:delete"])),
    params(("token_id" = i64, Path)), responses((status = 204), (status = 404, body = ErrorBody)))]
async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<StatusCode> {
    service::token_revoke(&app, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
