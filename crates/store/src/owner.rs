//! Whose it is what root makes: it belongs to the owner of the folder in which it was made, as root's own would be
//! closed to the server that runs as that user. Nobody else may give anything away, nor has to.
//!
//! Only what was made just now is given away, by its descriptor, and by that of its folder: whoever owns a folder above
//! can put a link, or something of root's, in the place of a name at any time. A folder that is root's keeps what is
//! made in it, so that nothing is given away where a link leads into one.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::Path;
use std::sync::Once;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

/// Makes a file that is open to its owner alone, for reading and writing. Fails where the name is taken, by a link too.
pub fn file_new(path: &Path) -> io::Result<File> {
    let (folder, name) = Within::of(path)?;
    folder.file_given(name)
}

/// The same, but it is the caller's, whosever folder it lies in.
pub fn file_new_own(path: &Path) -> io::Result<File> {
    let (folder, name) = Within::of(path)?;
    folder.file_new(name)
}

/// The file at `path` for reading and writing, as it is; a new one where there is none. A link is no file.
pub fn file_open(path: &Path) -> io::Result<File> {
    let (folder, name) = Within::of(path)?;
    match folder.file_there(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match folder.file_given(name) {
        // Another process was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => folder.file_there(name),
        made => made,
    }
}

/// Makes a folder that is open to its owner alone, and those above it. One that is there is left as it is.
pub fn folder_make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        folder_make(parent)?;
    }
    let (folder, name) = Within::of(path)?;
    match folder.folder_new(name) {
        // Another process was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| folder.folder_give(name)),
    }
}

/// A folder in which something is made, held open: what is at its path may become another.
#[derive(Debug)]
pub(crate) struct Within(OwnedFd);

impl Within {
    /// The folder at `path`, or where a link there leads.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, OFlags::PATH)
    }

    /// The same of a folder that has to lie there itself, and that is to be listed. A link is no folder.
    pub(crate) fn open_real(path: &Path) -> io::Result<Self> {
        Self::open_as(path, OFlags::NOFOLLOW)
    }

    fn open_as(path: &Path, how: OFlags) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | how;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The folder that `path` lies in, and its name there.
    fn of(path: &Path) -> io::Result<(Self, &OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((Self::open(parent.unwrap_or_else(|| Path::new(".")))?, name))
    }

    /// The user that the folder belongs to.
    pub(crate) fn user(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.0)?.st_uid)
    }

    /// A file that is here, for reading and writing.
    fn file_there(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => Err(io::Error::other(
                "it is a link, and has to be a file; remove the link",
            )),
            opened => Ok(File::from(opened?)),
        }
    }

    /// Makes a file that only its owner may use; it is whoever's this process is.
    pub(crate) fn file_new(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(opened))
    }

    fn file_given(&self, name: &OsStr) -> io::Result<File> {
        let made = self.file_new(name)?;
        self.give(&made)?;
        Ok(made)
    }

    /// Makes a folder that only its owner may use; it is whoever's this process is.
    pub(crate) fn folder_new(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?)
    }

    /// Gives a folder that was just made here to this one's owner. Another may lie in its place by now: one that is not
    /// root's, or not empty, is left as it is.
    pub(crate) fn folder_give(&self, name: &OsStr) -> io::Result<()> {
        if self.owner()?.is_none() {
            return Ok(());
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = File::from(rustix::fs::openat(&self.0, name, flags, Mode::empty())?);
        let is_empty = entries(&made)?.is_empty();
        if is_empty && made.metadata()?.uid() == 0 {
            self.give(&made)?;
        }
        Ok(())
    }

    /// Gives a file that was just made to this folder's owner, where that is allowed and the file system knows of
    /// owners.
    pub(crate) fn give(&self, made: &File) -> io::Result<()> {
        static TOLD: Once = Once::new();
        if let Some((user, group)) = self.owner()?
            && let Err(error) = fchown(made, Some(user), Some(group))
        {
            TOLD.call_once(
                || tracing::warn!(%error, "what is written stays root's: the folder's owner may not read it"),
            );
        }
        Ok(())
    }

    /// Whose is what is made here, where it is not the maker's anyway.
    fn owner(&self) -> io::Result<Option<(u32, u32)>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let found = rustix::fs::fstat(&self.0)?;
        Ok((found.st_uid != 0).then_some((found.st_uid, found.st_gid)))
    }

    /// What is known of a file here; of a link, what is known of that.
    pub(crate) fn metadata(&self, name: &CStr) -> io::Result<Metadata> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(rustix::fs::openat(&self.0, name, flags, Mode::empty())?).metadata()
    }

    /// The names of all that is here.
    pub(crate) fn names(&self) -> io::Result<Vec<CString>> {
        entries(&self.0)
    }
}

impl AsFd for Within {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn entries(folder: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}
