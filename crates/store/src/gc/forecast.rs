//! What the next run would do, found out by a dry one, which changes nothing.
//!
//! The next run buries what was condemned long enough ago (without waiting times all that nothing needs), deletes packs
//! that hold nothing then, and writes those anew of which too little is needed. So what nothing needs is counted for
//! each pack: what of it goes with that run, and all of it, which goes once the waiting times are over.

use std::collections::HashMap;

use super::mark::Marks;
use super::{Options, Progress, Report, Run};
use crate::error::{Error, Result};
use crate::pack::{ENTRY_BYTES, HEADER_BYTES, TRAILER_BYTES};
use crate::rows::{self, Filled, Hit, Scanned, chunk_state, object_kind};
use crate::store::Store;

/// Objects that are looked at with one statement, which goes through the whole index.
const PAGE: u32 = 100_000;

/// Chunks of one object that nothing needs.
#[derive(Debug, Clone, Copy, Default)]
struct Gone {
    chunks: u64,
    bytes: u64,
    /// Those of them that are damaged.
    damaged: u64,
    damaged_bytes: u64,
}

impl Gone {
    fn add(&mut self, hit: &Hit) {
        let bytes = u64::from(hit.location.length);
        self.chunks += 1;
        self.bytes += bytes;
        if hit.state == chunk_state::DAMAGED {
            self.damaged += 1;
            self.damaged_bytes += bytes;
        }
    }
}

/// What nothing needs, by object.
#[derive(Debug)]
pub(super) struct Forecast {
    /// What was condemned by the run of this epoch, or an earlier one, goes with the next run.
    limit: i64,
    /// Everything goes with the next run.
    now: bool,
    soon: HashMap<i64, Gone>,
    all: HashMap<i64, Gone>,
}

/// What comes of some objects.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    objects: u64,
    freed_bytes: u64,
    repacked: u64,
    repacked_bytes: u64,
}

impl Forecast {
    /// Adds chunks of a domain that nothing needs.
    pub(super) async fn count(
        &mut self,
        store: &Store,
        domain: i64,
        batch: &[Scanned],
        report: &mut Report,
    ) -> Result<()> {
        let digests: Vec<_> = batch.iter().map(|one| one.digest).collect();
        let hits = rows::chunks_get(&store.inner.db, store.inner.number, domain, &digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        for hit in hits.values() {
            report.condemned += 1;
            report.condemned_bytes += u64::from(hit.location.length);
            self.all.entry(hit.location.object).or_default().add(hit);
            if self.goes(hit) {
                report.buried += 1;
                self.soon.entry(hit.location.object).or_default().add(hit);
            }
        }
        Ok(())
    }

    /// Whether the next run removes its row.
    fn goes(&self, hit: &Hit) -> bool {
        match hit.state {
            // What is damaged is no use to an import of the same content: nothing is waited for.
            chunk_state::DAMAGED => true,
            chunk_state::CONDEMNED => hit.epoch <= self.limit,
            _ => self.now,
        }
    }
}

impl Outcome {
    /// What comes of an object of which this much goes. `deletes` says whether what a pack is replaced by is deleted
    /// with it.
    fn add(&mut self, object: &Filled, gone: Gone, repack_below: u8, deletes: bool) {
        let left = object.chunks.saturating_sub(gone.chunks);
        let damaged = object.damaged.saturating_sub(gone.damaged);
        if left == 0 {
            self.objects += 1;
            self.freed_bytes += object.bytes;
            return;
        }
        if object.kind != object_kind::PACK || left == damaged {
            return;
        }
        let bytes = object.chunk_bytes.saturating_sub(gone.bytes);
        let fixed = (HEADER_BYTES + TRAILER_BYTES) as u64;
        let needed = bytes + left * ENTRY_BYTES as u64 + fixed;
        if !object.is_damaged && needed * 100 >= object.bytes * u64::from(repack_below) {
            return;
        }
        let damaged_bytes = object.damaged_bytes.saturating_sub(gone.damaged_bytes);
        self.repacked += 1;
        self.repacked_bytes += bytes.saturating_sub(damaged_bytes) + (left - damaged) * ENTRY_BYTES as u64;
        // What is damaged and needed stays, and the pack with it.
        if deletes && damaged == 0 {
            self.objects += 1;
            self.freed_bytes += object.bytes;
        }
    }
}

impl Run {
    /// What a run with these options would do that is not dry, and what the store would take less in the end.
    pub(super) async fn foresee(
        &self,
        marks: Marks,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let mut forecast = Forecast {
            limit: self.limit(options).await?,
            now: options.now,
            soon: HashMap::new(),
            all: HashMap::new(),
        };
        self.sweep(marks, options, progress, report, Some(&mut forecast))
            .await?;
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let context = |error| Error::db("cannot look through the packs", error);
        let (mut soon, mut all) = (Outcome::default(), Outcome::default());
        let mut after = 0;
        loop {
            options.check()?;
            let page = rows::objects_filled(db, number, after, PAGE)
                .await
                .map_err(context)?;
            let Some(last) = page.last() else { break };
            after = last.object;
            for object in &page {
                let gone = |of: &HashMap<i64, Gone>| of.get(&object.object).copied().unwrap_or_default();
                soon.add(object, gone(&forecast.soon), options.repack_below, options.now);
                all.add(object, gone(&forecast.all), options.repack_below, true);
            }
        }
        report.objects = soon.objects;
        report.freed_bytes = soon.freed_bytes;
        report.repacked = soon.repacked;
        report.repacked_bytes = soon.repacked_bytes;
        let later_bytes = all.freed_bytes.saturating_sub(all.repacked_bytes);
        self.leftovers_foresee(options, report).await?;
        report.later_bytes = later_bytes + report.freed_bytes - soon.freed_bytes;
        Ok(())
    }

    /// Adds what goes whatever is needed: what an earlier run did not get done, and what no row names.
    async fn leftovers_foresee(&self, options: &Options, report: &mut Report) -> Result<()> {
        let dead = rows::objects_dead(
            &self.store.inner.db,
            self.store.inner.number,
            i64::MAX.unsigned_abs(),
        )
        .await;
        let dead = dead.map_err(|error| Error::db("cannot look for dead packs", error))?;
        report.objects += dead.len() as u64;
        report.freed_bytes += dead
            .iter()
            .map(|object| object.bytes.cast_unsigned())
            .sum::<u64>();
        self.orphans_foresee(options, report).await
    }
}
