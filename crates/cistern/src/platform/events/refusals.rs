//! Refusals as events, without a way to fill the database or to slow the server by being refused.
//!
//! Somebody we know: so many a minute of one token (of a console user: one user) and of one team ([`KNOWN`]).
//! Strangers: of each address (of IPv6: one /64) and of all of them ([`STRANGERS`]). What is more only counts: in the
//! next event of the same token or address (`left_out`), in an event of its own that [`refusals_flush`] writes, and in
//! the metric `refusals_left_out_total`. What is counted is kept in memory, within [`KEYS_MAX`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tracing::Instrument;

use super::tally::{Limits, Tally};
use super::{Event, Who, record_in_tx};
use crate::app::App;
use crate::platform::accounts::network;
use crate::platform::clock::Time;
use crate::platform::error::Result;

/// Written in a minute for one team (a user may have any number of tokens), and for one token, or one user of the
/// console, of each kind.
const KNOWN: Limits = Limits { group: 30, key: 10 };
/// Written in a minute for all strangers, and for one address and kind.
const STRANGERS: Limits = Limits { group: 6, key: 1 };
/// The kind where kinds are not told apart.
const MANY: &str = "request.refuse";
/// Tokens and users, and addresses, that are told apart at most; about 200 bytes each.
const KEYS_MAX: usize = 1024;
/// Counts of tokens, and of addresses, that one flush writes; the rest is one more event.
const FLUSH_MAX: usize = 10;
/// How long a request waits for its event. What takes longer, on a busy or full disk, goes on without it.
const PATIENCE: Duration = Duration::from_millis(100);
/// Characters of a reason that are kept.
const REASON_MAX: usize = 200;

/// Counts refusals of the running minute; one for the whole process.
#[derive(Debug, Default)]
pub struct Refusals {
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// Those we know, by team.
    known: Tally<i64, Key>,
    /// The others, all in one group.
    strangers: Tally<(), Key>,
}

