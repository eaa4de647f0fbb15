//! The promises of the engine, on a real database: once, fenced, resumed, cancelled, retried.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use super::claims::Claims;
use super::model::failed_nothing;
use super::*;
use crate::app::App;
use crate::app::tests::app;
use crate::platform::actions;
use crate::platform::events::Who;

static RUNS: AtomicUsize = AtomicUsize::new(0);

fn kind(
    name: &'static str,
    run: fn(JobContext) -> futures::future::BoxFuture<'static, Result<(), JobError>>,
) -> JobKind {
    JobKind {
        name,
        run,
        failed: failed_nothing,
        is_alone: false,
    }
}

async fn enqueue(app: &App, kind: &'static str) -> (i64, i64) {
    let now = app.clock.now();
    let tx = app.db.write().await.expect("opens");
    let action = actions::NewAction {
        team_id: 1,
        kind: "create",
        resource_type: "image",
        resource_id: Some(1),
        region: None,
    };
    let action = actions::action_create_in_tx(&*tx, now, &action)
        .await
        .expect("inserts")
        .id;
    let new = NewJob {
        kind,
        payload: json!({}),
        team_id: Some(1),
        action_id: Some(action),
        node: None,
        priority: 0,
    };
    let job = job_enqueue_in_tx(&*tx, now, new, 3).await.expect("inserts");
    tx.commit().await.expect("commits");
    app.queue.wake();
    (job, action)
}

