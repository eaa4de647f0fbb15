//! `/v2/events`, and the layer that writes down who was refused.

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded::Serializer;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::{self, EventFilter, EventView, PAGE_MAX};
use super::{Acting, Event, Outcome, record_refusal};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::error::ErrorBody;
use crate::platform::api::extract::Query;
use crate::platform::api::origin::Origin;
use crate::platform::error::{Error, Result};
use crate::platform::paging::{Links, Pages};

/// The routes of events.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
pub struct EventBody {
    /// Rises with time; `before` and `after` take it.
    id: i64,
    /// RFC 3339, microseconds.
    at: String,
    /// `resource.verb`.
    what: String,
    /// `ok`, `refused` or `failed`.
    outcome: String,
    team_id: Option<i64>,
    user_id: Option<i64>,
    /// The user's e-mail address.
    user: Option<String>,
    token_id: Option<i64>,
    /// Where it came from; null for local commands and the server itself.
    address: Option<String>,
    request_id: Option<String>,
    resource_type: Option<String>,
    resource_id: Option<String>,
    /// Names and numbers.
    detail: Option<serde_json::Value>,
}

/// A stretch of events.
#[derive(Serialize, ToSchema)]
struct EventList {
    events: Vec<EventBody>,
    /// `pages.next` goes on where this answer ends; left out at the end.
    links: Links,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    /// `resource.verb`, or `resource` for all its verbs.
    what: Option<String>,
    /// `ok`, `refused` or `failed`.
    outcome: Option<String>,
    /// Not older than this moment (RFC 3339).
    since: Option<DateTime<Utc>>,
    /// Only ids below this one, newest first.
    before: Option<i64>,
    /// Only ids above this one, oldest first: for following.
    after: Option<i64>,
    /// How many, 1 to 200; 20 unless told otherwise.
    per_page: Option<u64>,
    /// Those of all teams (operators).
    all: Option<bool>,
}

impl From<EventView> for EventBody {
    fn from(view: EventView) -> Self {
        let row = view.row;
        Self {
            id: row.id,
            at: row.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            what: row.what,
            outcome: row.outcome,
            team_id: row.team_id,
            user_id: row.user_id,
            user: view.email,
            token_id: row.token_id,
            address: row.address,
            request_id: row.request_id,
            resource_type: row.resource_type,
            resource_id: row.resource_id,
            detail: row.detail,
        }
    }
}

impl EventQuery {
    fn check(&self) -> Result<(EventFilter, u64)> {
        let limit = self.per_page.unwrap_or(20);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Error::invalid(format!("`per_page` goes from 1 to {PAGE_MAX}")));
        }
        if self.before.is_some() && self.after.is_some() {
            return Err(Error::invalid("`before` and `after` do not go together"));
        }
        if let Some(outcome) = &self.outcome {
            outcome_check(outcome)?;
        }
        let filter = EventFilter {
            team_id: None,
            what: self.what.clone(),
            outcome: self.outcome.clone(),
            since: self.since,
            before: self.before,
            after: self.after,
        };
        Ok((filter, limit))
    }

    /// The same list from `last` on.
    fn next(&self, origin: &Origin, last: i64, limit: u64) -> String {
        let mut query = Serializer::new(String::new());
        let mut pair = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        };
        pair("what", self.what.clone());
        pair("outcome", self.outcome.clone());
        pair(
            "since",
            self.since
                .map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
        );
        pair("all", self.all.map(|all| all.to_string()));
        pair("per_page", Some(limit.to_string()));
        let name = if self.after.is_some() { "after" } else { "before" };
        pair(name, Some(last.to_string()));
        format!("{}/v2/events?{}", origin.base_url(), query.finish())
    }
}

/// Refuses a word that is no outcome.
pub(super) fn outcome_check(outcome: &str) -> Result<()> {
    let known = [Outcome::Ok, Outcome::Refused, Outcome::Failed];
    if known.iter().any(|o| o.as_str() == outcome) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{outcome}` is not an outcome; outcomes are ok, refused and failed"
    )))
}

/// What happened in your team, newest first
#[utoipa::path(get, path = "/v2/events", operation_id = "event_list", tag = "Events", security(("token" = ["event:read"])), params(EventQuery),
    responses((status = 200, body = EventList), (status = 403, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Query(query): Query<EventQuery>,
) -> Result<Json<EventList>> {
    let (filter, limit) = query.check()?;
    let all = query.all.unwrap_or(false);
    let views = service::event_list(&app, &caller, &filter, all, limit).await?;
    let is_full = views.len() as u64 == limit;
    let last = views.last().map(|v| v.row.id).filter(|_| is_full);
    let pages = last.map(|last| Pages {
        next: Some(query.next(&origin, last, limit)),
        ..Pages::default()
    });
    Ok(Json(EventList {
        events: views.into_iter().map(EventBody::from).collect(),
        links: Links { pages },
    }))
}

/// Around every route of the API: a 403 to somebody we know becomes an event with the method and the route (never the
/// path, which has names in it).
pub async fn refusals(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let acting = Acting::default();
    request.extensions_mut().insert(acting.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    if response.status() == StatusCode::FORBIDDEN
        && let Some(who) = acting.get()
    {
        let route = route.as_ref().map_or("(none)", MatchedPath::as_str);
        let event =
            Event::refused("request.refuse").with(json!({ "method": method.as_str(), "route": route }));
        record_refusal(&app, who, event).await;
    }
    response
}
