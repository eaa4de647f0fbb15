//! How often a password may be tried: per account, known or not, and per address, in windows of a quarter of an hour.
//!
//! An attempt counts before its password is checked, so that many at once gain nothing, and is taken back when it was
//! right. Whoever locks an account by guessing locks its password only: sign-in links and tokens work on. Kept in
//! memory, per process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use sha2::{Digest, Sha256};

use crate::platform::clock::Time;
use crate::platform::error::{Error, Result};

/// How long a wrong attempt counts.
const WINDOW: TimeDelta = TimeDelta::minutes(15);
/// Wrong attempts on one account within the window.
const PER_ACCOUNT: u32 = 10;
/// Wrong attempts from one address within the window.
const PER_ADDRESS: u32 = 30;
/// Accounts and addresses remembered at most.
const KEYS_MAX: usize = 16_384;

/// What is counted, by hash: an e-mail address typed by a stranger is of any length.
type Key = [u8; 16];

/// Wrong attempts of late.
#[derive(Debug, Default)]
pub struct Attempts {
    windows: Mutex<HashMap<Key, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Time,
    count: u32,
}

impl Attempts {
    /// Counts an attempt, or refuses it.
    pub fn take(&self, now: Time, email: &str, address: Option<&str>) -> Result<()> {
        let keys = keys(email, address);
        let mut windows = self.lock();
        for (key, limit) in &keys {
            if let Some(window) = windows.get(key).filter(|w| w.is_open(now) && w.count >= *limit) {
                let left = (window.began + WINDOW - now).num_seconds().max(1);
                return Err(Error::TooMany {
                    retry_after: left.unsigned_abs(),
                });
            }
        }
        make_room(&mut windows, now);
        for (key, _) in keys {
            let window = windows.entry(key).or_insert(Window { began: now, count: 0 });
            if !window.is_open(now) {
                *window = Window { began: now, count: 0 };
            }
            window.count += 1;
        }
        Ok(())
    }

    /// Takes back an attempt that was right: the account starts anew, the address gets this one back.
    pub fn forgive(&self, email: &str, address: Option<&str>) {
        let mut windows = self.lock();
        let mut keys = keys(email, address).into_iter();
        if let Some((account, _)) = keys.next() {
            windows.remove(&account);
        }
        for (key, _) in keys {
            if let Some(window) = windows.get_mut(&key) {
                window.count = window.count.saturating_sub(1);
            }
        }
    }

    /// A panic while counting leaves counts that are still usable.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn is_open(&self, now: Time) -> bool {
        now - self.began < WINDOW
    }
}

/// The account's key first, with their limits.
fn keys(email: &str, address: Option<&str>) -> Vec<(Key, u32)> {
    let key = |kind: &str, text: &str| {
        let digest = Sha256::digest(format!("{kind}\0{text}").as_bytes());
        let mut key = Key::default();
        key.copy_from_slice(&digest[..16]);
        key
    };
    let mut keys = vec![(key("account", &email.to_lowercase()), PER_ACCOUNT)];
    if let Some(address) = address {
        keys.push((key("address", &network(address)), PER_ADDRESS));
    }
    keys
}

/// The address, of IPv6 its /64: one customer usually has all of it.
pub fn network(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => address.to_owned(),
    }
}

/// Forgets what is over, and where that is not enough the least guilty.
fn make_room(windows: &mut HashMap<Key, Window>, now: Time) {
    if windows.len() + 2 <= KEYS_MAX {
        return;
    }
    windows.retain(|_, w| w.is_open(now));
    let mut least = 1;
    while windows.len() > KEYS_MAX / 2 {
        windows.retain(|_, w| w.count > least);
        least += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::Clock;

    #[test]
    fn an_account_is_guarded_against_many_addresses_and_an_address_against_many_accounts() {
        let (attempts, now) = (Attempts::default(), Clock::default().now());
        for n in 0..PER_ACCOUNT {
            let address = format!("10.0.0.{n}");
            attempts
                .take(now, "a@example.com", Some(&address))
                .expect("still few");
        }
        let refused = attempts.take(now, "A@example.com", Some("10.0.1.1"));
        assert!(matches!(refused, Err(Error::TooMany { retry_after: 900 })));
        for n in 0..PER_ADDRESS {
            attempts
                .take(now, &format!("b{n}@example.com"), Some("2001:db8::1"))
                .expect("still few");
        }
        assert!(
            attempts.take(now, "c@example.com", Some("2001:db8::2")).is_err(),
            "the same /64"
        );
        assert!(
            attempts
                .take(now, "c@example.com", Some("2001:db8:0:1::2"))
                .is_ok()
        );
        let later = now + WINDOW;
        assert!(
            attempts.take(later, "a@example.com", Some("2001:db8::1")).is_ok(),
            "the window is over"
        );
    }

    #[test]
    fn a_right_attempt_is_forgiven() {
        let (attempts, now) = (Attempts::default(), Clock::default().now());
        for _ in 0..3 * PER_ADDRESS {
            attempts
                .take(now, "a@example.com", Some("10.0.0.1"))
                .expect("each was right");
            attempts.forgive("a@example.com", Some("10.0.0.1"));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (attempts, now) = (Attempts::default(), Clock::default().now());
        for n in 0..2 * KEYS_MAX {
            let _ = attempts.take(now, &format!("{n}@example.com"), Some(&format!("addr{n}")));
        }
        assert!(attempts.lock().len() <= KEYS_MAX);
    }
}
