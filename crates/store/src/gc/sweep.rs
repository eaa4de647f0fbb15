//! Condemns what is not marked, and buries what was condemned long enough ago.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use super::forecast::Forecast;
use super::mark::{Mark, Marks, mark_of, pins_look};
use super::sorter::Sorted;
use super::{Options, Pace, Progress, Report, Run};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::rows::{self, Digests, Scanned, chunk_state};

/// Rows that are compared at once.
const PAGE: u32 = 4096;
/// Rows that are changed in one transaction, which has to be short: writers wait for it.
const BATCH: usize = 500;

/// Where among the marks a sweep is.
struct Cursor {
    marks: Sorted<16>,
    next: Option<Mark>,
}

impl Cursor {
    fn new(mut marks: Sorted<16>) -> Result<Self> {
        let next = marks.next()?;
        Ok(Self { marks, next })
    }

    /// Whether it is marked. Has to be asked in order.
    fn is_marked(&mut self, mark: Mark) -> Result<bool> {
        while self.next.is_some_and(|next| next < mark) {
            self.next = self.marks.next()?;
        }
        Ok(self.next == Some(mark))
    }
}

/// What was pinned since the look at the database.
struct Pins {
    seen: i64,
    marks: HashSet<Mark>,
}

impl Run {
    /// Compares every chunk with the marks. What nothing needs is condemned, or with a forecast only counted.
    pub(super) async fn sweep(
        &self,
        marks: Marks,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
        mut forecast: Option<&mut Forecast>,
    ) -> Result<()> {
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let context = |error| Error::db("cannot look through the chunks", error);
        let before = marks.before;
        let mut cursor = Cursor::new(marks.sorted)?;
        let mut pins = Pins {
            seen: self.pins_seen,
            marks: HashSet::new(),
        };
        let mut pace = Pace::new(&self.store);
        let mut domain = i64::MIN;
        while let Some(of) = rows::domain_after(db, number, domain).await.map_err(context)? {
            domain = of;
            let mut after = Vec::new();
            loop {
                options.check()?;
                let rows = rows::chunks_scan(db, (number, domain), &after, before, PAGE).await;
                let rows = rows.map_err(context)?;
                let Some(last) = rows.last() else { break };
                after = last.digest.0.to_vec();
                let (unmarked, missed) = self.compare(&rows, domain, &mut cursor)?;
                progress.chunks.fetch_add(rows.len() as u64, Relaxed);
                for batch in unmarked.chunks(BATCH) {
                    match &mut forecast {
                        Some(forecast) => forecast.count(&self.store, domain, batch, report).await?,
                        None => self.condemn(domain, batch, before, &mut pins, report).await?,
                    }
                    progress.condemned.store(report.condemned, Relaxed);
                }
                report.taken_back += self.take_back(domain, &missed).await?;
                progress.taken_back.store(report.taken_back, Relaxed);
                pace.rest().await;
            }
        }
        Ok(())
    }

    /// Condemns those of a batch that are still live, old and unpinned.
    async fn condemn(
        &self,
        domain: i64,
        batch: &[Scanned],
        before: i64,
        pins: &mut Pins,
        report: &mut Report,
    ) -> Result<()> {
        let context = |error| Error::db("cannot condemn chunks", error);
        let tx = self.alone().await?;
        pins.seen = pins_look(&tx, pins.seen, |mark| {
            pins.marks.insert(mark);
            Ok(())
        })
        .await?;
        let mut free = batch.to_vec();
        free.retain(|one| !pins.marks.contains(&mark_of(domain, &one.digest)));
        let digests: Vec<Digest> = free.iter().map(|one| one.digest).collect();
        let of = Digests {
            store: self.store.inner.number,
            domain,
            names: &digests,
        };
        let (condemned, gone) = rows::chunks_condemn(&tx, of, before, self.epoch)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        report.condemned += condemned;
        report.buried += gone;
        if condemned + gone == free.len() as u64 {
            report.condemned_bytes += free.iter().map(|one| u64::from(one.length)).sum::<u64>();
        }
        Ok(())
    }

    /// A condemned chunk that a root names would mean that the protocol has a hole: it lives on, and it is said. Gives
    /// how many there were. Where another run has begun meanwhile, it only is what that one has condemned, for a root
    /// that was deleted after our look; a dry run cannot tell.
    async fn take_back(&self, domain: i64, missed: &[Digest]) -> Result<u64> {
        if missed.is_empty() || self.is_dry {
            return Ok(0);
        }
        let context = |error| Error::db("cannot take chunks back", error);
        let tx = self.alone().await?;
        tracing::error!(
            chunks = missed.len(),
            "gc found condemned chunks that are needed and keeps them; please report this"
        );
        rows::chunks_resurrect(&tx, self.store.inner.number, domain, missed)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(missed.len() as u64)
    }

    /// Removes the rows of what was condemned long enough ago.
    pub(super) async fn bury(
        &self,
        options: &Options,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let context = |error| Error::db("cannot remove condemned chunks", error);
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let limit = self.limit(options).await?;
        let mut pace = Pace::new(&self.store);
        loop {
            options.check()?;
            let some = rows::condemned_some(db, number, limit, BATCH as u64)
                .await
                .map_err(context)?;
            if some.is_empty() {
                return Ok(());
            }
            for of_domain in some.chunk_by(|one, other| one.0 == other.0) {
                let digests: Vec<Digest> = of_domain
                    .iter()
                    .filter_map(|(_, digest)| Digest::from_slice(digest))
                    .collect();
                let of = Digests {
                    store: number,
                    domain: of_domain[0].0,
                    names: &digests,
                };
                let tx = self.alone().await?;
                report.buried += rows::chunks_bury(&tx, of, limit).await.map_err(context)?;
                tx.commit().await.map_err(context)?;
            }
            progress.buried.store(report.buried, Relaxed);
            pace.rest().await;
        }
    }

    /// Those of a page that nothing needs, and the condemned ones that something does. What was condemned before counts
    /// again where only a figure is wanted.
    fn compare(
        &self,
        page: &[Scanned],
        domain: i64,
        cursor: &mut Cursor,
    ) -> Result<(Vec<Scanned>, Vec<Digest>)> {
        let (mut unmarked, mut missed) = (Vec::new(), Vec::new());
        for one in page {
            let is_marked = cursor.is_marked(mark_of(domain, &one.digest))?;
            let is_condemned = one.state == chunk_state::CONDEMNED;
            match (is_marked, is_condemned) {
                (true, true) => missed.push(one.digest),
                (false, true) if !self.is_dry => {}
                (false, _) => unmarked.push(*one),
                (true, false) => {}
            }
        }
        Ok((unmarked, missed))
    }
}
