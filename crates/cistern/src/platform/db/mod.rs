//! The database: SQLite in the data folder by default, PostgreSQL by URL, one code path.
//!
//! Reading goes through [`Db::conn`]. Every writing transaction is opened by [`Db::write`]: on SQLite it is
//! `BEGIN IMMEDIATE`, because a deferred transaction that reads before it writes fails with "database is locked"
//! when another writer commits in between, however long the busy timeout is. Writers of this process also take
//! turns, so that they queue fairly instead of polling SQLite's lock.

pub mod migrate;
pub mod migration;
pub mod rows;
mod silence;
pub mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbBackend, IsolationLevel,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use store::room::Space;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::clock::Time;
use super::error::{Context, Error, Result};
use super::net::place_shown;
use super::reserve::Reserve;

/// How long a statement waits for SQLite's write lock, which another process (a local command) may hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long whoever only looks waits for a connection.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a start waits for PostgreSQL, which may be starting as well.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request or a job waits for a connection to PostgreSQL: long enough for a turn among many, short enough
/// for a client that waits for an answer while the database is away.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the rows live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file; its folder must exist.
    Sqlite(PathBuf),
    /// A `postgres://` URL, with its credentials.
    Postgres(String),
}

impl Place {
    /// For people: without credentials, and without settings that may hold some.
    fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(url) => {
                url::Url::parse(url).map_or_else(|_| "PostgreSQL".to_owned(), |url| place_shown(&url))
            }
        }
    }

    /// Why it was not opened. At a start nobody is there who could try again: what is to be looked at is said.
    fn unopened(&self, error: sea_orm::DbErr) -> Error {
        let shown = self.shown();
        if store::database_away(&error) {
            return Error::Unavailable(format!(
                "the database `{shown}` does not answer ({error}); check that it runs and can be reached from here, and \
                 the setting `database`"
            ));
        }
        Error::database(&format!("could not connect to the database `{shown}`"), error)
    }
}

/// A pool of connections; clones share it.
#[derive(Clone, Debug)]
pub struct Db {
    conn: DatabaseConnection,
    turn: Option<Arc<Mutex<()>>>,
    /// SQLite's; PostgreSQL has its own disk.
    reserve: Option<Reserve>,
    /// Why nothing may be written.
    refusal: Arc<OnceLock<String>>,
}

/// An open writing transaction. Dropped without [`Tx::commit`], it changes nothing.
pub struct Tx {
    inner: DatabaseTransaction,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// A reading transaction, which sees the database as it was when it began to read.
pub struct Snapshot(DatabaseTransaction);

impl Db {
    /// Connects; for SQLite the file is made when it is not there.
    pub async fn open(place: &Place, max_connections: u32) -> Result<Self> {
        let patience = match place {
            Place::Sqlite(_) => BUSY_TIMEOUT,
            Place::Postgres(_) => POSTGRES_TIMEOUT,
        };
        Self::open_within(place, max_connections, patience).await
    }

    async fn open_within(place: &Place, max_connections: u32, patience: Duration) -> Result<Self> {
        let reserve = match place {
            Place::Sqlite(path) => Some(Reserve::beside(&sqlite::real(path))),
            Place::Postgres(_) => None,
        };
        // Opening writes too: the memory that SQLite's processes share is a file.
        reserve.as_ref().map(Reserve::release_if_full);
        if let Place::Sqlite(path) = place {
            sqlite::link_refuse(path)?;
            sqlite::log_refuse(path)?;
            sqlite::make(path);
        }
        let conn = Database::connect(options(place, max_connections, patience))
            .await
            .map_err(|e| place.unopened(e))?;
        let turn = matches!(place, Place::Sqlite(_)).then(Arc::default);
        Ok(Self {
            conn,
            turn,
            reserve,
            refusal: Arc::default(),
        })
    }

    /// Waits until no other server starts on the same database, and keeps them out until what it gives is dropped:
    /// whoever finds nothing there makes the tables, the store and the first owner, and there may be only one. With
    /// SQLite the lock of the data folder has seen to that.
    pub async fn start_alone(place: &Place) -> Result<Option<Tx>> {
        if matches!(place, Place::Sqlite(_)) {
            return Ok(None);
        }
        // On a connection of its own: the pool may have but one.
        let db = Self::open_within(place, 1, START_TIMEOUT).await?;
        let tx = db.write_slowly().await?;
        rows::postgres_start_lock(&*tx)
            .await
            .context("could not wait for other servers to start")?;
        Ok(Some(tx))
    }

