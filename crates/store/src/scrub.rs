//! Reads everything that is stored again and again, slowly, what was read longest ago first; and keeps a record of what
//! is damaged, by disk and range, so that nobody has to look for it.
//!
//! What is found damaged is marked in the index (see [`crate::verify`]): no import relies on it, and one that
//! brings the content again heals it. The record follows from those marks and the trees, without reading data.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::rows::{self, chunk_state};
use crate::session::micros;
use crate::store::Store;
use crate::verify::{Damage, FOUND_DAMAGED, VerifyProgress};
use crate::walk::{Judge, Walk};

/// Objects that are looked for at once.
const PAGE: u64 = 64;
/// What is told of a disk that is damaged all over.
const RANGES_KEPT: usize = 1000;

/// How a scrub is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes read a second at most.
    pub bytes_per_second: u64,
    /// What was read longer ago than this is read again.
    pub every: Duration,
    /// It ends after about this long, to be begun again: what it has done is kept.
    pub time: Duration,
    /// Ends it at its next object.
    pub stop: CancellationToken,
}

/// What a scrub did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects with something wrong.
    pub damaged: u64,
    /// Whether everything has been read recently.
    pub is_done: bool,
}

/// Whether everything is fine, as far as it was looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Disks and whole objects that are known to be damaged.
    pub damaged_roots: u64,
    /// When the object that was read longest ago was read (or written), microseconds since 1970; `None` without
    /// objects.
    pub oldest_us: Option<i64>,
    /// The same of the object that was read last.
    pub newest_us: Option<i64>,
}

impl Health {
    /// Whether something is said to have been read at a time that at `now_us` is still to come. The clock was wrong
    /// then, or is now: nobody knows how long ago that was read.
    pub fn is_ahead(&self, now_us: i64) -> bool {
        self.newest_us
            .is_some_and(|newest_us| newest_us >= now_us + rows::AHEAD_US)
    }
}

/// What the record of damage follows from, in short: it is the same as long as this is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    marks: rows::DamageMarks,
    roots: blake3::Hash,
    /// How many disks and whole objects the record names. Another process may have written another.
    known: u64,
}

impl Store {
    /// Reads what a clock that was ahead has noted as read, and what is due, oldest first, and brings the record of
    /// damage up to date.
    pub async fn scrub(&self, options: &Options, read: &AtomicU64) -> Result<Report> {
        let mut report = Report::default();
        let world = &self.inner.options.world;
        let start = world.uptime();
        let due_us = world.now_us() - micros(options.every);
        loop {
            let page = self.scrub_page(due_us).await?;
            report.is_done = page.is_empty();
            if page.is_empty() {
                break;
            }
            for object in page {
                if options.stop.is_cancelled() {
                    return Err(Error::new(Kind::Stopped, "the scrub was told to stop"));
                }
                let progress = VerifyProgress::default();
                report.damaged += u64::from(self.object_verify(&object, &progress).await?);
                report.objects += 1;
                report.bytes += progress.bytes.load(Relaxed);
                read.store(report.bytes, Relaxed);
                let due = start + read_time(report.bytes, options.bytes_per_second);
                world.sleep(due.saturating_sub(world.uptime())).await;
            }
            if world.uptime().saturating_sub(start) > options.time {
                break;
            }
        }
        self.damage_update().await?;
        Ok(report)
    }

