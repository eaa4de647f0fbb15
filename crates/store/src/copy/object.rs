//! One object of a copy: what is there already, what is whole, and what is noted of what is not.

use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use super::{Copier, DOUBTED, there_check};
use crate::backend::{Backend, Listed};
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::gc::id_of;
use crate::header::Header;
use crate::pack;
use crate::verify::{damaging, tolerated};

/// An object that is larger goes in pieces of this size.
const PIECE_BYTES: u64 = 8 << 20;

/// An object that is damaged at the source, cannot be read there, or is in doubt.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) key: String,
    /// What is wrong, and what the copy has now.
    pub(super) reason: String,
}

pub(super) enum Done {
    Present,
    Gone,
    Written(u64, Option<Fault>),
    /// What was there was damaged, and is whole now.
    Replaced(u64),
    /// What is at the source is damaged or cannot be read, and does not replace what is there.
    Kept(Fault),
}

impl Done {
    fn kept(key: &str, reason: &str) -> Self {
        Self::Kept(Fault {
            key: key.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

impl Copier<'_> {
    pub(super) async fn object(&self, item: Listed) -> Result<Done> {
        let done = self.object_copy(&item).await?;
        match &done {
            Done::Kept(_) => self.doubt(&item.key).await?,
            Done::Present | Done::Written(_, None) | Done::Replaced(_) => self.doubt_end(&item.key).await?,
            Done::Gone | Done::Written(_, Some(_)) => {}
        }
        Ok(done)
    }

    async fn object_copy(&self, item: &Listed) -> Result<Done> {
        let is_doubted = self.doubted().contains(&item.key) || self.doubted_there.contains(&item.key);
        let is_trusted = !self.read_back && !is_doubted;
        let mut done = self.object_bring(item, is_trusted).await;
        if done.as_ref().is_err_and(|error| error.kind() == Kind::Exists) {
            // Another copy to the same place was first.
            done = self.object_bring(item, false).await;
        }
        match done {
            // Gc may have deleted it since it was listed.
            Err(error) if error.kind() == Kind::NotFound && self.from.stat(&item.key).await?.is_none() => {
                self.gone().push(item.key.clone());
                Ok(Done::Gone)
            }
            done => done,
        }
    }

    /// Writes what is not there, and looks at what is.
    async fn object_bring(&self, item: &Listed, is_trusted: bool) -> Result<Done> {
        match self.to.stat(&item.key).await? {
            None => self.write(item, false).await,
            Some(there) if there == item.bytes && is_trusted => Ok(Done::Present),
            Some(there) if item.key.starts_with("b/") => self.compare_whole(item, there).await,
            Some(there) => self.compare(item, there).await,
        }
    }

    /// Notes that what the copy has, or gets, of this key is not known to be whole.
    async fn doubt(&self, key: &str) -> Result<()> {
        if self.doubted().contains(key) {
            return Ok(());
        }
        match self.to.put_new(&format!("{DOUBTED}{key}"), Bytes::new()).await {
            Err(error) if error.kind() == Kind::Exists => {}
            done => done?,
        }
        self.doubted().insert(key.to_owned());
        Ok(())
    }

    pub(super) async fn doubt_end(&self, key: &str) -> Result<()> {
        if !self.doubted().contains(key) {
            return Ok(());
        }
        self.to.delete(&format!("{DOUBTED}{key}")).await?;
        self.doubted().remove(key);
        Ok(())
    }

    /// What is wrong with what the copy has of a key that the source has no more.
    pub(super) async fn own_fault(&self, key: &str) -> Result<Option<Fault>> {
        let Some(bytes) = self.to.stat(key).await? else {
            return Ok(None);
        };
        let is_judged = !key.starts_with("b/") && bytes <= pack::LIMIT_BYTES as u64;
        let fault = if is_judged {
            match tolerated(self.to.get(key).await)? {
                Ok(data) => self.fault(key, data).await?,
                Err(error) => Some(error.to_string()),
            }
        } else {
            Some("it was in doubt when it was copied".to_owned())
        };
        Ok(fault.map(|fault| Fault {
            key: key.to_owned(),
            reason: format!(
                "the source does not have it any more, and the copy's is not known to be whole ({fault}); where a verification \
                 of the source finds nothing, gc freed it there: remove the copy's"
            ),
        }))
    }

    /// Writes an object, in the place of what is there where `replaces`.
    async fn write(&self, item: &Listed, replaces: bool) -> Result<Done> {
        if item.bytes > pack::LIMIT_BYTES as u64 {
            return self.write_large(item, replaces).await;
        }
        let data = match self.readable(self.from.get(&item.key).await).await? {
            Ok(data) => data,
            Err(error) => return self.unread(&item.key, &error, replaces).await,
        };
        let fault = if item.key.starts_with("b/") {
            self.whole_fault(&item.key)
        } else {
            self.fault(&item.key, data.clone()).await?
        };
        if fault.is_some() {
            // Before it is there: a copy that is cut off in between must not trust it either.
            self.doubt(&item.key).await?;
        }
        if replaces {
            self.replace(&item.key, data).await?;
        } else {
            self.to.put_new(&item.key, data.clone()).await?;
            self.read_back(&item.key, &data).await?;
        }
        let fault = fault.map(|fault| Fault {
            key: item.key.clone(),
            reason: format!("{fault}; copied as it is"),
        });
        Ok(Done::Written(item.bytes, fault))
    }

    /// What was read of an object at the source, or why it cannot be read. A source that is away as a whole says
    /// nothing of its objects, and a device that fails altogether is no reason to go through all of them: so it is
    /// looked for first.
    async fn readable<T>(&self, read: Result<T>) -> Result<Result<T>> {
        match read {
            Err(error) if error.kind() != Kind::NotFound && damaging(&error) => {
                there_check(self.from, self.store_id).await?;
                Ok(Err(error))
            }
            read => read.map(Ok),
        }
    }

    /// What becomes of an object that cannot be read at the source: what the copy has of it stays.
    async fn unread(&self, key: &str, error: &Error, is_there: bool) -> Result<Done> {
        let reason = format!("it cannot be read ({})", cause_of(error));
        if is_there {
            return Ok(Done::kept(key, &format!("{reason}; the copy keeps what it has")));
        }
        if !key.starts_with("j/") {
            return Ok(Done::kept(key, &format!("{reason}; the copy does not have it")));
        }
        // A recovery tells of what it finds damaged, and not of a last object that is missing.
        self.to.put_new(key, Bytes::new()).await?;
        Ok(Done::kept(
            key,
            &format!("{reason}; the copy has an empty one, which a recovery tells of"),
        ))
    }

    async fn damage(&self, id: Uuid, data: Bytes) -> Result<Option<String>> {
        let keys = self.keys.clone();
        self.world
            .compute(move || Ok(pack::faults(&keys, id, &data)))
            .await
    }

    async fn write_large(&self, item: &Listed, replaces: bool) -> Result<Done> {
        let fault = if item.key.starts_with("b/") {
            self.whole_fault(&item.key)
        } else {
            Some("it is larger than any pack".to_owned())
        };
        let fault = fault.map(|fault| Fault {
            key: item.key.clone(),
            reason: format!("{fault}; copied as it is"),
        });
        if fault.is_some() {
            self.doubt(&item.key).await?;
        }
        let written = object_write(self.from, self.to, item, replaces).await?;
        let written = match self.readable(written).await? {
            Ok(written) => written,
            Err(error) => return self.unread(&item.key, &error, replaces).await,
        };
        if self.to.stat(&item.key).await? != Some(item.bytes) {
            return Err(changed(&item.key));
        }
        if self.read_back {
            let mut read = blake3::Hasher::new();
            for piece in pieces(item.bytes) {
                read.update(&self.to.get_range(&item.key, piece).await?);
            }
            if read.finalize() != written {
                return Err(changed(&item.key));
            }
        }
        Ok(Done::Written(item.bytes, fault))
    }

    /// Reads an object that both sides have, here with `there` bytes: which of two that differ is whole, each says
    /// itself, and not its length. What is damaged at the destination alone is replaced.
    async fn compare(&self, item: &Listed, there: u64) -> Result<Done> {
        let key = &item.key;
        let is_possible = |bytes: u64| !key.starts_with("p/") || bytes <= pack::LIMIT_BYTES as u64;
        if !is_possible(item.bytes) {
            return Ok(Done::kept(
                key,
                "it is larger than any pack; the copy keeps what it has",
            ));
        }
        let source = match self.readable(self.from.get(key).await).await? {
            Ok(source) => source,
            Err(error) => return self.unread(key, &error, true).await,
        };
        let there = if is_possible(there) {
            tolerated(self.to.get(key).await)?
        } else {
            Err(Error::new(Kind::Damaged, "it is larger than any pack"))
        };
        let is_same = matches!(&there, Ok(there) if *there == source);
        // Of the others both sides are alike only where they are whole, or were copied damaged by who knew.
        let fault = match self.fault(key, source.clone()).await? {
            Some(fault) if is_same => Some(format!("{fault}; so is the copy's")),
            Some(fault) => Some(format!("{fault}; the copy keeps what it has")),
            None => None,
        };
        if let Some(fault) = fault {
            return Ok(Done::kept(key, &fault));
        }
        if is_same {
            return Ok(Done::Present);
        }
        if let Ok(there) = there
            && self.fault(key, there).await?.is_none()
        {
            let reason = "it is another one than the copy's, and both are whole; the copy keeps what it has; where a \
                          verification of the source finds nothing, remove the copy's and copy again";
            return Ok(Done::kept(key, reason));
        }
        // Before it is replaced: a copy that fails or is cut off now must not trust what is there the next time.
        let told = |next: &'static str| {
            move |error: Error| {
                let text = format!(
                    "what the copy has of `{key}` is damaged, and could not be replaced ({error}); {next}"
                );
                Error::new(error.kind(), text)
            }
        };
        self.doubt(key)
            .await
            .map_err(told("copy again with --read-back"))?;
        self.replace(key, source).await.map_err(told("copy again"))?;
        Ok(Done::Replaced(item.bytes))
    }

    /// What is known to be wrong with a whole object, in which nothing tells what it should be.
    fn whole_fault(&self, key: &str) -> Option<String> {
        let is_noted = self.doubted_there.contains(key);
        is_noted.then(|| "it was in doubt when it was copied to the source".to_owned())
    }

    /// A whole object can be as large as it likes, and nothing in it tells what it should be. One that is shorter here
    /// was cut off on its way.
    async fn compare_whole(&self, item: &Listed, there: u64) -> Result<Done> {
        if there < item.bytes {
            return self.write(item, true).await;
        }
        if there > item.bytes {
            let reason = format!(
                "it has {} bytes, and the copy's {there}: one of the two is not whole, and the copy keeps what it has; where a \
                 verification of the source finds nothing, remove the copy's and copy again",
                item.bytes
            );
            return Ok(Done::kept(&item.key, &reason));
        }
        if let Some(fault) = self.whole_fault(&item.key) {
            return Ok(Done::kept(
                &item.key,
                &format!("{fault}; the copy keeps what it has"),
            ));
        }
        for piece in pieces(item.bytes) {
            let source = self.from.get_range(&item.key, piece.clone()).await;
            let source = match self.readable(source).await? {
                Ok(source) => source,
                Err(error) => return self.unread(&item.key, &error, true).await,
            };
            let there = tolerated(self.to.get_range(&item.key, piece).await)?;
            if there.is_ok_and(|there| there == source) {
                continue;
            }
            let reason = "it differs from the copy's, and does not tell which of the two is right; where a verification of the \
                          source finds nothing, remove the copy's and copy again";
            return Ok(Done::kept(&item.key, reason));
        }
        Ok(Done::Present)
    }

    /// What is wrong with the bytes of a pack, a header or a journal object.
    async fn fault(&self, key: &str, data: Bytes) -> Result<Option<String>> {
        if let Some(number) = key.strip_prefix("h/") {
            return Ok(header_fault(&self.keys, number, &data).map(|error| error.to_string()));
        }
        if key.starts_with("j/") {
            return Ok(journal_fault(&self.keys, &data).map(|error| error.to_string()));
        }
        match id_of(key) {
            Some(id) => self.damage(id, data).await,
            None => Ok(None),
        }
    }

    async fn replace(&self, key: &str, data: Bytes) -> Result<()> {
        object_replace(self.to, key, data.clone()).await?;
        self.read_back(key, &data).await
    }

    async fn read_back(&self, key: &str, written: &Bytes) -> Result<()> {
        if self.read_back && self.to.get(key).await? != *written {
            return Err(changed(key));
        }
        Ok(())
    }
}

fn header_fault(keys: &Keys, number: &str, data: &[u8]) -> Option<Error> {
    let number = number.parse().ok()?;
    let checked = Header::decode(number, data).and_then(|_| match keys.store_key() {
        Some(key) => Header::check_code(key, data),
        None => Ok(()),
    });
    checked.err()
}

fn journal_fault(keys: &Keys, data: &[u8]) -> Option<Error> {
    let code = data.split_last_chunk::<32>();
    if code.is_some_and(|(covered, code)| keys.journal_mac(covered) == *code) {
        return None;
    }
    Some(Error::new(Kind::Damaged, "it does not match its code"))
}

/// The ranges in which an object of so many bytes is read.
fn pieces(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let starts = (0..bytes).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
    starts.map(move |start| start..bytes.min(start + PIECE_BYTES))
}

/// Writes `data` in the place of what has this key, which stays there until all of it is at the backend and takes its
/// place at once: neither a full disk nor a service that refuses may cost what was there.
pub(crate) async fn object_replace(to: &dyn Backend, key: &str, data: Bytes) -> Result<()> {
    let mut put = to.put_replace(key).await?;
    put.write(data).await?;
    put.finish().await
}

/// Writes an object from one backend to another piece by piece, in the place of what is there where `replaces`; gives
/// the hash of what was written, or why `from` could not be read: then nothing was written.
pub(crate) async fn object_write(
    from: &dyn Backend,
    to: &dyn Backend,
    item: &Listed,
    replaces: bool,
) -> Result<Result<blake3::Hash>> {
    let mut put = if replaces {
        to.put_replace(&item.key).await?
    } else {
        to.put_begin(&item.key).await?
    };
    let mut written = blake3::Hasher::new();
    for piece in pieces(item.bytes) {
        let data = match from.get_range(&item.key, piece).await {
            Ok(data) => data,
            Err(error) => {
                put.abort().await?;
                return Ok(Err(error));
            }
        };
        written.update(&data);
        put.write(data).await?;
    }
    put.finish().await?;
    Ok(Ok(written.finalize()))
}

/// What the system said, where it did: which object it was is told beside it.
fn cause_of(error: &Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

fn changed(key: &str) -> Error {
    Error::new(Kind::Io, format!("`{key}` is not what was written"))
}
