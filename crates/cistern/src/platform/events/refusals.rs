//! Refusals as events, without a way to fill the database by being refused.
//!
//! In any minute [`PER_ADDRESS`] refusals of one address (of IPv6: one /64) are written and [`PER_MINUTE`] of all; what
//! is more only counts. How many were left out stands in the next one that is written (`left_out`) and in the metric
//! `refusals_left_out_total`. Tokens that never existed leave no event at all: only the rate limit and the request log
//! see them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Event, Who, rows};
use crate::app::App;
use crate::platform::accounts::network;
use crate::platform::clock::Time;

/// Written for one address in a minute.
const PER_ADDRESS: u32 = 10;
/// Written for all addresses in a minute.
const PER_MINUTE: u32 = 100;

/// Counts refusals of the running minute; one for the whole process.
#[derive(Debug, Default)]
pub struct Refusals {
    minute: Mutex<Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    written: u32,
    /// Only addresses with something written, so never more than [`PER_MINUTE`].
    by_address: HashMap<String, u32>,
    left_out: u64,
}

impl Refusals {
    /// Whether one more may be written; then how many were left out since the last one.
    fn admit(&self, now: Time, address: Option<&str>) -> Option<u64> {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.timestamp() / 60;
        if minute.number != number {
            *minute = Minute {
                number,
                left_out: minute.left_out,
                ..Minute::default()
            };
        }
        let address = address.map(network).unwrap_or_default();
        let of_address = minute.by_address.get(&address).copied().unwrap_or(0);
        if minute.written >= PER_MINUTE || of_address >= PER_ADDRESS {
            minute.left_out += 1;
            return None;
        }
        minute.written += 1;
        minute.by_address.insert(address, of_address + 1);
        Some(std::mem::take(&mut minute.left_out))
    }
}

/// Writes a refusal, unless there are too many of late. Never fails the request that was refused anyway.
pub async fn record_refusal(app: &App, who: &Who, mut event: Event) {
    let now = app.clock.now();
    let Some(left_out) = app.refusals.admit(now, who.address.as_deref()) else {
        metrics::counter!("refusals_left_out_total").increment(1);
        return;
    };
    if left_out > 0 {
        let mut detail = event.detail.take().unwrap_or_else(|| json!({}));
        if let Value::Object(map) = &mut detail {
            map.insert("left_out".into(), left_out.into());
        }
        event.detail = Some(detail);
    }
    if let Err(error) = rows::event_insert(app.db.conn(), now, who, event).await {
        tracing::error!(%error, "could not write a refusal");
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::platform::clock::Clock;

    #[test]
    fn an_address_and_all_together_are_bounded_and_what_is_left_out_is_counted() {
        let (refusals, clock) = (Refusals::default(), Clock::default());
        let count = |address: &str| {
            (0..200)
                .filter(|_| refusals.admit(clock.now(), Some(address)).is_some())
                .count()
        };
        // The clock stands at the start of a minute.
        clock.advance(TimeDelta::seconds(60 - clock.now().timestamp() % 60));
        assert_eq!(count("10.0.0.1"), 10);
        assert_eq!(count("2001:db8::1"), 10);
        assert_eq!(count("2001:db8::2"), 0, "the same /64");
        // Eight more are written ten times, then all together are too many.
        let all: usize = (2..50).map(|n| count(&format!("10.0.0.{n}"))).sum();
        assert_eq!(all, 80);
        clock.advance(TimeDelta::seconds(60));
        let left_out = refusals.admit(clock.now(), Some("10.0.0.1"));
        assert_eq!(
            left_out,
            Some(190 + 40 * 200),
            "since the last one that was written"
        );
        assert_eq!(refusals.admit(clock.now(), Some("10.0.0.1")), Some(0));
    }
}
