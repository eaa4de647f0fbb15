//! What is told of the store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::{CacheFigures, RequestFigures};

/// Most damaged ranges that one run tells; a broken disk array has no end of them.
pub const MAX_TOLD: usize = 10_000;

/// Figures of the store, in bytes as they lie in the backend unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStats {
    /// Disks that are kept.
    pub roots: u64,
    /// Sum of the sizes of all disks.
    pub virtual_bytes: u64,
    /// Sum of what is not zero in them, as if nothing were shared or compressed.
    pub logical_bytes: u64,
    /// What the packs take.
    pub stored_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Different chunks.
    pub chunks: u64,
    /// What the chunks take of the packs.
    pub chunk_bytes: u64,
    /// What of `stored_bytes` nothing needs any more, as far as `gc` has found out: it frees it in time. The report of a run has
    /// the same figure, as it is after the run.
    pub garbage_bytes: u64,
    /// Disks of deleted things that can still be restored.
    pub restorable: u64,
    /// What is not zero in them: no more than that is freed when they are purged.
    pub restorable_bytes: u64,
    /// Who is writing now.
    pub open_sessions: u64,
    /// Everything that is stored was read and hashed since then, by the scrub, a verification that reads data, or when it was
    /// written; none where nothing is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_since: Option<String>,
    /// The cache of packs of a bucket, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheFigures>,
    /// What the bucket was asked, where the objects are in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestFigures>,
}

impl From<store::Stats> for StoreStats {
    fn from(stats: store::Stats) -> Self {
        Self {
            roots: stats.roots,
            virtual_bytes: stats.virtual_bytes,
            logical_bytes: stats.logical_bytes,
            stored_bytes: stats.stored_bytes,
            packs: stats.packs,
            chunks: stats.chunks,
            chunk_bytes: stats.chunk_bytes,
            garbage_bytes: stats.garbage_bytes,
            restorable: stats.restorable_roots,
            restorable_bytes: stats.restorable_bytes,
            open_sessions: stats.open_sessions,
            read_since: None,
            cache: None,
            requests: None,
        }
    }
}

/// A damaged range of a disk, or of a pack that no disk needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// `image`, `snapshot`, …, or `store`.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// The first damaged byte.
    pub from: u64,
    /// The byte after the last.
    pub to: u64,
    /// Why.
    pub reason: String,
}

impl From<store::Damage> for Damage {
    fn from(damage: store::Damage) -> Self {
        Self {
            kind: damage.kind,
            id: damage.owner,
            from: damage.range.start,
            to: damage.range.end,
            reason: damage.reason,
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Whether every frame was read, or only what there should be was looked up.
    pub read_data: bool,
    /// Packs that were looked at.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes: u64,
    /// Disks that were walked.
    pub roots: u64,
    /// What is damaged, the first ten thousand.
    pub damage: Vec<Damage>,
    /// How many more there are.
    pub more: u64,
}

impl Report {
    /// A finished run.
    pub fn new(read_data: bool, mut found: Vec<store::Damage>, progress: &store::VerifyProgress) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        // As numbers where they are, so that 3 comes before 28.
        found.sort_by_cached_key(|d| {
            let number = d.owner.parse().unwrap_or(u64::MAX);
            (d.kind.clone(), number, d.owner.clone(), d.range.start)
        });
        let more = found.len().saturating_sub(MAX_TOLD);
        Self {
            read_data,
            packs: progress.packs.load(Relaxed),
            bytes: progress.bytes.load(Relaxed),
            roots: progress.roots.load(Relaxed),
            damage: found.into_iter().take(MAX_TOLD).map(Damage::from).collect(),
            more: more as u64,
        }
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }
}
