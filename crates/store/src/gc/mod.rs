//! Garbage collection: frees what nothing names, while everything runs.
//!
//! A run marks what is needed from one look at the database ([`mark`]), condemns what is not marked, older than every
//! session that was open then, and pinned by none ([`sweep`]), and buries what was condemned long enough ago. Packs
//! that hold nothing any more are deleted, those that hold little are written anew ([`packs`], [`repack`]), and
//! what lies in the backend without a row goes when it was seen twice ([`orphans`]). A dry run changes nothing, and
//! foresees what the next one like it would do ([`forecast`]). Why this loses nothing is said in docs/store-format.md
//! §8, and checked by the model in `tests/protocol`. What is marked is sorted in files, and in memory, up to a bound,
//! where the disk that is to be freed has no room for them ([`sorter`]).
//!
//! Any error ends a run, and one before the first condemned chunk has changed nothing. A run may end anywhere: the next
//! one takes the fence, so that whatever the old one still tries fails, marks anew, and goes on with what was condemned
//! or dead already.

mod forecast;
mod mark;
mod orphans;
mod packs;
mod repack;
mod sorter;
mod sweep;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend::Listed;
use crate::error::{Error, Kind, Result};
use crate::pack;
use crate::rows;
use crate::session::micros;
use crate::store::Store;
use crate::writers::Writers;
use mark::Marks;
pub(crate) use orphans::id_of;

/// Part of one processor, in percent for each processor of the machine, that a run takes while somebody writes.
const POLITE_PERCENT: u32 = 8;
/// The longest rest after a piece of work. What would need a longer one was waiting for the most part: for the backend,
/// the database, or for a machine that slept.
const REST_MAX: Duration = Duration::from_secs(2);

/// How a run is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a condemned chunk can still be brought back by an import of the same content.
    pub grace: Duration,
    /// How long something without a row has to lie in the backend until it is deleted: longer than any write takes.
    pub orphan_grace: Duration,
    /// No waiting for `grace`: what is garbage now goes now. Safe at any time; orphans are waited for all the same.
    pub now: bool,
    /// Only find out what a run would free.
    pub dry_run: bool,
    /// With `dry_run`: as if what is only kept to be restored were not there.
    pub purged: bool,
    /// Packs are written anew when less than so many percent of their bytes are needed; 0 for those alone of which
    /// something was found damaged, which are in any case.
    pub repack_below: u8,
    /// Where working files go, which have no names.
    pub folder: PathBuf,
    /// Ends the run at its next step.
    pub stop: CancellationToken,
}

impl Options {
    /// The usual waiting times, with working files in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            grace: Duration::from_hours(1),
            orphan_grace: Duration::from_hours(24),
            now: false,
            dry_run: false,
            purged: false,
            repack_below: 60,
            folder: folder.into(),
            stop: CancellationToken::new(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::new(Kind::Stopped, "gc was told to stop"));
        }
        Ok(())
    }
}

/// Counters of a run, for those who watch it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Different trees that roots name.
    pub roots: AtomicU64,
    /// Tree nodes read.
    pub nodes: AtomicU64,
    /// Entries of trees marked.
    pub entries: AtomicU64,
    /// Chunk rows compared with the marks.
    pub chunks: AtomicU64,
    /// Chunks that nothing needs, found by this run.
    pub condemned: AtomicU64,
    /// Chunks whose rows went.
    pub buried: AtomicU64,
    /// Condemned chunks that turned out to be needed and live again: 0, unless the protocol has a hole.
    pub taken_back: AtomicU64,
    /// Objects deleted.
    pub objects: AtomicU64,
    /// Their bytes.
    pub freed_bytes: AtomicU64,
}

