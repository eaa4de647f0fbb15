//! How often a token may call, as DigitalOcean counts: a request counts for one hour, and a burst limit holds for
//! any minute. Every answer says where the caller stands (`ratelimit-limit`, `-remaining`, `-reset`).
//!
//! Requests that do not prove a valid token count against their address, in a table of their own, so that strangers
//! cannot push tokens out of memory. A token's first request counts against the address until the handler has
//! authenticated it ([`Proof`]); afterwards the token is known by a hash and has its own window.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::origin::Origin;
use crate::config::RateLimit;
use crate::platform::clock::Clock;
use crate::platform::error::Error;
use crate::platform::events::{Acting, Who};

/// Tokens, and addresses, that are remembered at most; about 0.5 KiB each.
const MAX_KEYS: usize = 16_384;

/// Seconds in a slot of the hour's window. One more slot than an hour has, so that no request counts too short.
const HOUR_SLOT: u64 = 60;

/// Put into a request's extensions; whoever authenticates the token sets it.
#[derive(Clone, Debug, Default)]
pub struct Proof(Arc<OnceLock<Who>>);

impl Proof {
    /// Says that the request's token is valid, and whose it is.
    pub fn given(&self, who: &Who) {
        let _ = self.0.set(who.lasting());
    }
}

/// Counts requests; shared by all of them.
pub struct RateLimiter {
    limits: RateLimit,
    clock: Clock,
    tokens: Mutex<Table<[u8; 16]>>,
    strangers: Mutex<Table<IpAddr>>,
}

/// Where a caller stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    limit: u32,
    remaining: u32,
    /// Unix seconds at which the oldest counted request stops counting.
    reset: u64,
}

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass(Standing),
    /// Too many in a minute: come back after so many seconds.
    Burst(Standing, u64),
    /// Too many in an hour.
    Spent(Standing),
}

/// Windows by key, with a bound on how many.
struct Table<K> {
    windows: HashMap<K, Window>,
}

/// The last hour and the last minute of one key.
#[derive(Clone)]
struct Window {
    hour: Ring<61>,
    minute: Ring<61>,
    last: u64,
    /// Whose token it is, so that the event of a refusal can name them without asking the database.
    holder: Option<Box<Who>>,
}

/// Counts in slots of time; the oldest slot is overwritten by the newest.
#[derive(Clone)]
struct Ring<const N: usize> {
    counts: [u32; N],
    newest: u64,
    total: u32,
}

impl RateLimiter {
    /// Counts by `clock` against `limits`.
    pub fn new(limits: RateLimit, clock: Clock) -> Self {
        Self {
            limits,
            clock,
            tokens: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().timestamp()).unwrap_or_default()
    }

    /// Counts a request of a known token; none where the token is not known (yet).
    fn token_known(&self, key: &[u8; 16]) -> Option<Verdict> {
        let now = self.now();
        let mut tokens = lock(&self.tokens);
        let window = tokens.windows.get_mut(key)?;
        Some(window.take(now, self.limits.per_hour, self.limits.per_minute))
    }

    /// Counts the first request of a token that turned out valid, and takes it off its address.
    fn token_proved(&self, key: [u8; 16], address: IpAddr, who: &Who) -> Verdict {
        let now = self.now();
        if let Some(window) = lock(&self.strangers).windows.get_mut(&network_of(address)) {
            window.give_back(now);
        }
        let mut tokens = lock(&self.tokens);
        let window = tokens.window(key, now);
        window.holder = Some(Box::new(who.lasting()));
        window.take(now, self.limits.per_hour, self.limits.per_minute)
    }

    fn holder(&self, key: &[u8; 16]) -> Option<Box<Who>> {
        lock(&self.tokens).windows.get(key)?.holder.clone()
    }

    /// Counts a request that has proved nothing yet.
    fn stranger(&self, address: IpAddr) -> Verdict {
        let now = self.now();
        let limit = self.limits.anonymous_per_minute;
        let mut strangers = lock(&self.strangers);
        let window = strangers.window(network_of(address), now);
        match window.take(now, u32::MAX, limit) {
            Verdict::Pass(_) => Verdict::Pass(window.standing_of_minute(limit)),
            other => other,
        }
    }

