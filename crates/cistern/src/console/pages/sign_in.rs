//! Signing in, by password or by a link that works once, and out.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::visitor::{OwnForm, SignedIn, Visitor};
use super::{Fault, Frame, home_with, render};
use crate::app::App;
use crate::console::session::{cookie_clear, cookie_set};
use crate::platform::accounts::service::{self, Session};
use crate::platform::api::path::Path;
use crate::platform::error::Error;

/// The form for e-mail address and password.
#[derive(Template)]
#[template(path = "console/sign_in.html")]
pub struct SignInPage {
    frame: Frame,
    message: String,
    email: String,
}

/// Behind a link: a button, because programs that look at links must not use it up.
#[derive(Template)]
#[template(path = "console/link.html")]
struct LinkPage {
    frame: Frame,
    works: bool,
}

#[derive(Deserialize)]
pub struct Credentials {
    email: String,
    password: String,
}

/// A form without fields of its own.
#[derive(Deserialize)]
pub struct Nothing {}

#[derive(Deserialize)]
pub struct TokenOnly {
    token: String,
}

impl SignInPage {
    /// The empty form.
    pub fn new() -> Self {
        Self {
            frame: Frame::new(),
            message: String::new(),
            email: String::new(),
        }
    }
}

/// Signs in by e-mail address and password.
pub async fn by_password(
    State(app): State<App>,
    visitor: Visitor,
    OwnForm(form): OwnForm<Credentials>,
) -> Result<Response, Fault> {
    let (code, message, wait) = match service::sign_in_password(
        &app,
        &visitor.who,
        form.email.trim(),
        &form.password,
    )
    .await
    {
        Ok(Some(session)) => return enter(&app, &visitor, &session).await,
        Ok(None) => (
            StatusCode::UNAUTHORIZED,
            "The e-mail address or the password is wrong.".to_owned(),
            None,
        ),
        Err(Error::TooMany { retry_after }) => {
            let minutes = retry_after.div_ceil(60);
            let message = format!(
                "Too many attempts. Try again in {minutes} minutes, or sign in by a link: an operator gets one with \
                     `cistern user link`."
            );
            (StatusCode::TOO_MANY_REQUESTS, message, Some(retry_after))
        }
        Err(error) => return Err(error.into()),
    };
    let page = SignInPage {
        frame: Frame::new(),
        message,
        email: form.email,
    };
    let mut response = (code, render(&page)?).into_response();
    if let Some(seconds) = wait {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}

/// Shows what a link does, without using it up.
pub async fn link(State(app): State<App>, Path(secret): Path<String>) -> Result<Response, Fault> {
    let works = service::link_check(&app, &secret).await?;
    let code = if works { StatusCode::OK } else { StatusCode::GONE };
    let page = LinkPage {
        frame: Frame::new(),
        works,
    };
    Ok((code, render(&page)?).into_response())
}

/// Uses a link.
pub async fn by_link(
    State(app): State<App>,
    Path(secret): Path<String>,
    visitor: Visitor,
    OwnForm(Nothing {}): OwnForm<Nothing>,
) -> Result<Response, Fault> {
    let Some(session) = service::link_use(&app, &visitor.who, &secret).await? else {
        let page = LinkPage {
            frame: Frame::new(),
            works: false,
        };
        return Ok((StatusCode::GONE, render(&page)?).into_response());
    };
    enter(&app, &visitor, &session).await
}

/// Ends this browser's session.
pub async fn out(
    State(app): State<App>,
    signed_in: SignedIn,
    OwnForm(form): OwnForm<TokenOnly>,
) -> Result<Response, Fault> {
    signed_in.form_check(&form.token)?;
    service::session_end(&app, &signed_in.caller, &signed_in.secret).await?;
    Ok(home_with(&cookie_clear(signed_in.is_tls()))?)
}

/// The session that this browser had ends; the new one's secret was drawn just now, whatever cookie came.
async fn enter(app: &App, visitor: &Visitor, session: &Session) -> Result<Response, Fault> {
    if let Some(old) = &visitor.session {
        service::session_end(app, &old.caller, &old.secret).await?;
    }
    Ok(home_with(&cookie_set(&session.secret, visitor.is_tls()))?)
}