/// What a run did, or where it was a dry one, what the next run like it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Different trees that roots name.
    pub roots: u64,
    /// Entries of trees marked, and so needed.
    pub entries: u64,
    /// Chunks that nothing needs, found by this run; by a dry one also those that earlier runs have found.
    pub condemned: u64,
    /// Bytes of their frames. They are freed by this run, or a later one.
    pub condemned_bytes: u64,
    /// With a dry run: how many bytes less the store would take once all waiting times are over.
    #[serde(default)]
    pub later_bytes: u64,
    /// Who wrote when the run looked at the database, so that what is younger than them was left alone.
    #[serde(default)]
    pub writers: Writers,
    /// Chunks that nobody asked for again in time: gone for good.
    pub buried: u64,
    /// Packs and other objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Packs whose chunks were moved to others; they are deleted by this run or the next, but for those that hold
    /// something damaged which is needed and was not stored anew.
    pub repacked: u64,
    /// Bytes written for that.
    pub repacked_bytes: u64,
    /// Where packs could not be written anew for want of room: how many bytes the first of them takes; otherwise 0.
    #[serde(default)]
    pub no_room_bytes: u64,
    /// Objects that no row names, waiting to be deleted.
    pub orphans: u64,
    /// Condemned chunks that turned out to be needed and live again: 0, unless the protocol has a hole.
    #[serde(default)]
    pub taken_back: u64,
}

impl Store {
    /// A whole run.
    pub async fn gc(&self, options: &Options, progress: &Progress) -> Result<Report> {
        let marked = self.gc_mark(options, progress).await?;
        marked.finish(options, progress).await
    }

    /// The first part of a run, which changes nothing that anybody needs: takes the fence and marks. What has to be
    /// done between the look at the database and the first change is done by the caller, who then goes on with
    /// [`Underway::go_on`].
    pub async fn gc_mark(&self, options: &Options, progress: &Progress) -> Result<Underway> {
        self.inner.header.writable()?;
        options.check()?;
        if options.purged && !options.dry_run {
            return Err(Error::new(
                Kind::Invalid,
                "only a dry run can look past what can be restored",
            ));
        }
        let run = Run::begin(self, options).await?;
        match mark::mark(self, run.epoch, options, progress).await {
            Ok(marks) => Ok(Underway {
                run: Box::new(run),
                report: Report {
                    roots: progress.roots.load(Relaxed),
                    entries: progress.entries.load(Relaxed),
                    writers: marks.writers,
                    ..Report::default()
                },
                stage: Stage::Marked(marks),
            }),
            Err(error) => Err(run.give_up(error).await),
        }
    }

    /// When the newest run that was told to have ended did so (microseconds since 1970), and what it did.
    pub async fn gc_last(&self) -> Result<Option<(i64, Report)>> {
        let row = rows::gc_last(&self.inner.db, self.inner.number).await;
        let row = row.map_err(|error| Error::db("cannot read the last gc", error))?;
        Ok(row.map(|row| {
            (
                row.ended_us,
                serde_json::from_str(&row.report).unwrap_or_default(),
            )
        }))
    }
}

/// A run that is under way.
#[derive(Debug)]
pub struct Underway {
    run: Box<Run>,
    report: Report,
    stage: Stage,
}

/// What a run has done.
#[derive(Debug)]
enum Stage {
    Marked(Marks),
    /// What nothing needs any more has no rows, and what held nothing else is dead.
    Swept,
    /// What is needed of packs that were mostly garbage lies in others; these orphans have waited long enough.
    Repacked(Vec<Listed>),
}

/// How far a run has gone.
#[derive(Debug)]
pub enum Next {
    /// The next thing that it does is to delete objects that earlier states of the database, or of the store, still
    /// need: a copy of either must not be taken for the newest after that.
    Deletion(Underway),
    /// It has ended.
    End(Report),
}

impl Underway {
    /// Goes on to the end.
    pub async fn finish(self, options: &Options, progress: &Progress) -> Result<Report> {
        let mut underway = self;
        loop {
            match underway.go_on(options, progress).await? {
                Next::Deletion(paused) => underway = paused,
                Next::End(report) => return Ok(report),
            }
        }
    }

    /// Goes on to just before the next deletion, or to the end: condemns, deletes, and makes the rest of packs smaller.
    pub async fn go_on(self, options: &Options, progress: &Progress) -> Result<Next> {
        let Self {
            run,
            mut report,
            mut stage,
        } = self;
        loop {
            let done = run.step(stage, options, progress, &mut report).await;
            match done {
                Ok(Some((next, is_deleting))) if is_deleting => {
                    return Ok(Next::Deletion(Self {
                        run,
                        report,
                        stage: next,
                    }));
                }
                Ok(Some((next, _))) => stage = next,
                Ok(None) => {
                    run.end(&report).await?;
                    return Ok(Next::End(report));
                }
                Err(error) => return Err(run.give_up(error).await),
            }
        }
    }

