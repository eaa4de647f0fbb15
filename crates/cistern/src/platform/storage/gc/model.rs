//! What is asked of a run, and what it tells.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::platform::storage::model::Writers;

/// How a run is to be. All of it may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = GcCreate)]
pub struct Wish {
    /// Without the waiting time: what is garbage now goes now.
    pub now: bool,
    /// Also gives up the disks of deleted images that could still be restored.
    pub purge: bool,
    /// Only finds out what would be freed.
    pub dry_run: bool,
}

/// Most given-up things that one report names; `purged` counts them all.
pub const MAX_NAMED: usize = 1000;

/// A deleted thing whose disk a run gives up although it could still be restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = GcGivenUp)]
pub struct GivenUp {
    /// `image`.
    pub kind: String,
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its team's number.
    pub team_id: i64,
    /// Its team's name.
    pub team: String,
    /// When it was deleted.
    pub deleted_at: Option<String>,
    /// Until when it could have been restored.
    pub restorable_until: Option<String>,
    /// The size of its disk, in bytes.
    pub virtual_bytes: u64,
    /// What of that is not zeros, in bytes: no more than that becomes garbage.
    pub logical_bytes: u64,
}

/// What a run did, or with `dry_run` what a run that is otherwise like it would do now. Bytes are what they take in the
/// backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = GcReport)]
pub struct Report {
    /// Whether only a figure was wanted.
    pub dry_run: bool,
    /// Deleted things that could still be restored, and whose disks were given up before the run; with `dry_run` those
    /// that would be.
    pub purged: u64,
    /// Which those are, the first thousand. Also told by a run that failed after it had given them up.
    #[serde(default)]
    pub given_up: Vec<GivenUp>,
    /// Different trees that are kept.
    pub roots: u64,
    /// Entries of trees that were marked.
    pub entries: u64,
    /// Chunks that nothing needs, found by this run; with `dry_run` also those that earlier runs found and that are
    /// still there.
    pub condemned: u64,
    /// Their bytes, which this run or a later one frees.
    pub condemned_bytes: u64,
    /// Chunks that nobody brought again in time, and that are gone.
    pub buried: u64,
    /// Packs and other objects that were deleted.
    pub objects: u64,
    /// What that freed.
    pub freed_bytes: u64,
    /// Packs that were mostly garbage, and of which the rest was written to others.
    pub repacked: u64,
    /// What was written for that.
    pub repacked_bytes: u64,
    /// Where packs that are mostly garbage could not be written anew for want of room: how many bytes the first of them
    /// takes, which have to be free for that; otherwise 0.
    #[serde(default)]
    pub no_room_bytes: u64,
    /// Objects that no row names and that are waited for.
    pub orphans: u64,
    /// With `dry_run`: how many bytes less the store would take once `gc.grace_minutes` are over after a run has found
    /// the garbage, or at once with `now`; otherwise 0.
    #[serde(default)]
    pub later_bytes: u64,
    /// Who wrote when the run looked: what was written since the first of them began is left to a later one.
    #[serde(default)]
    pub writers: Writers,
    /// What is garbage in packs after this run, the figure of `GET /v2/store/stats`: what is waited for, and what lies
    /// in packs of which too much is needed for writing them anew. With `dry_run` that is before it looked.
    #[serde(default)]
    pub garbage_bytes: u64,
    /// Packs and whole objects that stay after this run because something damaged is in them that is needed: until it
    /// is healed.
    #[serde(default)]
    pub damaged_objects: u64,
    /// Their bytes.
    #[serde(default)]
    pub damaged_bytes: u64,
}

impl Report {
    /// Of a run that has given these up, and so far did nothing else.
    pub fn begun(wish: Wish, given_up: Vec<GivenUp>) -> Self {
        let mut report = Self {
            dry_run: wish.dry_run,
            ..Self::default()
        };
        report.add(given_up);
        report
    }

    /// Counts and names what was given up by an attempt.
    pub fn add(&mut self, given_up: Vec<GivenUp>) {
        self.purged += given_up.len() as u64;
        self.given_up.extend(given_up);
        self.given_up.truncate(MAX_NAMED);
    }

    /// The same run, finished, with the store's figures after it.
    pub fn ended(self, report: &store::gc::Report, after: &store::Stats) -> Self {
        Self {
            garbage_bytes: after.garbage_bytes,
            damaged_objects: after.damaged_objects,
            damaged_bytes: after.damaged_bytes,
            roots: report.roots,
            entries: report.entries,
            condemned: report.condemned,
            condemned_bytes: report.condemned_bytes,
            buried: report.buried,
            objects: report.objects,
            freed_bytes: report.freed_bytes,
            repacked: report.repacked,
            repacked_bytes: report.repacked_bytes,
            no_room_bytes: report.no_room_bytes,
            orphans: report.orphans,
            later_bytes: report.later_bytes,
            writers: report.writers.into(),
            ..self
        }
    }
}
