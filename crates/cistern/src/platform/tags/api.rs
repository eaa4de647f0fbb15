//! `/v2/tags`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::tag_name_check;
use super::service::{self, Counted, Tagged};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::extract::Body;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::origin::Origin;
use crate::platform::api::path::Path;
use crate::platform::error::{Error, Result};
use crate::platform::paging::PageQuery;
use crate::platform::resources::{KINDS, Kind, Resource};

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
        .routes(routes!(tag_resources, untag_resources))
}

/// A tag.
#[derive(Serialize, ToSchema)]
struct TagView {
    /// As it was first written.
    name: String,
    resources: TagResources,
}

/// What carries a tag. Every kind is there, also with none: doctl fails on a tag without `droplets`.
#[derive(Serialize, ToSchema)]
struct TagResources {
    count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_tagged_uri: Option<String>,
    droplets: TagCount,
    images: TagCount,
    volumes: TagCount,
    volume_snapshots: TagCount,
    databases: TagCount,
}

/// How many things of one kind carry a tag.
#[derive(Default, Serialize, ToSchema)]
struct TagCount {
    count: i64,
    /// The last tagged one; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_tagged_uri: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TagAnswer {
    tag: TagView,
}

/// A page of tags.
#[derive(Serialize, ToSchema)]
struct TagList {
    tags: Vec<TagView>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Deserialize, ToSchema)]
struct TagCreate {
    /// Letters, digits, `_`, `-` and `:`, 255 at most.
    name: String,
}

#[derive(Deserialize, ToSchema)]
struct TagChange {
    /// What to tag or untag.
    resources: Vec<ResourceName>,
}

#[derive(Deserialize, ToSchema)]
struct ResourceName {
    /// Its id, as a string.
    #[schema(value_type = String)]
    resource_id: Id,
    /// `droplet`, `image`, `volume`, `volume_snapshot` or `database`.
    resource_type: String,
}

/// DigitalOcean's ids are strings here, but integers are what the same ids are elsewhere.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

/// DigitalOcean answers a bad tag name with a body of its own (`error_with_root_causes`); `id` and `message` are there
/// as well, because that is what its clients read.
#[derive(Serialize, ToSchema)]
struct BadName {
    error: String,
    messages: Option<Vec<String>>,
    root_causes: Vec<String>,
    id: &'static str,
    message: String,
    request_id: String,
}

fn view(tag: Counted, base_url: &str) -> TagView {
    let url = |count: &Tagged| count.kind.url(base_url, &count.last.1);
    let of = |key: &str| {
        let found = tag.counts.iter().find(|count| count.kind.tag_key == Some(key));
        found.map_or_else(TagCount::default, |count| TagCount {
            count: count.count,
            last_tagged_uri: Some(url(count)),
        })
    };
    let newest = tag.counts.iter().max_by_key(|count| count.last.0);
    let resources = TagResources {
        count: tag.counts.iter().map(|count| count.count).sum(),
        last_tagged_uri: newest.map(url),
        droplets: of("droplets"),
        images: of("images"),
        volumes: of("volumes"),
        volume_snapshots: of("volume_snapshots"),
        databases: of("databases"),
    };
    TagView {
        name: tag.name,
        resources,
    }
}

impl TagChange {
    fn check(self) -> Result<Vec<Resource>> {
        self.resources.into_iter().map(ResourceName::check).collect()
    }
}

impl ResourceName {
    fn check(self) -> Result<Resource> {
        let Some(kind) = Kind::find(&self.resource_type).filter(|kind| kind.tag_key.is_some()) else {
            let known: Vec<&str> = KINDS
                .iter()
                .filter(|k| k.tag_key.is_some())
                .map(|k| k.name)
                .collect();
            return Err(Error::invalid(format!(
                "`{}` cannot be tagged; `resource_type` is one of {}",
                self.resource_type.escape_debug(),
                known.join(", ")
            )));
        };
        let id = match self.resource_id {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        };
        Ok(Resource { kind, id })
    }
}

/// List the tags
#[utoipa::path(get, path = "/v2/tags", tag = "Tags", operation_id = "tags_list", params(PageQuery),
    security(("token" = ["tag:read"])), responses((status = 200, body = TagList)))]
async fn list(State(app): State<App>, caller: Caller, origin: Origin, paged: Paged) -> Result<Json<TagList>> {
    let listed = service::tag_list(&app, &caller, paged.page).await?;
    Ok(Json(TagList {
        paging: paged.paging(listed.total),
        tags: listed
            .rows
            .into_iter()
            .map(|tag| view(tag, origin.base_url()))
            .collect(),
    }))
}

/// Make a tag
///
/// A tag that exists is answered as it is.
#[utoipa::path(post, path = "/v2/tags", tag = "Tags", operation_id = "tags_create",
    security(("token" = ["tag:create"])),
    responses((status = 201, body = TagAnswer), (status = 400, body = BadName)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Body(body): Body<TagCreate>,
) -> Result<Response> {
    if let Err(error) = tag_name_check(&body.name) {
        return Ok(bad_name(&error, &origin));
    }
    let tag = service::tag_create(&app, &caller, &body.name).await?;
    let tag = view(tag, origin.base_url());
    Ok((StatusCode::CREATED, Json(TagAnswer { tag })).into_response())
}

fn bad_name(error: &Error, origin: &Origin) -> Response {
    let text = error.to_string();
    let body = BadName {
        error: text.clone(),
        messages: None,
        root_causes: vec![text.clone()],
        id: "bad_request",
        message: text,
        request_id: origin.request_id.clone(),
    };
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

/// Show a tag
#[utoipa::path(get, path = "/v2/tags/{tag_id}", tag = "Tags", operation_id = "tags_get",
    params(("tag_id" = String, Path, description = "its name as it was first written")),
    security(("token" = ["tag:read"])), responses((status = 200, body = TagAnswer)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    Path(name): Path<String>,
) -> Result<Json<TagAnswer>> {
    let tag = service::tag_get(&app, &caller, &name).await?;
    Ok(Json(TagAnswer {
        tag: view(tag, origin.base_url()),
    }))
}

/// Delete a tag
///
/// Everything that carries it loses it.
#[utoipa::path(delete, path = "/v2/tags/{tag_id}", tag = "Tags", operation_id = "tags_delete",
    params(("tag_id" = String, Path, description = "its name as it was first written")),
    security(("token" = ["tag:delete"])), responses((status = 204)))]
async fn delete(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode> {
    service::tag_delete(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tag resources
///
/// Needs `update` of each resource's type as well.
#[utoipa::path(post, path = "/v2/tags/{tag_id}/resources", tag = "Tags", operation_id = "tags_assign_resources",
    params(("tag_id" = String, Path, description = "its name as it was first written")),
    security(("token" = ["tag:create"])), responses((status = 204)))]
async fn tag_resources(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<TagChange>,
) -> Result<StatusCode> {
    service::tag_resources(&app, &caller, &name, &body.check()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Untag resources
///
/// Needs `update` of each resource's type as well.
#[utoipa::path(delete, path = "/v2/tags/{tag_id}/resources", tag = "Tags", operation_id = "tags_unassign_resources",
    params(("tag_id" = String, Path, description = "its name as it was first written")),
    security(("token" = ["tag:delete"])), responses((status = 204)))]
async fn untag_resources(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<TagChange>,
) -> Result<StatusCode> {
    service::untag_resources(&app, &caller, &name, &body.check()?).await?;
    Ok(StatusCode::NO_CONTENT)
}
