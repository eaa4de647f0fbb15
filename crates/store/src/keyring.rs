//! The store's headers: two at a time, and new ones where a copy is missing or damaged, or where the wrapping keys of
//! an encrypted store change, which the old ones give way to.
//!
//! The store's own key stays where these change: what a removed wrapping key opened was read by whoever had it, and
//! could have been copied. What removing it ensures is that no object of the store holds the store's key sealed with it
//! any more.

mod writing;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::backend::Backend;
use crate::error::{Error, Kind, Result};
use crate::header::{Header, header_load, header_numbers, header_read};
use crate::keys::{WrappedKey, WrappingKey};
use crate::rows;
use crate::seal::StoreKey;
use crate::store::Store;
use crate::verify::damaging;
use writing::header_write;

/// A store is lost without its header: each is written so many times.
const COPIES: u32 = 2;

/// Writes a header and its copy, from `header.number` on; `key` is that of an encrypted store.
pub(crate) async fn headers_put(
    backend: &dyn Backend,
    header: &mut Header,
    key: Option<&StoreKey>,
) -> Result<()> {
    let first = header.number;
    for number in (first..first + COPIES).rev() {
        header.number = number;
        header_write(backend, header, key).await?;
    }
    Ok(())
}

/// A change of the wrapping keys that is made.
#[derive(Debug)]
pub struct KeyChange {
    /// The key that was added or removed.
    pub key: WrappedKey,
    /// Why the store's header is not there twice, or older ones are there still, which change nothing of it. A server
    /// mends that ([`Store::headers_mend`]).
    pub rest: Option<Error>,
}

/// The headers of a store, as they are.
#[derive(Debug)]
pub(crate) struct Headers {
    /// The one in force: the highest that is whole, or the newest that this process knows where that is gone.
    force: Header,
    /// The numbers of those that say the same, highest first.
    copies: Vec<u32>,
    /// Those that say something else: they should have given way to the one in force.
    pub(crate) stale: Vec<u32>,
    /// Those that cannot be read, and why.
    pub(crate) damaged: Vec<(u32, Error)>,
}

