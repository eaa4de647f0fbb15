//! Who writes now: sessions at work, and those whose server fell silent, for which gc keeps what they may need until
//! their leases are over.
//!
//! Nobody can know at once that a server is gone: its sessions stay its own until their leases are over. That it has
//! not been heard of for longer than one at work is silent can be told before that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::session::micros;

/// A session at work is heard of four times in a lease. After so many eighths of one without a word it is called
/// silent.
const SILENT_EIGHTHS: i64 = 3;

/// Open sessions. Gc keeps what was written since the first of them began, and what they use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writers {
    /// Those that were heard of as lately as a session at work is. One whose server was killed less than three eighths
    /// of a lease ago is among them: a session does not name its server, so that not even the same one, started again,
    /// knows it for its own.
    pub at_work: u64,
    /// The others: their server is gone, or was stopped.
    pub silent: u64,
    /// Since when none of the silent ones was heard of (microseconds since 1970); 0 where there are none.
    pub silent_since_us: i64,
    /// When the last of their leases is over (the same); from then on the next gc gives them up.
    pub silent_until_us: i64,
}

impl Writers {
    /// Told by the ends of the leases of open sessions.
    pub(crate) fn new(leases: &[i64], lease: Duration, now_us: i64) -> Self {
        let lease_us = micros(lease);
        let mut writers = Self::default();
        for until_us in leases {
            let heard_us = until_us.saturating_sub(lease_us);
            if now_us.saturating_sub(heard_us) <= lease_us / 8 * SILENT_EIGHTHS {
                writers.at_work += 1;
                continue;
            }
            writers.silent += 1;
            writers.silent_since_us = writers.silent_since_us.max(heard_us);
            writers.silent_until_us = writers.silent_until_us.max(*until_us);
        }
        writers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_missed_its_heartbeats_is_silent_since_it_was_last_heard_of() {
        let lease = Duration::from_mins(2);
        let (second, now) = (1_000_000, 1_800_000_000_000_000);
        let heard = |seconds_ago: i64| now + (120 - seconds_ago) * second;
        assert_eq!(Writers::new(&[], lease, now), Writers::default());
        let writers = Writers::new(
            &[heard(0), heard(31), heard(50), heard(110), heard(400)],
            lease,
            now,
        );
        assert_eq!(
            writers,
            Writers {
                at_work: 2,
                silent: 3,
                silent_since_us: now - 50 * second,
                silent_until_us: now + 70 * second,
            }
        );
    }
}
