//! Whether the store is where it was: under a disk that is not mounted everything is missing, and in an older copy what
//! was written since.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::Store;
use crate::error::{Error, Kind, Result};
use crate::header::{header_load, header_read};
use crate::journal::{JournalPlace, JournalSealed};
use crate::rows;
use crate::verify::damaging;

/// A store that was seen to be there is taken to be there for so long by who cannot read something of it.
const THERE_FOR: Duration = Duration::from_secs(5);
/// Objects of the journal that are read where no header is left: some of them may be damaged as well.
const JOURNAL_LOOKS: usize = 4;

impl Store {
    /// Answers when the backend does and still holds this store's header; otherwise fails, with [`Kind::StoreAway`]
    /// where it holds none, or cannot be read at all, as under a disk that went away. One small read in most cases.
    pub async fn header_check(&self) -> Result<()> {
        if self.own_header_is_there().await? {
            return Ok(());
        }
        match self.header_is_there().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.away()),
            Err(error) if error.kind() == Kind::Io => Err(self.away().with_source(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether the newest header that we know is there, and whole: it may have given way to another. Fails where the
    /// backend does not answer, say.
    async fn own_header_is_there(&self) -> Result<bool> {
        match header_read(&*self.inner.backend, self.header_known().number).await {
            Ok(found) => Ok(found.header.store_id == self.id()),
            Err(error) if damaging(&error) || error.kind() == Kind::Incompatible => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a header; fails with [`Kind::StoreAway`] where it is another store's.
    async fn header_is_there(&self) -> Result<bool> {
        let Some(found) = header_load(&*self.inner.backend).await? else {
            return Ok(false);
        };
        if found.header.store_id != self.id() {
            return Err(self.away());
        }
        if self.key().is_none_or(|key| found.check_code(key).is_ok()) {
            self.header_note(&found.header);
        }
        Ok(true)
    }

    pub(crate) fn away(&self) -> Error {
        let text = format!("`{}` no longer holds the store {}", self.describe(), self.id());
        Error::new(Kind::StoreAway, text)
    }

    /// Fails where the store is not there, or does not answer: what is missing then says nothing. Headers that are
    /// damaged, or lost alone, are of a store that is there. One small read in most cases: a listing may be late.
    pub async fn there_check(&self) -> Result<()> {
        if self.own_header_is_there().await? {
            return Ok(());
        }
        let lost = match self.header_is_there().await {
            Ok(true) => return Ok(()),
            Ok(false) => self.away(),
            Err(error) => match error.kind() {
                Kind::Io => self.away().with_source(error),
                Kind::Damaged | Kind::NotFound | Kind::HeadersDamaged => return Ok(()),
                _ => return Err(error),
            },
        };
        match self.journal_own().await {
            Ok(Some(_)) => Ok(()),
            _ => Err(lost),
        }
    }

    /// One of the newest objects of the journal that can be read and is this store's.
    pub(crate) async fn journal_own(&self) -> Result<Option<JournalPlace>> {
        let journal = self.journal();
        for listed in journal.list().await?.iter().rev().take(JOURNAL_LOOKS) {
            if journal.get(listed.place).await.is_ok() {
                return Ok(Some(listed.place));
            }
        }
        Ok(None)
    }

    /// Writes an object of the journal durably, as [`crate::Journal::put`] does, into the place that holds this store:
    /// fails with [`Kind::StoreAway`] where it does not, or no more when the object was written, which is then removed.
    pub async fn journal_put(&self, object: &JournalSealed) -> Result<()> {
        self.header_check().await?;
        // Until it is known that the store was there, the object proves nothing to who looks for lost headers.
        let _unproven = self.inner.unproven.read().await;
        let journal = self.journal();
        journal.put(object).await?;
        match self.header_check().await {
            Err(away) if away.kind() == Kind::StoreAway => {
                if let Err(error) = journal.delete(object.place()).await {
                    tracing::debug!(%error, "could not remove a journal object that lies elsewhere");
                }
                Err(away)
            }
            checked => checked,
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

    /// When the first gc or heal began that has moved data, or may have, and was cut off, or is at work, before
    /// anything tells the store from a copy from before: rows may name objects that such a copy lacks, although the
    /// journal does not tell of it. In microseconds since 1970.
    pub async fn untold_since(&self) -> Result<Option<i64>> {
        let since = rows::untold_since(&self.inner.db, self.inner.number).await;
        since.map_err(|error| Error::db("cannot look for what was cut off", error))
    }

    /// The key of one of the objects that were made last (`limit` by number, and as many by the clock), of those
    /// published at `since_us` or later, that is not there (any more), if there is such a one. An older copy of the
    /// store lacks them.
    pub async fn newest_missing(&self, limit: u64, since_us: i64) -> Result<Option<String>> {
        let newest = rows::objects_newest(&self.inner.db, self.inner.number, since_us, limit).await;
        for object in newest.map_err(|error| Error::db("cannot list the newest objects", error))? {
            let key = object.object_key();
            // Gc may have deleted it since it was listed.
            if self.inner.backend.stat(&key).await?.is_none() && self.object_live(object.id).await?.is_some()
            {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}
