//! Measures garbage collection:
//! `cargo run --release -p cistern-store --example gc -- DISKS GIB [FOLDER] [POSTGRES-URL]`.
//!
//! Takes DISKS disks of GIB GiB in, of which each chunk is another (and compresses to next to nothing), into a fresh store
//! on SQLite and a folder under FOLDER, or on an empty PostgreSQL database. Then it collects with nothing to free,
//! deletes every second disk, and collects again; prints rates and the peak of memory.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait as _,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use store::gc::{Options, Progress};
use store::{Settings, Store, backend_open};

type Failure = Box<dyn std::error::Error>;

const CHUNK: usize = 65536;

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        store::migrations()
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: gc DISKS GIB [FOLDER] [POSTGRES-URL]";
    let disks: u32 = args.next().ok_or(usage)?.parse()?;
    let gib: u64 = args.next().ok_or(usage)?.parse()?;
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(folder)?;
    let url = match args.next() {
        Some(url) => url,
        None => format!("sqlite://{}?mode=rwc", dir.path().join("db.sqlite").display()),
    };
    let db = database(&url).await?;
    let objects = dir.path().join("objects");
    let backend = backend_open(&objects.to_string_lossy(), &Settings::new())?;
    let store = Store::open_or_init(backend, &db, store::Options::default()).await?;
    let start = Instant::now();
    for number in 0..disks {
        import(&store, &db, number, gib << 30).await?;
    }
    println!(
        "taken in: {:.1} s, peak {} MiB",
        start.elapsed().as_secs_f64(),
        peak_kib() / 1024
    );
    collect("nothing to free", &store, dir.path()).await?;
    let tx = begin(&db).await?;
    for number in (0..disks).step_by(2) {
        store.root_delete_in_tx(&tx, "image", &number.to_string()).await?;
    }
    tx.commit().await?;
    collect("half to free", &store, dir.path()).await?;
    println!("peak memory: {} MiB", peak_kib() / 1024);
    Ok(())
}

async fn collect(what: &str, store: &Store, folder: &std::path::Path) -> Result<(), Failure> {
    let options = Options {
        now: true,
        ..Options::new(folder)
    };
    let progress = Progress::default();
    let start = Instant::now();
    let marked = store.gc_mark(&options, &progress).await?;
    let mark = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let report = marked.collect(&options, &progress).await?;
    let rest = start.elapsed().as_secs_f64();
    let (entries, chunks) = (progress.entries.load(Relaxed), progress.chunks.load(Relaxed));
    println!(
        "{what}: marked {entries} entries in {mark:.2} s ({:.2} M/s); the rest, with {chunks} rows, took {rest:.2} s; \
         condemned {}, freed {} objects; peak {} MiB",
        rate(entries, mark),
        report.condemned,
        report.objects,
        peak_kib() / 1024
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds / 1e6
}

async fn import(store: &Store, db: &DatabaseConnection, number: u32, bytes: u64) -> Result<(), Failure> {
    let session = store.session_open(&number.to_string()).await?;
    let mut ingest = session.ingest(bytes, None).await?;
    let chunks = bytes / CHUNK as u64;
    for first in (0..chunks).step_by(64) {
        let mut data = vec![0_u8; 64 * CHUNK];
        for (at, chunk) in (first..).zip(data.chunks_exact_mut(CHUNK)) {
            chunk[..8].copy_from_slice(&at.to_le_bytes());
            chunk[8..12].copy_from_slice(&(number + 1).to_le_bytes());
        }
        ingest.extent_data(Bytes::from(data)).await?;
    }
    let disk = ingest.finish().await?;
    let tx = begin(db).await?;
    session
        .commit_in_tx(&tx, "image", &number.to_string(), disk.root)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, Failure> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    Ok(db.begin_with_options(options).await?)
}

async fn database(url: &str) -> Result<DatabaseConnection, Failure> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(8).sqlx_logging(false);
    options.map_sqlx_sqlite_opts(|options| {
        options
            .pragma("journal_mode", "WAL")
            .pragma("synchronous", "FULL")
            .busy_timeout(Duration::from_secs(20))
    });
    let db = Database::connect(options).await?;
    Migrator::up(&db, None).await?;
    Ok(db)
}

fn peak_kib() -> u64 {
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
