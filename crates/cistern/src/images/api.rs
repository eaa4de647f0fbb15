//! `/v2/images`, as DigitalOcean has it, and our additions: `expected_sha256` and `upload` on create, `protected`,
//! `?purge=true`, `restore`, and the fields of an image that DigitalOcean does not show.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{Change, Filter, ImportSource, Kind, ListKind, NewImport};
use super::rows::Model;
use super::{checksum, service};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::actions::api::{ActionAnswer, ActionList, ActionView};
use crate::platform::api::extract::{Body, Query};
use crate::platform::api::list::{Paged, Paging};
use crate::platform::api::path::Path;
use crate::platform::clock::wire;
use crate::platform::error::{Error, Result};
use crate::platform::paging::PageQuery;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(image_list, image_create))
        .routes(routes!(image_get, image_update, image_delete))
        .routes(routes!(image_restore))
        .routes(routes!(image_action_list, image_action_create))
        .routes(routes!(image_action_get))
}

/// An image on the wire.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageBody {
    id: i64,
    name: String,
    r#type: &'static str,
    distribution: String,
    slug: Option<String>,
    public: bool,
    regions: Vec<String>,
    created_at: String,
    min_disk_size: Option<i32>,
    size_gigabytes: Option<f64>,
    description: String,
    tags: Vec<String>,
    status: String,
    error_message: String,
    /// Cannot be deleted while set.
    protected: bool,
    /// The format it was brought in: `raw`, `qcow2`, `vmdk`, `vhdx`, `vhd`, `vdi` or `ova`.
    format: Option<String>,
    /// The format with its variant, for people.
    variant: Option<String>,
    /// What was odd about it, one sentence each.
    warnings: Vec<String>,
    /// Where it came from, without credentials.
    source: Option<String>,
    /// The SHA-256 of the disk, once it is known.
    sha256: Option<String>,
    /// The size of the disk, in bytes.
    virtual_bytes: Option<i64>,
    /// What of the disk is not zeros, in bytes.
    logical_bytes: Option<i64>,
    /// What it added to the store, in bytes. Told where that says nothing of what other teams have: to operators, and
    /// in an installation whose teams share no stored data (`dedup_domain`).
    new_bytes: Option<i64>,
    /// `ok`, or `damaged` where stored data that it needs was found damaged; importing it again heals it.
    health: &'static str,
    /// Which bytes of its disk those are, as far as is known; the first hundred ranges. Only of one image, not in
    /// lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damage: Vec<DamagedRange>,
    /// The SHA-256 of its downloads by format, once they are known.
    checksums: BTreeMap<String, String>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
    /// Until when a deleted image can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    restorable_until: Option<String>,
    /// How far the import is, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<serde_json::Value>,
}

/// Damaged bytes of a disk.
#[derive(Debug, Serialize, ToSchema)]
pub struct DamagedRange {
    /// The first.
    from: u64,
    /// The one after the last.
    to: u64,
}

impl ImageBody {
    /// What is shown of a row with these tags.
    pub fn new(row: Model, tags: Vec<String>) -> Self {
        let is_restorable = row.root_digest.is_some();
        Self {
            id: row.id,
            r#type: Kind::of(&row.kind).shown(),
            name: row.name,
            distribution: row.distribution,
            slug: row.slug,
            public: row.public,
            regions: list(row.regions),
            created_at: wire(row.created_at),
            min_disk_size: row.min_disk_size,
            size_gigabytes: row.size_gigabytes,
            description: row.description,
            tags,
            status: row.status,
            error_message: row.error_message.unwrap_or_default(),
            protected: row.protected,
            format: row.format,
            variant: row.variant,
            warnings: list(row.warnings),
            source: row.source,
            sha256: row.sha256,
            virtual_bytes: row.virtual_bytes,
            logical_bytes: row.logical_bytes,
            new_bytes: row.new_bytes,
            health: "ok",
            damage: Vec::new(),
            checksums: BTreeMap::new(),
            deleted_at: row.deleted_at.map(wire),
            restorable_until: row.purge_at.filter(|_| is_restorable).map(wire),
            import: None,
        }
    }
}

fn list(json: serde_json::Value) -> Vec<String> {
    serde_json::from_value(json).unwrap_or_default()
}

/// One image.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageAnswer {
    image: ImageBody,
}

/// A page of images.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageList {
    images: Vec<ImageBody>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `distribution` or `application`.
    r#type: Option<String>,
    /// Only the team's own.
    private: Option<bool>,
    /// Only those with this tag.
    tag_name: Option<String>,
    /// The team's deleted images instead, and those whose import failed; they are kept for 30 days. Cistern's own.
    deleted: Option<bool>,
}

