//! Which files are taken, and whether one changed while it was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::OFlags;

use crate::platform::error::{Context, Error, Result};

/// What changes when a file is written to. Take one before the first byte is read and compare after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    written: (i64, i64),
}

impl Stamp {
    /// The file as it is now.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            written: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// Refuses the file if it was written to since.
    pub fn check(self, file: &File) -> Result<()> {
        if Self::of(file).context("could not look at a file that is being read")? == self {
            return Ok(());
        }
        Err(Error::invalid(
            "the file was changed while it was read; stop what writes to it (a running virtual machine?) and run the \
             command again",
        ))
    }
}

/// Refuses everything but a regular file, opened for reading only: a pipe would block us, a device is not the
/// caller's to give away, and what we cannot write we cannot harm.
pub fn check_kind(file: &File) -> Result<()> {
    let meta = file
        .metadata()
        .context("could not look at the file that was handed over")?;
    if !meta.is_file() {
        return Err(Error::invalid(
            "only a regular file can be imported, not a folder, a pipe or a device",
        ));
    }
    let flags = rustix::fs::fcntl_getfl(file).context("could not ask how the file was opened")?;
    if flags & (OFlags::RWMODE | OFlags::PATH) != OFlags::RDONLY {
        return Err(Error::invalid("the file must be opened for reading only"));
    }
    Ok(())
}
