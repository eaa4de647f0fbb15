//! The job `store.scrub`: a quarter of an hour of reading. The next one goes on where it ended.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::json;
use store::scrub::Options;

use crate::platform::error::Error;
use crate::platform::events::{self, Event, Outcome, Who};
use crate::platform::jobs::{JobContext, JobError, JobKind, failed_nothing};

/// The job's kind.
pub const SCRUB: &str = "store.scrub";
/// Attempts before it has failed.
pub const ATTEMPTS: i32 = 3;
/// How long one job reads, so that a worker is not taken for days.
const TIME: Duration = Duration::from_mins(15);
/// How often the user sees how far it is.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// The kind, for the list of job kinds.
pub fn scrub_kind() -> JobKind {
    JobKind {
        name: SCRUB,
        run: |context| Box::pin(run(context)),
        failed: failed_nothing,
        is_alone: true,
    }
}

async fn run(context: JobContext) -> Result<(), JobError> {
    let config = &context.app.config.scrub;
    let options = Options {
        bytes_per_second: config.mib_per_second.max(1) << 20,
        every: Duration::from_hours(24) * config.every_days,
        time: TIME,
        stop: context.stop.clone(),
    };
    let read = Arc::new(AtomicU64::new(0));
    let done = {
        let mut work = std::pin::pin!(context.app.store.scrub(&options, &read));
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            tokio::select! {
                done = &mut work => break done,
                _ = ticks.tick() => context.progress(json!({ "bytes": read.load(Relaxed) })),
            }
        }
    };
    context.check()?;
    let report = done.map_err(Error::from)?;
    let tx = context.write().await?;
    if report.damaged > 0 {
        let detail = json!({ "objects": report.objects, "damaged": report.damaged });
        let event = Event::done("store.scrub", "store", context.app.store.id())
            .ended(Outcome::Failed)
            .with(detail);
        events::record_in_tx(&*tx, context.app.clock.now(), &Who::default(), event).await?;
    }
    context.complete_in_tx(&tx).await?;
    Ok(tx.commit().await?)
}
