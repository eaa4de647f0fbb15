//! `/v1/oauth/…` as doctl uses it: `auth init --token-validation-server` asks for `token/info`, `registry logout
//! --authorization-server-endpoint` posts to `revoke`.

use axum::Json;
use axum::extract::{Form, State};
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::platform::accounts::{Caller, service};
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::{bearer, who};
use crate::platform::error::{Error, Result};
use crate::platform::events::{Acting, Who};

/// The OAuth routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(info)).routes(routes!(revoke))
}

/// What a token says of itself. doctl decodes it into integers and strings, so times are Unix seconds here.
#[derive(Serialize, ToSchema)]
struct TokenInfo {
    resource_owner_id: i64,
    /// `*:*` where nothing is narrowed.
    scopes: Vec<String>,
    /// Null where it never ends.
    expires_in_seconds: Option<i64>,
    application: Application,
    created_at: i64,
}

/// The application that the token belongs to: none, it is a personal one.
#[derive(Serialize, ToSchema)]
struct Application {
    uid: Option<String>,
}

#[derive(Deserialize, ToSchema)]
struct Revoke {
    /// The token's text.
    token: String,
}

/// An empty object.
#[derive(Serialize, ToSchema)]
struct Nothing {}

/// What the calling token is
#[utoipa::path(get, path = "/v1/oauth/token/info", operation_id = "oauth_info", tag = "Accounts", security(("token" = [])),
    responses((status = 200, body = TokenInfo), (status = 401, body = ErrorBody)))]
async fn info(State(app): State<App>, caller: Caller) -> Result<Json<TokenInfo>> {
    let info = service::token_info(&app, &caller).await?;
    let scopes = if info.scopes.is_all() {
        vec!["*:*".to_owned()]
    } else {
        info.scopes.list().to_vec()
    };
    Ok(Json(TokenInfo {
        resource_owner_id: info.user_id,
        scopes,
        expires_in_seconds: info.expires_in_seconds,
        application: Application { uid: None },
        created_at: info.created_at.timestamp(),
    }))
}

/// Who asks for a revocation.
struct Asking {
    bearer: String,
    who: Who,
    acting: Option<Acting>,
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Asking {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let bearer = bearer(&parts.headers).ok_or(Error::Unauthenticated)?.to_owned();
        Ok(Self {
            bearer,
            who: who(parts),
            acting: parts.extensions.get().cloned(),
        })
    }
}

/// End the calling token
///
/// Whoever holds a token's text may end it, whatever its scopes; another one's text is refused. A token that is over
/// already is 200 as well (RFC 7009, 2.2), so that `docker logout` and `terraform destroy` can end.
#[utoipa::path(post, path = "/v1/oauth/revoke", operation_id = "oauth_revoke", tag = "Accounts",
    request_body(content = Revoke, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Nothing), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn revoke(
    State(app): State<App>,
    asking: Asking,
    form: std::result::Result<Form<Revoke>, axum::extract::rejection::FormRejection>,
) -> Result<Json<Nothing>> {
    let token = match form {
        Ok(Form(form)) => form.token,
        Err(_) => asking.bearer.clone(),
    };
    if token != asking.bearer {
        // Only a token that is good may learn that it may not do this.
        let caller = service::authenticate(&app, &asking.bearer, asking.who).await?;
        if let Some(acting) = asking.acting {
            acting.set(&caller.who);
        }
        return Err(Error::forbidden(
            "A token ends only itself here; revoke another one with DELETE /v2/tokens/ID.",
        ));
    }
    service::token_revoke_self(&app, &asking.who, &token).await?;
    Ok(Json(Nothing {}))
}
