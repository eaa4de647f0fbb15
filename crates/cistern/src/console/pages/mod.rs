//! The console's pages. No page needs JavaScript, loads anything from elsewhere, or can be framed; the content security
//! policy says so, and styles come from one file of our own.

mod assets;
mod overview;
mod password;
mod sign_in;
#[cfg(test)]
mod tests;
mod visitor;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::app::App;
use crate::platform::api::error::status;
use crate::platform::error::{Context, Error, Result};

/// Nothing but our own style sheet, icon and forms.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The routes of the console.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(overview::show).post(sign_in::by_password))
        .route("/sign-in/{secret}", get(sign_in::link).post(sign_in::by_link))
        .route("/sign-out", post(sign_in::out))
        .route("/password", get(password::show).post(password::change))
        .layer(middleware::map_response(with_page_headers))
        .merge(assets::routes())
}

async fn with_page_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Hides a sign-in link's path, but keeps `Origin` on our forms, which `no-referrer` would turn into `null`.
        (header::REFERRER_POLICY, "strict-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// What every page needs for its frame.
struct Frame {
    /// Where the style sheet is.
    style: &'static str,
    /// The version at the foot.
    version: &'static str,
}

impl Frame {
    fn new() -> Self {
        Self {
            style: assets::style_path(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// A page that says what went wrong.
#[derive(Template)]
#[template(path = "console/fault.html")]
struct FaultPage {
    frame: Frame,
    message: String,
}

/// An error as a page.
pub struct Fault(Error);

impl<E: Into<Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (code, _) = status(&self.0);
        if code == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = self.0.chain(), "a page failed");
        }
        let page = FaultPage {
            frame: Frame::new(),
            message: self.0.to_string(),
        };
        match page.render() {
            Ok(html) => (code, Html(html)).into_response(),
            Err(_) => code.into_response(),
        }
    }
}

fn render(page: &impl Template) -> Result<Html<String>> {
    Ok(Html(page.render().context("could not render a page")?))
}

/// To the first page. There is no parameter that could lead elsewhere.
fn home() -> Redirect {
    Redirect::to("/")
}

/// To the first page, with a cookie.
fn home_with(cookie: &str) -> Result<Response> {
    let cookie = HeaderValue::from_str(cookie).context("a cookie is not a header")?;
    Ok(([(header::SET_COOKIE, cookie)], home()).into_response())
}