    /// Connects for looking only: an SQLite file is neither made nor changed. Nobody may ask it for a writing
    /// transaction.
    pub async fn open_to_look(place: &Place) -> Result<Self> {
        let url = match place {
            Place::Sqlite(path) if sqlite::is_for_reading(path)? => sqlite::alone_url(path),
            Place::Sqlite(path) => format!("sqlite://{}?mode=ro", path.display()),
            Place::Postgres(url) => url.clone(),
        };
        Self::look(url).await
    }

    /// The same of an SQLite file that nobody has open, and in whose log is nothing: nothing is made beside it either.
    pub async fn open_alone_to_look(path: &Path) -> Result<Self> {
        Self::look(sqlite::alone_url(path)).await
    }

    async fn look(url: String) -> Result<Self> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(1)
            .acquire_timeout(LOOK_TIMEOUT)
            .sqlx_logging(false);
        let conn = Database::connect(options)
            .await
            .context("could not connect to the database")?;
        Ok(Self {
            conn,
            turn: None,
            reserve: None,
            refusal: Arc::default(),
        })
    }

    /// For reading, and for statements that are a transaction of their own.
    pub fn conn(&self) -> &DatabaseConnection {
        &self.conn
    }

    /// From now on until the process ends every writing transaction is refused with this sentence.
    pub fn refuse(&self, sentence: String) {
        let _ = self.refusal.set(sentence);
    }

    /// Why nothing may be written, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    /// Opens a transaction that sees the database as it is now for as long as it lasts. Nothing is written in it.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let isolation_level = (!self.is_sqlite()).then_some(IsolationLevel::RepeatableRead);
        let options = TransactionOptions {
            isolation_level,
            ..Default::default()
        };
        self.conn
            .begin_with_options(options)
            .await
            .map(Snapshot)
            .map_err(|e| Error::database("could not open a reading transaction", e))
    }

    /// Moves every table of this PostgreSQL database into a schema of their own, whose name it gives.
    pub async fn move_aside(&self, now: Time) -> Result<String> {
        let schema = format!("cistern_before_recovery_{}", now.format("%Y%m%dt%H%M%S_%6f"));
        let tx = self.write().await?;
        rows::postgres_move_aside(&*tx, &schema)
            .await
            .context("could not move the tables of the database aside")?;
        tx.commit().await?;
        Ok(schema)
    }

    /// Whether a store was begun in this database.
    pub async fn has_store(&self) -> Result<bool> {
        let begun = rows::store_is_begun(&self.conn).await;
        begun.context("could not look whether a store was begun")
    }

    /// Whether the store of this database was made, and has to be there.
    pub async fn has_whole_store(&self) -> Result<bool> {
        let ready = rows::store_is_ready(&self.conn).await;
        ready.context("could not look whether the store was made")
    }

    /// Which store was begun in this database; none where none was.
    pub async fn store_id(&self) -> Result<Option<Uuid>> {
        if !self.has_store().await? {
            return Ok(None);
        }
        let id = rows::store_id(&self.conn).await;
        id.context("could not look which store was begun")
    }

    /// What is wrong in SQLite's file, all of which is read; none where it is whole, and of PostgreSQL, which looks
    /// after its own.
    pub async fn faults(&self) -> Result<Vec<String>> {
        if !self.is_sqlite() {
            return Ok(Vec::new());
        }
        let found = rows::sqlite_faults(&self.conn).await;
        found.map_err(|error| Error::database("could not look for damage in the database", error))
    }

    /// Ends all connections.
    pub async fn close(self) -> Result<()> {
        self.conn.close().await.context("could not close the database")
    }

    /// The turn to write on SQLite, for a change outside of a transaction that must not wait for a gap between others.
    pub async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        }
    }

    /// What is taken before each writing transaction on SQLite, for others that write to the same database.
    pub fn write_turn(&self) -> Option<Arc<Mutex<()>>> {
        self.turn.clone()
    }

    /// Opens a writing transaction.
    pub async fn write(&self) -> Result<Tx> {
        if let Some(sentence) = self.refusal() {
            return Err(Error::Precondition(sentence.to_owned()));
        }
        let turn = self.turn().await;
        self.reserve.as_ref().map(Reserve::release_if_full);
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let inner = self
            .conn
            .begin_with_options(options)
            .await
            .map_err(|e| Error::database("could not open a writing transaction", e))?;
        Ok(Tx { inner, _turn: turn })
    }

    /// Opens a writing transaction in which something else than the database may be waited for: when nobody else works
    /// on it, as in a start.
    pub async fn write_slowly(&self) -> Result<Tx> {
        let tx = self.write().await?;
        if !self.is_sqlite() {
            let allowed = rows::postgres_silence_allow(&*tx).await;
            allowed.context("could not prepare a transaction")?;
        }
        Ok(tx)
    }

    /// The room on SQLite's disk.
    pub fn space(&self) -> Option<Space> {
        self.reserve.as_ref().and_then(|reserve| reserve.space().ok())
    }

    /// Fails where nothing may be written and something has not ended: how it ends will not be written either, and
    /// nobody has to wait for it.
    pub fn ends_check(&self, has_ended: bool) -> Result<()> {
        match self.refusal() {
            Some(sentence) if !has_ended => Err(Error::Precondition(sentence.to_owned())),
            _ => Ok(()),
        }
    }

    /// Gives the reserve's room away where SQLite's disk is nearly full; whether there was any.
    pub fn reserve_release(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::release_if_short)
    }

    /// Whether SQLite's disk is full, and its reserve is used up too.
    pub fn is_out_of_room(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::is_spent)
    }

    /// Looks after the reserve on SQLite's disk; to be called every second or so.
    pub async fn reserve_look(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.tend(Reserve::look).await;
        }
    }

    /// Brings what stands in SQLite's log of changes into its file, so that the file alone is the database once the
    /// server has stopped. Nothing depends on it: the next start reads the log as well.
    pub async fn fold(&self) {
        if let Err(error) = self.fold_whole().await {
            tracing::warn!(
                error = error.chain(),
                "could not fold the database's log of changes into its file"
            );
        }
    }

    /// The same where everything depends on it: fails unless SQLite's file alone is the database.
    pub async fn fold_whole(&self) -> Result<()> {
        if !self.is_sqlite() {
            return Ok(());
        }
        let folded = rows::sqlite_fold(&self.conn).await;
        if folded.map_err(|error| Error::database("could not write the database's file whole", error))? {
            return Ok(());
        }
        let text = "another process has the new database open; stop it, then do this again";
        Err(Error::Precondition(text.to_owned()))
    }

    /// Whether this is SQLite; only for what the two really do differently.
    pub fn is_sqlite(&self) -> bool {
        self.conn.get_database_backend() == DbBackend::Sqlite
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<()> {
        self.conn.ping().await.context("the database does not answer")
    }
}

