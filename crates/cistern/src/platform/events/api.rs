//! `/v2/events`, and the layer that writes down who was refused.

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::form_urlencoded::Serializer;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::service::{self, EventFilter, EventView, PAGE_MAX};
use super::{Acting, Event, Outcome, Who, reason_shown, record_refusal};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::error::{ErrorBody, ErrorId};
use crate::platform::api::extract::{Query, bearer};
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

/// Around every route of the API listener: an answer that refuses becomes an event, whatever handler gave it. Signing
/// in and tokens that are no good write theirs where the reason is known (`platform::accounts`).
pub async fn refusals(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let acting = Acting::default();
    request.extensions_mut().insert(acting.clone());
    let asked = Asked::of(&request);
    let response = next.run(request).await;
    if asked.is_refused(response.status(), response.extensions(), acting.get().is_some()) {
        let event = asked.event(&response);
        record_refusal(&app, acting.get().unwrap_or(&asked.who), event).await;
    }
    response
}

/// What is kept of a request until it is answered.
struct Asked {
    method: Method,
    /// The template, never the path, which has names in it.
    route: String,
    /// What the path names, where that is a number or a UUID.
    ids: Map<String, Value>,
    has_token: bool,
    /// From where; not who it is.
    who: Who,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>();
        let route = route.map_or("(none)", MatchedPath::as_str);
        let origin = request.extensions().get::<Origin>();
        Self {
            method: request.method().clone(),
            route: route.to_owned(),
            ids: ids(route, request.uri().path()),
            has_token: bearer(request.headers()).is_some(),
            who: Who {
                address: origin.map(|o| o.address.to_string()),
                request_id: origin.map(|o| o.request_id.clone()),
                ..Who::default()
            },
        }
    }

    /// Whether the answer is a refusal that nobody has written yet. Pages of the console have no [`ErrorId`].
    fn is_refused(&self, status: StatusCode, answer: &Extensions, is_known: bool) -> bool {
        let is_api = answer.get::<ErrorId>().is_some();
        let is_change = !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS);
        match status {
            StatusCode::FORBIDDEN => true,
            StatusCode::UNAUTHORIZED => is_api && !self.has_token,
            StatusCode::TOO_MANY_REQUESTS => is_api,
            // Whether there is no such thing or it is another team's, the event does not tell either.
            StatusCode::NOT_FOUND => is_api && is_known && self.route.contains('{'),
            StatusCode::CONFLICT
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::LOCKED => is_api && is_known && is_change,
            _ => false,
        }
    }

    fn event(&self, response: &Response) -> Event {
        let mut detail = Map::new();
        detail.insert("method".into(), self.method.as_str().into());
        detail.insert("route".into(), self.route.as_str().into());
        detail.insert("status".into(), response.status().as_u16().into());
        if !self.ids.is_empty() {
            detail.insert("ids".into(), self.ids.clone().into());
        }
        if let Some(ErrorId(_, sentence)) = response.extensions().get() {
            detail.insert("reason".into(), reason_shown(sentence).into());
        }
        Event::refused("request.refuse").with(Value::Object(detail))
    }
}

/// The parameters of a path that can be no name and no secret.
fn ids(route: &str, path: &str) -> Map<String, Value> {
    let pairs = route.split('/').zip(path.split('/'));
    let named = pairs.filter_map(|(template, value)| {
        let name = template.strip_prefix('{')?.strip_suffix('}')?;
        let is_id = value.parse::<i64>().is_ok() || value.parse::<Uuid>().is_ok();
        is_id.then(|| (name.to_owned(), json!(value)))
    });
    named.collect()
}
