//! Where the new database is made: beside the one that it replaces, or in an empty one.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use store::owner;

use super::Options;
use crate::app;
use crate::config::{Config, Secret};
use crate::platform::clock::Clock;
use crate::platform::db::{Db, Place, sqlite};
use crate::platform::error::{Context, Error, Result};
use crate::platform::journal::rows;

/// SQLite's file, its log of changes, the memory that its processes share, and the log that it has in other modes. A
/// log may be there without its file: SQLite would apply it to the next one of that name.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Where the new database is made.
pub(super) struct Target {
    pub(super) db: Db,
    /// The settings of an installation that has it.
    pub(super) config: Config,
    /// SQLite's file, and the one that it is to replace.
    files: Option<(PathBuf, PathBuf)>,
}

impl Target {
    pub(super) async fn open(config: &Config, options: &Options) -> Result<Self> {
        match app::place(config) {
            Place::Sqlite(path) => Self::beside(config, &path).await,
            place @ Place::Postgres(_) => Self::empty(config, &place, options).await,
        }
    }

    /// A file beside SQLite's, where that really is: a link to it stays, and so does the disk that somebody chose. What
    /// an earlier run left there goes.
    async fn beside(config: &Config, path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).context("the database's path is none")?;
        sqlite::link_refuse(&path)?;
        let path = sqlite::real(&path);
        let new = suffixed(&path, ".recovering");
        files_remove(&new)?;
        file_make(&new, &path).context("could not make the new database")?;
        let mut config = config.clone();
        config.database = Some(Secret::new(format!("sqlite://{}", new.display())));
        let db = Db::open(&app::place(&config), config.database_max_connections).await?;
        Ok(Self {
            db,
            config,
            files: Some((new, path)),
        })
    }

    /// A PostgreSQL database that holds nothing.
    async fn empty(config: &Config, place: &Place, options: &Options) -> Result<Self> {
        let db = Db::open(place, config.database_max_connections).await?;
        if !rows::tables_of(db.conn()).await?.is_empty() {
            if !options.replace_database {
                return Err(Error::Precondition(
                    "the database is not empty: name an empty one in `--database`, or give `--replace-database`, which \
                     moves the tables that are there into a schema of their own"
                        .into(),
                ));
            }
            let schema = db.move_aside(Clock::default().now()).await?;
            tracing::info!(schema, "the tables that were there were moved aside");
        }
        Ok(Self {
            db,
            config: config.clone(),
            files: None,
        })
    }

    /// Gives a new file up.
    pub(super) async fn give_up(self) -> Result<()> {
        self.db.close().await?;
        match self.files {
            Some((new, _)) => files_remove(&new),
            None => Ok(()),
        }
    }

    /// Puts a new file into the old one's place, which is moved aside with all that belongs to it. Where that fails
    /// everything is as before.
    pub(super) async fn take_place(self) -> Result<Placed> {
        self.db.fold_whole().await?;
        self.db.close().await?;
        let Some((new, path)) = self.files else {
            return Ok(Placed(None));
        };
        if let Err(error) = whole_check(&new).await {
            files_remove(&new)?;
            return Err(error);
        }
        // No two in one second share a name: the second would replace the first.
        let name = format!(
            ".before_recovery_{}",
            Clock::default().now().format("%Y%m%dT%H%M%S_%6f")
        );
        let swap = Swap {
            aside: suffixed(&path, &name),
            path,
        };
        swap.make(&new).map_err(|error| {
            let _ = files_remove(&new);
            Error::internal("could not put the new database into its place", error)
        })
    }
}

/// A new database in its place. With PostgreSQL there is nothing to be moved.
pub(super) struct Placed(Option<(Swap, bool)>);

impl Placed {
    /// Where the one from before is now.
    pub(super) fn aside(&self) -> Option<String> {
        let (swap, has_before) = self.0.as_ref()?;
        has_before.then(|| swap.aside.display().to_string())
    }

    /// Puts the one from before back, and takes the new one away.
    pub(super) fn put_back(self) -> Result<()> {
        let Some((swap, _)) = self.0 else {
            return Ok(());
        };
        files_remove(&swap.path)?;
        let back = files_move(&swap.aside, &swap.path).and_then(|_| folder_sync(&swap.path));
        back.context("could not put the database from before back into its place")
    }
}

/// Which file takes whose place.
struct Swap {
    path: PathBuf,
    /// Where what is there goes.
    aside: PathBuf,
}

impl Swap {
    fn make(self, new: &Path) -> io::Result<Placed> {
        let has_before = files_move(&self.path, &self.aside)?;
        let placed = std::fs::rename(new, &self.path).and_then(|()| folder_sync(&self.path));
        if let Err(error) = placed {
            // The new file may be there already: what was there comes back over it.
            if !files_move(&self.aside, &self.path)? {
                let _ = files_remove(&self.path);
            }
            return Err(error);
        }
        Ok(Placed(Some((self, has_before))))
    }
}

/// Renames a database with all that belongs to it; says whether anything was there. What was moved comes back where the
/// rest cannot be.
fn files_move(from: &Path, to: &Path) -> io::Result<bool> {
    let mut moved = Vec::new();
    for suffix in SUFFIXES {
        match std::fs::rename(suffixed(from, suffix), suffixed(to, suffix)) {
            Ok(()) => moved.push(suffix),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                for suffix in moved {
                    std::fs::rename(suffixed(to, suffix), suffixed(from, suffix))?;
                }
                return Err(error);
            }
        }
    }
    Ok(!moved.is_empty())
}

fn folder_sync(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// Fails unless this file alone is a whole database: a full or failing disk may have kept something in its log, or out
/// of it, and the one that it replaces is moved aside only for one that can be served.
async fn whole_check(new: &Path) -> Result<()> {
    let log = suffixed(new, "-wal").metadata().map_or(0, |log| log.len());
    let fault = if log > 0 {
        Some(format!("{log} bytes of it are in its log alone"))
    } else {
        let db = Db::open_alone_to_look(new).await?;
        let faults = db.faults().await?;
        db.close().await?;
        faults.into_iter().next()
    };
    let Some(fault) = fault else { return Ok(()) };
    Err(Error::Precondition(format!(
        "the new database could not be written whole ({fault}): see to its disk, or free space on it, then recover again; \
         nothing was replaced"
    )))
}

/// Makes the new database's file, empty, which is closed to all but its owner until it is as open to others as the one
/// `before` it. Where root makes it, it is of that one's owner; what lies there as root's own was left by a command of
/// root's.
fn file_make(new: &Path, before: &Path) -> io::Result<()> {
    let file = owner::file_new(new)?;
    let before = match std::fs::metadata(before) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let is_root = rustix::process::geteuid().is_root();
    if is_root
        && before.uid() != 0
        && let Err(error) = fchown(&file, Some(before.uid()), Some(before.gid()))
    {
        tracing::warn!(%error, "the new database stays root's: give it to the server's user with `chown`");
    }
    file.set_permissions(Permissions::from_mode(0o600 | before.mode() & 0o777))
}

/// Removes a database that was not finished.
fn files_remove(new: &Path) -> Result<()> {
    for suffix in SUFFIXES {
        match std::fs::remove_file(suffixed(new, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal(
                    "could not remove what an earlier recovery left",
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
