//! Bringing the schema up to date.
//!
//! All pending migrations run in one transaction, so a failed one leaves the database as it was. Before an existing
//! database is changed it is copied aside; the copy goes again where nothing was changed. A database that a newer
//! Cistern has migrated is refused. Two servers that start at once are kept apart by [`Db::start_alone`].

use std::path::{Path, PathBuf};

use sea_orm_migration::{MigrationTrait, MigratorTraitSelf};
use store::owner;

use super::super::clock::Clock;
use super::super::error::{Context, Error, Result};
use super::super::journal;
use super::{Db, rows};

/// Every migration of every room, oldest first. A migration is never changed once released.
pub struct Migrator {
    list: fn() -> Vec<Box<dyn MigrationTrait>>,
    /// Only these, where it is to be an older schema.
    only: Option<Vec<String>>,
}

impl MigratorTraitSelf for Migrator {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let mut all = (self.list)();
        if let Some(only) = &self.only {
            all.retain(|migration| only.iter().any(|name| name == migration.name()));
        }
        all
    }
}

/// Migrates `db`. `copies` is the folder that receives the copy of an existing SQLite database; without it none is
/// made. Returns where the copy is, if one was made.
pub async fn run(db: &Db, copies: Option<&Path>) -> Result<Option<PathBuf>> {
    refuse_encoding(db).await?;
    run_list(db, copies, crate::app::migrations).await
}

/// Brings an empty database to the schema of an earlier version, which had applied `only` these.
pub async fn run_only(db: &Db, only: &[String]) -> Result<()> {
    refuse_encoding(db).await?;
    let mut migrator = Migrator {
        list: crate::app::migrations,
        only: None,
    };
    refuse_newer(&migrator, only)?;
    migrator.only = Some(only.to_vec());
    up(db, &migrator, &[]).await
}

/// The names of the migrations that this version knows, in their order.
pub fn known() -> Vec<String> {
    let all = crate::app::migrations();
    all.iter().map(|migration| migration.name().to_owned()).collect()
}

/// Whether every migration has been applied; refuses a newer schema. Changes nothing.
pub async fn is_current(db: &Db) -> Result<bool> {
    let migrator = Migrator {
        list: crate::app::migrations,
        only: None,
    };
    let applied = applied(db).await?;
    refuse_newer(&migrator, &applied)?;
    Ok(applied.len() == migrator.migrations().len())
}

async fn run_list(
    db: &Db,
    copies: Option<&Path>,
    list: fn() -> Vec<Box<dyn MigrationTrait>>,
) -> Result<Option<PathBuf>> {
    let migrator = Migrator { list, only: None };
    let before = applied(db).await?;
    refuse_newer(&migrator, &before)?;
    if before.len() == migrator.migrations().len() {
        return Ok(None);
    }
    let copy = if before.is_empty() {
        None
    } else {
        copy_sqlite(db, copies).await?
    };
    let done = up(db, &migrator, &before).await;
    if let (Err(_), Some(copy)) = (&done, &copy)
        && applied(db).await.is_ok_and(|now| now == before)
    {
        // A service that is started again and again would fill the disk with what the database itself still is.
        copy_remove(copy);
    }
    done.map(|()| copy)
}

/// Applies what is due, in one transaction. PostgreSQL's copy is made in it, and taken back with it.
async fn up(db: &Db, migrator: &Migrator, before: &[String]) -> Result<()> {
    let tx = db.write().await?;
    if !db.is_sqlite() && !before.is_empty() {
        let name = rows::copy_name(Clock::default().now());
        rows::postgres_copy_into(&*tx, &format!("cistern_{name}"))
            .await
            .context("could not copy the database aside before migrating it")?;
    }
    migrator
        .up(&*tx, None)
        .await
        .context("a migration failed; the database is as it was, the old version still works with it")?;
    journal::triggers_make_in_tx(&tx).await?;
    tx.commit().await
}

fn copy_remove(copy: &Path) {
    if let Err(error) = std::fs::remove_file(copy) {
        tracing::warn!(%error, copy = %copy.display(), "could not remove the copy of a database that was not changed");
    }
}

/// Names are in every script, and a database of another encoding would refuse them one by one, later.
async fn refuse_encoding(db: &Db) -> Result<()> {
    if db.is_sqlite() {
        return Ok(());
    }
    let (name, encoding) = rows::postgres_encoding(db.conn())
        .await
        .context("could not read the database's encoding")?;
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "the database `{name}` keeps texts as {encoding}, which does not hold every name; Cistern needs UTF8: make another \
         with `createdb -E UTF8 -T template0 NAME` and name it in `database` (what is in this one moves over with `pg_dump \
         {name} | psql NAME`)"
    )))
}

