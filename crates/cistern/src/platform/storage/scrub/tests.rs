//! When a scrub is begun by itself.

use chrono::TimeDelta;

use super::jobs::SCRUB;
use super::service::scrub_due;
use crate::app::App;
use crate::platform::jobs::service::job_list;
use crate::platform::storage::tests::stored;
use crate::testing::api::Tester;

async fn waiting(app: &App) -> usize {
    let jobs = job_list(app, true, None).await.expect("lists");
    jobs.iter().filter(|job| job.kind == SCRUB).count()
}

#[tokio::test]
async fn what_was_written_a_month_ago_is_due_and_one_job_is_enough() {
    let tester = Tester::new().await;
    let app = &tester.app;
    app.clock.advance(TimeDelta::days(31));
    scrub_due(app).await.expect("looks");
    assert_eq!(waiting(app).await, 0, "nothing is stored");
    app.clock.advance(TimeDelta::days(-31));
    stored(&tester).await;
    scrub_due(app).await.expect("looks");
    assert_eq!(waiting(app).await, 0, "it was written a moment ago");
    app.clock.advance(TimeDelta::days(31));
    for _ in 0..2 {
        scrub_due(app).await.expect("looks");
        assert_eq!(waiting(app).await, 1);
    }
}

#[tokio::test]
async fn what_was_written_while_the_clock_was_ahead_is_due() {
    let tester = Tester::new().await;
    let app = &tester.app;
    stored(&tester).await;
    app.clock.advance(TimeDelta::days(-365));
    scrub_due(app).await.expect("looks");
    assert_eq!(waiting(app).await, 1);
}
