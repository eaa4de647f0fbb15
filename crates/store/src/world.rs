//! Time and randomness, read here and nowhere else in the crate, so that a simulation can replace both, and say besides
//! which task goes on.

use std::any::Any;
use std::panic::Location;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use rand::Rng as _;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// Where the store takes the time and its random bytes from.
#[derive(Clone)]
pub struct World {
    now_us: Arc<dyn Fn() -> i64 + Send + Sync>,
    random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
    /// None outside of simulations.
    schedule: Option<Arc<Schedule>>,
}

/// A question that a simulation answers when it likes.
pub type Asked<Q, A> = Box<dyn Fn(&Q) -> BoxFuture<'static, A> + Send + Sync>;

/// What a simulation decides, where one thread runs everything and everything that waits asks it first.
pub struct Schedule {
    /// Ends when it is the caller's turn to ask the database, until the [`Turn`] is dropped. Told for what.
    pub turn: Asked<str, Turn>,
    /// Ends when so much time has passed.
    pub sleep: Asked<Duration, ()>,
    /// Time since the simulation began, which no clock's jump changes.
    pub uptime: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// A task's turn, until it is dropped.
pub struct Turn {
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl Turn {
    /// A turn that ends when `held` is dropped with it.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self {
            _held: Some(Arc::new(held)),
        }
    }
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
            schedule: None,
        }
    }

    /// The same world under a schedule.
    #[must_use]
    pub fn scheduled(self, schedule: Schedule) -> Self {
        Self {
            schedule: Some(Arc::new(schedule)),
            ..self
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

    /// To be held while the database is asked.
    pub(crate) async fn turn(&self, what: &str) -> Turn {
        match &self.schedule {
            Some(schedule) => (schedule.turn)(what).await,
            None => Turn { _held: None },
        }
    }

    /// The same for a transaction that is begun at a place in the code.
    pub(crate) async fn turn_at(&self, place: &Location<'_>) -> Turn {
        let name = || Path::new(place.file()).file_name().unwrap_or_default().display();
        match &self.schedule {
            Some(schedule) => (schedule.turn)(&format!("transaction of {}:{}", name(), place.line())).await,
            None => Turn { _held: None },
        }
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        match &self.schedule {
            Some(schedule) => (schedule.sleep)(&time).await,
            None => tokio::time::sleep(time).await,
        }
    }

    /// Time since some moment, to measure by.
    pub(crate) fn uptime(&self) -> Duration {
        match &self.schedule {
            Some(schedule) => (schedule.uptime)(),
            None => START.elapsed(),
        }
    }

    /// How many processors there are to share; in a simulation always as many, so that it is the same everywhere.
    pub(crate) fn processors(&self) -> usize {
        match &self.schedule {
            Some(_) => 2,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Runs work that keeps a processor busy or blocks, off the async threads.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.schedule.is_some() {
            return work();
        }
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Error::new(Kind::Io, "a computation was stopped").with_source(error))?
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

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turn")
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn system_now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn system_random() -> [u8; 16] {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
