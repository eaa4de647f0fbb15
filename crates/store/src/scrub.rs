//! Reads everything that is stored again and again, slowly, what was read longest ago first; and keeps a record of what is
//! damaged, by disk and range, so that nobody has to look for it.
//!
//! What is found damaged is marked in the index (see [`crate::verify`]): no import relies on it, and one that
//! brings the content again heals it. The record follows from those marks and the trees, without reading data.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::CHUNK_BYTES;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::reader::nodes::TreeReader;
use crate::rows::{self, chunk_state};
use crate::session::micros;
use crate::store::{Root, Store};
use crate::tree::{FAN_OUT, child_span};
use crate::verify::{Damage, VerifyProgress, damaging};

const CHUNK: u64 = CHUNK_BYTES as u64;
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
    /// When the object that was read longest ago was read (or written), microseconds since 1970; `None` without objects.
    pub oldest_us: Option<i64>,
}

impl Store {
    /// Reads what is due, oldest first, and brings the record of damage up to date.
    pub async fn scrub(&self, options: &Options, read: &AtomicU64) -> Result<Report> {
        let mut report = Report::default();
        let world = &self.inner.options.world;
        let start = world.uptime();
        let due_us = world.now_us() - micros(options.every);
        loop {
            let page = rows::objects_due(&self.inner.db, self.inner.number, due_us, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot look for what is to be read", error))?;
            report.is_done = page.is_empty();
            if page.is_empty() {
                break;
            }
            for object in page {
                if options.stop.is_cancelled() {
                    return Err(Error::new(Kind::Stopped, "the scrub was told to stop"));
                }
                let progress = VerifyProgress::default();
                report.damaged += u64::from(self.object_scrub(&object, &progress).await?);
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

    /// Reads one object; whether something is wrong with it.
    async fn object_scrub(&self, object: &rows::object::Model, progress: &VerifyProgress) -> Result<bool> {
        let is_faulty = self.object_verify(object, progress).await?;
        let now_us = self.inner.options.world.now_us();
        let noted = rows::object_verified(&self.inner.db, object.id, now_us).await;
        noted.map_err(|error| Error::db("cannot note what was read", error))?;
        Ok(is_faulty)
    }

    /// How things stand, from the record.
    pub async fn health(&self) -> Result<Health> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot read the record of damage", error);
        Ok(Health {
            damaged_roots: rows::damage_roots(db, number).await.map_err(context)?,
            oldest_us: rows::objects_oldest(db, number).await.map_err(context)?,
        })
    }

    /// The known damage of one disk or whole object.
    pub async fn damage_of(&self, kind: &str, owner: &str) -> Result<Vec<Damage>> {
        let rows = rows::damage_get(&self.inner.db, self.inner.number, kind, &[owner]).await;
        let rows = rows.map_err(|error| Error::db("cannot read the record of damage", error))?;
        Ok(rows.into_iter().map(rows::damage::Model::told).collect())
    }

    /// Which of these are known to be damaged.
    pub async fn damaged_among(&self, kind: &str, owners: &[&str]) -> Result<Vec<String>> {
        let rows = rows::damage_get(&self.inner.db, self.inner.number, kind, owners).await;
        let rows = rows.map_err(|error| Error::db("cannot read the record of damage", error))?;
        let mut names: Vec<String> = rows.into_iter().map(|row| row.owner).collect();
        names.dedup();
        Ok(names)
    }

    /// Brings the record up to date with the index. Without damage anywhere that is two small queries.
    pub async fn damage_update(&self) -> Result<()> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot keep the record of damage", error);
        let is_clean = !rows::chunks_any_damaged(db, number).await.map_err(context)?;
        let known = rows::damage_roots(db, number).await.map_err(context)?;
        if is_clean && known == 0 {
            return Ok(());
        }
        let mut found = Vec::new();
        if !is_clean {
            for root in self.root_list().await? {
                found.extend(self.root_damage(&root).await?);
            }
            found.extend(self.objects_damage().await?);
        }
        let now_us = self.inner.options.world.now_us();
        rows::damage_replace(db, number, now_us, &found)
            .await
            .map_err(context)
    }

    /// What the index says of a disk: chunks that are marked, or in no pack any more.
    async fn root_damage(&self, root: &Root) -> Result<Vec<Damage>> {
        let mut found: Vec<Damage> = Vec::new();
        if root.tree.digest == Digest::EMPTY {
            return Ok(found);
        }
        let tree = TreeReader::new(self.clone(), root.tree);
        let chunks = root.tree.virtual_bytes.div_ceil(CHUNK);
        let mut at = 0;
        while at < chunks && found.len() < RANGES_KEPT {
            let leaf = at / FAN_OUT;
            let end = ((leaf + 1) * FAN_OUT).min(chunks);
            match self.leaf_damage(root, &tree, leaf).await {
                Ok(damaged) => damaged.into_iter().for_each(|damage| merge(&mut found, damage)),
                Err(error) if damaging(&error) => {
                    let range = error.range().unwrap_or(at * CHUNK..end * CHUNK);
                    let next = range.end.div_ceil(CHUNK);
                    merge(&mut found, told(root, range, &error.to_string()));
                    at = next.max(end);
                    continue;
                }
                Err(error) => return Err(error),
            }
            at = end;
        }
        Ok(found)
    }

    async fn leaf_damage(&self, root: &Root, tree: &TreeReader, leaf: u64) -> Result<Vec<Damage>> {
        let Some(node) = tree.node(0, leaf).await? else {
            return Ok(Vec::new());
        };
        let mut digests: Vec<Digest> = node.present().map(|(_, digest)| digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let hits = rows::chunks_get(&self.inner.db, self.inner.number, root.tree.domain, &digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        let damage = |(child, digest): (u64, Digest)| {
            let reason = match hits.get(&digest) {
                Some(hit) if hit.state != chunk_state::DAMAGED => return None,
                Some(_) => "its stored bytes were found damaged",
                None => "it is in no index",
            };
            let chunk = leaf * child_span(1) + child;
            let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(root.tree.virtual_bytes);
            Some(told(root, range, reason))
        };
        Ok(node.present().filter_map(damage).collect())
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
                    reason: "its stored bytes were found damaged".into(),
                });
            }
        }
        Ok(found)
    }
}

fn told(root: &Root, range: std::ops::Range<u64>, reason: &str) -> Damage {
    Damage {
        kind: root.kind.clone(),
        owner: root.owner.clone(),
        range,
        reason: reason.to_owned(),
    }
}

/// Adds a range, to the one before where it follows it.
fn merge(found: &mut Vec<Damage>, damage: Damage) {
    match found.last_mut() {
        Some(last) if last.range.end == damage.range.start && last.reason == damage.reason => {
            last.range.end = damage.range.end;
        }
        _ => found.push(damage),
    }
}

/// How long so many bytes may take at least.
fn read_time(bytes: u64, bytes_per_second: u64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64)
}