/// Whose refusals of which kind are counted together.
type Key = (Who, &'static str);

impl Default for Tables {
    fn default() -> Self {
        Self {
            known: Tally::new(KEYS_MAX),
            strangers: Tally::new(KEYS_MAX),
        }
    }
}

impl Refusals {
    /// Whether one more may be written; then how many of the same were left out since the last one.
    fn admit(&self, now: Time, who: &Who, what: &'static str) -> Option<u64> {
        let mut tables = self.lock();
        let Some(team) = who.team_id else {
            let (key, crowd) = ((stranger(who), what), (Who::default(), MANY));
            return tables.strangers.admit(now, STRANGERS, (), key, crowd);
        };
        let of_team = Who {
            team_id: Some(team),
            ..Who::default()
        };
        let (key, crowd) = ((who.lasting(), what), (of_team, MANY));
        tables.known.admit(now, KNOWN, team, key, crowd)
    }

    /// Takes what was left out, the most first: [`FLUSH_MAX`] of those we know and of strangers, and what remains of
    /// each as one.
    fn take_left_out(&self, now: Time) -> Vec<(Key, u64)> {
        let mut tables = self.lock();
        let mut out = shortened(tables.known.take_left_out(now));
        out.extend(shortened(tables.strangers.take_left_out(now)));
        out
    }

    /// A panic while counting leaves counts that are still usable.
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stranger is known by their network alone.
fn stranger(who: &Who) -> Who {
    Who {
        address: who.address.as_deref().map(network),
        ..Who::default()
    }
}

fn shortened(mut counts: Vec<(Key, u64)>) -> Vec<(Key, u64)> {
    let rest = counts.split_off(counts.len().min(FLUSH_MAX));
    if !rest.is_empty() {
        let all = rest.iter().map(|(_, count)| count).sum();
        counts.push(((Who::default(), MANY), all));
    }
    counts
}

/// Writes a refusal, unless there are too many of late. Neither fails nor holds up the request that was refused anyway.
pub async fn record_refusal(app: &App, who: &Who, event: Event) {
    let Some(left_out) = app.refusals.admit(app.clock.now(), who, event.what) else {
        metrics::counter!("refusals_left_out_total").increment(1);
        return;
    };
    let event = with_left_out(event, left_out);
    let (app, who) = (app.clone(), who.clone());
    let write = async move {
        if let Err(error) = write(&app, &who, event).await {
            tracing::error!(error = error.chain(), "could not write a refusal");
        }
    };
    let _ = tokio::time::timeout(PATIENCE, tokio::spawn(write.in_current_span())).await;
}

/// Writes how many refusals were left out since the last time.
pub async fn refusals_flush(app: &App) -> Result<()> {
    for ((who, what), count) in app.refusals.take_left_out(app.clock.now()) {
        write(app, &who, with_left_out(Event::refused(what), count)).await?;
    }
    Ok(())
}

/// Waits for its turn among the writers without holding a connection.
async fn write(app: &App, who: &Who, event: Event) -> Result<()> {
    let tx = app.db.write().await?;
    record_in_tx(&*tx, app.clock.now(), who, event).await?;
    tx.commit().await
}

fn with_left_out(mut event: Event, left_out: u64) -> Event {
    if left_out == 0 {
        return event;
    }
    let detail = event.detail.get_or_insert_with(|| json!({}));
    if let Value::Object(map) = detail {
        map.insert("left_out".into(), left_out.into());
    }
    event
}

/// What may be kept of the sentence that a caller was told: what they sent stands in it between quotes or as a URL, and
/// may be a secret in the wrong place.
pub fn reason_shown(sentence: &str) -> String {
    let is_quote = |c: char| matches!(c, '`' | '"');
    let shown = match (sentence.find(is_quote), sentence.rfind(is_quote)) {
        (Some(first), Some(last)) => format!("{}…{}", &sentence[..first], &sentence[last + 1..]),
        _ => sentence.to_owned(),
    };
    let is_plain = |word: &&str| !word.contains("://") && !word.contains("dop_v1_");
    let words: Vec<&str> = shown.split(' ').filter(is_plain).collect();
    words.join(" ").chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::platform::clock::Clock;

    fn stranger(address: &str) -> Who {
        Who {
            address: Some(address.into()),
            ..Who::default()
        }
    }

    fn token(team_id: i64, token_id: i64) -> Who {
        Who {
            team_id: Some(team_id),
            user_id: Some(1),
            token_id: Some(token_id),
            ..stranger("10.0.0.1")
        }
    }

    /// Of 200 refusals, how many are written.
    fn written(refusals: &Refusals, clock: &Clock, who: &Who, what: &'static str) -> usize {
        let admit = || refusals.admit(clock.now(), who, what);
        (0..200).filter(|_| admit().is_some()).count()
    }

    /// A clock that stands at the start of a minute.
    fn clock() -> Clock {
        let clock = Clock::default();
        clock.advance(TimeDelta::seconds(60 - clock.now().timestamp() % 60));
        clock
    }

    #[test]
    fn strangers_are_bounded_by_address_and_together_and_what_is_left_out_is_counted() {
        let (refusals, clock) = (Refusals::default(), clock());
        let count = |address: &str, what| written(&refusals, &clock, &stranger(address), what);
        assert_eq!(count("2001:db8::1", "token.use"), 1);
        assert_eq!(count("2001:db8::2", "token.use"), 0, "the same /64");
        assert_eq!(count("2001:db8::2", "sign_in.create"), 1, "another kind");
        let all: usize = (0..20).map(|n| count(&format!("10.0.0.{n}"), "token.use")).sum();
        assert_eq!(all, 4, "six of all strangers");
        let known = written(&refusals, &clock, &token(1, 1), "request.refuse");
        assert_eq!(known, 10, "those we know are none of them");
        clock.advance(TimeDelta::seconds(60));
        let next = refusals.admit(clock.now(), &stranger("2001:db8::1"), "token.use");
        assert_eq!(next, Some(399), "since the last one of this network");
        let next = refusals.admit(clock.now(), &stranger("10.0.9.9"), "token.use");
        assert_eq!(next, Some(0), "of this address none was left out");
    }

    #[test]
    fn a_token_and_a_team_are_bounded_and_do_not_crowd_out_others() {
        let (refusals, clock) = (Refusals::default(), clock());
        let count = |team, id| written(&refusals, &clock, &token(team, id), "request.refuse");
        let of_team: Vec<usize> = (0..5).map(|id| count(1, id)).collect();
        assert_eq!(of_team, [10, 10, 10, 0, 0]);
        assert_eq!(count(2, 9), 10);
    }

    #[test]
    fn a_flush_takes_each_count_once_and_memory_is_bounded() {
        let (refusals, clock) = (Refusals::default(), clock());
        let mut admitted = 0;
        for n in 0..5_000_u32 {
            let who = stranger(&std::net::Ipv4Addr::from(n).to_string());
            admitted += u64::from(refusals.admit(clock.now(), &who, "token.use").is_some());
        }
        assert!(refusals.lock().strangers.len() <= KEYS_MAX + 1);
        assert_eq!(written(&refusals, &clock, &token(1, 7), "request.refuse"), 10);
        let left = refusals.take_left_out(clock.now());
        assert_eq!(left.len(), 1 + FLUSH_MAX + 1);
        assert_eq!((left[0].0.0.token_id, left[0].1), (Some(7), 190));
        assert_eq!(left[0].0.0.address, None, "a token has many");
        let strangers: u64 = left[1..].iter().map(|one| one.1).sum();
        assert_eq!(strangers, 5_000 - admitted);
        assert!(refusals.take_left_out(clock.now()).is_empty());
        clock.advance(TimeDelta::seconds(60));
        assert!(refusals.take_left_out(clock.now()).is_empty());
        assert!(refusals.lock().strangers.len() == 0, "and nothing is kept");
    }

    #[test]
    fn a_reason_has_nothing_of_what_was_sent() {
        for (sentence, shown) in [
            (
                "`hunter2` is not a region; `GET /v2/regions` lists them",
                "… lists them",
            ),
            (
                "invalid type: string \"hunter2\", expected i64",
                "invalid type: string …, expected i64",
            ),
            ("`a`hunter2`b` is taken", "… is taken"),
            ("fetching http://u:hunter2@host/ fails", "fetching fails"),
            (
                "10.0.0.1 is a private address, and this server does not fetch from there.",
                "10.0.0.1 is a private address, and this server does not fetch from there.",
            ),
        ] {
            assert_eq!(reason_shown(sentence), shown);
        }
        assert_eq!(reason_shown(&"é".repeat(999)).chars().count(), REASON_MAX);
    }
}