    /// Ends the run where it is. What it has condemned or declared dead the next one goes on with.
    pub async fn abandon(self) {
        if let Err(error) = self.run.free().await {
            tracing::debug!(%error, "gc could not let go of its fence");
        }
    }
}

/// Who holds the fence.
#[derive(Debug)]
struct Run {
    store: Store,
    fence: Uuid,
    epoch: i64,
    /// The newest pin when the run began. A snapshot may see a pin and not yet one with a lower number (on PostgreSQL a
    /// number is drawn before its transaction commits), so what a sweep has to ask for is counted from here.
    pins_seen: i64,
    /// A run or a heal before this one has moved chunks, and its caller was not told.
    follows_untold: bool,
    /// Notes of such heals, which this run's caller stands for.
    heals: Vec<i64>,
    /// Nothing is written, and the fence is not held.
    is_dry: bool,
}

impl Run {
    async fn begin(store: &Store, options: &Options) -> Result<Self> {
        let context = |error| Error::db("cannot begin gc", error);
        let world = &store.inner.options.world;
        let (number, fence) = (store.inner.number, world.uuid());
        if options.dry_run {
            let epoch = rows::epoch_get(&store.inner.db, number).await.map_err(context)? + 1;
            return Ok(Self {
                store: store.clone(),
                fence,
                epoch,
                pins_seen: 0,
                follows_untold: false,
                heals: Vec::new(),
                is_dry: true,
            });
        }
        // A session whose writer is dead would hold the run back.
        store.sessions_expire().await?;
        let tx = rows::begin(&store.inner.db).await.map_err(context)?;
        let (epoch, pins_seen) = rows::gc_begin(&tx, number, fence, world.now_us())
            .await
            .map_err(context)?;
        // Alone at the gate: another run that still wrote has committed, or is refused.
        let follows_untold = rows::untold_since(&tx, number).await.map_err(context)?.is_some();
        let heals = rows::heals_over(&tx, number).await.map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(Self {
            store: store.clone(),
            fence,
            epoch,
            pins_seen,
            follows_untold,
            heals,
            is_dry: false,
        })
    }