impl Headers {
    fn new(known: Header) -> Self {
        Self {
            force: known,
            copies: Vec::new(),
            stale: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// The next lower one, which is whole.
    fn add(&mut self, header: Header) {
        let number = header.number;
        if self.copies.is_empty() && number > self.force.number {
            self.force = header;
            self.copies.push(number);
            return;
        }
        let is_same = Header {
            number: self.force.number,
            ..header
        } == self.force;
        if is_same {
            self.copies.push(number);
        } else {
            self.stale.push(number);
        }
    }

    fn missing(&self) -> u32 {
        COPIES.saturating_sub(u32::try_from(self.copies.len()).unwrap_or(COPIES))
    }

    /// The number of one that is there.
    fn any_number(&self) -> Option<u32> {
        let damaged = self.damaged.iter().map(|(number, _)| number);
        self.copies
            .iter()
            .chain(&self.stale)
            .chain(damaged)
            .next()
            .copied()
    }

    /// The number of the one in force, where there is no copy of it and has to be one: a store in clear of an earlier
    /// version has number 0 alone, until a server opens it.
    pub(crate) fn alone(&self) -> Option<u32> {
        match self.copies[..] {
            [number] if number > 0 || self.force.is_encrypted() => Some(number),
            _ => None,
        }
    }
}

impl Store {
    /// Whether the store is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.inner.header.is_encrypted()
    }

    /// The store's key, for what is kept beside the store and must not be readable without it either; `None` where
    /// the store is not encrypted.
    pub fn key(&self) -> Option<&StoreKey> {
        self.inner.keys.store_key()
    }

    /// The wrapping keys as they are now, oldest first.
    pub async fn key_list(&self) -> Result<Vec<WrappedKey>> {
        Ok(self.header_now().await?.wrapped_keys)
    }

    /// The wrapping key that this store was opened with, among these.
    pub fn key_own<'a>(&self, among: &'a [WrappedKey]) -> Option<&'a WrappedKey> {
        let own = self.inner.options.key.as_ref()?;
        among
            .iter()
            .find(|wrapped| wrapped.open(self.id(), own).is_some())
    }

    /// Adds a wrapping key. Fails with [`Kind::Exists`] where it is one already.
    pub async fn key_add(&self, wrapping: &WrappingKey) -> Result<KeyChange> {
        let mut header = self.header_now().await?;
        let same = header
            .wrapped_keys
            .iter()
            .find(|wrapped| wrapped.open(self.id(), wrapping).is_some());
        if let Some(same) = same {
            let text = format!("this key opens the store already: it is the key {}", same.id);
            return Err(Error::new(Kind::Exists, text));
        }
        let key = WrappedKey::new(
            &self.inner.options.world,
            self.id(),
            wrapping,
            self.key_or_refuse()?,
        )?;
        header.wrapped_keys.push(key.clone());
        let (first, is_alone) = self.header_replace(header, &key.id).await?;
        // They lack the key, and are not in force.
        let left = self.headers_older_delete(first).await.err();
        let alone = self.header_copy(is_alone).await;
        let rest = left.or(alone);
        Ok(KeyChange { key, rest })
    }

    /// Removes the wrapping key `id`: no object of the store holds it afterwards. Not the one that this store was
    /// opened with, whose holder would be locked out. Where a removal came half way, doing it again does the rest.
    pub async fn key_remove(&self, id: &str) -> Result<KeyChange> {
        let mut header = self.header_now().await?;
        let Some(at) = header.wrapped_keys.iter().position(|wrapped| wrapped.id == id) else {
            return self.key_remove_again(id).await;
        };
        if self.key_own(&header.wrapped_keys[at..=at]).is_some() {
            let text = format!(
                "the key {id} is the one that the store was opened with, which would not open any more: add the new key \
                 with `cistern key add`, put it into the settings, and remove this one then"
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        let key = header.wrapped_keys.remove(at);
        let (first, is_alone) = self.header_replace(header, id).await?;
        // First: they are what the key opens, and their room may be what the copy needs.
        self.headers_older_delete(first)
            .await
            .map_err(|error| still_held(id, error))?;
        let rest = self.header_copy(is_alone).await;
        Ok(KeyChange { key, rest })
    }

    /// The key is in the header in force no more. Older ones that hold it are there where the removal was cut off, or
    /// could not delete them.
    async fn key_remove_again(&self, id: &str) -> Result<KeyChange> {
        let backend = &*self.inner.backend;
        let headers = self.headers_look().await?;
        let mut key = None;
        for number in &headers.stale {
            match header_read(backend, *number).await {
                Ok(found) => key = key.or(found.header.wrapped_keys.into_iter().find(|key| key.id == id)),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Without a copy of the one in force they are all that is left.
        let Some(key) = key.filter(|_| !headers.copies.is_empty()) else {
            let text = format!("the store has no key `{id}`: `cistern key list` shows those it has");
            return Err(Error::new(Kind::NotFound, text));
        };
        let is_alone = headers.missing() > 0;
        // One that is damaged may hold it too.
        let damaged = headers.damaged.into_iter().map(|(number, _)| number);
        for number in damaged.chain(headers.stale) {
            let deleted = backend.delete(&Header::key(number)).await;
            deleted.map_err(|error| still_held(id, error))?;
        }
        let rest = self.header_copy(is_alone).await;
        Ok(KeyChange { key, rest })
    }

    /// The header in force, which may be newer than that of our opening.
    async fn header_now(&self) -> Result<Header> {
        let key = self.key_or_refuse()?;
        let found = header_load(&*self.inner.backend).await?;
        let Some(found) = found.filter(|found| found.header.store_id == self.id()) else {
            return Err(self.away());
        };
        found.check_code(key)?;
        Ok(found.header)
    }

    /// Fails where the store is in clear: it has no wrapping keys, and takes none.
    pub fn encrypted_check(&self) -> Result<()> {
        self.key_or_refuse().map(drop)
    }

    fn key_or_refuse(&self) -> Result<&StoreKey> {
        self.key().ok_or_else(|| not_encrypted(self.id()))
    }

    /// Writes `header`, in which the wrapping key `id` was changed, under the next numbers, which it claims first so
    /// that no number is ever used twice. Gives the first of them, and whether there is one header of it alone. Of two
    /// changes at once the later wins: callers keep them apart.
    ///
    /// The change is made as soon as one new header is there durably, as that is in force; whatever fails from then on
    /// is told beside it. It is not taken back: another process may have read the header, and would write it anew where
    /// it finds it gone. Whoever dies here leaves a header in force, and older ones that the next to mend deletes.
    async fn header_replace(&self, header: Header, id: &str) -> Result<(u32, bool)> {
        self.key_or_refuse()?;
        let witness = Header::key(header.number);
        let claim = self.header_claim(COPIES).await?;
        match self.header_add(header, &claim, &witness).await {
            Ok(failed) => Ok((claim.numbers.start, failed.is_some())),
            Err(unwritten) if unwritten.is_certain => Err(unwritten.error),
            Err(unwritten) => {
                let text = format!(
                    "the store did not say whether this change of the key {id} was made: `cistern key list` shows whether the \
                     store has that key, and `cistern key remove {id}` takes it away, when the store answers"
                );
                Err(Error::new(Kind::Io, text).with_source(unwritten.error))
            }
        }
    }

    /// Deletes the headers that gave way to the one numbered `first`.
    async fn headers_older_delete(&self, first: u32) -> Result<()> {
        let backend = &*self.inner.backend;
        for number in header_numbers(backend).await? {
            if number < first {
                backend.delete(&Header::key(number)).await?;
            }
        }
        Ok(())
    }

    /// Tries once more to write the copy of a header that is alone; gives why it could not be.
    async fn header_copy(&self, is_alone: bool) -> Option<Error> {
        if !is_alone {
            return None;
        }
        self.headers_mend().await.err()
    }

    /// Reads every header whole.
    pub(crate) async fn headers_look(&self) -> Result<Headers> {
        let backend = &*self.inner.backend;
        let mut headers = Headers::new(self.header_known());
        for number in self.header_numbers_known().await? {
            let read = header_read(backend, number).await.and_then(|found| {
                self.key().map_or(Ok(()), |key| found.check_code(key))?;
                Ok(found.header)
            });
            match read {
                Ok(header) if header.store_id == self.id() => headers.add(header),
                Ok(_) => return Err(self.away()),
                // Deleted since it was listed, when a key was changed.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) if damaging(&error) => headers.damaged.push((number, error)),
                Err(error) => return Err(error),
            }
        }
        if headers.any_number().is_none() {
            return Err(self.away());
        }
        self.header_note(&headers.force);
        Ok(headers)
    }

    /// The newest header that this process has seen.
    pub(crate) fn header_known(&self) -> Header {
        let known = self.inner.newest_header.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers a header that was seen, if it is newer than those before.
    pub(crate) fn header_note(&self, seen: &Header) {
        let known = self.inner.newest_header.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if seen.number > known.number {
            *known = seen.clone();
        }
    }

    /// The numbers to look at, the highest first. A listing may be stale: the newest that we know and its copy are
    /// looked at in any case.
    async fn header_numbers_known(&self) -> Result<Vec<u32>> {
        let own = self.header_known().number;
        let mut numbers = header_numbers(&*self.inner.backend).await?;
        numbers.extend(own.saturating_sub(1)..=own.saturating_add(1));
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup();
        Ok(numbers)
    }

    /// Sees to it that the store's header is there twice: what is missing is written anew, from the one in force or,
    /// where none is whole, or all are lost and the journal is there, from the newest that this process has seen; what
    /// is damaged, or should have given way, is deleted then. Gives whether there was anything to be done. Done twice
    /// at once it leaves more headers than are needed; callers keep it apart from changes of keys, which it could undo.
    pub async fn headers_mend(&self) -> Result<bool> {
        let _proven = self.inner.unproven.write().await;
        let (headers, witness) = match self.headers_look().await {
            Err(error) if error.kind() == Kind::StoreAway => {
                let is_there = self.there_check().await.is_ok();
                let own = self.journal_own().await?.filter(|_| is_there);
                (Headers::new(self.header_known()), own.ok_or(error)?.key())
            }
            looked => {
                let headers = looked?;
                let witness = Header::key(headers.any_number().unwrap_or_default());
                (headers, witness)
            }
        };
        let missing = headers.missing();
        if missing == 0 && headers.damaged.is_empty() && headers.stale.is_empty() {
            return Ok(false);
        }
        if headers.copies.is_empty() {
            self.known_check(&headers.force).await?;
        }
        headers.force.writable()?;
        if missing > 0 {
            let claim = self.header_claim(missing).await?;
            self.inner
                .header_claimed
                .fetch_max(claim.numbers.end - 1, Ordering::Relaxed);
            let added = self.header_add(headers.force, &claim, &witness).await;
            if let Some(error) = added.map_err(|unwritten| unwritten.error)? {
                return Err(error);
            }
        }
        let damaged = headers.damaged.into_iter().map(|(number, _)| number);
        for number in damaged.chain(headers.stale) {
            self.inner.backend.delete(&Header::key(number)).await?;
        }
        Ok(true)
    }

    /// Fails unless this header, which is nowhere but in memory, is the last that was written: after a change of keys
    /// that this process has not seen it would bring a key back that was taken away, and lose one that was added.
    async fn known_check(&self, known: &Header) -> Result<()> {
        let claimed = rows::header_last(&self.inner.db, self.inner.number).await;
        let claimed =
            claimed.map_err(|error| Error::db("cannot look for the last header's number", error))?;
        // What we claimed to write the same again, and could not, as on a full disk, changed no key.
        let own = self.inner.header_claimed.load(Ordering::Relaxed);
        if claimed.cast_unsigned() <= known.number.max(own) || !known.is_encrypted() {
            return Ok(());
        }
        let text = "every header of the store is lost or damaged, and its wrapping keys were changed since this server has \
                    read them (or another began to): put the objects below `h/` back from a copy of the folder or bucket";
        Err(Error::new(Kind::HeadersDamaged, text))
    }
}

fn still_held(id: &str, error: Error) -> Error {
    let text = format!(
        "the key {id} is removed, but an older header that still holds it could not be deleted: do it again, which \
         deletes what is left of them"
    );
    Error::new(Kind::Io, text).with_source(error)
}

fn not_encrypted(store: Uuid) -> Error {
    let text = format!(
        "the store {store} is not encrypted and has no keys: encryption is chosen when a store is made, with `cistern \
         init --encrypt`"
    );
    Error::new(Kind::Invalid, text)
}
