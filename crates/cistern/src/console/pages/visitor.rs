//! Who looks at a page, and whether a form is theirs.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::{Fault, home};
use crate::app::App;
use crate::console::session;
use crate::platform::accounts::Caller;
use crate::platform::accounts::service::session_caller;
use crate::platform::api::extract::who;
use crate::platform::api::origin::Origin;
use crate::platform::error::{Error, Result};
use crate::platform::events::{Acting, Who};

/// A browser, signed in or not.
pub struct Visitor {
    /// Where it comes from, not who it is.
    pub who: Who,
    /// Our address as it knows it.
    pub base_url: String,
    /// Who it is, where it is signed in.
    pub session: Option<SignedIn>,
}

/// A browser that is signed in.
pub struct SignedIn {
    /// Who it is, with what they may do now.
    pub caller: Caller,
    /// The cookie's secret.
    pub secret: String,
    /// Our address as it knows it.
    pub base_url: String,
}

impl Visitor {
    /// Whether it reaches us by TLS, maybe through a proxy.
    pub fn is_tls(&self) -> bool {
        self.base_url.starts_with("https://")
    }
}

impl SignedIn {
    /// The token for its forms.
    pub fn form_token(&self) -> String {
        session::form_token(&self.secret)
    }

    /// Refuses a form that is not of this session.
    pub fn form_check(&self, given: &str) -> Result<()> {
        if session::form_token_is_right(&self.secret, given) {
            return Ok(());
        }
        Err(Error::forbidden(
            "The page was made for another sign-in; load it again and send it from there.",
        ))
    }

    /// As of a [`Visitor`].
    pub fn is_tls(&self) -> bool {
        self.base_url.starts_with("https://")
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Fault> {
        let origin = Origin::from_request_parts(parts, app).await?;
        let base_url = origin.base_url().to_owned();
        let who = who(parts);
        let secret = cookie(&parts.headers, base_url.starts_with("https://"));
        let mut session = None;
        if let Some(secret) = secret
            && let Some(caller) = session_caller(app, &secret, who.clone()).await?
        {
            if let Some(acting) = parts.extensions.get::<Acting>() {
                acting.set(&caller.who);
            }
            session = Some(SignedIn {
                caller,
                secret,
                base_url: base_url.clone(),
            });
        }
        Ok(Self {
            who,
            base_url,
            session,
        })
    }
}

impl FromRequestParts<App> for SignedIn {
    type Rejection = Response;

    /// Whoever is not signed in is sent to sign in.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let visitor = Visitor::from_request_parts(parts, app)
            .await
            .map_err(IntoResponse::into_response)?;
        visitor.session.ok_or_else(|| home().into_response())
    }
}

/// A form that comes from one of our own pages.
pub struct OwnForm<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for OwnForm<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, app: &App) -> Result<Self, Fault> {
        let (mut parts, body) = request.into_parts();
        let origin = Origin::from_request_parts(&mut parts, app).await?;
        let text = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap_or("null"));
        if !session::is_same_origin(text("sec-fetch-site"), text("origin"), origin.base_url()) {
            return Err(Fault(Error::forbidden(
                "The form came from another site; open the page here and send it from there.",
            )));
        }
        match Form::<T>::from_request(Request::from_parts(parts, body), app).await {
            Ok(Form(form)) => Ok(Self(form)),
            Err(FormRejection::FailedToDeserializeFormBody(_)) => {
                Err(Fault(Error::invalid("the form is not complete")))
            }
            Err(_) => Err(Fault(Error::BadRequest("this is not a form".into()))),
        }
    }
}

fn cookie(headers: &HeaderMap, is_tls: bool) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(|value| session::cookie_read(value, is_tls))
        .map(str::to_owned)
}
