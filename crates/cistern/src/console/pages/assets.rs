//! The style sheet and the icon. Their address changes with their content, so browsers may keep them.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::app::App;

const STYLE: &str = include_str!("../../../templates/console/style.css");
const ICON: &str = include_str!("../../../templates/console/icon.svg");

static STYLE_PATH: LazyLock<String> = LazyLock::new(|| {
    let digest = hex::encode(Sha256::digest(STYLE.as_bytes()));
    format!("/assets/style.css?v={}", &digest[..12])
});

/// The style sheet's address.
pub fn style_path() -> &'static str {
    &STYLE_PATH
}

pub fn routes() -> Router<App> {
    Router::new()
        .route(
            "/assets/style.css",
            get(async || asset("text/css; charset=utf-8", STYLE)),
        )
        .route("/assets/icon.svg", get(async || asset("image/svg+xml", ICON)))
}

fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    (headers, content)
}
