//! Bringing the rows back.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use store::Journal;

use super::plan::{Plan, document, objects};
use crate::platform::db::{Db, Tx, migrate};
use crate::platform::error::Result;
use crate::platform::journal::model::{Document, Entry, Overlay, Recovered};
use crate::platform::journal::rows::{self, TableColumns};
use crate::platform::journal::tables::{JOURNALED, position};

/// Numbers that are left out after the last one known: what was given out in the last seconds, and not journaled any
/// more, is not given out again.
const NUMBERS_LEFT_OUT: i64 = 1_000;

/// Brings the rows back, in a schema as they had it, and then brings that up to date. Nobody else uses the database, so
/// one transaction can be open while the store is read. Gives what the counters are to be at least.
pub(super) async fn replay(
    journal: &Journal,
    db: &Db,
    plan: Plan,
    report: &mut Recovered,
) -> Result<BTreeMap<String, i64>> {
    let newest = plan.newer.last().unwrap_or(&plan.base);
    migrate::run_only(db, &newest.schema_or(&plan.base)).await?;
    let mut overlay = plan.base.overlay;
    for generation in plan.newer {
        let mut parts = objects(journal, generation.parts);
        while let Some((_, object)) = parts.next().await {
            overlay.lay(document(&object?)?);
        }
        overlay.lay_all(generation.overlay);
    }
    let mut counters = std::mem::take(&mut overlay.counters);
    for last in counters.values_mut() {
        *last += NUMBERS_LEFT_OUT;
    }
    // Objects of the store are read meanwhile.
    let tx = db.write_slowly().await?;
    let mut loader = Loader {
        tx: &tx,
        overlay,
        leniently: !report.gaps.is_empty(),
        next: 0,
        columns: BTreeMap::new(),
        report,
    };
    let mut parts = objects(journal, plan.base.parts);
    while let Some((_, object)) = parts.next().await {
        loader.document(document(&object?)?).await?;
    }
    loader.overlay_up_to(JOURNALED.len()).await?;
    tx.commit().await?;
    migrate::run(db, None).await?;
    Ok(counters)
}

/// Writes rows in the order of tables, each in its last state: nothing is written that would have to be changed again,
/// so no constraint is broken on the way.
struct Loader<'a> {
    tx: &'a Tx,
    overlay: Overlay,
    leniently: bool,
    /// The table that comes next.
    next: usize,
    columns: BTreeMap<String, TableColumns>,
    report: &'a mut Recovered,
}

impl Loader<'_> {
    /// Writes a part of a dump, whose tables come in their order.
    async fn document(&mut self, document: Document) -> Result<()> {
        let mut of_table: Vec<Entry> = Vec::new();
        for entry in document.rows {
            if of_table.last().is_some_and(|last| last.table != entry.table) {
                self.table(std::mem::take(&mut of_table)).await?;
            }
            of_table.push(entry);
        }
        self.table(of_table).await
    }

    /// Writes rows of one table, but for those of which a later state is known.
    async fn table(&mut self, mut entries: Vec<Entry>) -> Result<()> {
        let Some(name) = entries.first().map(|entry| entry.table.clone()) else {
            return Ok(());
        };
        let Some(at) = position(&name) else {
            tracing::warn!(table = name, "this version journals no such table");
            self.report.contradicting += entries.len() as u64;
            return Ok(());
        };
        self.overlay_up_to(at).await?;
        entries.retain(|entry| !self.overlay.covers(entry));
        self.insert(&name, &entries).await
    }

    /// Writes later states of the rows of all tables before one.
    async fn overlay_up_to(&mut self, at: usize) -> Result<()> {
        while self.next < at {
            let name = JOURNALED[self.next].name;
            let entries = self.overlay.take(name);
            self.insert(name, &entries).await?;
            self.next += 1;
        }
        Ok(())
    }

    async fn insert(&mut self, table: &str, entries: &[Entry]) -> Result<()> {
        if !self.columns.contains_key(table) {
            let columns = rows::columns(&**self.tx, table).await?;
            self.columns.insert(table.to_owned(), columns);
        }
        let columns = &self.columns[table];
        let (written, left_out) = rows::rows_insert(self.tx, table, columns, entries, self.leniently).await?;
        *self.report.rows.entry(table.to_owned()).or_default() += written;
        self.report.contradicting += left_out;
        Ok(())
    }
}
