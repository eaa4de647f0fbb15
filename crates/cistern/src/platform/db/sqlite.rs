//! SQLite's file: making it for its owner alone, and looking at it where nothing can be written.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use store::owner;

use crate::platform::error::{Error, Result};

/// Where SQLite's file really is: it may be a link to another disk, and what belongs to it lies beside what that leads
/// to. Where there is none, where it would be made.
pub fn real(path: &Path) -> PathBuf {
    let found = path.canonicalize().or_else(|_| std::path::absolute(path));
    found.unwrap_or_else(|_| path.to_owned())
}

/// The folder that SQLite's file is really in.
pub fn real_folder(path: &Path) -> PathBuf {
    let mut folder = real(path);
    folder.pop();
    folder
}

/// Whether SQLite's file lies where nothing can be written, not even beside it: it has to be told, or it will not open.
/// What is in its log cannot be read there.
pub(super) fn is_for_reading(path: &Path) -> Result<bool> {
    let path = real(path);
    let folder = path.parent().filter(|folder| folder.is_dir());
    if folder.is_none_or(|folder| access(folder, Access::WRITE_OK).is_ok()) {
        return Ok(false);
    }
    let log = PathBuf::from(format!("{}-wal", path.display()));
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        return Err(Error::Precondition(format!(
            "{0} lies where nothing can be written, and what was written to it last is in {1}, which cannot be read there: copy both to \
             a folder that can be written, and name the copy with --database sqlite:FILE",
            path.display(),
            log.display()
        )));
    }
    Ok(true)
}

/// Refuses a link that leads nowhere: the database would have to be made where it leads, for which whose folder that is
/// and who may read it is not known here.
pub fn link_refuse(path: &Path) -> Result<()> {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if !is_link || path.exists() {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "{} is a link to a database that is not there: mount its disk, or remove the link and name the file with `--database \
         sqlite:FILE`",
        path.display()
    )))
}

/// Refuses a log without its database: SQLite would throw it away, and what was committed last may stand there alone.
pub fn log_refuse(path: &Path) -> Result<()> {
    let log = PathBuf::from(format!("{}-wal", path.display()));
    if path.exists() || !log.metadata().is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "{0} is not there, but {1} is, which holds the last changes of a database of that name: put that database back beside it, or make a \
         new one from the store with `cistern recover`, which moves {1} aside",
        path.display(),
        log.display()
    )))
}

/// Makes SQLite's file where there is none, empty, so that nobody but its owner can read it, from its first byte on:
/// SQLite makes what lies beside it as closed as it is. Where that fails, opening it says why.
pub(super) fn make(path: &Path) {
    if path.symlink_metadata().is_ok() {
        return;
    }
    if let Err(error) = owner::file_new(path) {
        tracing::debug!(%error, file = %path.display(), "the database's file was not made");
    }
}

/// SQLite takes it that nobody else has the file open.
pub(super) fn alone_url(path: &Path) -> String {
    format!("sqlite://{}?mode=ro&immutable=true", path.display())
}