/// The names of the migrations that were applied. Only reads: the library's own question makes its table first.
async fn applied(db: &Db) -> Result<Vec<String>> {
    rows::migrations_applied(db.conn())
        .await
        .context("could not read which migrations were applied")
}

fn refuse_newer(migrator: &Migrator, applied: &[String]) -> Result<()> {
    let known: Vec<String> = migrator
        .migrations()
        .iter()
        .map(|m| m.name().to_owned())
        .collect();
    match applied.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(Error::Precondition(format!(
            "this database was migrated by a newer version of Cistern (it has `{name}`, which this version does not \
             know); run that version, or restore the copy made before the upgrade"
        ))),
        None => Ok(()),
    }
}

const UNCOPIED: &str = "could not copy the database aside before migrating it; is the disk full?";

async fn copy_sqlite(db: &Db, copies: Option<&Path>) -> Result<Option<PathBuf>> {
    let Some(folder) = copies.filter(|_| db.is_sqlite()) else {
        return Ok(None);
    };
    let path = folder.join(format!(
        "cistern.sqlite.{}",
        rows::copy_name(Clock::default().now())
    ));
    let text = path
        .to_str()
        .ok_or_else(|| Error::invalid("the data folder's path must be UTF-8"))?;
    // Which SQLite fills: it would make one for everybody to read.
    owner::file_new(&path).context(UNCOPIED)?;
    let written = rows::sqlite_copy_into(db.conn(), text).await;
    if written.is_err() {
        copy_remove(&path);
    }
    written.context(UNCOPIED)?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::super::rows::note;
    use super::super::{Db, Place};
    use super::*;
    use sea_orm_migration::prelude::*;

    struct Adds;
    struct Fails;

    impl MigrationName for Adds {
        fn name(&self) -> &'static str {
            "t0001_adds"
        }
    }

    #[async_trait::async_trait]
    impl MigrationTrait for Adds {
        async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
            m.create_table(note::table()).await
        }
    }

    impl MigrationName for Fails {
        fn name(&self) -> &'static str {
            "t0002_fails"
        }
    }

    #[async_trait::async_trait]
    impl MigrationTrait for Fails {
        async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
            m.drop_table(Table::drop().table("note").to_owned()).await?;
            Err(DbErr::Custom("planted".into()))
        }
    }

    fn first() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Adds)]
    }

    fn second() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Adds), Box::new(Fails)]
    }

    #[tokio::test]
    async fn a_failed_migration_leaves_the_database_as_it_was_and_no_copy() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("cistern.sqlite");
        let db = Db::open(&Place::Sqlite(file), 2).await.expect("opens");
        run_list(&db, Some(dir.path()), first)
            .await
            .expect("the first migrates");
        note::set(db.conn(), "a", "1").await;

        let error = run_list(&db, Some(dir.path()), second)
            .await
            .expect_err("the second fails");
        assert!(error.chain().contains("planted"), "{}", error.chain());
        assert_eq!(note::get(db.conn(), "a").await.as_deref(), Some("1"));
        run_list(&db, None, first)
            .await
            .expect("the old version still opens it");

        let files = std::fs::read_dir(dir.path()).expect("lists");
        let copies = files
            .filter_map(Result::ok)
            .filter(|f| f.file_name().to_string_lossy().contains("before_migration"));
        assert_eq!(copies.count(), 0, "the database itself is what a copy would be");
    }

    #[tokio::test]
    async fn nobody_else_can_read_the_copy() {
        use std::os::unix::fs::PermissionsExt as _;
        let (db, dir) = super::super::tests::fresh().await;
        let copied = copy_sqlite(&db, Some(dir.path())).await.expect("copies");
        let copy = std::fs::metadata(copied.expect("of SQLite")).expect("is there");
        assert_eq!(copy.permissions().mode() & 0o777, 0o600);
        assert!(copy.len() > 0);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let db = Db::open(&Place::Sqlite(dir.path().join("x.sqlite")), 2)
            .await
            .expect("opens");
        run_list(&db, None, first).await.expect("migrates");
        let error = run_list(&db, None, Vec::new)
            .await
            .expect_err("an empty list is an older version");
        assert!(error.to_string().contains("t0001_adds"), "{error}");
    }
}