    /// Counts a request on a listener that authenticates by itself.
    pub fn attempt(&self, headers: &HeaderMap, address: IpAddr) -> Result<Attempt<'_>, Refused> {
        let key = token_key(headers);
        let known = key.as_ref().and_then(|key| self.token_known(key));
        match known.unwrap_or_else(|| self.stranger(address)) {
            Verdict::Pass(standing) => Ok(Attempt {
                limiter: self,
                key,
                is_known: known.is_some(),
                address,
                standing,
            }),
            Verdict::Burst(standing, wait) => Err(Refused {
                standing,
                retry_after: Some(wait),
                holder: key.and_then(|key| self.holder(&key)),
            }),
            Verdict::Spent(standing) => Err(Refused {
                standing,
                retry_after: None,
                holder: key.and_then(|key| self.holder(&key)),
            }),
        }
    }

    fn token_forget(&self, key: &[u8; 16]) {
        lock(&self.tokens).windows.remove(key);
    }
}

/// A request that has been counted; say how its authentication ended.
pub struct Attempt<'a> {
    limiter: &'a RateLimiter,
    key: Option<[u8; 16]>,
    is_known: bool,
    address: IpAddr,
    standing: Standing,
}

/// A request that is one too many.
#[derive(Clone, Debug)]
pub struct Refused {
    standing: Standing,
    retry_after: Option<u64>,
    holder: Option<Box<Who>>,
}

impl Attempt<'_> {
    /// The token is valid, and theirs.
    pub fn succeeded(mut self, who: &Who) -> Self {
        if let (Some(key), false) = (self.key, self.is_known)
            && let Verdict::Pass(standing) = self.limiter.token_proved(key, self.address, who)
        {
            self.standing = standing;
        }
        self
    }

    /// There is no valid token: revoked or expired since, if it was one. From now on it counts as a stranger's.
    pub fn failed(self) -> Self {
        if let (Some(key), true) = (&self.key, self.is_known) {
            self.limiter.token_forget(key);
        }
        self
    }
}

impl Refused {
    /// Who it was, where the token had proved itself before; else from where only.
    pub fn who(&self, origin: &Origin) -> Who {
        Who {
            address: Some(origin.address.to_string()),
            request_id: Some(origin.request_id.clone()),
            ..self.holder.as_deref().cloned().unwrap_or_default()
        }
    }

    /// Says where the caller stands. `retry-after` only on a burst, as DigitalOcean: doctl would sleep for as long
    /// as it says.
    pub fn write(self, headers: &mut HeaderMap) {
        headers.remove(header::RETRY_AFTER);
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        self.standing.write(headers);
    }
}

/// The layer around every route of the API.
pub async fn layer(State(limiter): State<Arc<RateLimiter>>, mut request: Request, next: Next) -> Response {
    let Some(origin) = request.extensions().get::<Origin>().cloned() else {
        return Error::bug("the rate limit saw a request without an origin").into_response();
    };
    let attempt = match limiter.attempt(request.headers(), origin.address) {
        Ok(attempt) => attempt,
        Err(refused) => {
            if let (Some(acting), Some(_)) = (request.extensions().get::<Acting>(), &refused.holder) {
                acting.set(&refused.who(&origin));
            }
            let mut response = Error::TooMany { retry_after: 0 }.into_response();
            refused.write(response.headers_mut());
            return response;
        }
    };
    let proof = Proof::default();
    request.extensions_mut().insert(proof.clone());
    let mut response = next.run(request).await;
    let attempt = match (proof.0.get(), response.status()) {
        (Some(who), _) => attempt.succeeded(who),
        (None, StatusCode::UNAUTHORIZED) => attempt.failed(),
        (None, _) => attempt,
    };
    attempt.standing.write(response.headers_mut());
    response
}

