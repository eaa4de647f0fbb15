//! Time and randomness, read here and nowhere else in the crate, so that a simulation can replace both.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use uuid::Uuid;

/// Where the store takes the time and its random bytes from.
#[derive(Clone)]
pub struct World {
    now_us: Arc<dyn Fn() -> i64 + Send + Sync>,
    random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
}

impl World {
    /// The system's clock and random number generator.
    pub fn system() -> Self {
        Self::new(system_now_us, system_random)
    }

    /// A world of one's own: `now_us` gives microseconds since 1970 (UTC), `random` sixteen fresh bytes.
    pub fn new(
        now_us: impl Fn() -> i64 + Send + Sync + 'static,
        random: impl Fn() -> [u8; 16] + Send + Sync + 'static,
    ) -> Self {
        Self {
            now_us: Arc::new(now_us),
            random: Arc::new(random),
        }
    }

    /// Microseconds since 1970 (UTC): both databases keep exactly that.
    pub(crate) fn now_us(&self) -> i64 {
        (self.now_us)()
    }

    pub(crate) fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes((self.random)()).into_uuid()
    }

    /// Sixteen random bytes that need not be secret.
    pub(crate) fn salt(&self) -> [u8; 16] {
        (self.random)()
    }

    pub(crate) fn secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&(self.random)());
        secret[16..].copy_from_slice(&(self.random)());
        secret
    }
}

impl Default for World {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

fn system_now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn system_random() -> [u8; 16] {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