impl Snapshot {
    /// Ends it.
    pub async fn end(self) -> Result<()> {
        self.0
            .rollback()
            .await
            .context("could not end a reading transaction")
    }
}

impl std::ops::Deref for Snapshot {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.0
    }
}

impl Tx {
    /// Makes everything done in it durable, or nothing.
    pub async fn commit(self) -> Result<()> {
        self.inner
            .commit()
            .await
            .map_err(|e| Error::database("could not commit a transaction", e))
    }
}

impl std::ops::Deref for Tx {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.inner
    }
}

/// Whether `error` says that a unique key exists already.
pub fn is_duplicate(error: &sea_orm::DbErr) -> bool {
    matches!(
        error.sql_err(),
        Some(sea_orm::SqlErr::UniqueConstraintViolation(_))
    )
}

/// [`Error::Conflict`] with `message` where a unique key exists already, a fault of ours otherwise.
pub fn conflict(error: sea_orm::DbErr, message: impl Into<String>) -> Error {
    if is_duplicate(&error) {
        Error::Conflict(message.into())
    } else {
        error.into()
    }
}

fn options(place: &Place, max_connections: u32, patience: Duration) -> ConnectOptions {
    use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
    let url = match place {
        // Not made by SQLite, which would make it where a link leads, and for everybody to read.
        Place::Sqlite(path) => format!("sqlite://{}?mode=rw", path.display()),
        Place::Postgres(url) => url.clone(),
    };
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(max_connections)
        .min_connections(1)
        .acquire_timeout(patience)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|o| {
            // FULL: with NORMAL, a WAL commit can be lost at power loss.
            o.journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(BUSY_TIMEOUT)
                .foreign_keys(true)
                // KiB, for each connection: the system caches the file as well, and once for all of them.
                .pragma("cache_size", "-4096")
                // What was a secret once, such as a URL's password, is overwritten where its page is written anyway.
                .pragma("secure_delete", "FAST")
                .pragma("temp_store", "memory")
        })
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|conn, _| Box::pin(is_sound(conn))));
    if let Place::Postgres(url) = place {
        let port = silence::port_of(url);
        options.map_sqlx_postgres_pool_opts(move |pool| {
            pool.after_connect(move |conn, _| {
                Box::pin(async move {
                    rows::postgres_set(conn, &store::POSTGRES_SETTINGS).await?;
                    silence::bound(conn, port).await
                })
            })
        });
    }
    options
}

