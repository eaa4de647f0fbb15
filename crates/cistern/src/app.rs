//! The running service: what every request and job is given.

use std::sync::Arc;

use sea_orm_migration::MigrationTrait;

use crate::platform::accounts::service as accounts;
use crate::platform::clock::Clock;
use crate::platform::db::{self, Db};
use crate::platform::error::Result;
use crate::platform::jobs::{Queue, Registry};

/// Shared by every request and job; clones are cheap.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

/// The parts of the service.
pub struct Inner {
    /// The database.
    pub db: Db,
    /// Where the time comes from.
    pub clock: Clock,
    /// Wakes the job engine when work was enqueued.
    pub queue: Queue,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl App {
    /// Puts the parts together.
    pub fn new(db: Db) -> Self {
        Self {
            inner: Arc::new(Inner {
                db,
                clock: Clock::default(),
                queue: Queue::default(),
            }),
        }
    }

    /// On the very first start makes the first owner, who is also the operator, and their team; later `None`.
    pub async fn first_start(&self) -> Result<Option<accounts::FirstStart>> {
        accounts::first_start(self).await
    }
}

/// Every kind of job this server runs.
pub fn job_kinds() -> Registry {
    Registry::default()
}

/// Every migration of every room, oldest first.
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    vec![Box::new(db::migration::Platform)]
}
