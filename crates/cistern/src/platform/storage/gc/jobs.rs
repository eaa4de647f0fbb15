//! The job `store.gc`, and the run itself, which a local command does without a job.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use store::gc::{Next, Options, Progress, Underway};
use tokio_util::sync::CancellationToken;

use super::model::{Report, Wish};
use super::service::{give_up, is_restorable};
use crate::app::App;
use crate::platform::error::{Context, Error, Result, chain_of};
use crate::platform::events::{self, Event, Who};
use crate::platform::jobs::{JobContext, JobError, JobKind, failed_nothing, job_find};
use crate::platform::journal;
use crate::platform::storage::jobs::looked_for;

/// The job's kind.
pub const GC: &str = "store.gc";
/// Attempts before it has failed.
pub const ATTEMPTS: i32 = 3;
/// How often the user sees how far it is.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// The kind, for the list of job kinds.
pub fn gc_kind() -> JobKind {
    JobKind {
        name: GC,
        run: |context| Box::pin(run(context)),
        failed: failed_nothing,
        // A second run would only take the fence from the first.
        is_alone: true,
    }
}

/// A whole run.
pub async fn gc_run(app: &App, wish: Wish, stop: &CancellationToken, progress: &Progress) -> Result<Report> {
    // By an older database what is needed is garbage.
    journal::guard(app).await?;
    doable_check(app, wish, stop).await?;
    let begun = Report::begun(wish, give_up(app, wish).await?);
    gc_free(app, wish, begun, stop, progress).await
}

