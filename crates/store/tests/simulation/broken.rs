//! Protocols that lose data, each the real one but for the rule that it names. The real code runs; the rule is taken
//! away under its feet, by triggers of the database or by the backend.

use sea_orm::{ConnectionTrait as _, DatabaseConnection};

use crate::scheduler::Sim;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The protocol as it is.
    Real,
    /// The same; in the end a part of the store is lost, and comes back from a copy.
    Lost,
    /// Objects are named by their contents, and no session keeps gc from what it wrote or hit.
    DigestNames,
    /// Objects are named by their contents; the rest is as it should be.
    DigestNamesGuarded,
    /// Keys are unique, but no session keeps gc from what it wrote or hit.
    Unguarded,
    /// Pins go at commit, although a gc runs.
    PinsDropped,
}

/// Every row is older than every session, and nothing is ever pinned.
const NO_GUARD: &str = "
CREATE TRIGGER broken_insert AFTER INSERT ON store_chunk WHEN NEW.epoch > 0 BEGIN
    UPDATE store_chunk SET epoch = 0 WHERE store = NEW.store AND domain = NEW.domain AND digest = NEW.digest; END;
CREATE TRIGGER broken_update AFTER UPDATE ON store_chunk WHEN NEW.epoch > 0 AND NEW.state = 1 BEGIN
    UPDATE store_chunk SET epoch = 0 WHERE store = NEW.store AND domain = NEW.domain AND digest = NEW.digest; END;
CREATE TRIGGER broken_pin BEFORE INSERT ON store_session_pin BEGIN SELECT RAISE(IGNORE); END;
";

/// What a commit during a gc would have left.
const NO_PINS_AFTER_COMMIT: &str = "
CREATE TRIGGER broken_commit AFTER UPDATE OF state ON store_session WHEN NEW.state = 2 BEGIN
    DELETE FROM store_session_pin WHERE session = NEW.id;
    DELETE FROM store_session_root WHERE session = NEW.id; END;
";

impl Variant {
    pub(crate) async fn break_it(self, sim: &Sim, db: &DatabaseConnection) {
        if matches!(self, Self::DigestNames | Self::DigestNamesGuarded) {
            sim.lock().network.name_by_contents();
        }
        let sql = match self {
            Self::DigestNames | Self::Unguarded => NO_GUARD,
            Self::PinsDropped => NO_PINS_AFTER_COMMIT,
            Self::Real | Self::Lost | Self::DigestNamesGuarded => return,
        };
        db.execute_unprepared(sql)
            .await
            .expect("the simulated database answers");
    }

    /// Whether a loss counts only where a disk cannot be read back: what else the tests look at (packs by their ids) is
    /// not meant for stores that name by contents.
    pub(crate) fn reads_only(self) -> bool {
        matches!(self, Self::DigestNames | Self::DigestNamesGuarded)
    }
}
