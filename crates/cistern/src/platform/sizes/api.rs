//! `/v2/sizes`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{SIZES, Size};
use crate::app::App;
use crate::platform::api::list::{Paged, Paging};
use crate::platform::error::Result;
use crate::platform::paging::PageQuery;
use crate::platform::regions::model::REGIONS;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A size.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SizeView {
    /// As in requests.
    pub slug: &'static str,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub vcpus: u32,
    /// Disk in GiB.
    pub disk: u32,
    /// Outgoing transfer in TiB a month.
    pub transfer: f64,
    /// US dollars a month.
    pub price_monthly: f64,
    /// US dollars an hour.
    pub price_hourly: f64,
    /// Where there are such droplets.
    pub regions: Vec<&'static str>,
    /// Whether new ones can be made.
    pub available: bool,
    /// The class, for people.
    pub description: &'static str,
    /// The disks that such a droplet has.
    pub disk_info: Vec<DiskInfo>,
}

/// A disk of a droplet of some size.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DiskInfo {
    /// `local`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How large it is.
    pub size: DiskSize,
}

/// A number with its unit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DiskSize {
    /// How many.
    pub amount: u32,
    /// `gib`.
    pub unit: &'static str,
}

/// A page of sizes.
#[derive(Serialize, ToSchema)]
struct SizeList {
    sizes: Vec<SizeView>,
    #[serde(flatten)]
    paging: Paging,
}

/// A size as it is shown.
pub fn size_view(size: &Size) -> SizeView {
    SizeView {
        slug: size.slug,
        memory: size.memory_mib,
        vcpus: size.vcpus,
        disk: size.disk_gib,
        transfer: size.transfer_tib,
        price_monthly: size.price_monthly,
        price_hourly: size.price_hourly(),
        regions: REGIONS.iter().map(|region| region.slug).collect(),
        available: true,
        description: size.class,
        disk_info: vec![DiskInfo {
            kind: "local",
            size: DiskSize {
                amount: size.disk_gib,
                unit: "gib",
            },
        }],
    }
}

/// List the sizes
#[utoipa::path(get, path = "/v2/sizes", tag = "Sizes", operation_id = "sizes_list", params(PageQuery),
    security(("token" = ["sizes:read", "regions:read"])), responses((status = 200, body = SizeList)))]
async fn list(paged: Paged) -> Result<Json<SizeList>> {
    let sizes = paged.slice(&SIZES).iter().map(size_view).collect();
    let paging = paged.paging(SIZES.len() as u64);
    Ok(Json(SizeList { sizes, paging }))
}
