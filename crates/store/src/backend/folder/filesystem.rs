//! Which file systems a database can live on.

use std::path::Path;

use crate::error::{Error, Result};

/// Whether a database file may live on the file system that holds `path` (which may not exist yet).
///
/// SQLite's locks and its shared memory do not work over the network or through most user-space file systems;
/// see <https://www.sqlite.org/wal.html>, "WAL does not work over a network filesystem".
pub fn filesystem_kind(path: &Path) -> Result<FilesystemKind> {
    let mut existing = path;
    while !existing.try_exists().unwrap_or(false) {
        existing = match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let stat = rustix::fs::statfs(existing)
        .map_err(|error| Error::io(format!("cannot look at `{}`", existing.display()), error.into()))?;
    // The magic numbers of statfs(2); the field's type differs between architectures.
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "magics have 32 bits"
    )]
    let magic = stat.f_type as u32;
    Ok(FilesystemKind::from_magic(magic))
}

/// A file system, as far as it matters to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemKind {
    /// Locks and shared memory work as SQLite needs them.
    Local,
    /// They do not; the name is that of the file system.
    Unfit(&'static str),
}

impl FilesystemKind {
    pub(super) fn from_magic(magic: u32) -> Self {
        match magic {
            0x6969 => Self::Unfit("NFS"),
            0xff53_4d42 | 0xfe53_4d42 | 0x517b => Self::Unfit("CIFS/SMB"),
            0x0102_1997 => Self::Unfit("9p"),
            0x6573_5546 => Self::Unfit("FUSE"),
            0x00c3_6400 => Self::Unfit("Ceph"),
            0x5346_414f | 0x7375_7245 => Self::Unfit("AFS/Coda"),
            0x0bd0_0bd0 => Self::Unfit("Lustre"),
            0x786f_4256 => Self::Unfit("a VirtualBox shared folder"),
            _ => Self::Local,
        }
    }

    /// A sentence that refuses to put the database at `path` here and says where to put it instead.
    pub fn database_refusal(self, path: &Path) -> Option<String> {
        let Self::Unfit(name) = self else { return None };
        Some(format!(
            "the database `{}` would be on {name}, where SQLite loses data: put the data folder on a local \
             disk (the objects may stay where they are: `--objects`), or use PostgreSQL with `--database`",
            path.display()
        ))
    }
}
