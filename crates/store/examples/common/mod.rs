//! What the measuring programs share: a database as the service opens it, imports, and the figures of a process.
#![allow(dead_code, reason = "each program uses its part")]

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait as _,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use store::{IngestStats, Store, TreeRoot};

pub(crate) type Failure = Box<dyn std::error::Error>;

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        store::migrations()
    }
}

/// A new database, durable as in service.
pub(crate) async fn database(url: &str) -> Result<DatabaseConnection, Failure> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(8).sqlx_logging(false);
    options.map_sqlx_sqlite_opts(|options| {
        options
            .pragma("journal_mode", "WAL")
            .pragma("synchronous", "FULL")
            .busy_timeout(Duration::from_secs(20))
    });
    options.map_sqlx_postgres_opts(|options| options.options(store::POSTGRES_SETTINGS));
    let db = Database::connect(options).await?;
    Migrator::up(&db, None).await?;
    Ok(db)
}

pub(crate) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, Failure> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    Ok(db.begin_with_options(options).await?)
}

/// Takes a file in as the disk of the root `image` / `owner`.
pub(crate) async fn import(
    store: &Store,
    db: &DatabaseConnection,
    file: &Arc<File>,
    owner: &str,
) -> Result<(TreeRoot, IngestStats), Failure> {
    let bytes = file.metadata()?.len();
    let session = store.session_open(owner).await?;
    let mut ingest = session.ingest(bytes, None).await?;
    ingest.extent_file(file, 0, bytes).await?;
    let disk = ingest.finish().await?;
    let tx = begin(db).await?;
    session.commit_in_tx(&tx, "image", owner, disk.root).await?;
    tx.commit().await?;
    Ok((disk.root, disk.stats))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// User and system time so far, from `/proc/self/stat` (fields 14 and 15, in hundredths of a second).
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .map(f64::from)
        .sum::<f64>()
        / 100.0
}

/// Begins the peak of memory anew (`5` in `proc_pid_clear_refs`).
pub(crate) fn peak_begin() -> Result<(), Failure> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The most memory that this process had, ever or since [`peak_begin`].
pub(crate) fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default()
}
