//! Histories of programs that forget something. Each has to be caught, so that the replay is known to look.

use crate::events::{Change, History, Node};

/// What is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// Objects are not synced.
    Objects,
    /// The folders of objects are not.
    Folders,
    /// SQLite's log is not.
    Log,
    /// SQLite's file is not, before the log is begun anew.
    File,
    /// An object gets its name first, and is synced then.
    Order,
}

impl Forgotten {
    pub(crate) const ALL: [Self; 5] = [Self::Objects, Self::Folders, Self::Log, Self::File, Self::Order];

    /// The history without it.
    pub(crate) fn history(self, of: &History) -> History {
        let mut broken = of.clone();
        if self == Self::Order {
            names_first(&mut broken);
            return broken;
        }
        for event in broken.events.iter_mut().skip(begin(of)) {
            if let Change::Sync(node) = event.change
                && self.forgets(of, node)
            {
                event.change = Change::Say("done nothing - -".to_owned());
            }
        }
        broken
    }

    fn forgets(self, history: &History, node: Node) -> bool {
        let path = history.path(node).to_string_lossy();
        let is_folder = history.nodes[node].is_folder;
        match self {
            Self::Objects => path.starts_with("objects/tmp/"),
            Self::Folders => is_folder && path.starts_with("objects"),
            Self::Log => path.ends_with("-wal"),
            Self::File => path.ends_with(".sqlite"),
            Self::Order => false,
        }
    }
}

/// When the store is there: that it is made is not what is forgotten here, but for the order.
pub(crate) fn begin(history: &History) -> usize {
    let said = history
        .events
        .iter()
        .position(|event| matches!(event.change, Change::Say(_)));
    said.unwrap_or(0)
}

/// Swaps each sync of a file with the rename that follows it.
fn names_first(history: &mut History) {
    for at in 0..history.events.len() {
        let Change::Sync(synced) = history.events[at].change else {
            continue;
        };
        let renames = |change: &Change| matches!(change, Change::Rename(_, _, node) if *node == synced);
        let Some(after) = history.events[at..]
            .iter()
            .position(|event| renames(&event.change))
        else {
            continue;
        };
        // Everything between the two moves up by one, the sync behind it.
        let sync = history.events.remove(at);
        history.events.insert(at + after, sync);
        for event in &mut history.events[at..at + after] {
            event.covers = event.covers.min(at);
        }
    }
}
