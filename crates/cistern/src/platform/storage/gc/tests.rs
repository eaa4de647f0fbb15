//! When a run is begun by itself.

use chrono::TimeDelta;

use super::jobs::GC;
use super::service::{gc_due, gc_urgent};
use crate::app::App;
use crate::app::tests::app;
use crate::platform::jobs::service::job_list;

async fn waiting(app: &App) -> Vec<serde_json::Value> {
    let jobs = job_list(app, true, None).await.expect("lists");
    jobs.into_iter()
        .filter(|job| job.kind == GC)
        .map(|job| job.payload)
        .collect()
}

#[tokio::test]
async fn a_run_is_due_an_hour_after_the_last_and_only_one_waits() {
    let (app, _dir) = app().await;
    gc_due(&app).await.expect("looks");
    assert!(waiting(&app).await.is_empty(), "the store was made a moment ago");
    app.clock.advance(TimeDelta::minutes(61));
    for _ in 0..2 {
        gc_due(&app).await.expect("looks");
        assert_eq!(waiting(&app).await.len(), 1);
    }
    gc_urgent(&app).await.expect("looks");
    assert_eq!(waiting(&app).await.len(), 1, "one is on its way");
}

#[tokio::test]
async fn a_run_that_room_is_needed_for_purges_and_does_not_wait() {
    let (app, _dir) = app().await;
    gc_urgent(&app).await.expect("begins");
    let wishes = waiting(&app).await;
    assert_eq!(
        wishes,
        [serde_json::json!({ "now": true, "purge": true, "dry_run": false })]
    );
}
