//! The routes of accounts: tokens, users, teams, members, and the two OAuth endpoints that doctl uses.

mod members;
mod oauth;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(tokens::routes())
        .merge(users::routes())
        .merge(members::routes())
        .merge(oauth::routes())
}

/// Scopes as DigitalOcean's clients write them, a list, or as our CLI does, with commas.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ScopeList {
    List(Vec<String>),
    Text(String),
}

impl ScopeList {
    fn text(&self) -> String {
        match self {
            Self::List(list) => list.join(","),
            Self::Text(text) => text.clone(),
        }
    }
}
