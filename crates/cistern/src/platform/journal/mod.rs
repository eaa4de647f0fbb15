//! The catalogue journal: everything in the database that cannot be derived also goes into the store, so that the
//! bucket alone (and its key) brings the installation back, and so that an older database is noticed.
//!
//! # How a change gets there
//!
//! 1. A trigger on each journaled table writes `(table, key)` into `journal_change`, in the transaction of the change.
//!    So no product can forget to, and what was rolled back leaves nothing.
//! 2. One writer at a time over all servers takes what is noted, from one snapshot of the database: the rows as they
//!    are then, or that they are gone. An object of the journal is thus the step from one state that the database was
//!    in to another such state.
//! 3. *Intent* (the object's number is committed, with the writer's fence), *write* (the object, under a key that is
//!    never used again), *done* (one transaction: the notes it has written are removed, if the fence still holds).
//!
//! A crash between two of these leaves a number without an object, or an object that was not noted as done. The
//! next object then begins from the same state and holds all of the former's changes, so that reading them in the order
//! of their numbers gives the truth in both cases. A writer that was paused for minutes finds in its snapshot that the
//! fence is another's; where it took its snapshot earlier, what it writes late is older than what follows it, and has
//! the lower number.
//!
//! From time to time (by size, and after a migration) a *generation* begins with a dump of all journaled rows; older
//! generations but one are removed then.
//!
//! # What waits for it
//!
//! [`flush`] returns when everything that was committed before is in the store. An import commits its disk and the
//! image's figures with the image still `pending`, flushes, and only then makes it `available` in a second transaction:
//! so the status that users see, in every list and for every client, is never ahead of the journal, and no reader needs
//! to know of it. Recovery takes a pending image with a disk for available. gc flushes between its mark and its first
//! deletion, and leaves an object of its own ([`advance`]) before it deletes what an earlier state still needs.
//! Everything else follows within seconds.
//!
//! # An older database
//!
//! Since intent comes before the object, the store never has a number that its database did not mean to write. Where
//! it has ([`guard`]), or where the newest object is of another lineage (drawn anew by each database), this database is
//! an older copy, or another's: nothing may be written, least of all by gc. By the same numbers a store that lacks the
//! newest object, and the one before it or data as well, is told for an older copy ([`misfit`]). What moves data
//! without a change of any journaled row (gc, and healing) has to [`advance`] the journal: an older database would take
//! for an orphan what is needed, and an older store would lack it. [`crate::platform::db::Db`] then refuses every
//! writing transaction, with a sentence that names `cistern recover`.
//!
//! # Two databases
//!
//! Who recovers elsewhere from a store whose server still runs begins a generation of another lineage. The recovery
//! first writes that and then lists what was written meanwhile; the server first writes its object and then lists
//! whether a later generation began ([`flush`] does not return before). So one of them notices: the recovery takes its
//! generation back, or the server refuses to write on. Nothing is acknowledged that the newest generation does not
//! know.

pub mod migration;
mod model;
mod recover;
pub mod rows;
mod service;
mod tables;
#[cfg(test)]
mod tests;

pub use model::Recovered;
pub use recover::{Options, Settle, recover};
pub use service::{
    Writer, advance, dump, flush, guard, is_recovered, misfit, newest_fault, open, run, shown,
    triggers_make_in_tx,
};
