//! What a start makes before it knows whether it can go on, and takes away again where it cannot: a wrong key, or a
//! place of objects that does not answer, is no reason to leave a database behind that the next start would take for an
//! installation.

use std::fs;
use std::path::{Path, PathBuf};

/// Files of a new installation that were not there before a start.
#[derive(Debug)]
pub struct Fresh(Vec<PathBuf>);

impl Fresh {
    /// Looks before SQLite's file `database` is made. None where it is there: what else is missing then belongs to it.
    /// `others` are made beside it.
    pub fn look(database: &Path, others: &[PathBuf]) -> Option<Self> {
        if database.exists() {
            return None;
        }
        let beside = ["-wal", "-shm", "-journal"].map(|end| {
            let mut name = database.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        });
        let own = [database.to_owned(), database.with_extension("reserve")];
        let all = own.into_iter().chain(beside).chain(others.iter().cloned());
        Some(Self(all.filter(|path| !path.exists()).collect()))
    }

    /// Takes away those of them that are there by now. The database has to be closed.
    pub fn remove(self) {
        for path in self.0 {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, file = %path.display(), "could not take away what a failed start had made");
                }
                _ => {}
            }
        }
    }
}