/// Whether a connection can be used again. SQLite ends a transaction by itself where a disk is full or fails
/// ("Automatic Rollback", `lang_transaction.html`). The driver's own end then fails, and leaves it counting: every
/// later transaction would be a savepoint, which is not IMMEDIATE, and whose rollback leaves a transaction open in
/// which nothing new is seen.
async fn is_sound(conn: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection as _;
    // What is still to be rolled back is, before this answers.
    conn.ping().await?;
    let is_sound = !conn.is_in_transaction();
    if !is_sound {
        tracing::warn!("a connection to the database is given up: its transaction was ended by the database");
    }
    Ok(is_sound)
}

#[cfg(test)]
pub mod tests {
    use super::rows::note;
    use super::*;

    /// A migrated database of its own in a temporary folder.
    pub async fn fresh() -> (Db, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let db = Db::open(&Place::Sqlite(dir.path().join("cistern.sqlite")), 8)
            .await
            .expect("a new file opens");
        migrate::run(&db, None).await.expect("a new database migrates");
        (db, dir)
    }

    #[tokio::test]
    async fn a_database_that_does_not_answer_is_named_without_its_password() {
        let place = Place::Postgres("postgres://me:sesame@127.0.0.1:1/rows?password=sesame".into());
        let opened = Db::open_within(&place, 1, Duration::from_millis(50)).await;
        let Err(Error::Unavailable(said)) = opened else {
            panic!("nobody listens there");
        };
        assert!(said.contains("postgres://127.0.0.1:1/rows"), "{said}");
        assert!(said.contains("`database`") && !said.contains("sesame"), "{said}");
    }

    #[tokio::test]
    async fn nobody_else_can_read_what_sqlite_makes() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_db, dir) = fresh().await;
        for end in ["", "-wal", "-shm"] {
            let file = dir.path().join(format!("cistern.sqlite{end}"));
            let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        let target = dir.path().join("target");
        let link = dir.path().join("link.sqlite");
        std::os::unix::fs::symlink(&target, &link).expect("links");
        assert!(Db::open(&Place::Sqlite(link), 1).await.is_err());
        assert!(!target.exists());
    }

    #[tokio::test]
    async fn a_connection_whose_transaction_the_database_ended_is_given_up() {
        let (other, dir) = fresh().await;
        note::table_make(other.conn()).await;
        note::set(other.conn(), "n", "old").await;
        let place = Place::Sqlite(dir.path().join("cistern.sqlite"));
        let db = Db::open(&place, 1).await.expect("opens");
        let tx = db.write().await.expect("a turn comes");
        note::transaction_end(&*tx).await;
        drop(tx);
        // Were it still in use, this would leave a transaction open that sees nothing new.
        let tx = db.write().await.expect("a turn comes");
        assert_eq!(note::get(&*tx, "n").await.as_deref(), Some("old"));
        drop(tx);
        note::set(other.conn(), "n", "new").await;
        assert_eq!(note::get(db.conn(), "n").await.as_deref(), Some("new"));
        let tx = db.write().await.expect("a turn comes");
        note::set(&*tx, "n", "newer").await;
        tx.commit().await.expect("commits");
    }

    #[tokio::test]
    async fn read_then_write_transactions_do_not_fail_each_other() {
        let (db, _dir) = fresh().await;
        note::table_make(db.conn()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let db = db.clone();
            tasks.spawn(async move {
                for _ in 0..10 {
                    let tx = db.write().await.expect("a turn comes");
                    let n = note::get(&*tx, "n").await;
                    let n = n.map_or(0, |n| n.parse().expect("a number"));
                    note::set(&*tx, "n", &(n + 1).to_string()).await;
                    tx.commit().await.expect("commits");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics");
        }
        assert_eq!(note::get(db.conn(), "n").await.as_deref(), Some("80"));
    }
}
