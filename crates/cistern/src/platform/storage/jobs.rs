//! The job `store.verify`: looks for damage, keeps what it found in its state, and mends what can be.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::VerifyProgress;

use super::mend::{mend, store_verify};
use super::model::Report;
use crate::platform::error::{Base, Context, Error};
use crate::platform::events::{self, Event, Outcome, Who};
use crate::platform::jobs::{JobContext, JobError, JobKind, failed_nothing};

/// The job's kind.
pub const VERIFY: &str = "store.verify";
/// Attempts before it has failed.
pub const ATTEMPTS: i32 = 3;
/// How often the user sees how far it is.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// What the job is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Read every frame.
    pub read_data: bool,
}

/// The kind, for the list of job kinds.
pub fn verify_kind() -> JobKind {
    JobKind {
        name: VERIFY,
        run: |context| Box::pin(run(context)),
        failed: failed_nothing,
        is_alone: false,
    }
}

/// Whoever looks after the store does not wait until its disk is mounted: that takes a person, who is to hear of it.
pub(super) fn looked_for(error: Error) -> JobError {
    match error {
        Error::Away(Base::Mount) => JobError::Fail(error.to_string()),
        other => other.into(),
    }
}

async fn run(context: JobContext) -> Result<(), JobError> {
    let Payload { read_data } = context.job.payload()?;
    let progress = Arc::new(VerifyProgress::default());
    let found = {
        let mut work = std::pin::pin!(store_verify(&context.app, read_data, &progress));
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            tokio::select! {
                found = &mut work => break found.map_err(looked_for)?,
                () = context.stop.cancelled() => return context.check(),
                _ = ticks.tick() => context.progress(json!({
                    "packs": progress.packs.load(Relaxed),
                    "bytes": progress.bytes.load(Relaxed),
                    "roots": progress.roots.load(Relaxed),
                })),
            }
        }
    };
    if let Err(error) = mend(&context.app, &found).await {
        tracing::error!(
            error = error.chain(),
            "what was found damaged could not be written anew"
        );
    }
    let report = Report::new(read_data, found, &progress);
    let outcome = if report.is_clean() {
        Outcome::Ok
    } else {
        Outcome::Failed
    };
    if !report.is_clean() {
        tracing::error!(
            damaged = report.damage.len() as u64 + report.more,
            "the store is damaged"
        );
    }
    context
        .save_state(serde_json::to_value(&report).context("could not keep what a verification found")?)
        .await?;
    let tx = context.write().await?;
    let detail = json!({ "damaged": report.damage.len() as u64 + report.more, "read_data": read_data });
    let event = Event::done("store.verify", "store", context.app.store.id())
        .ended(outcome)
        .with(detail);
    events::record_in_tx(&*tx, context.app.clock.now(), &Who::default(), event).await?;
    context.complete_in_tx(&tx).await?;
    Ok(tx.commit().await?)
}