/// Waits until the job has ended and returns its row and its action's.
async fn ended(app: &App, (job, action): (i64, i64)) -> (rows::Model, actions::rows::Model) {
    let wait = async {
        loop {
            let row = rows::job_get(app.db.conn(), job)
                .await
                .expect("reads")
                .expect("is there");
            if row.finished_at.is_some() {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    let row = tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("ends in time");
    let action = actions::rows::action_get(app.db.conn(), 1, action)
        .await
        .expect("reads")
        .expect("is there");
    (row, action)
}

#[tokio::test]
async fn every_job_is_run_once_by_eight_workers() {
    let (app, _dir) = app().await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(enqueue(&app, "test.count").await);
    }
    let count = kind("test.count", |_| {
        Box::pin(async {
            RUNS.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    });
    let engine = Engine::start(&app, Registry::default().with(count), "n1", 8)
        .await
        .expect("starts");
    for id in ids {
        let (job, action) = ended(&app, id).await;
        assert_eq!((job.status.as_str(), job.attempts), (rows::DONE, 1));
        assert_eq!(action.status, actions::COMPLETED);
        assert!(action.completed_at.is_some());
    }
    engine.stop().await;
    assert_eq!(RUNS.load(Ordering::SeqCst), 40);
}

#[tokio::test]
async fn a_refusal_is_final_and_the_action_says_why() {
    let (app, _dir) = app().await;
    let refuse = kind("test.refuse", |_| {
        Box::pin(async { Err(JobError::Fail("the file is not a disk".into())) })
    });
    let engine = Engine::start(&app, Registry::default().with(refuse), "n1", 1)
        .await
        .expect("starts");
    let (job, action) = ended(&app, enqueue(&app, "test.refuse").await).await;
    assert_eq!((job.status.as_str(), job.attempts), (rows::FAILED, 1));
    assert_eq!(
        (action.status.as_str(), action.error.as_deref()),
        (actions::ERRORED, Some("the file is not a disk"))
    );
    engine.stop().await;
}

#[tokio::test]
async fn a_passing_fault_is_tried_again_from_the_saved_state() {
    let (app, _dir) = app().await;
    let twice = kind("test.twice", |context| {
        Box::pin(async move {
            let row = rows::job_get(context.app.db.conn(), context.job.id).await;
            if row.expect("reads").is_some_and(|row| row.state.is_some()) {
                return Ok(());
            }
            context.save_state(json!({ "reached": 1 })).await?;
            Err(JobError::Retry("the other side does not answer".into()))
        })
    });
    let engine = Engine::start(&app, Registry::default().with(twice), "n1", 1)
        .await
        .expect("starts");
    let (job, action) = ended(&app, enqueue(&app, "test.twice").await).await;
    assert_eq!((job.status.as_str(), job.attempts), (rows::DONE, 2));
    assert_eq!(action.status, actions::COMPLETED);
    engine.stop().await;
}

#[tokio::test]
async fn what_is_away_is_waited_for_a_quarter_of_an_hour_and_no_attempt_is_counted() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let (app, _dir) = app().await;
    let away = kind("test.away", |_| {
        Box::pin(async {
            TRIES.fetch_add(1, Ordering::SeqCst);
            Err(JobError::Away("the store is away".into()))
        })
    });
    let engine = Engine::start(&app, Registry::default().with(away), "n1", 1)
        .await
        .expect("starts");
    let (id, action) = enqueue(&app, "test.away").await;
    let begun = app.clock.now();
    let mut last = begun;
    let row = loop {
        let row = rows::job_get(app.db.conn(), id)
            .await
            .expect("reads")
            .expect("is there");
        if row.finished_at.is_some() {
            break row;
        }
        let now = app.clock.now();
        if row.status == rows::QUEUED && row.run_at > now {
            assert_eq!(row.attempts, 0, "nothing is counted");
            assert!(row.run_at - now <= TimeDelta::minutes(1), "{}", row.run_at - now);
            last = row.run_at;
            app.clock.advance(row.run_at - now);
            app.queue.wake();
        }
        tokio::task::yield_now().await;
    };
    assert!(last - begun >= TimeDelta::minutes(15), "{}", last - begun);
    assert_eq!(row.error.as_deref(), Some("the store is away"));
    assert_eq!((row.status.as_str(), row.attempts), (rows::FAILED, 1));
    assert_eq!(TRIES.load(Ordering::SeqCst), 31);
    let (_, action) = ended(&app, (id, action)).await;
    assert_eq!(action.error.as_deref(), Some("the store is away"));
    engine.stop().await;
}

/// Workers whose jobs of this kind go on until they are stopped.
async fn engine_that_waits(app: &App, name: &'static str) -> Engine {
    let waits = kind(name, |context| {
        Box::pin(async move {
            context.stop.cancelled().await;
            context.check()
        })
    });
    Engine::start(app, Registry::default().with(waits), "n1", 1)
        .await
        .expect("starts")
}

#[tokio::test]
async fn a_cancel_stops_a_running_job() {
    let (app, _dir) = app().await;
    let engine = engine_that_waits(&app, "test.waits").await;
    let ids = enqueue(&app, "test.waits").await;
    assert!(
        job_cancel_in_tx(app.db.conn(), app.clock.now(), ids.0)
            .await
            .expect("updates")
    );
    let (job, action) = ended(&app, ids).await;
    assert_eq!(job.status, rows::CANCELLED);
    assert_eq!(action.status, actions::ERRORED);
    engine.stop().await;
}

#[tokio::test]
async fn a_stop_hands_the_job_back_without_counting_and_the_next_start_runs_it() {
    let (app, _dir) = app().await;
    let engine = engine_that_waits(&app, "test.hand").await;
    let ids = enqueue(&app, "test.hand").await;
    while rows::job_get(app.db.conn(), ids.0)
        .await
        .expect("reads")
        .expect("is there")
        .status
        != rows::RUNNING
    {
        tokio::task::yield_now().await;
    }
    engine.stop().await;
    let row = rows::job_get(app.db.conn(), ids.0)
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!((row.status.as_str(), row.attempts), (rows::QUEUED, 0));

    let done = kind("test.hand", |_| Box::pin(async { Ok(()) }));
    let engine = Engine::start(&app, Registry::default().with(done), "n1", 1)
        .await
        .expect("starts");
    assert_eq!(ended(&app, ids).await.0.attempts, 1);
    engine.stop().await;
}

/// Claims for one server with four workers.
fn claims(owner: &str) -> Claims {
    let (node, _) = owner.split_once('/').expect("a node and what is drawn");
    Claims::new(node, owner.into(), 4, vec!["test.alone"])
}

async fn claim(app: &App, by: &Claims) -> Option<rows::Model> {
    by.next(app, i32::MIN).await.expect("looks")
}

#[tokio::test]
async fn of_a_kind_that_is_alone_one_runs_at_a_time_and_holds_up_nothing_else() {
    let (app, _dir) = app().await;
    for kind in ["test.alone", "test.alone", "test.other"] {
        enqueue(&app, kind).await;
    }
    let claims = claims("n1/a");
    let first = claim(&app, &claims).await.expect("one waits");
    let other = claim(&app, &claims).await.expect("the one behind waits too");
    assert_eq!([&first.kind[..], &other.kind], ["test.alone", "test.other"]);
    assert!(claim(&app, &claims).await.is_none(), "the second has to wait");
    let now = app.clock.now();
    rows::job_end(app.db.conn(), now, first.id, first.fence, rows::DONE, None)
        .await
        .expect("ends");
    assert_eq!(claim(&app, &claims).await.expect("its turn").kind, "test.alone");
}

#[tokio::test]
async fn what_a_clock_that_was_ahead_has_put_off_does_not_wait_for_its_time() {
    let (app, _dir) = app().await;
    let (of_a_team, _) = enqueue(&app, "test.ahead").await;
    let of_none = waiting(&app, None, 0).await;
    let claims = claims("n1/a");
    // A job that has just failed may have to wait for as long.
    app.clock.advance(TimeDelta::minutes(-6));
    assert!(claim(&app, &claims).await.is_none());
    app.clock.advance(TimeDelta::minutes(-1));
    let mut claimed = Vec::new();
    for _ in 0..2 {
        claimed.push(claim(&app, &claims).await.expect("is due").id);
    }
    claimed.sort_unstable();
    assert_eq!(claimed, [of_a_team, of_none]);
    assert!(claim(&app, &claims).await.is_none(), "both are held");
}

#[tokio::test]
async fn who_lost_the_lease_can_change_nothing() {
    let (app, _dir) = app().await;
    let (id, _) = enqueue(&app, "test.lease").await;
    let (a, b) = (claims("n1/a"), claims("n1/b"));
    let first = claim(&app, &a).await.expect("one waits");
    assert!(claim(&app, &b).await.is_none(), "a held job is not claimed twice");

    app.clock.advance(TimeDelta::seconds(31));
    let now = app.clock.now();
    let second = claim(&app, &b).await.expect("the lease is over");
    assert!(second.fence > first.fence);
    assert!(
        !rows::job_is_held(app.db.conn(), id, first.fence)
            .await
            .expect("reads")
    );
    assert!(
        !rows::job_end(app.db.conn(), now, id, first.fence, rows::DONE, None)
            .await
            .expect("updates")
    );
    assert!(
        rows::job_end(app.db.conn(), now, id, second.fence, rows::DONE, None)
            .await
            .expect("updates")
    );
}

#[tokio::test]
async fn what_this_node_held_when_it_was_killed_is_taken_back_at_once() {
    let (app, _dir) = app().await;
    let (id, _) = enqueue(&app, "test.killed").await;
    let now = app.clock.now();
    claim(&app, &claims("n1/old")).await.expect("one waits");
    assert_eq!(
        rows::job_take_back(app.db.conn(), now, "n2", "n2/new")
            .await
            .expect("updates"),
        0
    );
    assert_eq!(
        rows::job_take_back(app.db.conn(), now, "n1", "n1/new")
            .await
            .expect("updates"),
        1
    );
    let again = claim(&app, &claims("n1/new")).await;
    assert_eq!(again.map(|row| row.id), Some(id));
}

async fn second_team(app: &App) {
    let first = app.first_start().await.expect("starts").expect("the first time");
    let owner = crate::platform::accounts::service::user_by_email(app, first.email)
        .await
        .expect("is there");
    crate::platform::accounts::service::team_create(app, &Who::default(), "others", owner.id)
        .await
        .expect("creates");
}

/// Enqueues a job of `team` that is due from the start.
async fn waiting(app: &App, team_id: Option<i64>, priority: i32) -> i64 {
    let new = NewJob {
        kind: "test.line",
        payload: json!({}),
        team_id,
        action_id: None,
        node: None,
        priority,
    };
    job_enqueue_in_tx(app.db.conn(), app.clock.now(), new, 3)
        .await
        .expect("inserts")
}

async fn end(app: &App, row: &rows::Model) {
    let now = app.clock.now();
    let is_ended = rows::job_end(app.db.conn(), now, row.id, row.fence, rows::DONE, None).await;
    assert!(is_ended.expect("updates"));
}

#[tokio::test]
async fn a_team_never_holds_every_worker_of_a_server() {
    let (app, _dir) = app().await;
    second_team(&app).await;
    let mut firsts = Vec::new();
    for _ in 0..6 {
        firsts.push(waiting(&app, Some(1), 0).await);
    }
    let (server, other) = (claims("n1/a"), claims("n2/a"));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(claim(&app, &server).await.expect("three of four are theirs"));
    }
    assert!(claim(&app, &server).await.is_none(), "the last one is kept free");
    assert!(claim(&app, &other).await.is_some(), "another server has its own");

    let verify = waiting(&app, None, 0).await;
    assert_eq!(claim(&app, &server).await.map(|row| row.id), Some(verify));
    let theirs = waiting(&app, Some(2), 0).await;
    assert_eq!(claim(&app, &server).await.map(|row| row.id), Some(theirs));

    // One that was cancelled only has to be told.
    assert!(
        job_cancel_in_tx(app.db.conn(), app.clock.now(), firsts[5])
            .await
            .expect("updates")
    );
    let told = claim(&app, &server).await.expect("is told");
    assert_eq!(told.id, firsts[5]);
    end(&app, &told).await;
    assert!(claim(&app, &server).await.is_none());
    end(&app, &held[0]).await;
    assert_eq!(claim(&app, &server).await.map(|row| row.id), Some(firsts[4]));
}

#[tokio::test]
async fn a_team_that_is_alone_may_use_every_worker() {
    let (app, _dir) = app().await;
    app.first_start().await.expect("starts");
    for _ in 0..4 {
        waiting(&app, Some(1), 0).await;
    }
    let server = claims("n1/a");
    for _ in 0..4 {
        assert!(claim(&app, &server).await.is_some());
    }
}

#[tokio::test]
async fn the_team_with_the_fewest_running_jobs_goes_on_and_importance_comes_first() {
    let (app, _dir) = app().await;
    second_team(&app).await;
    let mut expected = Vec::new();
    // In the order of enqueuing: team, priority, and its turn.
    for (team, priority, turn) in [
        (1, -10, 6),
        (1, 0, 0),
        (1, 0, 2),
        (1, 0, 4),
        (2, 0, 1),
        (2, 0, 3),
        (2, -10, 5),
    ] {
        expected.push((turn, waiting(&app, Some(team), priority).await));
    }
    expected.sort_unstable();
    // On different servers, so that no server's last worker comes into it.
    for (turn, id) in expected {
        let server = claims(&format!("n{turn}/a"));
        assert_eq!(
            claim(&app, &server).await.map(|row| row.id),
            Some(id),
            "turn {turn}"
        );
    }
}

#[tokio::test]
async fn a_worker_without_time_for_what_can_wait_leaves_it() {
    let (app, _dir) = app().await;
    let low = waiting(&app, Some(1), -10).await;
    let server = claims("n1/a");
    assert!(server.next(&app, 0).await.expect("looks").is_none());
    assert_eq!(claim(&app, &server).await.map(|row| row.id), Some(low));
}

#[tokio::test]
async fn jobs_that_ended_long_ago_go_and_their_actions_stay() {
    let (app, _dir) = app().await;
    // Both fail, two days apart; the third never runs.
    let refuse = kind("test.refuse", |_| {
        Box::pin(async { Err(JobError::Fail("the file is not a disk".into())) })
    });
    let engine = Engine::start(&app, Registry::default().with(refuse), "n1", 1)
        .await
        .expect("starts");
    let old = enqueue(&app, "test.refuse").await;
    ended(&app, old).await;
    app.clock.advance(TimeDelta::days(2));
    let young = enqueue(&app, "test.refuse").await;
    ended(&app, young).await;
    engine.stop().await;
    let (open, _) = enqueue(&app, "test.refuse").await;

    assert_eq!(service::job_forget(&app).await.expect("forgets"), 0);
    app.clock.advance(TimeDelta::days(29));
    assert_eq!(service::job_forget(&app).await.expect("forgets"), 1);
    let left = rows::job_list(app.db.conn(), false, None, 10)
        .await
        .expect("lists");
    let left: Vec<i64> = left.iter().map(|row| row.id).collect();
    assert_eq!(left, [open, young.0]);
    let action = actions::rows::action_get(app.db.conn(), 1, old.1)
        .await
        .expect("reads");
    assert_eq!(
        action.and_then(|a| a.error).as_deref(),
        Some("the file is not a disk")
    );
}
