//! Actions: the user's view of work in progress, as DigitalOcean has them.
//!
//! An action is made in the transaction that enqueues its job, and ends in the transaction that ends the job.

pub mod api;
pub mod migration;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;

use sea_orm::ConnectionTrait;

use super::clock::Time;
use super::error::Result;
pub use rows::Model as ActionRow;

/// What an action is about.
#[derive(Clone, Debug)]
pub struct NewAction<'a> {
    /// The team that sees it.
    pub team_id: i64,
    /// DigitalOcean's `type`, such as `transfer`.
    pub kind: &'a str,
    /// `image`, `droplet`, `volume`.
    pub resource_type: &'a str,
    /// The integer id; `None` where the resource has a UUID (clients expect null there).
    pub resource_id: Option<i64>,
    /// The region's slug, where there is one.
    pub region: Option<&'a str>,
}

/// DigitalOcean's `in-progress`.
pub const IN_PROGRESS: &str = "in-progress";
/// DigitalOcean's `completed`.
pub const COMPLETED: &str = "completed";
/// DigitalOcean's `errored`.
pub const ERRORED: &str = "errored";

/// Starts an action, returning its row.
pub async fn action_create_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    action: &NewAction<'_>,
) -> Result<rows::Model> {
    Ok(rows::action_insert(conn, now, action).await?)
}

/// Ends an action: completed, or errored with the reason.
pub async fn action_end_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    id: i64,
    error: Option<&str>,
) -> Result<()> {
    Ok(rows::action_end(conn, now, id, error).await?)
}
