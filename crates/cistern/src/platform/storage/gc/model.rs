//! What is asked of a run, and what it tells.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

/// What a run did, or with `dry_run` would have begun with. Bytes are what they take in the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = GcReport)]
pub struct Report {
    /// Whether only a figure was wanted.
    pub dry_run: bool,
    /// Deleted things whose disks were given up before the run.
    pub purged: u64,
    /// Different trees that are kept.
    pub roots: u64,
    /// Entries of trees that were marked.
    pub entries: u64,
    /// Chunks that nothing needs, found by this run.
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
    /// Objects that no row names and that are waited for.
    pub orphans: u64,
}

impl Report {
    /// Of a finished run.
    pub fn new(wish: Wish, purged: u64, report: &store::gc::Report) -> Self {
        Self {
            dry_run: wish.dry_run,
            purged,
            roots: report.roots,
            entries: report.entries,
            condemned: report.condemned,
            condemned_bytes: report.condemned_bytes,
            buried: report.buried,
            objects: report.objects,
            freed_bytes: report.freed_bytes,
            repacked: report.repacked,
            repacked_bytes: report.repacked_bytes,
            orphans: report.orphans,
        }
    }
}
