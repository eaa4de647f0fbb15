//! What stands in the journal's objects, and how a journal is read back: pure.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{JournalHead, JournalLink, JournalPart, JournalPlace};

/// A row as it was, by its columns' names: see `rows::values` for how types are kept.
pub type Row = BTreeMap<String, Value>;
/// The values of a primary key, in the order of its columns.
pub type Key = Vec<Value>;

/// One row's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The table.
    #[serde(rename = "t")]
    pub table: String,
    /// Its key.
    #[serde(rename = "k")]
    pub key: Key,
    /// The row; none where it is gone.
    #[serde(rename = "r")]
    pub row: Option<Row>,
}

/// What an object holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The migrations that the tables had seen.
    pub schema: Vec<String>,
    /// The last number that each table has given to a row, also of tables that are not journaled.
    pub counters: BTreeMap<String, i64>,
    /// The rows: of a dump all, else those that changed.
    pub rows: Vec<Entry>,
}

/// A stretch of time whose changes are missing, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What was journaled up to then is there.
    pub after_us: Option<i64>,
    /// What was journaled from then on is there; none where nothing readable follows.
    pub before_us: Option<i64>,
}

/// What a recovery did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recovered {
    /// The generation that it began from.
    pub generation: u32,
    /// When the newest change that was found was journaled, in microseconds since 1970.
    pub newest_us: i64,
    /// Rows brought back, by table.
    pub rows: BTreeMap<String, u64>,
    /// Rows that contradict others, which happens only where changes are missing.
    pub contradicting: u64,
    /// Stretches of time whose changes are missing.
    pub gaps: Vec<Gap>,
    /// Objects of the journal that are damaged.
    pub damaged: Vec<String>,
    /// Imports that had not ended, and have to be begun again.
    pub imports_ended: u64,
    /// Packs found.
    pub packs: u64,
    /// Different chunks found.
    pub chunks: u64,
    /// Packs whose footer is damaged, and of which the whole frames were found.
    pub salvaged: Vec<String>,
    /// Packs of which nothing could be read.
    pub unreadable: Vec<String>,
    /// Disks and whole objects of which the store lacks something.
    pub damaged_roots: u64,
    /// Where the database from before is now.
    pub aside: Option<String>,
    /// Why its journal was not begun; a server that is started on it does it.
    pub journal_owed: Option<String>,
}

/// The last state of rows, by table and key, over several objects.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: HashMap<(String, String), Entry>,
    /// The highest that was seen of each.
    pub counters: BTreeMap<String, i64>,
}

impl Overlay {
    /// Lays newer rows over what is there.
    pub fn lay(&mut self, document: Document) {
        for (table, last) in document.counters {
            let known = self.counters.entry(table).or_default();
            *known = last.max(*known);
        }
        for entry in document.rows {
            self.rows.insert(place_of(&entry), entry);
        }
    }

    /// Lays all of a newer one over this.
    pub fn lay_all(&mut self, newer: Self) {
        for (table, last) in newer.counters {
            let known = self.counters.entry(table).or_default();
            *known = last.max(*known);
        }
        self.rows.extend(newer.rows);
    }

    /// Whether it knows a row's state better.
    pub fn covers(&self, entry: &Entry) -> bool {
        self.rows.contains_key(&place_of(entry))
    }

    /// Takes the rows of a table out that are there.
    pub fn take(&mut self, table: &str) -> Vec<Entry> {
        let of_table: Vec<_> = self.rows.keys().filter(|(t, _)| t == table).cloned().collect();
        let entries = of_table.iter().filter_map(|place| self.rows.remove(place));
        entries.filter(|entry| entry.row.is_some()).collect()
    }
}

fn place_of(entry: &Entry) -> (String, String) {
    let key = Value::Array(entry.key.clone()).to_string();
    (entry.table.clone(), key)
}

/// How far a generation's dump is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dump {
    /// Its end was not seen.
    #[default]
    Begun,
    /// Something of it is missing.
    Broken,
    /// All of it is there.
    Whole,
}

/// Follows the objects of one generation in their order, and notices what is missing.
#[derive(Debug, Default)]
pub struct Chain {
    codes: HashMap<u64, [u8; 32]>,
    /// How far the dump is there.
    pub dump: Dump,
    /// When the first was written.
    pub first_us: Option<i64>,
    /// When the newest was written.
    pub last_us: Option<i64>,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// A change was seen, so that there was a whole dump.
    has_changes: bool,
    /// The newest could not be read, and nothing followed yet that does without it.
    is_open: bool,
}

impl Chain {
    /// The next object that can be read.
    pub fn read(&mut self, head: &JournalHead, code: [u8; 32]) {
        let follows = match head.previous {
            None => head.place.sequence == 0 && head.part != JournalPart::Changes,
            Some(JournalLink { sequence, code }) => self.codes.get(&sequence) == Some(&code),
        };
        let is_change = head.part == JournalPart::Changes;
        if is_change {
            self.has_changes = true;
        } else if !follows || self.dump == Dump::Broken {
            self.dump = Dump::Broken;
        } else if head.part == JournalPart::DumpEnd {
            self.dump = Dump::Whole;
        }
        if is_change && !follows {
            self.gaps.push(Gap {
                after_us: self.last_us,
                before_us: Some(head.at_us),
            });
        }
        // What lies damaged before one that follows on something else was written a second time.
        self.is_open = false;
        self.first_us = self.first_us.or(Some(head.at_us));
        self.last_us = Some(head.at_us);
        self.codes.insert(head.place.sequence, code);
    }

    /// The next object cannot be read.
    pub fn damaged(&mut self) {
        self.is_open = true;
    }

    /// No more objects: what is damaged at the end may have been the newest changes.
    pub fn end(&mut self) {
        if self.is_open {
            self.gaps.push(Gap {
                after_us: self.last_us,
                before_us: None,
            });
        }
    }

    /// Whether all of the dump is there.
    pub fn is_whole(&self) -> bool {
        self.dump == Dump::Whole
    }

    /// Whether this is a dump that was begun and given up, or cut off: nothing depends on it.
    pub fn is_unfinished(&self) -> bool {
        self.dump == Dump::Begun && !self.has_changes && self.gaps.is_empty()
    }
}

/// What a database knows of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The newest object that it meant to write.
    pub intended: JournalPlace,
    /// Up to this generation objects are of the database that it was recovered from.
    pub foreign_generation: u32,
}

/// Whether the store is ahead of what the database knows. `None` for a database without a journal of its own.
pub fn is_ahead(newest: JournalPlace, known: Option<Known>) -> bool {
    known.is_none_or(|known| newest > known.intended)
}

/// Whether the newest object has to be of the database's own lineage.
pub fn must_be_own(newest: JournalPlace, known: Known) -> bool {
    newest.generation > known.foreign_generation
}