impl ListQuery {
    fn filter(self) -> Result<Filter> {
        let kind = match self.r#type.as_deref() {
            None | Some("") => None,
            Some("distribution") => Some(ListKind::Distribution),
            Some("application") => Some(ListKind::Application),
            Some(_) => return Err(Error::invalid("`type` is `distribution` or `application`")),
        };
        let tag_name = self.tag_name.filter(|t| !t.is_empty());
        let deleted = self.deleted.unwrap_or(false);
        if deleted && (kind.is_some() || tag_name.is_some()) {
            return Err(Error::invalid(
                "`deleted` goes with neither `type` nor `tag_name`: what is deleted has no tags",
            ));
        }
        Ok(Filter {
            kind,
            private: self.private.unwrap_or(false),
            tag_name,
            deleted,
        })
    }
}

/// A new image.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ImageCreate {
    // Left out it is refused like an empty one, after the caller's scope was looked at.
    #[serde(default)]
    #[schema(required)]
    name: String,
    /// Where it is downloaded from, http or https. Or give `upload`.
    #[serde(default)]
    url: Option<String>,
    /// A finished upload of `/v2/uploads`, in place of `url`.
    #[serde(default)]
    #[schema(value_type = Option<uuid::Uuid>)]
    upload: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    distribution: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    /// The SHA-256 that the file must have, as it is served.
    #[serde(default)]
    expected_sha256: Option<String>,
}

impl ImageCreate {
    fn check(self) -> Result<NewImport> {
        let source = match (self.url.filter(|u| !u.is_empty()), self.upload) {
            (Some(url), None) => ImportSource::Url {
                // The text is not repeated in the answer: it may hold a password.
                url: Url::parse(&url).map_err(|e| Error::invalid(format!("`url` is not an address: {e}")))?,
            },
            (None, Some(id)) => ImportSource::Upload {
                id: id.parse().map_err(|_| {
                    Error::invalid("`upload` is not an upload's id; it is the last part of its `Location`")
                })?,
            },
            (Some(_), Some(_)) => return Err(Error::invalid("give `url` or `upload`, not both")),
            (None, None) => {
                return Err(Error::invalid(
                    "`url` is missing; give the address of an image, or an `upload`",
                ));
            }
        };
        let region = self.region.filter(|r| !r.is_empty());
        Ok(NewImport {
            name: self.name,
            distribution: self.distribution,
            description: self.description,
            region: region
                .ok_or_else(|| Error::invalid("`region` is missing; `GET /v2/regions` lists them"))?,
            tags: self.tags.unwrap_or_default(),
            source,
            expected_sha256: self.expected_sha256.filter(|s| !s.is_empty()),
        })
    }
}

/// What to change of an image.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ImageUpdate {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    distribution: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// Protects against deletion, or no longer.
    #[serde(default)]
    protected: Option<bool>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Gives the data up at once instead of keeping it restorable for a day.
    #[serde(default, deserialize_with = "flag")]
    purge: bool,
}

/// `?purge`, `?purge=true` and `?purge=1` are yes.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(serde::de::Error::custom("`purge` is `true` or `false`")),
    }
}

/// An action on an image.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ActionCreate {
    /// `transfer` or `convert`.
    #[serde(default)]
    #[schema(required)]
    r#type: String,
    /// Where to transfer it.
    #[serde(default)]
    region: Option<String>,
}

#[utoipa::path(
    get, path = "/v2/images", tag = "Images", operation_id = "images_list", params(ListQuery, PageQuery),
    responses((status = 200, body = ImageList)), security(("token" = ["image:read"]))
)]
async fn image_list(
    State(app): State<App>,
    caller: Caller,
    paged: Paged,
    Query(query): Query<ListQuery>,
) -> Result<Json<ImageList>> {
    let listed = service::image_list(&app, &caller, &query.filter()?, paged.page).await?;
    Ok(Json(ImageList {
        paging: paged.paging(listed.total),
        images: bodies(&app, &caller, listed.rows).await?,
    }))
}

#[utoipa::path(
    post, path = "/v2/images", tag = "Images", operation_id = "images_create_custom", request_body = ImageCreate,
    responses((status = 202, body = ImageAnswer)), security(("token" = ["image:create"]))
)]
async fn image_create(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<ImageCreate>,
) -> Result<(StatusCode, Json<ImageAnswer>)> {
    let (row, _) = service::image_import(&app, &caller, &body.check()?).await?;
    Ok((StatusCode::ACCEPTED, answer(&app, &caller, row).await?))
}

#[utoipa::path(
    get, path = "/v2/images/{image_id}", tag = "Images", operation_id = "images_get", params(("image_id" = String, Path, description = "Number or slug")),
    responses((status = 200, body = ImageAnswer)), security(("token" = ["image:read"]))
)]
async fn image_get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ImageAnswer>> {
    let row = service::image_get(&app, &caller, &id).await?;
    answer(&app, &caller, row).await
}