impl Standing {
    fn write(self, headers: &mut HeaderMap) {
        headers.insert("ratelimit-limit", HeaderValue::from(self.limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(self.remaining));
        headers.insert("ratelimit-reset", HeaderValue::from(self.reset));
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn window(&mut self, key: K, now: u64) -> &mut Window {
        if self.windows.len() >= MAX_KEYS && !self.windows.contains_key(&key) {
            self.make_room(now);
        }
        self.windows.entry(key).or_insert_with(|| Window::new(now))
    }

    /// Drops what counts nothing any more, else the eighth that was quiet for longest.
    fn make_room(&mut self, now: u64) {
        self.windows
            .retain(|_, w| now.saturating_sub(w.last) <= 3600 + HOUR_SLOT);
        if self.windows.len() < MAX_KEYS {
            return;
        }
        let mut ages: Vec<u64> = self.windows.values().map(|w| w.last).collect();
        let (_, limit, _) = ages.select_nth_unstable(MAX_KEYS / 8);
        let limit = *limit;
        // Of those that were quiet for equally long, any.
        let mut ties = MAX_KEYS / 8 - ages.iter().filter(|last| **last < limit).count();
        self.windows.retain(|_, w| {
            let is_tie = ties > 0 && w.last == limit;
            ties -= usize::from(is_tie);
            w.last >= limit && !is_tie
        });
    }
}

impl Window {
    fn new(now: u64) -> Self {
        Self {
            hour: Ring::new(now / HOUR_SLOT),
            minute: Ring::new(now),
            last: now,
            holder: None,
        }
    }

    /// Counts one request unless that is one too many; a refused one does not count.
    fn take(&mut self, now: u64, per_hour: u32, per_minute: u32) -> Verdict {
        self.last = now;
        self.hour.advance(now / HOUR_SLOT);
        self.minute.advance(now);
        if self.hour.total >= per_hour {
            return Verdict::Spent(self.standing(per_hour));
        }
        if self.minute.total >= per_minute {
            let wait = self.minute.oldest().saturating_add(61).saturating_sub(now).max(1);
            return Verdict::Burst(self.standing(per_hour.min(per_minute)), wait);
        }
        self.hour.add();
        self.minute.add();
        Verdict::Pass(self.standing(per_hour))
    }

    fn give_back(&mut self, now: u64) {
        self.hour.advance(now / HOUR_SLOT);
        self.minute.advance(now);
        self.hour.remove();
        self.minute.remove();
    }

    fn standing(&self, limit: u32) -> Standing {
        let reset = (self.hour.oldest() + 61) * HOUR_SLOT;
        Standing {
            limit,
            remaining: limit.saturating_sub(self.hour.total),
            reset,
        }
    }

    fn standing_of_minute(&self, limit: u32) -> Standing {
        let reset = self.minute.oldest() + 61;
        Standing {
            limit,
            remaining: limit.saturating_sub(self.minute.total),
            reset,
        }
    }
}

impl<const N: usize> Ring<N> {
    fn new(slot: u64) -> Self {
        Self {
            counts: [0; N],
            newest: slot,
            total: 0,
        }
    }

    fn index(slot: u64) -> usize {
        usize::try_from(slot % N as u64).unwrap_or_default()
    }

    /// Forgets what is N slots old. A clock that was set back counts into the newest slot.
    fn advance(&mut self, slot: u64) {
        let steps = slot.saturating_sub(self.newest).min(N as u64);
        for step in 1..=steps {
            let i = Self::index(self.newest + step);
            self.total -= self.counts[i];
            self.counts[i] = 0;
        }
        self.newest = self.newest.max(slot);
    }

    fn add(&mut self) {
        self.counts[Self::index(self.newest)] += 1;
        self.total += 1;
    }

    /// Takes one back from the newest slot that has any.
    fn remove(&mut self) {
        let back = (0..N as u64).map(|age| Self::index(self.newest.saturating_sub(age)));
        if let Some(i) = back.into_iter().find(|&i| self.counts[i] > 0) {
            self.counts[i] -= 1;
            self.total -= 1;
        }
    }

    /// The oldest slot that counts something; the newest where none does.
    fn oldest(&self) -> u64 {
        let ages = (0..N as u64).rev();
        let oldest = ages
            .map(|age| self.newest.saturating_sub(age))
            .find(|&slot| self.counts[Self::index(slot)] > 0);
        oldest.unwrap_or(self.newest)
    }
}

/// What a token is known by here; the token itself is not kept.
/// Of the token alone: the same token in another spelling of the header, or with another user name before it, is the
/// same caller.
fn token_key(headers: &HeaderMap) -> Option<[u8; 16]> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.trim().split_once(' ')?;
    let rest = rest.trim();
    let digest = if scheme.eq_ignore_ascii_case("basic") {
        let pair = BASE64.decode(rest).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Sha256::digest(&pair[colon + 1..])
    } else {
        Sha256::digest(rest.as_bytes())
    };
    digest[..16].try_into().ok()
}

/// One customer usually has a whole /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// A panic while counting leaves counts that are still usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
