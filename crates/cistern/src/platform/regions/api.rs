//! `/v2/regions`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{FEATURES, REGIONS, Region};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;
use crate::platform::sizes::model::SIZES;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A region.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RegionView {
    /// As in requests.
    pub slug: &'static str,
    /// For people.
    pub name: &'static str,
    /// What it can do.
    pub features: Vec<&'static str>,
    /// Whether something new can be made there.
    pub available: bool,
    /// The slugs of the sizes that it has; needs `sizes:read`.
    pub sizes: Vec<&'static str>,
}

/// A page of regions.
#[derive(Serialize, ToSchema)]
struct RegionList {
    regions: Vec<RegionView>,
    #[serde(flatten)]
    paging: Paging,
}

/// A region as it is shown, with every size.
pub fn region_view(region: &Region) -> RegionView {
    RegionView {
        slug: region.slug,
        name: region.name,
        features: FEATURES.to_vec(),
        available: true,
        sizes: SIZES.iter().map(|size| size.slug).collect(),
    }
}

/// List the regions
#[utoipa::path(get, path = "/v2/regions", tag = "Regions", operation_id = "regions_list", params(PageQuery),
    security(("token" = ["regions:read"])), responses((status = 200, body = RegionList)))]
async fn list(caller: Caller, paged: Paged) -> Result<Json<RegionList>> {
    let mut regions: Vec<RegionView> = paged.slice(&REGIONS).iter().map(region_view).collect();
    if !caller.may("sizes:read") {
        for region in &mut regions {
            region.sizes.clear();
        }
    }
    let paging = paged.paging(REGIONS.len() as u64);
    Ok(Json(RegionList { regions, paging }))
}
