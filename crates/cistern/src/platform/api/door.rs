//! The door of every API operation: who calls and whether they may, decided before anything of the request is read.
//!
//! What an operation asks for is what the OpenAPI document says of it, so that the two cannot differ, and an operation
//! whose handler forgets to ask is closed all the same.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use utoipa::openapi::OpenApi;

use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::error::{Error, Result};

/// What each operation asks for.
#[derive(Clone)]
pub struct Doors {
    app: App,
    /// By the route's template.
    routes: Arc<HashMap<String, Operations>>,
}

/// By method: the scopes, all of which are needed; none where no token is.
pub type Operations = HashMap<Method, Option<Vec<String>>>;

impl Doors {
    /// The doors that `document` describes.
    ///
    /// # Panics
    ///
    /// At start, where the document cannot be written as JSON or names a method that is none.
    pub fn new(app: &App, document: &OpenApi) -> Self {
        Self {
            app: app.clone(),
            routes: Arc::new(operations(document)),
        }
    }

    /// What a request asks for; none where it needs no token, or where there is no such operation and the router says
    /// so.
    fn scopes(&self, path: &str, method: &Method) -> Option<&[String]> {
        let methods = self.routes.get(path)?;
        let asked = methods.get(method);
        // axum answers HEAD by GET's handler where there is none of its own.
        let asked = asked.or_else(|| methods.get(&Method::GET).filter(|_| method == Method::HEAD));
        asked?.as_deref()
    }
}

/// Every operation of `document`, by the route's template and method.
///
/// # Panics
///
/// Where the document cannot be written as JSON or names a method that is none.
pub fn operations(document: &OpenApi) -> HashMap<String, Operations> {
    let document = serde_json::to_value(document).expect("the document is JSON");
    let paths = document["paths"].as_object().into_iter().flatten();
    let routes = paths.map(|(path, item)| {
        let operations = item.as_object().into_iter().flatten();
        let scopes = operations.map(|(method, operation)| {
            let method = method.to_uppercase().parse().expect("a method");
            let scopes = operation["security"][0]["token"].as_array();
            let text = |scope: &serde_json::Value| scope.as_str().expect("scopes are text").to_owned();
            (method, scopes.map(|scopes| scopes.iter().map(text).collect()))
        });
        (path.clone(), scopes.collect())
    });
    routes.collect()
}

/// Lets through who may.
///
/// # Errors
///
/// [`Error::Unauthenticated`] without a good token, [`Error::Forbidden`] where its role or scopes do not reach.
pub async fn layer(State(doors): State<Doors>, request: Request, next: Next) -> Result<Response> {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.ok_or_else(|| Error::bug("a request without a route"))?;
    let Some(scopes) = doors.scopes(route.as_str(), request.method()) else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &doors.app).await?;
    caller.require_all(scopes)?;
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}
