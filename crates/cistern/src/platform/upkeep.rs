//! What is tidied up while the server runs: events and ended jobs past their retention, sign-ins that are over,
//! and what writers of the store that died had not published.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::accounts::service as accounts;
use super::error::Result;
use super::events::service as events;
use super::jobs::service as jobs;
use crate::app::App;

/// How often; the first time when the server starts.
const EVERY: Duration = Duration::from_mins(5);

/// Runs until it is aborted. On several servers each does it; the second finds nothing.
pub async fn run(app: App) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = once(&app).await {
            tracing::error!(error = error.chain(), "could not tidy up");
        }
    }
}

async fn once(app: &App) -> Result<()> {
    let events = events::event_forget(app).await?;
    let sign_ins = accounts::sign_in_forget(app).await?;
    let jobs = jobs::job_forget(app).await?;
    if events + sign_ins + jobs > 0 {
        tracing::info!(events, sign_ins, jobs, "forgot what is past its time");
    }
    let expired = app.store.sessions_expire().await?;
    if expired.taken + expired.objects + expired.removed > 0 {
        tracing::info!(
            sessions = expired.taken,
            objects = expired.objects,
            "cleaned up after writers that died"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::app::tests::app;
    use crate::platform::events::service::{EventFilter, event_list_local};

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
