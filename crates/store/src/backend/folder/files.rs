//! Writing a file so that it is durable, and giving it a name that nothing has.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Once;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, fcntl_setfl};

use super::HEADERS;

/// What a direct write is made of, whatever the disk; also where it begins in memory.
pub(super) const BLOCK: usize = 4096;
/// Less is not worth it.
pub(super) const DIRECT: usize = 1 << 20;

/// Whose a store's files are, where root writes into the store of another user: root's own would be closed to the
/// server that runs as that user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// Of what is written below `root`; none where that is the writer anyway. What a server has written there tells
    /// best: a mount may be root's own. Where nothing is there yet, the folder that it is made in tells.
    pub(super) fn of(root: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let headers = root.join(HEADERS);
        let mut places = std::iter::once(&*headers).chain(root.ancestors());
        let data = places.find_map(|place| std::fs::metadata(place).ok())?;
        (data.uid() != 0).then(|| Self {
            user: data.uid(),
            group: data.gid(),
        })
    }

    /// Gives it away, where that is allowed and the file system knows of owners.
    fn take(self, file: &File) {
        static TOLD: Once = Once::new();
        if let Err(error) = std::os::unix::fs::fchown(file, Some(self.user), Some(self.group)) {
            TOLD.call_once(
                || tracing::warn!(%error, "what is written stays root's: the store's owner may not read it"),
            );
        }
    }

    /// The same of a folder. The owner of what is above could put a link in its place.
    pub(super) fn take_folder(self, folder: &Path) {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(opened) = rustix::fs::open(folder, flags, Mode::empty()) {
            self.take(&File::from(opened));
        }
    }

    /// Gives away a folder that is root's: who made it may have been cut off before.
    pub(super) fn take_folder_of_root(self, folder: &Path) {
        if std::fs::symlink_metadata(folder).is_ok_and(|data| data.uid() == 0) {
            self.take_folder(folder);
        }
    }
}

pub(super) fn create_new(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some(owner) = owner {
        owner.take(&file);
    }
    Ok(file)
}

/// Writes as much of `data` as can go to the disk without a copy in the system's memory; gives how much that was. To
/// make that copy takes more time than to write it, and throws out what others read; nobody reads a pack soon but
/// the job that computes the image's checksum, which sees the disk then.
pub(super) fn write_direct(file: &File, data: &[u8]) -> io::Result<usize> {
    let is_aligned = data.as_ptr().addr().is_multiple_of(BLOCK);
    let whole = data.len() / BLOCK * BLOCK;
    if !is_aligned || whole < DIRECT || fcntl_setfl(file, OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let mut written = 0;
    while written < whole {
        match file.write_at(&data[written..whole], written as u64) {
            Ok(some) if some > 0 && some.is_multiple_of(BLOCK) => written += some,
            // The file system has another opinion of blocks, or of all this.
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    fcntl_setfl(file, OFlags::empty())?;
    Ok(written)
}

pub(super) fn write_synced(path: &Path, owner: Option<Owner>, data: &[u8]) -> io::Result<()> {
    let file = create_new(path, owner)?;
    let written = write_direct(&file, data)?;
    file.write_all_at(&data[written..], written as u64)?;
    // A failed fsync may have thrown the pages away: the file is given up, never synced again.
    file.sync_all()
}

/// Gives the file its name unless the name is taken.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system (NFS, some FUSE) or an old kernel has no flags for rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(from, to),
        done => done.map_err(io::Error::from),
    }
}

pub(super) fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}
