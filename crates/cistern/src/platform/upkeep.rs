//! What is tidied up while the server runs: counts of refusals that left no event, events and ended jobs past their
//! retention, sign-ins that are over, and what writers of the store that died had not published; and what is looked
//! after: gc, the scrub, headers and journal.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::accounts::service as accounts;
use super::error::Result;
use super::events::{refusals_flush, service as events};
use super::jobs::service as jobs;
use super::journal;
use super::storage::gc::service as gc;
use super::storage::mend::{headers_left_mend, look_due};
use super::storage::scrub::service::{damaged_tell, health_tell, scrub_due};
use crate::app::App;

/// How often; the first time when the server starts.
const EVERY: Duration = Duration::from_mins(5);
/// How soon damage that a reader found, or an import healed, is told.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// Runs until it is aborted. On several servers each does it; the second finds nothing.
pub async fn run(app: App) {
    let (mut tick, mut health) = (interval(EVERY), interval(HEALTH_EVERY));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    health.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = tick.tick() => once(&app).await,
            _ = health.tick() => health_once(&app).await,
        };
        if let Err(error) = done {
            tracing::error!(error = error.chain(), "could not tidy up");
        }
    }
}

async fn health_once(app: &App) -> Result<()> {
    if app.store.damage_looked_for() {
        return health_tell(app).await.map(drop);
    }
    // What another process has found.
    damaged_tell(app.store.damaged_roots().await?);
    Ok(())
}

async fn once(app: &App) -> Result<()> {
    headers_left_mend(app).await;
    // An older database would have it delete what is needed.
    journal::guard(app).await?;
    refusals_flush(app).await?;
    let events = events::event_forget(app).await?;
    let sign_ins = accounts::sign_in_forget(app).await?;
    let jobs = jobs::job_forget(app).await?;
    if events + sign_ins + jobs > 0 {
        tracing::info!(events, sign_ins, jobs, "forgot what is past its time");
    }
    gc::gc_due(app).await?;
    // It reads what is stored where something of it is damaged, and may fail at that: the rest is done all the same.
    if let Err(error) = scrub_due(app).await {
        tracing::error!(
            error = error.chain(),
            "could not look what is damaged, or due to be read"
        );
    }
    if let Some((ended_us, _)) = app.store.gc_last().await? {
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no microseconds")]
        metrics::gauge!("cistern_gc_ended_timestamp_seconds").set(ended_us as f64 / 1e6);
    }
    let expired = app.store.sessions_expire().await?;
    if expired.taken + expired.objects + expired.removed > 0 {
        tracing::info!(
            sessions = expired.taken,
            objects = expired.objects,
            "cleaned up after writers that died"
        );
    }
    look_due(app).await
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use sea_orm::ConnectionTrait as _;

    use super::*;
    use crate::app::tests::app;
    use crate::platform::events::service::{EventFilter, event_list_local};
    use crate::platform::events::{Event, Who, record_refusal};
    use crate::platform::storage::tests::stored;
    use crate::testing::api::Tester;

    #[tokio::test]
    async fn what_a_stranger_left_out_is_written_as_a_count() {
        let (app, _dir) = app().await;
        // The clock stands at the start of a minute.
        app.clock
            .advance(TimeDelta::seconds(60 - app.clock.now().timestamp() % 60));
        let who = Who {
            address: Some("192.0.2.1".into()),
            ..Who::default()
        };
        for _ in 0..30 {
            record_refusal(&app, &who, Event::refused("token.use")).await;
        }
        let filter = EventFilter {
            outcome: Some("refused".into()),
            ..EventFilter::default()
        };
        let list = async || event_list_local(&app, &filter, 200).await.expect("lists");
        assert_eq!(list().await.len(), 1);
        for _ in 0..2 {
            once(&app).await.expect("tidies");
        }
        let rows = list().await;
        assert_eq!(rows.len(), 2, "once");
        let row = &rows[0].row;
        assert_eq!(row.detail, Some(serde_json::json!({ "left_out": 29 })));
        assert_eq!(
            (row.address.as_deref(), row.what.as_str()),
            (Some("192.0.2.1"), "token.use")
        );
    }

    #[tokio::test]
    async fn damage_that_cannot_be_recorded_holds_nothing_else_up() {
        let tester = Tester::new().await;
        let app = &tester.app;
        stored(&tester).await;
        drop(app.store.session_open("a writer that dies").await.expect("opens"));
        for sql in [
            "UPDATE store_chunk SET state = 4",
            "UPDATE store_root SET digest = X'00'",
            "UPDATE store_session SET lease_until_us = 0",
        ] {
            app.db.conn().execute_unprepared(sql).await.expect("changes");
        }
        assert!(health_tell(app).await.is_err(), "the root cannot be read");
        once(app).await.expect("tidies");
        let expired = app.store.sessions_expire().await.expect("looks");
        assert_eq!(expired.taken, 0, "it was cleaned up after the writer");
    }

    #[tokio::test]
    async fn the_copy_of_a_header_that_found_no_room_is_written_without_waiting_for_the_next_day() {
        let tester = Tester::new().await;
        let app = &tester.app;
        once(app).await.expect("tidies");
        let headers = app.data.join("store/h");
        let count = || std::fs::read_dir(&headers).expect("is there").count();
        std::fs::remove_file(headers.join("00000000")).expect("is there");
        assert_eq!(count(), 1);
        once(app).await.expect("tidies");
        assert_eq!(count(), 2);
    }

    #[tokio::test]
    async fn old_events_and_sign_ins_go_and_new_ones_stay() {
        let (app, _dir) = app().await;
        app.first_start().await.expect("starts").expect("the first time");
        let count = async || {
            event_list_local(&app, &EventFilter::default(), 200)
                .await
                .expect("lists")
                .len()
        };
        assert!(count().await >= 2);
        once(&app).await.expect("tidies");
        assert!(count().await >= 2, "nothing is old yet");
        app.clock.advance(TimeDelta::days(91));
        once(&app).await.expect("tidies");
        assert_eq!(count().await, 0);
    }
}