/// A run that has given up what it is to give up.
async fn gc_free(
    app: &App,
    wish: Wish,
    begun: Report,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<Report> {
    let options = options_of(app, wish, stop);
    let marked = app.store.gc_mark(&options, progress).await.map_err(told)?;
    let report = collect(app, marked, &options, progress).await?;
    tracing::info!(
        condemned = report.condemned,
        freed = report.freed_bytes,
        repacked = report.repacked,
        "gc is done"
    );
    Ok(begun.ended(&report, &app.store.stats().await?))
}

fn options_of(app: &App, wish: Wish, stop: &CancellationToken) -> Options {
    let minutes = |minutes: u32| Duration::from_mins(u64::from(minutes));
    Options {
        grace: minutes(app.config.gc.grace_minutes),
        now: wish.now,
        dry_run: wish.dry_run,
        purged: wish.purge && wish.dry_run,
        repack_below: app.config.gc.repack_below_percent,
        stop: stop.clone(),
        ..Options::new(&app.data)
    }
}

/// What is given up is gone for good, so first it is found out that a run can be done that frees it: the store is
/// there, the journal can be written, and every tree that will still be needed can be read.
async fn doable_check(app: &App, wish: Wish, stop: &CancellationToken) -> Result<()> {
    app.store.there_check().await?;
    if wish.dry_run || !wish.purge || !is_restorable(app).await? {
        return Ok(());
    }
    journal::advance(app).await?;
    let foreseen = Wish {
        dry_run: true,
        ..wish
    };
    let options = options_of(app, foreseen, stop);
    let marked = app.store.gc_mark(&options, &Progress::default()).await;
    marked.map_err(told)?.abandon().await;
    Ok(())
}

/// All of a run that follows its mark.
async fn collect(
    app: &App,
    marked: Underway,
    options: &Options,
    progress: &Progress,
) -> Result<store::gc::Report> {
    let mut underway = marked;
    if !options.dry_run {
        // What was deleted before the mark must not come back from the journal once its data is gone.
        underway = or_abandon(journal::flush(app).await, underway).await?;
    }
    loop {
        match underway.go_on(options, progress).await.map_err(told)? {
            Next::End(report) => return Ok(report),
            // To a database from before what was written anew is an orphan, and what is deleted now is needed.
            Next::Deletion(paused) => underway = or_abandon(journal::advance(app).await, paused).await?,
        }
    }
}

async fn or_abandon(journaled: Result<()>, underway: Underway) -> Result<Underway> {
    match journaled {
        Ok(()) => Ok(underway),
        Err(error) => {
            underway.abandon().await;
            Err(error)
        }
    }
}

fn told(error: store::Error) -> Error {
    match error.kind() {
        store::Kind::LeaseLost => Error::Conflict(
            "another gc began meanwhile and goes on instead of this one; nothing is lost".into(),
        ),
        store::Kind::Stopped => {
            Error::Precondition("stopped; what was freed stays freed, and the next gc goes on".into())
        }
        // What a run has to read itself are the trees of images, by which it knows what they need.
        store::Kind::Damaged | store::Kind::NotFound => {
            tracing::error!(error = chain_of(&error), "gc cannot read what it has to");
            Error::Damaged(format!(
                "gc stopped before it freed anything more, because an object of the store that it has to read is missing or damaged: \
                 {}. `cistern store verify` names the images that this hits; bring the object back with `cistern store heal COPY`, \
                 import those images again, or give them up with `cistern image delete ID --purge`; then gc runs again",
                chain_of(&error)
            ))
        }
        _ => error.into(),
    }
}

/// How far a run is, for those who watch it.
pub fn progress_told(progress: &Progress) -> Value {
    json!({
        "entries": progress.entries.load(Relaxed),
        "chunks": progress.chunks.load(Relaxed),
        "condemned": progress.condemned.load(Relaxed),
        "objects": progress.objects.load(Relaxed),
        "freed_bytes": progress.freed_bytes.load(Relaxed),
    })
}

async fn run(context: JobContext) -> Result<(), JobError> {
    let wish: Wish = context.job.payload()?;
    let progress = Arc::new(Progress::default());
    let begun = begin(&context, wish).await?;
    let report = {
        let work = gc_free(&context.app, wish, begun, &context.stop, &progress);
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            tokio::select! {
                done = &mut work => break done,
                _ = ticks.tick() => context.progress(progress_told(&progress)),
            }
        }
    };
    // What a stop leaves behind is an error of the run, too.
    context.check()?;
    let report = report.map_err(retried)?;
    context
        .save_state(serde_json::to_value(&report).context("could not keep what a gc did")?)
        .await?;
    let tx = context.write().await?;
    if wish.dry_run || report.condemned + report.objects + report.purged == 0 {
        // Nothing happened that anybody would want to look up.
        context.complete_in_tx(&tx).await?;
        return Ok(tx.commit().await?);
    }
    let detail = json!({
        "freed_bytes": report.freed_bytes,
        "condemned": report.condemned,
        "objects": report.objects,
        "purged": report.purged,
        "dry_run": report.dry_run,
    });
    let event = Event::done("store.gc", "store", context.app.store.id()).with(detail);
    events::record_in_tx(&*tx, context.app.clock.now(), &Who::default(), event).await?;
    context.complete_in_tx(&tx).await?;
    Ok(tx.commit().await?)
}

/// Gives up what is to be given up, and keeps which that was: a later attempt finds it given up already, and a run that
/// fails has given it up all the same.
async fn begin(context: &JobContext, wish: Wish) -> Result<Report, JobError> {
    let app = &context.app;
    journal::guard(app).await?;
    let job = job_find(app, context.job.id).await?;
    let earlier = job.and_then(|job| job.state);
    let mut begun = match earlier {
        Some(state) => serde_json::from_value(state).context("could not read what a gc did before")?,
        None => Report::begun(wish, Vec::new()),
    };
    doable_check(app, wish, &context.stop).await.map_err(retried)?;
    let given_up = give_up(app, wish).await?;
    if wish.dry_run {
        return Ok(Report::begun(wish, given_up));
    }
    if !given_up.is_empty() {
        begun.add(given_up);
        context
            .save_state(serde_json::to_value(&begun).context("could not keep what a gc gave up")?)
            .await?;
    }
    Ok(begun)
}

/// That another run took the fence is no fault: the next attempt is after it.
fn retried(error: Error) -> JobError {
    match error {
        Error::Conflict(reason) => JobError::Retry(reason),
        other => looked_for(other),
    }
}
