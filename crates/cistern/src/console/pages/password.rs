//! Setting or changing one's own password.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use super::visitor::{OwnForm, SignedIn};
use super::{Fault, Frame, home_with, render};
use crate::app::App;
use crate::console::session::cookie_set;
use crate::platform::accounts::service;
use crate::platform::error::Error;

#[derive(Template)]
#[template(path = "console/password.html")]
struct PasswordPage {
    frame: Frame,
    message: String,
    email: String,
    has_password: bool,
    token: String,
}

#[derive(Deserialize)]
pub struct NewPassword {
    #[serde(default)]
    current: String,
    new: String,
    again: String,
    token: String,
}

/// The form.
pub async fn show(State(app): State<App>, signed_in: SignedIn) -> Result<Html<String>, Fault> {
    Ok(render(&page(&app, &signed_in, String::new()).await?)?)
}

/// Sets it, and signs every browser but this one out.
pub async fn change(
    State(app): State<App>,
    signed_in: SignedIn,
    OwnForm(form): OwnForm<NewPassword>,
) -> Result<Response, Fault> {
    signed_in.form_check(&form.token)?;
    let result = if form.new == form.again {
        service::password_change(&app, &signed_in.caller, &form.current, &form.new).await
    } else {
        Err(Error::invalid("the two new passwords are not the same"))
    };
    let (code, message) = match result {
        Ok(session) => return Ok(home_with(&cookie_set(&session.secret, signed_in.is_tls()))?),
        Err(Error::Invalid(message)) => (StatusCode::UNPROCESSABLE_ENTITY, sentence(&message)),
        Err(Error::TooMany { .. }) => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many attempts. Try again in a quarter of an hour.".to_owned(),
        ),
        Err(error) => return Err(error.into()),
    };
    let page = page(&app, &signed_in, message).await?;
    Ok((code, render(&page)?).into_response())
}

async fn page(app: &App, signed_in: &SignedIn, message: String) -> Result<PasswordPage, Fault> {
    let (user, _) = service::account_get(app, &signed_in.caller).await?;
    Ok(PasswordPage {
        frame: Frame::new(),
        message,
        has_password: user.password_hash.is_some(),
        email: user.email,
        token: signed_in.form_token(),
    })
}

/// An error's text as a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.map_or_else(String::new, |first| {
        format!("{}{}.", first.collect::<String>(), chars.as_str())
    })
}
