//! Room on a disk. Whoever writes images leaves a reserve free, because what keeps the books (the database) may lie on
//! the same disk, and must still be able to write that something failed or was deleted.

use std::io;
use std::path::{Path, PathBuf};

/// Left free at most.
const RESERVE_BYTES: u64 = 256 << 20;
/// Left free of a small disk: one part in so many.
const RESERVE_PART: u64 = 20;
/// How much may be written at most until the disk is looked at again: so much can each of several writers at once take
/// of the reserve.
const GRANT_BYTES: u64 = 8 << 20;
/// The same as a part of the reserve.
const GRANT_PART: u64 = 4;

/// A disk's room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// In all; 0 where the file system does not say.
    pub total: u64,
}

impl Space {
    /// Of the file system that `path` lies on; it exists.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// What is left free: 256 MiB, or 5 % of a disk below 5 GiB.
    pub fn reserve(&self) -> u64 {
        RESERVE_BYTES.min(self.total / RESERVE_PART)
    }

    /// What may be written.
    pub fn usable(&self) -> u64 {
        if self.total == 0 {
            return u64::MAX;
        }
        self.free.saturating_sub(self.reserve())
    }
}

/// What one writer may still write into a folder.
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    granted: u64,
}

impl Room {
    /// Of the folder's file system.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            granted: 0,
        }
    }

    /// To be asked before `bytes` are written; [`io::ErrorKind::StorageFull`] where they would take of the reserve.
    /// Looks at the disk every 8 MiB only.
    pub fn take(&mut self, bytes: u64) -> io::Result<()> {
        if self.granted < bytes {
            self.granted = grant(Space::of(&self.folder)?, bytes)?;
        }
        self.granted -= bytes;
        Ok(())
    }
}

fn grant(space: Space, bytes: u64) -> io::Result<u64> {
    let usable = space.usable();
    if usable < bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let most = GRANT_BYTES.min(space.reserve() / GRANT_PART);
    Ok(usable.min(most.max(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(free: u64, total: u64) -> Space {
        Space {
            free: free * MIB,
            total: total * MIB,
        }
    }

    #[test]
    fn a_reserve_is_left_that_fits_the_disk() {
        assert_eq!(space(0, 100 << 10).reserve(), 256 * MIB);
        assert_eq!(space(0, 1000).reserve(), 50 * MIB);
        assert_eq!(space(51, 1000).usable(), MIB);
        assert_eq!(space(49, 1000).usable(), 0);
        assert_eq!(space(0, 0).usable(), u64::MAX, "a file system that does not say");
    }

    #[test]
    fn no_more_is_granted_than_there_is() {
        assert_eq!(grant(space(500, 1000), MIB).ok(), Some(8 * MIB));
        assert_eq!(grant(space(64, 80), MIB).ok(), Some(MIB), "a small disk");
        assert_eq!(
            grant(space(500, 1000), 16 * MIB).ok(),
            Some(16 * MIB),
            "one large write"
        );
        assert_eq!(grant(space(53, 1000), MIB).ok(), Some(3 * MIB));
        let full = grant(space(53, 1000), 4 * MIB).expect_err("takes of the reserve");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
