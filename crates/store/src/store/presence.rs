//! Whether the store is where it was: under a disk that is not mounted everything is missing, and in an older copy what
//! was written since.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::Store;
use crate::error::{Error, Kind, Result};
use crate::header::{header_load, header_read};
use crate::heal::HEAL;
use crate::rows;
use crate::verify::damaging;

/// A store that was seen to be there is taken to be there for so long by who cannot read something of it.
const THERE_FOR: Duration = Duration::from_secs(5);

impl Store {
    /// Answers when the backend does and still holds this store's header; otherwise fails, with [`Kind::StoreAway`]
    /// where it holds none, or cannot be read at all, as under a disk that went away. One small listing, and one small
    /// read.
    pub async fn header_check(&self) -> Result<()> {
        match header_load(&*self.inner.backend).await {
            Ok(Some(found)) if found.header.store_id == self.id() => Ok(()),
            Ok(_) => Err(self.away()),
            Err(error) if error.kind() == Kind::Io => Err(self.away().with_source(error)),
            Err(error) => Err(error),
        }
    }

    fn away(&self) -> Error {
        let text = format!("`{}` no longer holds the store {}", self.describe(), self.id());
        Error::new(Kind::StoreAway, text)
    }

    /// Fails where the store is not there, or does not answer: what is missing then says nothing. Headers that are
    /// damaged, or lost alone, are of a store that is there. One small read in most cases: a listing may be late.
    pub async fn there_check(&self) -> Result<()> {
        let header = header_read(&*self.inner.backend, self.inner.header.number).await;
        match header {
            Ok(found) if found.header.store_id == self.id() => return Ok(()),
            // It does not answer, say.
            Err(error) if !damaging(&error) && error.kind() != Kind::Incompatible => return Err(error),
            _ => {}
        }
        match self.header_check().await {
            Err(error) if error.kind() == Kind::StoreAway => {
                let journal = self.journal().list().await;
                let is_there = journal.is_ok_and(|listed| !listed.is_empty());
                if is_there { Ok(()) } else { Err(error) }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::Damaged | Kind::NotFound | Kind::HeadersDamaged
                ) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// The error, or that the store is not there, where it follows from that. A store that was there a moment ago is
    /// not asked again: who reads what is damaged may read much of it.
    pub(crate) async fn or_away(&self, error: Error) -> Error {
        if !damaging(&error) {
            return error;
        }
        let now = self.inner.options.world.uptime();
        let looked = *self.there_looked();
        if looked.is_some_and(|at| now.saturating_sub(at) < THERE_FOR) {
            return error;
        }
        if let Err(away) = self.there_check().await {
            return away.with_source(error);
        }
        *self.there_looked() = Some(now);
        error
    }

    fn there_looked(&self) -> MutexGuard<'_, Option<Duration>> {
        self.inner
            .there_looked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a gc or a heal that was cut off, or is under way, has moved data that nobody was told of: rows may name
    /// objects that an older copy of the store lacks, although the journal does not tell of it.
    pub async fn has_untold_moves(&self) -> Result<bool> {
        let (db, number) = (&self.inner.db, self.inner.number);
        let context = |error| Error::db("cannot look for what was cut off", error);
        Ok(rows::gc_untold(db, number).await.map_err(context)?
            || rows::sessions_any_open(db, number, HEAL).await.map_err(context)?)
    }

    /// The key of one of the `limit` objects that were published last and are not there (any more), if there is such a
    /// one. An older copy of the store lacks them.
    pub async fn newest_missing(&self, limit: u64) -> Result<Option<String>> {
        let newest = rows::objects_newest(&self.inner.db, self.inner.number, limit).await;
        for object in newest.map_err(|error| Error::db("cannot list the newest objects", error))? {
            let key = object.object_key();
            if self.inner.backend.stat(&key).await?.is_none() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}