    /// One stage. Gives what comes next, and whether that deletes anything that was ever needed; nothing at the end.
    async fn step(
        &self,
        stage: Stage,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<Option<(Stage, bool)>> {
        match stage {
            Stage::Marked(marks) if self.is_dry => {
                self.foresee(marks, options, progress, report).await?;
                Ok(None)
            }
            Stage::Marked(marks) => {
                self.sweep(marks, options, progress, report, None).await?;
                self.bury(options, progress, report).await?;
                self.empty_declare(options).await?;
                let is_deleting = self.follows_untold || self.any_dead().await?;
                Ok(Some((Stage::Swept, is_deleting)))
            }
            Stage::Swept => {
                self.dead_delete(options, progress, report).await?;
                self.repack_if_room(options, report).await?;
                if options.now && report.repacked > 0 {
                    self.empty_declare(options).await?;
                }
                let due = self.orphans_look(options, report).await?;
                // Where packs were written anew the old ones may go with the next run, in a copy of the store that
                // lacks the new ones.
                let is_deleting = report.repacked > 0 || !due.is_empty();
                Ok(Some((Stage::Repacked(due), is_deleting)))
            }
            Stage::Repacked(due) => {
                self.moves_told().await?;
                self.dead_delete(options, progress, report).await?;
                self.orphans_delete(due, options, progress, report).await?;
                self.leftovers_clear().await;
                Ok(None)
            }
        }
    }

    async fn moves_told(&self) -> Result<()> {
        let (db, number) = (&self.store.inner.db, self.store.inner.number);
        let told = rows::gc_moved(db, number, self.epoch, true).await;
        told.map_err(|error| Error::db("cannot note that chunks were moved", error))
    }

    async fn repack_if_room(&self, options: &Options, report: &mut Report) -> Result<()> {
        match self.repack(options, report).await {
            // What needs no room has been freed by then.
            Err(error) if error.kind() == Kind::NoSpace => {
                tracing::warn!(%error, "there is no room to write packs anew that are mostly garbage");
                if report.no_room_bytes == 0 {
                    report.no_room_bytes = pack::LIMIT_BYTES as u64;
                }
                Ok(())
            }
            done => done,
        }
    }

    /// A transaction that is alone at the gate, as long as the run still holds the fence.
    async fn alone(&self) -> Result<rows::Tx> {
        let context = |error| Error::db("cannot go on with gc", error);
        let store = &self.store.inner;
        let tx = rows::begin(&store.db).await.map_err(context)?;
        if rows::gc_hold(&tx, store.number, self.fence)
            .await
            .map_err(context)?
        {
            return Ok(tx);
        }
        Err(overtaken_by())
    }

    /// The epoch up to which condemned chunks may be buried.
    async fn limit(&self, options: &Options) -> Result<i64> {
        if options.now {
            return Ok(self.epoch);
        }
        let store = &self.store.inner;
        let before_us = store.options.world.now_us() - micros(options.grace);
        let ended = rows::gc_ended(&store.db, store.number, before_us).await;
        Ok(ended
            .map_err(|error| Error::db("cannot read earlier runs", error))?
            .unwrap_or(0))
    }

    async fn end(&self, report: &Report) -> Result<()> {
        if self.is_dry {
            return Ok(());
        }
        let context = |error| Error::db("cannot end gc", error);
        let store = &self.store.inner;
        let text = serde_json::to_string(report).unwrap_or_default();
        let tx = self.alone().await?;
        let now_us = store.options.world.now_us();
        rows::heals_told(&tx, store.number, &self.heals)
            .await
            .map_err(context)?;
        rows::gc_end(&tx, store.number, self.epoch, now_us, &text)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        // What committed while this ran kept its pins for it.
        self.store.sessions_expire().await.map(drop)
    }

    /// Lets go of the fence after a failure; gives the reason. Where the fence is another run's by now, that is the
    /// reason: the other may have freed what this one still looked for. Where letting go fails, the next run takes it.
    async fn give_up(&self, error: Error) -> Error {
        let error = self.store.or_away(error).await;
        match self.free().await {
            Err(overtaken) if overtaken.kind() == Kind::LeaseLost => overtaken.with_source(error),
            Err(other) => {
                tracing::debug!(error = %other, "gc could not let go of its fence");
                error
            }
            Ok(()) => error,
        }
    }

    async fn free(&self) -> Result<()> {
        let context = |error| Error::db("cannot end gc", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        if self.is_dry {
            let overtaken = rows::gc_begun(db, number, self.epoch).await.map_err(context)?;
            return if overtaken { Err(overtaken_by()) } else { Ok(()) };
        }
        let tx = self.alone().await?;
        rows::gc_free(&tx, number).await.map_err(context)?;
        tx.commit().await.map_err(context)
    }
}

fn overtaken_by() -> Error {
    let text = "another gc has begun: this one ends, and nothing is lost";
    Error::new(Kind::LeaseLost, text)
}

/// Leaves the processors to those who write: while anybody does, a run rests in proportion to what it worked.
#[derive(Debug)]
struct Pace {
    store: Store,
    since: Duration,
    rest_a_second: f64,
}

impl Pace {
    fn new(store: &Store) -> Self {
        let world = &store.inner.options.world;
        let processors = u32::try_from(world.processors()).unwrap_or(u32::MAX);
        let share = f64::from(POLITE_PERCENT.saturating_mul(processors).min(100)) / 100.0;
        Self {
            store: store.clone(),
            since: world.uptime(),
            rest_a_second: 1.0 / share - 1.0,
        }
    }

    /// To be called after each piece of work.
    async fn rest(&mut self) {
        let world = &self.store.inner.options.world;
        if self.store.inner.writers.load(Relaxed) > 0 {
            let worked = world.uptime().saturating_sub(self.since);
            world.sleep(rest_after(worked, self.rest_a_second)).await;
        }
        self.since = world.uptime();
    }
}

fn rest_after(worked: Duration, rest_a_second: f64) -> Duration {
    worked.mul_f64(rest_a_second).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_held_up_does_not_rest_for_all_that_time() {
        let after = |ms| rest_after(Duration::from_millis(ms), 5.0);
        assert_eq!(after(100), Duration::from_millis(500));
        assert_eq!(after(60_000), REST_MAX);
    }
}
