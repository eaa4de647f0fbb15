//! The one error of this crate. Its message is meant for the person who brought the image, so it is a plain
//! sentence that says what was found and what to do next.

use std::io;

/// What went wrong, for code that has to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The input is something else than what is taken, or asks for a feature that is not taken.
    Refused,
    /// The input claims to be a format that is taken, but breaks its rules or is cut off.
    Damaged,
    /// The input asks for more bytes, tables or memory than the limits allow.
    Limit,
    /// The source could not be read or the result could not be handed on.
    Io,
}

impl ErrorKind {
    /// The word used on the pipe and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Damaged => "damaged",
            Self::Limit => "limit",
            Self::Io => "io",
        }
    }
}

/// An error with a sentence for the user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<io::Error>,
}

/// The next step for an image that breaks the rules of its format.
pub(crate) const CHECK: &str = "See what `qemu-img check` says about it, or make it anew.";
/// The next step for an image that is not all there.
pub(crate) const AGAIN: &str = "Download or copy it again and compare its checksum.";

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of any kind, as a decoder on the other side of a pipe needs it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    pub(crate) fn io(message: impl Into<String>, source: io::Error) -> Self {
        Self {
            kind: ErrorKind::Io,
            message: message.into(),
            source: Some(source),
        }
    }

    /// What went wrong.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence for the user.
    pub fn message(&self) -> &str {
        &self.message
    }
}
