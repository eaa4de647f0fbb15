//! One server a data folder: the folder is made for its owner alone and held by a lock that ends with the process.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use store::owner;

use crate::platform::db::sqlite;
use crate::platform::error::{Error, Result};

/// The file that is locked: the process, and where its objects lie.
const LOCK: &str = "cistern.lock";

/// Held while a server uses a data folder.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
    /// That of the folder in which SQLite's file lies, where that is another.
    _database: Option<File>,
}

/// Makes the data folder where it is not there, readable by its owner alone.
pub fn data_folder_make(data: &Path) -> Result<()> {
    if data.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|error| {
        Error::Precondition(format!(
            "cannot make the data folder `{}`: {error}; give another with `--data`, or make it for this user",
            data.display()
        ))
    })
}

/// Takes the folder for this process. The lock is the kernel's (flock), so it cannot be left behind by a crash; the
/// file's text is only for the message.
///
/// `objects` is where its objects lie, for people: other commands on the folder compare it ([`objects_check`]).
/// `database` is SQLite's file, where there is one: it is one server's too, whose data folder may be another, by
/// whatever link each gets at it.
pub fn data_lock(data: &Path, objects: &str, database: Option<&Path>) -> Result<DataLock> {
    let beside = database.map(sqlite::real_folder);
    let same = |folder: &PathBuf| folder.canonicalize().ok() == data.canonicalize().ok();
    let other = beside.filter(|folder| folder.is_dir() && !same(folder));
    Ok(DataLock {
        _file: folder_lock(data, objects)?,
        _database: other.map(|folder| folder_lock(&folder, objects)).transpose()?,
    })
}

fn folder_lock(data: &Path, objects: &str) -> Result<File> {
    let path = data.join(LOCK);
    let mut file = owner::file_open(&path).map_err(|error| {
        Error::Precondition(format!(
            "cannot write `{}`: {error}; the data folder must belong to the user that runs the server",
            path.display()
        ))
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(&mut file, data)),
        Err(TryLockError::Error(e)) => return Err(Error::internal("could not lock the data folder", e)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}\n{objects}", std::process::id()))
        .and_then(|()| file.flush());
    match written {
        // The text is for a message only, and a full disk no reason not to start.
        Err(e) if e.kind() != ErrorKind::StorageFull => {
            return Err(Error::internal("could not write the lock file", e));
        }
        _ => {}
    }
    Ok(file)
}

/// Refuses a command whose objects are not those of the server that runs on its data folder: it would change the
/// server's database by what lies elsewhere.
pub fn objects_check(data: &Path, objects: &str) -> Result<()> {
    let Ok(mut file) = File::open(data.join(LOCK)) else {
        return Ok(());
    };
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return Ok(());
    }
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    match text.lines().nth(1) {
        Some(used) if read.is_ok() && used != objects => Err(Error::Precondition(format!(
            "the server that runs on `{}` has its objects in `{used}`, and this command was told `{objects}`: give it the same with \
             `--objects` (or CISTERN_OBJECTS)",
            data.display()
        ))),
        _ => Ok(()),
    }
}

/// Waits until no other process or task changes the keys of this folder's store, and keeps them out until it is
/// dropped. A lock of its own: that of the folder is a running server's for as long as it runs.
pub fn keys_lock(data: &Path) -> Result<File> {
    let file = keys_file(data)?;
    file.lock()
        .map_err(|e| Error::internal("could not lock the keys", e))?;
    Ok(file)
}

/// The same without waiting: none where another changes them.
pub fn keys_lock_now(data: &Path) -> Result<Option<File>> {
    let file = keys_file(data)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::internal("could not lock the keys", e)),
    }
}

fn keys_file(data: &Path) -> Result<File> {
    let path = data.join("keys.lock");
    owner::file_open(&path).map_err(|error| {
        Error::Precondition(format!(
            "cannot write `{}`: {error}; run this as the user that the server runs as, or as root",
            path.display()
        ))
    })
}

fn held(file: &mut File, data: &Path) -> Error {
    let mut pid = String::new();
    let by = match (file.read_to_string(&mut pid), pid.lines().next()) {
        (Ok(_), Some(pid)) => format!("process {}", pid.trim()),
        _ => "another process".to_owned(),
    };
    Error::Precondition(format!(
        "`{}` is in use by {by}, which is a Cistern server; stop it first, or give another folder with `--data` (and \
         `--database`, where the settings name one)",
        data.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn another_data_folder_does_not_get_at_a_database_that_is_used() {
        let [own, other] = [(), ()].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let file = own.path().join("cistern.sqlite");
        let first = data_lock(own.path(), "/a", Some(&file)).expect("the first takes it");
        let refused = data_lock(other.path(), "/a", Some(&file)).expect_err("it is used");
        assert!(refused.to_string().contains("--database"), "{refused}");
        drop(first);
        let _other = data_lock(other.path(), "/a", Some(&file)).expect("it is free");
        data_lock(own.path(), "/a", Some(&file)).expect_err("it is used");
    }

    #[test]
    fn a_link_is_no_second_way_to_a_database_that_is_used() {
        let [own, other, real] = [(), (), ()].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let (link, file) = (own.path().join("cistern.sqlite"), real.path().join("db.sqlite"));
        std::fs::write(&file, "").expect("writes");
        std::os::unix::fs::symlink(&file, &link).expect("links");
        let ways = [(own.path(), &link), (other.path(), &file)];
        for ((data, database), (second, theirs)) in [(ways[0], ways[1]), (ways[1], ways[0])] {
            let first = data_lock(data, "/a", Some(database)).expect("the first takes it");
            data_lock(second, "/a", Some(theirs)).expect_err("it is used");
            data_lock(data, "/a", None).expect_err("so is the data folder");
            drop(first);
        }
        data_lock(other.path(), "/a", Some(&link)).expect("it is free");
    }

    #[test]
    fn a_second_server_is_refused_by_pid_until_the_first_ends() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = data_lock(dir.path(), "/a", None).expect("the first takes it");
        let refusal = data_lock(dir.path(), "/a", None)
            .expect_err("the second is refused")
            .to_string();
        assert!(
            refusal.contains(&format!("process {}", std::process::id())),
            "{refusal}"
        );
        objects_check(dir.path(), "/a").expect("the same place");
        let refusal = objects_check(dir.path(), "/b").expect_err("another").to_string();
        assert!(refusal.contains("has its objects in `/a`"), "{refusal}");
        drop(first);
        objects_check(dir.path(), "/b").expect("no server runs");
        data_lock(dir.path(), "/b", None).expect("free again");
    }

    #[test]
    fn the_keys_are_changed_by_one_at_a_time_beside_a_server() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let _server = data_lock(dir.path(), "/a", None).expect("the server takes it");
        let first = keys_lock(dir.path()).expect("the first takes it");
        let path = dir.path().join("keys.lock");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = File::open(&path).expect("opens");
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        other.try_lock().expect("free again");
    }

    #[test]
    fn the_folder_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = dir.path().join("a/b");
        data_folder_make(&data).expect("makes it");
        let mode = std::fs::metadata(&data).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        data_folder_make(&data).expect("twice is fine");
    }
}
