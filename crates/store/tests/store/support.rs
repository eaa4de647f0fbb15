//! Where the suite runs, and disks to run it on.
//!
//! Always: SQLite and a folder, both in a temporary directory. Where `CISTERN_TEST_POSTGRES` (a URL) and
//! `CISTERN_TEST_S3` (`s3://bucket/prefix?endpoint=…`, with `CISTERN_TEST_S3_KEY` and `…_SECRET`) are set,
//! there too; otherwise the reason is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DatabaseTransaction,
    SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use store::{
    Backend, KeyKind, Options, Session, Settings, Store, TreeRoot, World, WrappingKey, backend_open,
};
use tempfile::TempDir;

pub(crate) const CHUNK: u64 = 64 * 1024;

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        store::migrations()
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// As when it was ahead, and is set right.
    pub(crate) fn set_back(&self, by: Duration) {
        self.0
            .fetch_sub(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now_us(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// A fresh place: an empty database and an empty backend.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) db: DatabaseConnection,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Clock,
    pub(crate) dir: TempDir,
    /// What its store is encrypted with, if it is.
    key: Option<WrappingKey>,
}

impl Place {
    pub(crate) fn options(&self) -> Options {
        let clock = self.clock.clone();
        let world = World::new(move || clock.now_us(), || *uuid::Uuid::new_v4().as_bytes());
        Options {
            world,
            digest_key: Some([7; 32]),
            encrypt: self.key.is_some(),
            key: self.key.clone(),
            ..Options::default()
        }
    }

    pub(crate) async fn store(&self) -> Store {
        self.store_on(Arc::clone(&self.backend)).await
    }

    pub(crate) async fn store_on(&self, backend: Arc<dyn Backend>) -> Store {
        Store::open_or_init(backend, &self.db, self.options())
            .await
            .unwrap()
    }

    pub(crate) async fn begin(&self) -> DatabaseTransaction {
        begin(&self.db).await
    }
}

pub(crate) async fn begin(db: &DatabaseConnection) -> DatabaseTransaction {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    db.begin_with_options(options).await.unwrap()
}

/// SQLite and a folder.
pub(crate) async fn local() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("db.sqlite").display());
    let mut options = ConnectOptions::new(url);
    options.max_connections(8).sqlx_logging(false);
    options.map_sqlx_sqlite_opts(|options| {
        options
            .pragma("journal_mode", "WAL")
            .pragma("synchronous", "FULL")
            .busy_timeout(Duration::from_secs(20))
    });
    let db = Database::connect(options).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let path = dir.path().join("objects");
    let backend = backend_open(path.to_str().unwrap(), &Settings::new()).unwrap();
    Place {
        name: "SQLite + folder",
        db,
        backend,
        clock: clock(),
        dir,
        key: None,
    }
}

/// SQLite and a folder, whose store is encrypted.
pub(crate) async fn encrypted() -> Place {
    Place {
        name: "SQLite + encrypted folder",
        key: Some(WrappingKey::new(KeyKind::KeyFile, &[44; 44]).unwrap()),
        ..local().await
    }
}

fn clock() -> Clock {
    Clock(Arc::new(AtomicU64::new(1_800_000_000_000_000)))
}

/// Every place that this run has.
pub(crate) async fn places() -> Vec<Place> {
    let mut places = vec![local().await, encrypted().await];
    match server() {
        Ok((postgres, s3, settings)) => places.push(remote(&postgres, &s3, &settings).await),
        // One of them without the other is a mistake of whoever set them, and would skip all of it unseen.
        Err(reason) if std::env::vars().any(|(name, _)| is_of_a_server(&name)) => {
            panic!("PostgreSQL + S3 are only half there: {reason}")
        }
        Err(reason) => eprintln!("skipped on PostgreSQL + S3: {reason}"),
    }
    places
}

fn is_of_a_server(name: &str) -> bool {
    name == "CISTERN_TEST_POSTGRES" || name.starts_with("CISTERN_TEST_S3")
}

fn server() -> Result<(String, String, Settings), &'static str> {
    let get = |name: &str| {
        std::env::vars()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let postgres = get("CISTERN_TEST_POSTGRES").ok_or("CISTERN_TEST_POSTGRES is not set")?;
    let s3 = get("CISTERN_TEST_S3").ok_or("CISTERN_TEST_S3 is not set")?;
    let key = get("CISTERN_TEST_S3_KEY").ok_or("CISTERN_TEST_S3_KEY is not set")?;
    let secret = get("CISTERN_TEST_S3_SECRET").ok_or("CISTERN_TEST_S3_SECRET is not set")?;
    let settings = [
        ("access_key_id".to_owned(), key),
        ("secret_access_key".to_owned(), secret),
    ];
    Ok((postgres, s3, Settings::from(settings)))
}

/// PostgreSQL and S3: a schema and a prefix of their own.
async fn remote(postgres: &str, s3: &str, settings: &Settings) -> Place {
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let admin = Database::connect(postgres).await.unwrap();
    admin
        .execute_unprepared(&format!("CREATE SCHEMA {name}"))
        .await
        .unwrap();
    let mut options = ConnectOptions::new(postgres);
    options
        .max_connections(8)
        .sqlx_logging(false)
        .set_schema_search_path(&name)
        .map_sqlx_postgres_opts(|options| options.options(store::POSTGRES_SETTINGS));
    let db = Database::connect(options).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let (path, query) = s3.split_once('?').unwrap_or((s3, ""));
    let url = format!("{}/{name}?{query}", path.trim_end_matches('/'));
    let backend = backend_open(&url, settings).unwrap();
    let dir = tempfile::tempdir().unwrap();
    Place {
        name: "PostgreSQL + S3",
        db,
        backend,
        clock: clock(),
        dir,
        key: None,
    }
}

/// Takes a whole disk in from memory and publishes it.
pub(crate) async fn import(store: &Store, db: &DatabaseConnection, owner: &str, data: &[u8]) -> TreeRoot {
    let session = store.session_open(owner).await.unwrap();
    import_by(session, db, owner, data).await
}

/// The same in a team's dedup domain; the disk is called `team` and its number.
pub(crate) async fn import_in(store: &Store, db: &DatabaseConnection, team: i64, data: &[u8]) -> TreeRoot {
    let owner = format!("team{team}");
    let session = store.session_open_in(&owner, team).await.unwrap();
    import_by(session, db, &owner, data).await
}

async fn import_by(session: Session, db: &DatabaseConnection, owner: &str, data: &[u8]) -> TreeRoot {
    let mut ingest = session.ingest(data.len() as u64, None).await.unwrap();
    ingest.extent_data(Bytes::copy_from_slice(data)).await.unwrap();
    let disk = ingest.finish().await.unwrap();
    let tx = begin(db).await;
    session
        .commit_in_tx(&tx, "image", owner, disk.root)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    disk.root
}

/// Bytes that do not compress and are the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let below = |path: std::path::PathBuf| {
        if path.is_dir() {
            files_below(&path)
        } else {
            vec![path]
        }
    };
    entries.flat_map(|entry| below(entry.unwrap().path())).collect()
}
