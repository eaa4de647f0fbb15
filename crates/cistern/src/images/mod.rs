//! Images: virtual disks that droplets start from. Custom ones come in by URL or upload, are read in a sandbox and
//! kept in the store; base images, snapshots and backups are rows of the same table.
//!
//! The way of an import: [`service::image_import_in_tx`] writes the row, its action and its job at once; the job
//! ([`jobs`]) fetches, opens and reads the file step by step and publishes the disk in one transaction.

pub mod api;
#[cfg(test)]
mod api_tests;
pub mod checksum;
pub mod cli;
pub mod download;
mod fetch;
pub mod handed;
mod ingest;
pub mod jobs;
pub mod local;
pub mod migration;
pub mod model;
pub mod rows;
pub mod sandbox;
pub mod service;
pub mod spool;
#[cfg(test)]
mod tests;
pub mod uploads;
pub mod workfile;
