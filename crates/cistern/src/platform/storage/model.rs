//! What is told of the store.

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::{CacheFigures, RequestFigures};
use crate::platform::clock::wire;

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
    /// What of `stored_bytes` nothing needs any more, as far as `gc` has found out: it frees it in time. The report of
    /// a run has the same figure, as it is after the run.
    pub garbage_bytes: u64,
    /// Disks of deleted things that can still be restored.
    pub restorable: u64,
    /// What is not zero in them: no more than that is freed when they are purged.
    pub restorable_bytes: u64,
    /// Sessions that are open: who is writing now, and who fell silent.
    pub open_sessions: u64,
    /// Which of them are at work.
    #[serde(default)]
    pub writers: Writers,
    /// Everything that is stored was read and hashed since then, by the scrub, a verification that reads data, or when
    /// it was written; none where nothing is stored, and where something was not read since the index was made anew.
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
            writers: stats.writers.into(),
            read_since: None,
            cache: None,
            requests: None,
        }
    }
}

/// Open sessions of the store. Gc keeps what was written since the first of them began, and what they use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = StoreWriters)]
pub struct Writers {
    /// Those at work.
    pub at_work: u64,
    /// Those of a server that has not been heard of since `silent_since`. Until `silent_until`, when their leases are
    /// over, they may be its own; the next gc after that gives them up.
    pub silent: u64,
    /// When one of the silent ones was heard of last; none where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<String>,
    /// When the last lease of theirs is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_until: Option<String>,
}

impl From<store::Writers> for Writers {
    fn from(writers: store::Writers) -> Self {
        let time = |us: i64| {
            let time = DateTime::from_timestamp_micros(us).filter(|_| writers.silent > 0);
            time.map(wire)
        };
        Self {
            at_work: writers.at_work,
            silent: writers.silent,
            silent_since: time(writers.silent_since_us),
            silent_until: time(writers.silent_until_us),
        }
    }
}

impl Writers {
    /// What the silent ones keep from gc and until when, for people; none where there are none.
    pub fn silent_text(&self) -> Option<String> {
        let (since, until) = (self.silent_since.as_ref()?, self.silent_until.as_ref()?);
        let (sessions, hold, they) = match self.silent {
            1 => ("1 session".to_owned(), "holds", "it"),
            count => (format!("{count} sessions"), "hold", "they"),
        };
        Some(format!(
            "{sessions} of a server that has not been heard of since {since} {hold} what was written since {they} began, and what {they} \
             used, until {until}: run `cistern gc` after that"
        ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fell_silent_is_told_with_since_when_and_until_when() {
        assert_eq!(Writers::from(store::Writers::default()), Writers::default());
        assert_eq!(Writers::default().silent_text(), None);
        let silent = store::Writers {
            at_work: 1,
            silent: 2,
            silent_since_us: 1_767_323_045_000_000,
            silent_until_us: 1_767_323_165_000_000,
        };
        let text = Writers::from(silent).silent_text().expect("there are some");
        for part in [
            "2 sessions of a server",
            "since 2026-01-02T03:04:05Z hold",
            "until 2026-01-02T03:06:05Z: run `cistern gc`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
