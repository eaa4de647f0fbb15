//! A database that does not answer, told from one that refuses.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

/// Whether `error` says that the database does not answer: no connection came free in time, one broke, or its server
/// stops or starts, or had heard nothing of a transaction for too long (SQLSTATE class 08, 57P01 to 57P03, 25P03;
/// PostgreSQL's manual, appendix A). Nothing is known of what was asked then, and the same may succeed later.
pub fn database_away(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) => true,
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
            SqlxError::Io(_) | SqlxError::PoolTimedOut | SqlxError::PoolClosed | SqlxError::WorkerCrashed => {
                true
            }
            SqlxError::Database(error) => error.code().is_some_and(|code| is_away(&code)),
            _ => false,
        },
        _ => false,
    }
}

/// SQLite's codes are shorter numbers.
fn is_away(code: &str) -> bool {
    (code.len() == 5 && code.starts_with("08")) || ["57P01", "57P02", "57P03", "25P03"].contains(&code)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
        let query = |error| DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)));
        let cut = || SqlxError::Io(io::ErrorKind::UnexpectedEof.into());
        for error in [
            query(cut()),
            query(SqlxError::PoolTimedOut),
            query(SqlxError::PoolClosed),
        ] {
            assert!(database_away(&error), "{error}");
            let error = Error::db("cannot look", error);
            assert!(error.kind() == Kind::DatabaseAway && error.retryable(), "{error}");
        }
        assert!(!database_away(&query(SqlxError::RowNotFound)));
        assert!(!database_away(&DbErr::Custom("planted".into())));
        let away = ["08006", "57P01", "57P03", "25P03"];
        assert!(away.into_iter().all(is_away));
        let there = ["23505", "57014", "08", "0800", "14", "53100"];
        assert!(!there.into_iter().any(is_away));
    }
}
