//! The first page: signing in, or what there is and what to do next.

use askama::Template;
use axum::extract::State;
use axum::response::Html;

use super::sign_in::SignInPage;
use super::visitor::{SignedIn, Visitor};
use super::{Fault, Frame, render};
use crate::app::App;
use crate::platform::accounts::service;

#[derive(Template)]
#[template(path = "console/overview.html")]
struct OverviewPage {
    frame: Frame,
    email: String,
    team: String,
    role: &'static str,
    is_operator: bool,
    has_password: bool,
    base_url: String,
    token: String,
}

/// `/`
pub async fn show(State(app): State<App>, visitor: Visitor) -> Result<Html<String>, Fault> {
    match visitor.session {
        Some(signed_in) => overview(&app, &signed_in).await,
        None => Ok(render(&SignInPage::new())?),
    }
}

async fn overview(app: &App, signed_in: &SignedIn) -> Result<Html<String>, Fault> {
    let caller = &signed_in.caller;
    let (user, team) = service::account_get(app, caller).await?;
    let page = OverviewPage {
        frame: Frame::new(),
        has_password: user.password_hash.is_some(),
        email: user.email,
        team: team.name,
        role: caller.role.as_str(),
        is_operator: caller.is_operator,
        base_url: signed_in.base_url.clone(),
        token: signed_in.form_token(),
    };
    Ok(render(&page)?)
}
