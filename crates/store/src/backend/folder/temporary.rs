//! Files that have no name of their own yet: in `tmp/`, which has to be a real folder.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rustix::fs::AtFlags;

use super::files::rename_new;
use super::unfinished::{Unfinished, is_unfinished};
use super::{HEADERS, Inner, Naming};
use crate::error::{Error, Result};
use crate::owner::Within;
use crate::room::Room;

pub(super) const TEMPORARY: &str = "tmp";
/// A temporary file this old belongs to no living writer.
pub(super) const TEMPORARY_AGE: Duration = Duration::from_hours(24);

/// A file under `tmp/`; where it got no name, it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Temporary {
    folder: Within,
    name: OsString,
    pub(super) file: File,
    room: Room,
    is_named: bool,
    _unfinished: Unfinished,
}

impl Temporary {
    pub(super) fn create(inner: &Inner) -> io::Result<Self> {
        let folder = inner.temporaries()?;
        let name = OsString::from(inner.world.uuid().to_string());
        // Before there is a file: whoever clears must not take it for a dead writer's.
        let unfinished = Unfinished::begin(&name);
        Ok(Self {
            file: folder.file_new(&name)?,
            folder,
            name,
            room: Room::new(&inner.root),
            is_named: false,
            _unfinished: unfinished,
        })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.room.take(data.len() as u64)?;
        self.file.write_all(data)
    }

    /// Gives it its name in `folder`, to whose owner it goes.
    pub(super) fn rename(&mut self, folder: &Within, name: &OsStr, naming: Naming) -> io::Result<()> {
        folder.give(&self.file)?;
        match naming {
            Naming::New => rename_new((&self.folder, &self.name), (folder, name))?,
            Naming::Replace => rustix::fs::renameat(&self.folder, &self.name, folder, name)?,
        }
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_named {
            // Where it cannot be removed, a later start or gc clears it.
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

impl Inner {
    /// The folder of temporary files, which has to lie in the store itself: whoever could put a link in its place would
    /// have files made, and removed, wherever that leads.
    fn temporaries(&self) -> io::Result<Within> {
        let path = self.root.join(TEMPORARY);
        Within::open_real(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => io::Error::other(format!(
                "`{}` is no folder (a link to one is none): remove it; the next start or command makes one",
                path.display()
            )),
            _ => error,
        })
    }

    /// Removes what crashed writers left; gives how many bytes that were. Where there is no real folder for it, nothing
    /// is: who writes is told.
    pub(super) fn temporary_clear(&self) -> Result<u64> {
        let folder = self.root.join(TEMPORARY);
        let failed = |error| Error::io(format!("cannot read folder `{}`", folder.display()), error);
        let opened = match Within::open_real(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(0),
            opened => opened.map_err(failed)?,
        };
        if !self.is_ours(&opened).map_err(failed)? {
            return Ok(0);
        }
        let mut cleared = 0;
        for name in opened.names().map_err(failed)? {
            let Some(bytes) = left_bytes(&opened, &name) else {
                continue;
            };
            // Another process may clear the same file at the same time.
            if rustix::fs::unlinkat(&opened, &name, AtFlags::empty()).is_ok() {
                cleared += bytes;
            }
        }
        Ok(cleared)
    }

    /// Whether a folder belongs to whose the store is. Only root could remove what is another's.
    fn is_ours(&self, folder: &Within) -> io::Result<bool> {
        if !rustix::process::geteuid().is_root() {
            return Ok(true);
        }
        let user = folder.user()?;
        // A mount may be root's own; what a server has written there is its user's.
        let places = [self.root.clone(), self.root.join(HEADERS)];
        let mut known = places.iter().filter_map(|place| std::fs::metadata(place).ok());
        Ok(known.any(|known| known.uid() == user))
    }
}

/// The size of a file that no living writer has; `None` where this is none.
fn left_bytes(folder: &Within, name: &CStr) -> Option<u64> {
    // A clock that is set right makes a file look old that this process writes at the moment.
    if is_unfinished(OsStr::from_bytes(name.to_bytes())) {
        return None;
    }
    let data = folder.metadata(name).ok()?;
    let age = data.modified().ok()?.elapsed().ok()?;
    (data.is_file() && age > TEMPORARY_AGE).then_some(data.len())
}
