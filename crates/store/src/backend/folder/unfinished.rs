//! Files that are being written. A process that ends in the middle of a write, on a thread that nobody waits for,
//! leaves what was written until a start clears it a day later: a copy that found a full disk would take the room that
//! the next try needs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static COUNT: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Counts as long as it is there.
#[derive(Debug)]
pub(super) struct Unfinished(());

impl Unfinished {
    pub(super) fn begin() -> Self {
        *count() += 1;
        Self(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        *count() -= 1;
        ENDED.notify_all();
    }
}

fn count() -> MutexGuard<'static, usize> {
    COUNT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until every file that is being written in this process has its name, or is removed, but not longer than
/// `patience`. To be called before the process ends, after all that writes was stopped.
pub fn writes_settle(patience: Duration) {
    let settled = ENDED.wait_timeout_while(count(), patience, |count| *count > 0);
    drop(settled);
}
