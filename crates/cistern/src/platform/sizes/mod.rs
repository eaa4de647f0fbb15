//! Sizes of droplets: DigitalOcean's slugs, so that existing scripts run.

pub mod api;
pub mod model;
