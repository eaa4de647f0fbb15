//! The only place that reads the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// A moment in UTC, whole microseconds: what both databases keep without loss.
pub type Time = DateTime<Utc>;

/// Where the time comes from. Tests move it by hand with [`Clock::advance`].
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_us: Arc<AtomicI64>,
}

impl Clock {
    /// Now, rounded down to the microsecond.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Time {
        let offset = TimeDelta::microseconds(self.offset_us.load(Ordering::Relaxed));
        (Utc::now() + offset).trunc_subsecs(6)
    }

    /// Moves this clock, and every clone of it, by `delta`.
    #[cfg(test)]
    pub fn advance(&self, delta: TimeDelta) {
        let us = delta
            .num_microseconds()
            .expect("a test moves the clock by less than 292,000 years");
        self.offset_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// RFC 3339 with whole seconds and `Z`, as DigitalOcean writes times (Terraform compares some of them exactly).
pub fn wire(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
