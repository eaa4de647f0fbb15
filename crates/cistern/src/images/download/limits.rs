//! What one caller may take by downloading: so many downloads at once, and so many events about them.
//!
//! Everything is kept in memory, within [`KEYS_MAX`]; a caller is a token, or a user where no token was used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::platform::accounts::Caller;
use crate::platform::clock::Time;
use crate::platform::error::{Error, Result};
use crate::platform::events::tally::{Limits, Tally};

/// Events in a minute: of one caller and kind, and of each image among them.
const LIMITS: Limits = Limits { group: 30, key: 1 };
/// Callers, and their images, that are told apart at most; about 50 bytes each.
const KEYS_MAX: usize = 4096;
/// The downloads of a server.
#[derive(Debug, Default)]
pub struct Downloads {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    open: HashMap<Holder, usize>,
    events: Tally<(Holder, Told), About>,
}

/// What an event is about: an image, or any where a caller has read more of them than can be told apart.
type About = (Holder, Told, Option<i64>);

impl Default for Table {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            events: Tally::new(KEYS_MAX),
        }
    }
}

/// A user and their token.
type Holder = (i64, Option<i64>);

/// What an event tells of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// It began.
    Begun,
    /// It was cut by a fault of ours.
    Cut,
}

/// A place among a caller's downloads, until it is dropped.
#[derive(Debug)]
pub struct Open {
    table: Arc<Mutex<Table>>,
    holder: Holder,
}

impl Downloads {
    /// A place for one more download, of `max` that a caller may have open.
    pub fn open(&self, caller: &Caller, max: usize) -> Result<Open> {
        let holder = holder(caller);
        let mut table = lock(&self.table);
        let open = table.open.entry(holder).or_default();
        if *open >= max {
            return Err(Error::TooManyOpen(format!(
                "This token has {max} downloads open, which is as many as it may; end one of them first."
            )));
        }
        *open += 1;
        Ok(Open {
            table: Arc::clone(&self.table),
            holder,
        })
    }

    /// Whether one more event may be written; then how many of the same caller and image were left out before it.
    pub fn admit(&self, now: Time, caller: &Caller, told: Told, image: i64) -> Option<u64> {
        let holder = holder(caller);
        let (key, crowd) = ((holder, told, Some(image)), (holder, told, None));
        let mut table = lock(&self.table);
        table.events.admit(now, LIMITS, (holder, told), key, crowd)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if let Some(open) = table.open.get_mut(&self.holder) {
            *open -= 1;
            if *open == 0 {
                table.open.remove(&self.holder);
            }
        }
    }
}

fn holder(caller: &Caller) -> Holder {
    (caller.user_id, caller.token_id)
}

/// A panic while counting leaves counts that are still usable.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::platform::accounts::{Role, Scopes};
    use crate::platform::clock::Clock;
    use crate::platform::events::Who;

    fn token(id: i64) -> Caller {
        Caller {
            team_id: 1,
            user_id: 1,
            token_id: Some(id),
            role: Role::Owner,
            scopes: Scopes::all(),
            is_operator: false,
            who: Who::default(),
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_download_ends() {
        let downloads = Downloads::default();
        let held: Vec<Open> = (0..2)
            .map(|_| downloads.open(&token(1), 2).expect("is free"))
            .collect();
        let refused = downloads.open(&token(1), 2).expect_err("both are taken");
        assert!(refused.to_string().contains("2 downloads"), "{refused}");
        let other = downloads.open(&token(2), 2).expect("is another's");
        drop(held);
        let again = downloads.open(&token(1), 2).expect("is free again");
        drop((again, other));
        assert!(lock(&downloads.table).open.is_empty());
    }

    #[test]
    fn an_image_is_told_of_once_a_minute_and_the_rest_is_counted() {
        let (downloads, clock) = (Downloads::default(), Clock::default());
        clock.advance(TimeDelta::seconds(60 - clock.now().timestamp() % 60));
        let admit = |id, image| downloads.admit(clock.now(), &token(id), Told::Begun, image);
        assert_eq!((admit(1, 7), admit(1, 7), admit(1, 7)), (Some(0), None, None));
        assert_eq!((admit(2, 7), admit(1, 8)), (Some(0), Some(0)), "others");
        let cut = downloads.admit(clock.now(), &token(1), Told::Cut, 7);
        assert_eq!(cut, Some(0), "another kind");
        clock.advance(TimeDelta::seconds(60));
        assert_eq!((admit(1, 7), admit(1, 8)), (Some(2), Some(0)));
    }

    #[test]
    fn a_token_is_bounded_with_any_number_of_images_and_so_is_memory() {
        let (downloads, clock) = (Downloads::default(), Clock::default());
        clock.advance(TimeDelta::seconds(60 - clock.now().timestamp() % 60));
        let admit = |image| downloads.admit(clock.now(), &token(1), Told::Begun, image);
        let written = (0..10_000).filter(|image| admit(*image).is_some()).count();
        assert_eq!(written, 30);
        assert!(lock(&downloads.table).events.len() <= KEYS_MAX + 1);
        clock.advance(TimeDelta::days(2));
        assert_eq!(admit(20_000), Some(0));
        assert_eq!(lock(&downloads.table).events.len(), 1, "what is old is forgotten");
    }
}
