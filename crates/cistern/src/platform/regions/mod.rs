//! Regions: DigitalOcean's slugs, all of them answered by this installation, so that existing scripts run.

pub mod api;
pub mod model;
#[cfg(test)]
mod tests;

pub use api::{RegionView, region_view};
pub use model::region_find;