#[utoipa::path(
    put, path = "/v2/images/{image_id}", tag = "Images", operation_id = "images_update", params(("image_id" = i64, Path)), request_body = ImageUpdate,
    responses((status = 200, body = ImageAnswer)), security(("token" = ["image:update"]))
)]
async fn image_update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(body): Body<ImageUpdate>,
) -> Result<Json<ImageAnswer>> {
    let change = Change {
        // godo sends what was not given as an empty text.
        name: body.name.filter(|n| !n.is_empty()),
        distribution: body.distribution.filter(|d| !d.is_empty()),
        description: body.description,
        protected: body.protected,
    };
    let row = service::image_update(&app, &caller, id, change).await?;
    answer(&app, &caller, row).await
}

#[utoipa::path(
    delete, path = "/v2/images/{image_id}", tag = "Images", operation_id = "images_delete", params(("image_id" = i64, Path), DeleteQuery),
    responses((status = 204)), security(("token" = ["image:delete"]))
)]
async fn image_delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    service::image_delete(&app, &caller, id, query.purge).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    post, path = "/v2/images/{image_id}/restore", tag = "Images", operation_id = "images_restore", params(("image_id" = i64, Path)),
    responses((status = 200, body = ImageAnswer)), security(("token" = ["image:update"]))
)]
async fn image_restore(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<Json<ImageAnswer>> {
    let row = service::image_restore(&app, &caller, id).await?;
    answer(&app, &caller, row).await
}

#[utoipa::path(
    get, path = "/v2/images/{image_id}/actions", tag = "Images", operation_id = "imageActions_list", params(("image_id" = i64, Path), PageQuery),
    responses((status = 200, body = ActionList)), security(("token" = ["image:read"]))
)]
async fn image_action_list(
    State(app): State<App>,
    caller: Caller,
    paged: Paged,
    Path(id): Path<i64>,
) -> Result<Json<ActionList>> {
    let listed = service::image_actions(&app, &caller, id, paged.page).await?;
    Ok(Json(ActionList {
        paging: paged.paging(listed.total),
        actions: listed.rows.into_iter().map(ActionView::from).collect(),
    }))
}

#[utoipa::path(
    post, path = "/v2/images/{image_id}/actions", tag = "Images", operation_id = "imageActions_post", params(("image_id" = i64, Path)),
    request_body = ActionCreate, responses((status = 201, body = ActionAnswer)),
    security(("token" = ["image:update"]))
)]
async fn image_action_create(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Body(body): Body<ActionCreate>,
) -> Result<(StatusCode, Json<ActionAnswer>)> {
    let region = body.region.as_deref().filter(|region| !region.is_empty());
    let action = service::image_act(&app, &caller, id, &body.r#type, region)
        .await?
        .into();
    Ok((StatusCode::CREATED, Json(ActionAnswer { action })))
}

#[utoipa::path(
    get, path = "/v2/images/{image_id}/actions/{action_id}", tag = "Images", operation_id = "imageActions_get",
    params(("image_id" = i64, Path), ("action_id" = i64, Path)),
    responses((status = 200, body = ActionAnswer)), security(("token" = ["image:read"]))
)]
async fn image_action_get(
    State(app): State<App>,
    caller: Caller,
    Path((id, action)): Path<(i64, i64)>,
) -> Result<Json<ActionAnswer>> {
    let action = service::image_action(&app, &caller, id, action).await?.into();
    Ok(Json(ActionAnswer { action }))
}

pub(super) async fn answer(app: &App, caller: &Caller, row: Model) -> Result<Json<ImageAnswer>> {
    let import = service::image_progress(app, &row).await?;
    let mut bodies = bodies(app, caller, vec![row]).await?;
    let mut image = bodies.pop().ok_or_else(|| Error::bug("one row makes one body"))?;
    image.import = import;
    if image.health == "damaged" {
        let ranges = service::image_damage(app, image.id).await?;
        let told = |range: std::ops::Range<u64>| DamagedRange {
            from: range.start,
            to: range.end,
        };
        image.damage = ranges.into_iter().map(told).collect();
    }
    Ok(Json(ImageAnswer { image }))
}

async fn bodies(app: &App, caller: &Caller, rows: Vec<Model>) -> Result<Vec<ImageBody>> {
    let mut tags = service::image_tags(app, caller, &rows).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let mut checksums = checksum::checksum_list(app, &ids).await?;
    let damaged = service::images_damaged(app, &ids).await?;
    // What an image added says what others have, where they share. Operators see the whole store anyway.
    let tells_new = caller.is_operator || app.has_domains();
    let body = |row: Model| {
        let checksums = checksums.remove(&row.id).unwrap_or_default();
        let tags = tags.remove(&row.id.to_string()).unwrap_or_default();
        let body = ImageBody::new(row, tags);
        let new_bytes = body.new_bytes.filter(|_| tells_new);
        let sha256 = body.sha256.clone().or_else(|| checksum::disk_sha256(&checksums));
        ImageBody {
            health: if damaged.contains(&body.id) {
                "damaged"
            } else {
                "ok"
            },
            sha256,
            new_bytes,
            checksums,
            ..body
        }
    };
    Ok(rows.into_iter().map(body).collect())
}
