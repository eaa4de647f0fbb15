//! Files that are being written. A process that ends in the middle of a write, on a thread that nobody waits for,
//! leaves what was written until a start or a gc clears it a day later: a copy that found a full disk would take the
//! room that the next try needs.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of all stores of the process: no name is drawn twice.
static NAMES: Mutex<BTreeSet<OsString>> = Mutex::new(BTreeSet::new());
static ENDED: Condvar = Condvar::new();

/// The file of this name is being written as long as this is there.
#[derive(Debug)]
pub(super) struct Unfinished(OsString);

impl Unfinished {
    pub(super) fn begin(name: &OsStr) -> Self {
        names().insert(name.to_owned());
        Self(name.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        names().remove(&self.0);
        ENDED.notify_all();
    }
}

fn names() -> MutexGuard<'static, BTreeSet<OsString>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process is writing the temporary file of this name.
pub(super) fn is_unfinished(name: &OsStr) -> bool {
    names().contains(name)
}

/// Waits until every file that is being written in this process has its name, or is removed, but not longer than
/// `patience`. To be called before the process ends, after all that writes was stopped.
pub fn writes_settle(patience: Duration) {
    let settled = ENDED.wait_timeout_while(names(), patience, |names| !names.is_empty());
    drop(settled);
}
