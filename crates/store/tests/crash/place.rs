//! A store as the service opens it: an SQLite file with the service's own settings (`platform/db/mod.rs`), a folder,
//! and a clock that is moved by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sea_orm::sqlx;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait as _,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use store::gc::{Options as GcOptions, Progress, Report};
use store::{Algorithm, Error, Kind, Options, Result, Settings, Store, World, backend_open};

use crate::content;

/// Names of the two parts of a place.
pub(crate) const DATABASE: &str = "db.sqlite";
pub(crate) const OBJECTS: &str = "objects";

/// When the work that is traced begins, in microseconds since 1970.
pub(crate) const START_US: i64 = 1_800_000_000_000_000;

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        store::migrations()
    }
}

/// A clock that goes on by a millisecond each time it is read.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(crate) fn at(us: i64) -> Self {
        Self(Arc::new(AtomicI64::new(us)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).expect("fits");
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    fn world(&self) -> World {
        let now = Arc::clone(&self.0);
        World::new(
            move || now.fetch_add(1000, Ordering::SeqCst),
            || {
                // Two folders of packs only, so that writers meet in them.
                let mut bytes = *uuid::Uuid::new_v4().as_bytes();
                bytes[0] &= 1;
                bytes
            },
        )
    }
}

/// An open store.
pub(crate) struct Place {
    pub(crate) db: DatabaseConnection,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    folder: PathBuf,
}

impl Place {
    /// Opens it, or makes it, as a start of the service does.
    pub(crate) async fn open(folder: &Path, connections: u32, clock: Clock) -> Result<Self> {
        let db = database(&folder.join(DATABASE), connections)
            .await
            .map_err(|error| failed("cannot open the database", &error))?;
        let objects = folder.join(OBJECTS);
        let backend = backend_open(&objects.to_string_lossy(), &Settings::new())?;
        let options = Options {
            world: clock.world(),
            digest_key: Some([7; 32]),
            ..Options::default()
        };
        let store = Store::open_or_init(backend, &db, options).await?;
        Ok(Self {
            db,
            store,
            clock,
            folder: folder.to_owned(),
        })
    }

    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction> {
        begin(&self.db)
            .await
            .map_err(|error| failed("cannot begin a transaction", &error))
    }

    pub(crate) async fn commit(&self, tx: DatabaseTransaction) -> Result<()> {
        tx.commit()
            .await
            .map_err(|error| failed("cannot commit a transaction", &error))
    }

    /// Takes a disk in; what is equal to the parent at its place is the parent's.
    pub(crate) async fn disk_import(
        &self,
        name: &str,
        spec: &str,
        parent: Option<(&str, &str)>,
    ) -> Result<()> {
        let data = content::disk(spec);
        let session = self.store.session_open(name).await?;
        let base = match parent {
            Some((parent, _)) => self.store.root_get("image", parent).await?.map(|root| root.tree),
            None => None,
        };
        let known: Vec<&str> = parent.map_or(Vec::new(), |(_, spec)| spec.split(',').collect());
        let mut ingest = session.ingest(data.len() as u64, base).await?;
        for (n, (token, chunk)) in spec.split(',').zip(data.chunks(content::CHUNK)).enumerate() {
            if known.get(n) == Some(&token) {
                ingest.extent_parent(chunk.len() as u64).await?;
            } else if token == "0" {
                ingest.extent_zero(chunk.len() as u64).await?;
            } else {
                ingest.extent_data(Bytes::copy_from_slice(chunk)).await?;
            }
        }
        let root = ingest.finish().await?.root;
        let tx = self.begin().await?;
        session.commit_in_tx(&tx, "image", name, root).await?;
        self.commit(tx).await
    }

    pub(crate) async fn object_put(&self, name: &str, spec: &str) -> Result<()> {
        let data = content::object(spec);
        let session = self.store.session_open(name).await?;
        let mut ingest = session.object_begin(Algorithm::Sha256);
        for part in data.chunks(3 << 20) {
            ingest.write(Bytes::copy_from_slice(part)).await?;
        }
        let found = ingest.finish(&content::name(&data)).await?;
        let tx = self.begin().await?;
        session
            .commit_objects_in_tx(&tx, &[("blob", name, found)])
            .await?;
        self.commit(tx).await
    }

    /// Removes a root. Done also where it is not there any more.
    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let tx = self.begin().await?;
        self.store.root_delete_in_tx(&tx, kind, name).await?;
        self.commit(tx).await
    }

    pub(crate) async fn gc(&self) -> Result<Report> {
        let options = GcOptions {
            now: true,
            ..GcOptions::new(&self.folder)
        };
        self.store.gc(&options, &Progress::default()).await
    }

    /// The bytes of a disk, if it is there.
    pub(crate) async fn disk_read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(root) = self.store.root_get("image", name).await? else {
            return Ok(None);
        };
        let length = usize::try_from(root.tree.virtual_bytes).expect("fits");
        let mut out = vec![0; length];
        self.store.disk_open(root.tree).read_at(0, &mut out).await?;
        Ok(Some(out))
    }

    /// The bytes of an object, if it is there.
    pub(crate) async fn object_read(&self, name: &str) -> Result<Option<Bytes>> {
        let Some(found) = self.store.object_get("blob", name).await? else {
            return Ok(None);
        };
        self.store.object_read(found, 0..found.bytes).await.map(Some)
    }

    /// Ends as the service does when it is told to stop.
    pub(crate) async fn close(self) -> Result<()> {
        drop(self.store);
        let closed = self.db.close().await;
        closed.map_err(|error| failed("cannot close the database", &error))
    }
}

fn failed(what: &str, error: &sea_orm::DbErr) -> Error {
    let text = error.to_string();
    let kind = if text.contains("disk is full") {
        Kind::NoSpace
    } else {
        Kind::Io
    };
    Error::new(kind, format!("{what}: {text}"))
}

async fn database(path: &Path, connections: u32) -> std::result::Result<DatabaseConnection, sea_orm::DbErr> {
    use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
    let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", path.display()));
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|o| {
            o.journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(30))
                .foreign_keys(true)
                .pragma("cache_size", "-4096")
                .pragma("secure_delete", "FAST")
                .pragma("temp_store", "memory")
                // The one difference to the service: the log is folded into the file many times, not once or never.
                .pragma("wal_autocheckpoint", "40")
        })
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|conn, _| Box::pin(is_sound(conn))));
    let db = Database::connect(options).await?;
    // In one transaction, as the service does it.
    let tx = begin(&db).await?;
    Migrator::up(&tx, None).await?;
    tx.commit().await?;
    Ok(db)
}

async fn begin(db: &DatabaseConnection) -> std::result::Result<DatabaseTransaction, sea_orm::DbErr> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    db.begin_with_options(options).await
}

/// As `platform/db` has it: a connection whose transaction SQLite ended by itself is given up.
async fn is_sound(conn: &mut sqlx::SqliteConnection) -> std::result::Result<bool, sqlx::Error> {
    use sqlx::Connection as _;
    conn.ping().await?;
    Ok(!conn.is_in_transaction())
}