    /// Some of what is to be read: first what was read by a clock that was ahead, which would never be due.
    async fn scrub_page(&self, due_us: i64) -> Result<Vec<rows::object::Model>> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot look for what is to be read", error);
        let now_us = self.inner.options.world.now_us();
        let ahead = rows::objects_ahead(db, number, now_us, PAGE).await;
        let ahead = ahead.map_err(context)?;
        if !ahead.is_empty() {
            return Ok(ahead);
        }
        rows::objects_due(db, number, due_us, PAGE).await.map_err(context)
    }

    /// How things stand, from the record.
    pub async fn health(&self) -> Result<Health> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot read the record of damage", error);
        Ok(Health {
            damaged_roots: self.damaged_roots().await?,
            oldest_us: rows::objects_oldest(db, number).await.map_err(context)?,
            newest_us: rows::objects_last_read(db, number).await.map_err(context)?,
        })
    }

    /// How many disks and whole objects are known to be damaged.
    pub async fn damaged_roots(&self) -> Result<u64> {
        let roots = rows::damage_roots(&self.inner.db, self.inner.number).await;
        roots.map_err(|error| Error::db("cannot read the record of damage", error))
    }

    /// The known damage of one disk or whole object.
    pub async fn damage_of(&self, kind: &str, owner: &str) -> Result<Vec<Damage>> {
        let rows = rows::damage_get(&self.inner.db, self.inner.number, kind, owner).await;
        let rows = rows.map_err(|error| Error::db("cannot read the record of damage", error))?;
        Ok(rows.into_iter().map(rows::damage::Model::told).collect())
    }

    /// Which of these are known to be damaged.
    pub async fn damaged_among(&self, kind: &str, owners: &[&str]) -> Result<Vec<String>> {
        let damaged = rows::damage_owners(&self.inner.db, self.inner.number, kind, owners).await;
        damaged.map_err(|error| Error::db("cannot read the record of damage", error))
    }

    /// Brings the record up to date with the index. Without damage anywhere that is two small queries; with damage the
    /// trees are walked where marks or roots have changed since this process did it last, or where a reader was in
    /// doubt ([`Store::damage_doubt`]).
    pub async fn damage_update(&self) -> Result<()> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot keep the record of damage", error);
        let is_clean = !rows::chunks_any_damaged(db, number).await.map_err(context)?;
        let known = rows::damage_roots(db, number).await.map_err(context)?;
        let is_doubted = self.inner.doubt.trees_taken();
        if is_clean && known == 0 && !is_doubted {
            *self.damage_recorded() = None;
            self.inner.doubt.forget();
            return Ok(());
        }
        // Looked at before the trees are: what changes meanwhile differs from it the next time.
        let inputs = self.damage_inputs(known).await?;
        if !is_doubted && self.damage_recorded().as_ref() == Some(&inputs) {
            return Ok(());
        }
        // Also where nothing is marked any more: what is in no index has no mark.
        let mut walk = Walk::new(self, Judge::Marks, RANGES_KEPT);
        for root in self.root_list().await? {
            walk.root(&root).await?;
        }
        let mut found = walk.damage;
        found.extend(self.objects_damage().await?);
        let now_us = self.inner.options.world.now_us();
        rows::damage_replace(db, number, now_us, &found)
            .await
            .map_err(context)?;
        let named: HashSet<_> = found.iter().map(|one| (&one.kind, &one.owner)).collect();
        *self.damage_recorded() = Some(Inputs {
            known: named.len() as u64,
            ..inputs
        });
        Ok(())
    }

    async fn damage_inputs(&self, known: u64) -> Result<Inputs> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot look for changes of damage", error);
        let mut roots = blake3::Hasher::new();
        for row in rows::roots_list(db, number).await.map_err(context)? {
            for part in [row.kind.as_bytes(), row.owner.as_bytes(), &row.digest] {
                roots.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            for number in [row.domain, i64::from(row.level), row.virtual_bytes] {
                roots.update(&number.to_le_bytes());
            }
        }
        Ok(Inputs {
            marks: rows::damage_marks(db, number).await.map_err(context)?,
            roots: roots.finalize(),
            known,
        })
    }

    fn damage_recorded(&self) -> MutexGuard<'_, Option<Inputs>> {
        let recorded = &self.inner.damage_recorded;
        recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn objects_damage(&self) -> Result<Vec<Damage>> {
        let context = |error| Error::db("cannot look objects up", error);
        let (db, number) = (&self.inner.db, self.inner.number);
        let mut found = Vec::new();
        for row in rows::roots_list(db, number).await.map_err(context)? {
            let Some(of) = row.object() else { continue };
            let hits = rows::chunks_get(db, number, of.domain, &[of.digest])
                .await
                .map_err(context)?;
            let is_fine = hits
                .get(&of.digest)
                .is_some_and(|hit| hit.state != chunk_state::DAMAGED);
            if !is_fine {
                found.push(Damage {
                    kind: row.kind,
                    owner: row.owner,
                    range: 0..of.bytes,
                    reason: FOUND_DAMAGED.into(),
                });
            }
        }
        Ok(found)
    }
}

/// How long so many bytes may take at least.
fn read_time(bytes: u64, bytes_per_second: u64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64)
}
