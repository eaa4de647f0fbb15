//! The database, asked by one task at a time where a simulation says so.
//!
//! Whatever the store asks goes through these two, so that each statement outside of a transaction, and each
//! transaction as a whole, is one step of a simulation. Elsewhere they hand on what they are given.

use std::panic::Location;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, IsolationLevel,
    QueryResult, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait as _,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::world::{Turn, World};

/// What a connection to PostgreSQL should be told, for the statements of this crate: that a row found by an index costs
/// little more than the next one of a scan, as it does on every disk without a moving head (its manual, 19.7.2, has 4
/// for those). Otherwise looking a hundred digests up goes through all of a store of less than two gigabytes.
pub const POSTGRES_SETTINGS: [(&str, &str); 1] = [("random_page_cost", "1.1")];

/// The pool of connections. Clones share it, and the turn.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: DatabaseConnection,
    world: World,
    /// SQLite has one writer at a time, and lets the others look for their turn at ever longer intervals. Here they are
    /// in line.
    write_turn: Option<Arc<Mutex<()>>>,
}

/// A transaction. Dropped without [`Tx::commit`] it is rolled back.
#[derive(Debug)]
pub(crate) struct Tx {
    // Before the turn, which has to outlive it.
    inner: DatabaseTransaction,
    _writing: Option<OwnedMutexGuard<()>>,
    _turn: Turn,
}

impl Database {
    /// `write_turn` is what others of this process that write to the database take before, where there are any.
    pub(crate) fn new(pool: DatabaseConnection, world: World, write_turn: Option<Arc<Mutex<()>>>) -> Self {
        let is_sqlite = pool.get_database_backend() == DbBackend::Sqlite;
        let write_turn = is_sqlite.then(|| write_turn.unwrap_or_default());
        Self {
            pool,
            world,
            write_turn,
        }
    }

    /// The turn to write. A change outside of a transaction takes it too: those in line leave no gap for one that looks
    /// now and then whether it is free.
    async fn turn_to_write(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.write_turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        }
    }
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        self.inner.commit().await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        self.inner.rollback().await
    }
}

/// Begins a writing transaction: IMMEDIATE on SQLite, where a deferred one fails when two writers meet.
#[track_caller]
pub(crate) fn begin(db: &Database) -> impl Future<Output = Result<Tx, DbErr>> + Send + '_ {
    let options = TransactionOptions {
        isolation_level: None,
        access_mode: None,
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
    };
    begin_with(db, options, true, Location::caller())
}

/// Begins a transaction that sees the database as it is now for as long as it lasts, and changes nothing.
#[track_caller]
pub(crate) fn snapshot(db: &Database) -> impl Future<Output = Result<Tx, DbErr>> + Send + '_ {
    let isolation_level = match db.get_database_backend() {
        DbBackend::Sqlite => None,
        _ => Some(IsolationLevel::RepeatableRead),
    };
    let options = TransactionOptions {
        isolation_level,
        ..TransactionOptions::default()
    };
    begin_with(db, options, false, Location::caller())
}

async fn begin_with(
    db: &Database,
    options: TransactionOptions,
    writes: bool,
    place: &Location<'_>,
) -> Result<Tx, DbErr> {
    // The place tells those who read a simulation's trace which transaction it is.
    let turn = db.world.turn_at(place).await;
    // Before a connection is taken, of which those in line would leave none.
    let writing = if writes { db.turn_to_write().await } else { None };
    let inner = db.pool.begin_with_options(options).await?;
    Ok(Tx {
        inner,
        _writing: writing,
        _turn: turn,
    })
}

#[async_trait]
impl ConnectionTrait for Database {
    fn get_database_backend(&self) -> DbBackend {
        self.pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let _turn = self.world.turn(&statement.sql).await;
        let _writing = self.turn_to_write().await;
        self.pool.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let _turn = self.world.turn(sql).await;
        let _writing = self.turn_to_write().await;
        self.pool.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let _turn = self.world.turn(&statement.sql).await;
        self.pool.query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let _turn = self.world.turn(&statement.sql).await;
        self.pool.query_all_raw(statement).await
    }
}

#[async_trait]
impl ConnectionTrait for Tx {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.inner.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.inner.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.inner.query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.inner.query_all_raw(statement).await
    }
}
