//! The one error of the service: what a user may hear, kept apart from what only the log may hear.
//!
//! `Display` is the sentence for the user. An internal failure shows none of its cause there; the cause is logged
//! once, at the edge (`platform::api::error`), beside the request id.

use std::error::Error as StdError;

/// Why an operation did not happen. Each kind has one HTTP status; the table is in `platform::api::error`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: the request cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// 401: no token, or one that is unknown, expired or revoked.
    #[error("Unable to authenticate you.")]
    Unauthenticated,
    /// 403: a valid token that may not do this. DigitalOcean's sentence, and behind it ours: what is missing, and who
    /// can help. What stands here tells nothing of another team's things; those are [`Error::NotFound`].
    #[error("You do not have permission to perform this action. {0}")]
    Forbidden(String),
    /// 404: there is no such thing, or it is not yours.
    #[error("The resource you were accessing could not be found.")]
    NotFound,
    /// 409: it clashes with something that exists.
    #[error("{0}")]
    Conflict(String),
    /// 412: the thing is not in the state this needs.
    #[error("{0}")]
    Precondition(String),
    /// 413: larger than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// 422: understood, but not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// 429: too many requests; try again after this many seconds.
    #[error("API rate limit exceeded.")]
    TooMany {
        /// Whole seconds until the next request can succeed.
        retry_after: u64,
    },
    /// 429: too many of them at once; the sentence says of what.
    #[error("{0}")]
    TooManyOpen(String),
    /// 503: not now; the sentence says what is being waited for.
    #[error("{0}")]
    Unavailable(String),
    /// 503: what the server stands on is away, and is nobody's fault who asks.
    #[error("{0}")]
    Away(Base),
    /// 503: stored data is damaged, which no further try changes; the sentence says what does. Its word for programs is
    /// `damaged`.
    #[error("{0}")]
    Damaged(String),
    /// 500: a fault of ours.
    #[error("Something went wrong on our side. The server's log has the details under this request id.")]
    Internal {
        /// What was being done, for the log.
        context: String,
        /// The cause, for the log.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
}

/// What the server stands on, with the sentence that says that it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Base {
    /// The rows.
    #[error("The database does not answer at the moment; try again.")]
    Database,
    /// The objects.
    #[error("The store does not answer at the moment; try again.")]
    Store,
    /// The place of the objects, which answers and holds no store.
    #[error("The store is not where it was; its operator has to look whether its disk is mounted.")]
    Mount,
}

/// SQLite's words for a file that is damaged (`SQLITE_CORRUPT`, 11) and for one that is no database (any more:
/// `SQLITE_NOTADB`, 26).
const CORRUPT: [&str; 2] = ["database disk image is malformed", "file is not a database"];
/// A read that fails is damage to SQLite too, so that the disk may be what has to be looked at.
pub const DATABASE_DAMAGED: &str = "The database's disk fails, or its file is damaged; what is stored is untouched, and its operator has to stop \
                                    the server and run `cistern recover --data DIR` (DIR is its data folder), which makes a new \
                                    database from the store and moves the damaged one aside.";

/// The result of a service operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A fault of ours, with what was being done; or, where a damaged database is below it, [`Error::Damaged`]:
    /// wherever that is met, there is one way out of it.
    pub fn internal(context: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        let context = context.into();
        let chain = chain_of(&source);
        if CORRUPT.iter().any(|words| chain.contains(words)) {
            tracing::error!(error = chain, "the database is damaged: {context}");
            return Self::Damaged(DATABASE_DAMAGED.into());
        }
        Self::Internal {
            context,
            source: Some(Box::new(source)),
        }
    }

    /// A fault of ours that has no other error below it.
    pub fn bug(context: impl Into<String>) -> Self {
        Self::Internal {
            context: context.into(),
            source: None,
        }
    }

    /// The refusal of a value, as a sentence.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// A refusal for want of a right, with a sentence that names it.
    pub fn forbidden(missing: impl Into<String>) -> Self {
        Self::Forbidden(missing.into())
    }

    /// The whole chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        match self {
            Self::Internal {
                context,
                source: Some(source),
            } => format!("{context}: {}", chain_of(&**source)),
            Self::Internal {
                context,
                source: None,
            } => context.clone(),
            other => other.to_string(),
        }
    }
}

impl From<sea_orm::DbErr> for Error {
    fn from(source: sea_orm::DbErr) -> Self {
        Self::database("the database refused a statement", source)
    }
}

impl Error {
    /// SQLite's words for a full disk (result codes 13 and 4874) and one that fails (10), and PostgreSQL's for a full
    /// one (`53100`), are the operator's to mend, as a damaged file is ([`Error::internal`]); a database that does not
    /// answer is [`Error::Away`]; the rest is a fault of ours.
    pub fn database(context: &str, source: sea_orm::DbErr) -> Self {
        let text = source.to_string();
        if ["disk is full", "(code: 4874)", "No space left on device"]
            .iter()
            .any(|words| text.contains(words))
        {
            tracing::error!(error = text, "the database's disk is full");
            return Self::Unavailable(
                "The database's disk is full; its operator has to free or add space.".into(),
            );
        }
        if text.contains("disk I/O error") {
            tracing::error!(error = text, "the database's disk fails: {context}");
            return Self::Unavailable(
                "The database's disk fails; its operator has to look after it. Where it cannot be read any more, `cistern \
                 recover` makes a new database from the store."
                    .into(),
            );
        }
        if store::database_away(&source) {
            tracing::warn!(error = text, "the database does not answer: {context}");
            return Self::Away(Base::Database);
        }
        Self::internal(context, source)
    }
}

impl From<store::Error> for Error {
    /// What the operator can mend is said to the user; the rest is a fault of ours.
    fn from(source: store::Error) -> Self {
        match source.kind() {
            store::Kind::NoSpace => {
                tracing::error!(error = chain_of(&source), "the store is full");
                Self::Unavailable("The store is full; its operator has to add space, or free some: `cistern gc --now --purge` gives up deleted images \
                     and frees what nothing needs.".into())
            }
            store::Kind::Unavailable => {
                tracing::warn!(error = chain_of(&source), "the store does not answer");
                Self::Away(Base::Store)
            }
            store::Kind::DatabaseAway => {
                tracing::warn!(error = chain_of(&source), "the database does not answer");
                Self::Away(Base::Database)
            }
            store::Kind::StoreAway => {
                tracing::error!(error = chain_of(&source), "the store is not where it was");
                Self::Away(Base::Mount)
            }
            store::Kind::HeadersDamaged => Self::Damaged(chain_of(&source)),
            store::Kind::Damaged => {
                tracing::error!(error = chain_of(&source), "stored data is damaged");
                Self::Damaged(
                    "A part of the stored data is damaged; `cistern store verify --read-data` names the images that it \
                     hits, and importing them again heals them."
                        .into(),
                )
            }
            _ => Self::internal("the store", source),
        }
    }
}

/// An error and everything below it, in one line.
pub fn chain_of(error: &dyn StdError) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
}

/// Names what was being done when something below failed.
pub trait Context<T> {
    /// Turns the failure into [`Error::Internal`] with `what` as its context.
    fn context(self, what: &str) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|source| Error::internal(what, source))
    }
}
