//! Writing a file so that it is durable, and giving it a name that nothing has.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, OFlags, RenameFlags, fcntl_setfl, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::owner::Within;

/// What a direct write is made of, whatever the disk; also where it begins in memory.
pub(super) const BLOCK: usize = 4096;
/// Less is not worth it.
pub(super) const DIRECT: usize = 1 << 20;

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

pub(super) fn write_synced(file: &File, data: &[u8]) -> io::Result<()> {
    let written = write_direct(file, data)?;
    file.write_all_at(&data[written..], written as u64)?;
    // A failed fsync may have thrown the pages away: the file is given up, never synced again.
    file.sync_all()
}

/// A name in a folder.
type Place<'a> = (&'a Within, &'a OsStr);

/// Gives the file its name unless the name is taken.
pub(super) fn rename_new(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    match renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // The file system (NFS, some FUSE) or an old kernel has no flags for rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(from, to),
        done => Ok(done?),
    }
}

pub(super) fn link_new(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?;
    Ok(unlinkat(from.0, from.1, AtFlags::empty())?)
}
