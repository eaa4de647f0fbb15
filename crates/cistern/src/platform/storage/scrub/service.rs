//! Beginning a scrub when something is due, and telling how the store is.

use serde_json::json;

use super::jobs::{ATTEMPTS, SCRUB};
use crate::app::App;
use crate::platform::error::Result;
use crate::platform::jobs::{NewJob, job_enqueue_in_tx, job_is_open};

/// Brings the record of damage up to date, which a reader may have found or an import healed, and tells the metrics.
pub async fn health_tell(app: &App) -> Result<store::scrub::Health> {
    app.store.damage_update().await?;
    let health = app.store.health().await?;
    damaged_tell(health.damaged_roots);
    if let Some(oldest_us) = health.oldest_us {
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no microseconds")]
        metrics::gauge!("cistern_scrub_oldest_timestamp_seconds").set(oldest_us as f64 / 1e6);
    }
    Ok(health)
}

/// Says in `/metrics` how many disks and whole objects are known to be damaged.
pub fn damaged_tell(roots: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge needs no single units")]
    metrics::gauge!("cistern_store_damaged").set(roots as f64);
}

/// Begins a scrub when something was read too long ago, or by a clock that was ahead, and none waits or runs.
pub async fn scrub_due(app: &App) -> Result<()> {
    let health = health_tell(app).await?;
    let now_us = app.clock.now().timestamp_micros();
    let due_us = now_us - app.config.scrub.every_us();
    let is_due = health.oldest_us.is_some_and(|oldest_us| oldest_us < due_us) || health.is_ahead(now_us);
    if app.config.scrub.every_days == 0 || !is_due || job_is_open(app, SCRUB).await? {
        return Ok(());
    }
    let tx = app.db.write().await?;
    let new = NewJob {
        kind: SCRUB,
        payload: json!({}),
        team_id: None,
        action_id: None,
        node: None,
        priority: -2,
    };
    job_enqueue_in_tx(&*tx, app.clock.now(), new, ATTEMPTS).await?;
    tx.commit().await?;
    app.queue.wake();
    Ok(())
}
