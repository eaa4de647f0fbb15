//! What a store has to hold, by what the process that writes it has said.

use std::collections::BTreeMap;

use crate::content;
use crate::events::{Change, Event};
use crate::place::Place;

/// Whether something has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    There,
    Gone,
    /// It was begun: there whole, or not at all.
    Open,
}

#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) status: Status,
    pub(crate) spec: String,
}

/// Disks and objects by kind and name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promises {
    pub(crate) of: BTreeMap<(String, String), Promise>,
}

impl Promises {
    pub(crate) fn hear(&mut self, event: &Event) {
        if let Change::Say(line) = &event.change {
            self.line(line);
        }
    }

    /// `begin` or `done`, what, its name, and how its bytes are made.
    pub(crate) fn line(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let [stage, what, name, spec] = words[..] else {
            panic!("`{line}` is not understood");
        };
        let (deleted, kind) = match what.strip_prefix("delete-") {
            Some(kind) => (true, kind),
            None => (false, what),
        };
        if kind != "disk" && kind != "object" {
            return;
        }
        let status = match (stage, deleted) {
            ("begin", _) => Status::Open,
            (_, true) => Status::Gone,
            (_, false) => Status::There,
        };
        let key = (kind.to_owned(), name.to_owned());
        let spec = match self.of.get(&key) {
            Some(known) if deleted => known.spec.clone(),
            _ => spec.to_owned(),
        };
        self.of.insert(key, Promise { status, spec });
    }

    pub(crate) fn hash(&self) -> blake3::Hash {
        blake3::hash(format!("{:?}", self.of).as_bytes())
    }

    /// Whether all of it is kept. What was open is closed by what was found.
    pub(crate) async fn keep(&mut self, place: &Place) -> Result<(), String> {
        for ((kind, name), promise) in &mut self.of {
            let found = if kind == "disk" {
                let read = place.disk_read(name).await;
                read.map(|found| found.map(|found| found == content::disk(&promise.spec)[..]))
            } else {
                let read = place.object_read(name).await;
                read.map(|found| found.map(|found| found == content::object(&promise.spec)))
            };
            let found = found.map_err(|error| format!("{kind} {name} cannot be read: {error:?}"))?;
            promise.status = match (promise.status, found) {
                (_, Some(false)) => return Err(format!("{kind} {name} reads back other bytes")),
                (Status::There, None) => return Err(format!("{kind} {name} is lost")),
                (Status::Gone, Some(true)) => return Err(format!("{kind} {name} is back")),
                (_, Some(true)) => Status::There,
                (_, None) => Status::Gone,
            };
        }
        Ok(())
    }
}
