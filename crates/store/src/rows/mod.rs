//! The store's only SQL: entities and queries, on whatever connection or transaction they are given.
//!
//! Rows that move together are named in the crate's protocol (see the crate documentation); the order of
//! locks is always gate, then session, then everything else.

mod away;
mod chunks;
mod entities;
mod gate;
mod gc;
mod objects;
mod rebuild;
mod roots;
mod sessions;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};

pub use away::database_away;
pub(crate) use chunks::*;
pub(crate) use entities::*;
pub(crate) use gate::*;
pub(crate) use gc::*;
pub(crate) use objects::*;
pub(crate) use rebuild::*;
pub(crate) use roots::*;
pub(crate) use sessions::*;

/// A transaction, for those who hand one on.
pub(crate) type Tx = DatabaseTransaction;

/// Begins a writing transaction: IMMEDIATE on SQLite, where a deferred one fails when two writers meet.
pub(crate) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        isolation_level: None,
        access_mode: None,
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
    };
    db.begin_with_options(options).await
}
