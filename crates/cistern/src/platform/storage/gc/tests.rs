//! When a run is begun by itself.

use chrono::TimeDelta;
use sea_orm::{ActiveModelTrait, EntityTrait, Set};

use super::jobs::GC;
use super::service::{gc_due, gc_urgent};
use crate::app::App;
use crate::app::tests::app;
use crate::images::model::{Kind, Status};
use crate::images::rows::{self as images, NewRow};
use crate::platform::jobs::rows as jobs;
use crate::platform::jobs::service::job_list;
use crate::platform::storage::space::free;

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
}

#[tokio::test]
async fn a_last_run_that_is_still_to_come_holds_up_none() {
    let (app, _dir) = app().await;
    let options = store::gc::Options::new(&app.data);
    let run = app.store.gc(&options, &store::gc::Progress::default()).await;
    run.expect("runs");
    gc_due(&app).await.expect("looks");
    assert!(waiting(&app).await.is_empty(), "the last run was a moment ago");
    app.clock.advance(TimeDelta::minutes(-5));
    gc_due(&app).await.expect("looks");
    assert_eq!(waiting(&app).await.len(), 1);
}

#[tokio::test]
async fn a_run_that_room_is_needed_for_purges_and_does_not_wait() {
    let (app, _dir) = app().await;
    assert!(gc_urgent(&app).await.expect("begins"));
    assert!(!gc_urgent(&app).await.expect("looks"), "one is on its way");
    let wishes = waiting(&app).await;
    assert_eq!(
        wishes,
        [serde_json::json!({ "now": true, "purge": true, "dry_run": false })]
    );
}

/// An image that was deleted a moment ago and could be restored for a day.
async fn image_deleted(app: &App) {
    let (conn, now) = (app.db.conn(), app.clock.now());
    let new = NewRow {
        team_id: 1,
        kind: Kind::Custom,
        name: "n",
        distribution: "Debian",
        description: "",
        region: "nyc3",
        source: None,
        expected_sha256: None,
    };
    let row = images::image_insert(conn, now, &new).await.expect("inserts");
    let deleted = images::ActiveModel {
        id: Set(row.id),
        status: Set(Status::Deleted.as_str().to_owned()),
        root_digest: Set(Some("d".into())),
        purge_at: Set(Some(now + TimeDelta::hours(24))),
        ..Default::default()
    };
    deleted.update(conn).await.expect("updates");
}

#[tokio::test]
async fn while_room_is_short_what_is_deleted_is_given_up_each_time() {
    let (app, _dir) = app().await;
    assert!(free(&app, false, true).await, "there is room");
    assert_eq!(waiting(&app).await.len(), 0);
    app.clock.advance(TimeDelta::minutes(61));
    gc_due(&app).await.expect("begins");
    assert!(!free(&app, true, true).await, "nothing is owed any more");
    assert_eq!(
        waiting(&app).await.len(),
        2,
        "a run that purges nothing is not it"
    );
    jobs::Entity::delete_many()
        .exec(app.db.conn())
        .await
        .expect("as if they had ended");
    assert!(!free(&app, true, false).await);
    assert_eq!(waiting(&app).await.len(), 0, "it could free nothing more");
    image_deleted(&app).await;
    for _ in 0..2 {
        assert!(!free(&app, true, false).await);
        assert_eq!(waiting(&app).await.len(), 1);
    }
    assert!(free(&app, false, false).await, "owed when it becomes short again");
}
