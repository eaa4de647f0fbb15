//! The crate's one error type: a small kind to match on, a context for people, a source for logs.
//!
//! `Display` shows this level only; the edge logs the chain. No message contains a credential: remote
//! errors are rewritten in `backend::remote` before they get here.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::Range;

use sea_orm::DbErr;

use crate::rows::database_away;

/// Shorthand used throughout the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is, and so what the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The object, root or store is not there.
    NotFound,
    /// The key or store is there already and was left untouched.
    Exists,
    /// The disk, quota or database is full. Free space, then try again.
    NoSpace,
    /// Stored bytes are missing or are not what was written. [`Error::range`] says which of a disk.
    Damaged,
    /// No copy of the store's header is whole: nothing of it can be opened until one is put back.
    HeadersDamaged,
    /// The session's lease is over or was taken away: nothing of it may be published. Start again.
    LeaseLost,
    /// Another format, other feature bits, another store, or a key that does not fit.
    Incompatible,
    /// The caller asked for something that cannot be.
    Invalid,
    /// The backend does not let us, or gives an answer that nobody knows: it says nothing of what is stored.
    Refused,
    /// A passing failure: the same call may succeed later.
    Unavailable,
    /// The same, and it is the database that does not answer.
    DatabaseAway,
    /// The backend answers and does not hold the store any more, as where its disk is not mounted: that anything is
    /// missing there says nothing of what is stored.
    StoreAway,
    /// Somebody asked for it to stop.
    Stopped,
    /// Any other failure of a device or the database.
    Io,
}

/// A failure of the store.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    range: Option<Range<u64>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error without a source.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            range: None,
            source: None,
        }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, naming the byte range of the disk that it concerns.
    #[must_use]
    pub fn at(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// The same error with more context in front.
    #[must_use]
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The disk's byte range that a [`Kind::Damaged`] error is about, where it is known.
    pub fn range(&self) -> Option<Range<u64>> {
        self.range.clone()
    }

    /// What happened, without the range.
    pub(crate) fn text(&self) -> &str {
        &self.context
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::DatabaseAway)
    }

    /// From an I/O error, keeping "no space", "exists", "not found", "not allowed" and "try again" apart.
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            _ if is_short_of(&source) => Kind::Unavailable,
            io::ErrorKind::PermissionDenied => Kind::Refused,
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::AlreadyExists => Kind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Kind::NoSpace
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => {
                Kind::Unavailable
            }
            _ => Kind::Io,
        };
        let mut context = context.into();
        if kind == Kind::Refused {
            context.push_str(
                " (if it belongs to another user: `chown -R` the folder to the user that the server runs as)",
            );
        }
        Self::new(kind, context).with_source(source)
    }

    /// From a database error. A full database is `NoSpace`, a lock `Unavailable`, a lost connection `DatabaseAway`.
    pub(crate) fn db(context: impl Into<String>, source: DbErr) -> Self {
        let text = source.to_string();
        let kind = if text.contains("disk is full") || text.contains("No space left") {
            Kind::NoSpace
        } else if text.contains("database is locked")
            || text.contains("deadlock")
            || text.contains("could not serialize")
        {
            Kind::Unavailable
        } else if database_away(&source) {
            Kind::DatabaseAway
        } else {
            Kind::Io
        };
        Self::new(kind, context).with_source(source)
    }
}

/// A range as people read it everywhere: its first and its last byte, the first of all being 0.
pub(crate) fn bytes_shown(range: &Range<u64>) -> String {
    match range.end.checked_sub(1).filter(|last| *last >= range.start) {
        Some(last) => format!("bytes {}-{last}", range.start),
        None => format!("no bytes at {}", range.start),
    }
}

/// Whether this process or the system has too much open, or no memory: it passes, and is no word on the disk.
fn is_short_of(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.range {
            Some(range) => write!(f, " ({} of the disk)", bytes_shown(range)),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::damaging;

    #[test]
    fn a_range_is_told_by_its_first_and_its_last_byte() {
        let error = Error::new(Kind::Damaged, "a frame is damaged").at(65536..131_072);
        assert_eq!(
            error.to_string(),
            "a frame is damaged (bytes 65536-131071 of the disk)"
        );
        assert_eq!(error.text(), "a frame is damaged");
        assert_eq!(bytes_shown(&(0..1)), "bytes 0-0");
        assert_eq!(bytes_shown(&(7..7)), "no bytes at 7");
        assert_eq!(bytes_shown(&(0..0)), "no bytes at 0");
    }

    #[test]
    fn only_what_a_device_says_of_bytes_is_damage() {
        use rustix::io::Errno;
        let damage = |errno: Errno| damaging(&Error::io("cannot read", errno.into()));
        assert!(damage(Errno::IO) && damage(Errno::NOENT));
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::ACCESS,
            Errno::PERM,
        ] {
            assert!(!damage(errno), "{errno}");
        }
    }
}
