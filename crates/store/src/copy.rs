//! Copies a whole store from one backend to another: a folder into a bucket, and back.
//!
//! Objects never change and no key is used twice, so what is there with the right size need not be copied again, and a
//! copy that was cut off goes on. Headers come last: a half-copied place is no store yet. Every pack is decoded and
//! hashed on its way, so that damage is told here and not taken along unseen, and never takes the place of what the
//! copy has whole. Beside a server, what it writes meanwhile is looked for once more before the journal that tells of
//! it is copied. The database knows nothing of the place: a service goes on with the copy when it is told to, and from
//! then on the copy is ahead, and nothing is copied to it any more.
//!
//! What is there with the same size is trusted unread, unless all of it is to be read back. Of what differs both sides
//! are judged by themselves, and what is damaged at the destination is replaced by what is whole at the source.
//!
//! What is damaged of the journal is copied as it is, because a recovery tells of what it finds damaged, and not of a
//! last object that is missing. That it is of a generation which a newer whole one has superseded, so that a recovery
//! never gets to it, is a note.

use std::collections::HashSet;
use std::future::ready;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::alone::generation_whole;
use crate::backend::{Backend, Listed};
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::gc::id_of;
use crate::header::{Header, header_load};
use crate::journal::{Journal, place_of};
use crate::keys::WrappingKey;
use crate::pack;
use crate::verify::tolerated;
use crate::world::World;

/// How often it is looked for what was written meanwhile, at most: a server may write all the time.
const ROUNDS: u32 = 8;
/// Where a copy notes the keys of what it has damaged, or in doubt: the next one looks at those again whatever their
/// size, and tells of them until they are whole.
const DOUBTED: &str = "damaged/";
/// Where packs and whole objects lie.
const DATA: [&str; 2] = ["p/", "b/"];
/// Objects on their way at the same time.
const AT_ONCE: usize = 4;
/// An object that is larger goes in pieces of this size.
const PIECE_BYTES: u64 = 8 << 20;
/// What is told by name.
const NAMED: usize = 100;

/// Counters of a copy, for those who watch it.
#[derive(Debug, Default)]
pub struct CopyProgress {
    /// Objects looked at.
    pub objects: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there already.
    pub present: u64,
    /// Of the objects written, those that were there already and damaged: those of the same size are only found where
    /// everything is read back.
    pub replaced: u64,
    /// Whether a server wrote all the while, so that what gc moved meanwhile may be missing.
    pub unsettled: bool,
    /// Objects that were gone when their turn came: gc ran meanwhile, and what it wrote in their place may not be
    /// copied yet.
    pub gone: u64,
    /// Objects that are damaged at the source, or differ and do not tell which of the two is right: keys of the first
    /// of them, with the reason, and what the copy has now.
    pub damaged: Vec<String>,
    /// The same of journal objects that no recovery reads, as a newer generation of the journal is whole.
    pub superseded: Vec<String>,
}

/// An object that is damaged at the source, or in doubt.
#[derive(Debug)]
struct Fault {
    key: String,
    /// What is wrong, and what the copy has now.
    reason: String,
}

enum Done {
    Present,
    Gone,
    Written(u64, Option<Fault>),
    /// What was there was damaged, and is whole now.
    Replaced(u64),
    /// What is at the source is damaged, and does not replace what is there.
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

/// How a copy is to be.
#[derive(Debug, Default)]
pub struct CopyOptions {
    /// Everything that was written is read again and compared, and so is what was there already.
    pub read_back: bool,
    /// A key of the store, where that is encrypted: its packs could not be checked otherwise.
    pub key: Option<WrappingKey>,
}

/// Fails unless there is a store in `from` that the key opens: before the place that it is to be copied to is touched.
pub async fn copy_check(from: &dyn Backend, options: &CopyOptions) -> Result<()> {
    source_open(from, options).await.map(drop)
}

async fn source_open(from: &dyn Backend, options: &CopyOptions) -> Result<(Uuid, Keys)> {
    let Some(found) = header_load(from).await? else {
        let text = format!("`{}` holds no store", from.describe());
        return Err(Error::new(Kind::NotFound, text));
    };
    Ok((found.header.store_id, found.unlock(options.key.as_ref())?))
}

/// Copies what `to` lacks of the store in `from`.
pub async fn copy(
    source: &Arc<dyn Backend>,
    to: &dyn Backend,
    options: &CopyOptions,
    progress: &CopyProgress,
) -> Result<Copied> {
    let from = &**source;
    let (store_id, keys) = source_open(from, options).await?;
    if let Some(other) = header_load(to).await?
        && other.header.store_id != store_id
    {
        let text = format!(
            "`{}` already holds another store, {}",
            to.describe(),
            other.header.store_id
        );
        return Err(Error::new(Kind::Exists, text));
    }
    ahead_refuse(from, to).await?;
    let on = Copier {
        from,
        to,
        keys: keys.clone(),
        read_back: options.read_back,
        doubted: doubted(to).await?,
        world: World::system(),
    };
    let (mut copied, mut faults) = (Copied::default(), Vec::new());
    let mut seen = HashSet::new();
    for prefix in DATA {
        let listed = from.list(prefix).inspect_ok(|item| seen.extend(id_of(&item.key)));
        on.all(listed, (&mut copied, &mut faults), progress).await?;
    }
    let mut journal: Vec<Listed> = from.list("j/").try_collect().await?;
    for round in 1..=ROUNDS {
        for prefix in DATA {
            let mut is_new = |item: &Listed| id_of(&item.key).is_some_and(|id| seen.insert(id));
            let newer = from.list(prefix).try_filter(|item| ready(is_new(item)));
            on.all(newer, (&mut copied, &mut faults), progress).await?;
        }
        // Gc writes to the journal before it deletes: where nothing was written, a listing has missed nothing.
        let now: Vec<Listed> = from.list("j/").try_collect().await?;
        if now.iter().map(|item| &item.key).max() == journal.iter().map(|item| &item.key).max() {
            break;
        }
        copied.unsettled = round == ROUNDS;
        if !copied.unsettled {
            journal = now;
        }
    }
    let listed = stream::iter(journal.iter().cloned().map(Ok));
    on.all(listed, (&mut copied, &mut faults), progress).await?;
    on.headers(store_id, (&mut copied, &mut faults), progress).await?;
    on.doubts_prune().await?;
    let whole = if faults.iter().any(|fault| place_of(&fault.key).is_some()) {
        let read = Journal::of(Arc::clone(source), store_id, keys);
        generation_whole(&read, &journal).await?
    } else {
        None
    };
    copied.tell(faults, whole);
    Ok(copied)
}

impl Copied {
    /// Counts an object; gives the bytes that were written.
    fn add(&mut self, done: Done, faults: &mut Vec<Fault>) -> u64 {
        match done {
            Done::Present => self.present += 1,
            Done::Gone => self.gone += 1,
            Done::Kept(fault) => fault_note(faults, fault),
            Done::Replaced(bytes) => {
                self.objects += 1;
                self.bytes += bytes;
                self.replaced += 1;
                return bytes;
            }
            Done::Written(bytes, damage) => {
                self.objects += 1;
                self.bytes += bytes;
                if let Some(fault) = damage {
                    fault_note(faults, fault);
                }
                return bytes;
            }
        }
        0
    }

    /// Tells what is damaged; `whole` is the generation of the journal that a recovery begins from.
    fn tell(&mut self, faults: Vec<Fault>, whole: Option<u32>) {
        for Fault { key, reason } in faults {
            let is_superseded =
                place_of(&key).is_some_and(|place| whole.is_some_and(|whole| place.generation < whole));
            let list = if is_superseded {
                &mut self.superseded
            } else {
                &mut self.damaged
            };
            list.push(format!("{key}: {reason}"));
        }
    }
}

fn fault_note(faults: &mut Vec<Fault>, fault: Fault) {
    // What is superseded must not hide what is not: of the journal there is never much.
    let is_journal = place_of(&fault.key).is_some();
    let alike = faults
        .iter()
        .filter(|known| place_of(&known.key).is_some() == is_journal);
    if alike.count() < NAMED {
        faults.push(fault);
    }
}

/// A place that a server has written to since is no copy any more: keys that were taken away would open it again, and
/// what its journal tells would be mixed with what the source's does.
async fn ahead_refuse(from: &dyn Backend, to: &dyn Backend) -> Result<()> {
    for (prefix, what) in [("h/", "keys were changed"), ("j/", "images were changed")] {
        let (source, copy) = (newest(from, prefix).await?, newest(to, prefix).await?);
        if copy > source {
            let text = format!(
                "`{}` is ahead of `{}`: {what} there since it was copied (it has {}). Copy in the other direction, or to an \
                 empty place; to bring what is damaged there back from this copy, use `cistern store heal`",
                to.describe(),
                from.describe(),
                copy.unwrap_or_default()
            );
            return Err(Error::new(Kind::Exists, text));
        }
    }
    Ok(())
}

/// The last key of a prefix whose numbers grow: they are written with zeros before them, so that text sorts as numbers
/// do.
async fn newest(of: &dyn Backend, prefix: &str) -> Result<Option<String>> {
    let listed: Vec<Listed> = of.list(prefix).try_collect().await?;
    Ok(listed.into_iter().map(|item| item.key).max())
}

/// The keys of the headers of a place.
async fn header_keys(of: &dyn Backend) -> Result<HashSet<String>> {
    of.list("h/").map_ok(|item| item.key).try_collect().await
}

/// Fails where the store is not there (any more): under a disk that went away every listing is empty, and so it looks
/// as if nothing were to be copied, and everything were gone at the source.
async fn there_check(place: &dyn Backend, store_id: Uuid) -> Result<()> {
    if header_load(place)
        .await?
        .is_some_and(|found| found.header.store_id == store_id)
    {
        return Ok(());
    }
    let text = format!("`{}` no longer holds the store that is copied", place.describe());
    Err(Error::new(Kind::StoreAway, text))
}

/// The keys of what earlier copies told of.
async fn doubted(to: &dyn Backend) -> Result<HashSet<String>> {
    let keys = to.list(DOUBTED).try_filter_map(|item| {
        let key = item.key.strip_prefix(DOUBTED).map(str::to_owned);
        ready(Ok(key))
    });
    keys.try_collect().await
}

struct Copier<'a> {
    from: &'a dyn Backend,
    to: &'a dyn Backend,
    keys: Keys,
    read_back: bool,
    doubted: HashSet<String>,
    world: World,
}

impl Copier<'_> {
    async fn all(
        &self,
        listed: impl Stream<Item = Result<Listed>>,
        (copied, faults): (&mut Copied, &mut Vec<Fault>),
        progress: &CopyProgress,
    ) -> Result<()> {
        let done = listed.map(|item| async { self.object(item?).await });
        let mut done = pin!(done.buffer_unordered(AT_ONCE));
        while let Some(done) = done.try_next().await? {
            progress.objects.fetch_add(1, Relaxed);
            progress.bytes.fetch_add(copied.add(done, faults), Relaxed);
        }
        Ok(())
    }

    /// Copies the headers, and removes those that an earlier copy brought and that are gone at the source since: they
    /// may be opened by a key that was taken away. By one listing, and once more where keys were changed meanwhile: what
    /// is removed must never be more than what gave way.
    async fn headers(
        &self,
        store_id: Uuid,
        (copied, faults): (&mut Copied, &mut Vec<Fault>),
        progress: &CopyProgress,
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            let listed: Vec<Listed> = self.from.list("h/").try_collect().await?;
            let kept: HashSet<String> = listed.iter().map(|item| item.key.clone()).collect();
            let listed = stream::iter(listed.into_iter().map(Ok));
            self.all(listed, (&mut *copied, &mut *faults), progress).await?;
            if header_keys(self.from).await? != kept {
                continue;
            }
            there_check(self.from, store_id).await?;
            there_check(self.to, store_id).await?;
            for old in header_keys(self.to).await?.difference(&kept) {
                self.to.delete(old).await?;
            }
            return Ok(());
        }
        let text = format!("the keys of `{}` are changed all the while", self.from.describe());
        Err(Error::new(Kind::Unavailable, text))
    }

    async fn object(&self, item: Listed) -> Result<Done> {
        let done = self.object_copy(&item).await?;
        match &done {
            Done::Kept(_) => self.doubt(&item.key).await?,
            Done::Present | Done::Written(_, None) | Done::Replaced(_) => self.doubt_end(&item.key).await?,
            Done::Gone | Done::Written(_, Some(_)) => {}
        }
        Ok(done)
    }

    async fn object_copy(&self, item: &Listed) -> Result<Done> {
        let is_trusted = !self.read_back && !self.doubted.contains(&item.key);
        let done = match self.to.stat(&item.key).await? {
            None => self.write(item, false).await,
            Some(there) if there == item.bytes && is_trusted => return Ok(Done::Present),
            Some(there) if item.key.starts_with("b/") => self.compare_whole(item, there).await,
            Some(there) => self.compare(item, there).await,
        };
        match done {
            // Gc may have deleted it since it was listed.
            Err(error) if error.kind() == Kind::NotFound && self.from.stat(&item.key).await?.is_none() => {
                Ok(Done::Gone)
            }
            done => done,
        }
    }

    /// Notes that what the copy has, or gets, of this key is not known to be whole.
    async fn doubt(&self, key: &str) -> Result<()> {
        if self.doubted.contains(key) {
            return Ok(());
        }
        match self.to.put_new(&format!("{DOUBTED}{key}"), Bytes::new()).await {
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            done => done,
        }
    }

    async fn doubt_end(&self, key: &str) -> Result<()> {
        if !self.doubted.contains(key) {
            return Ok(());
        }
        self.to.delete(&format!("{DOUBTED}{key}")).await
    }

    /// Forgets what the source has no more.
    async fn doubts_prune(&self) -> Result<()> {
        for key in &self.doubted {
            if self.from.stat(key).await?.is_none() {
                self.doubt_end(key).await?;
            }
        }
        Ok(())
    }

    /// Writes an object, in the place of what is there where `replaces`.
    async fn write(&self, item: &Listed, replaces: bool) -> Result<Done> {
        if item.bytes > pack::LIMIT_BYTES as u64 {
            self.write_large(item, replaces).await?;
            return Ok(Done::Written(item.bytes, None));
        }
        let data = self.from.get(&item.key).await?;
        let fault = if item.key.starts_with("b/") {
            None
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

    async fn damage(&self, id: Uuid, data: Bytes) -> Result<Option<String>> {
        let keys = self.keys.clone();
        self.world
            .compute(move || Ok(pack::faults(&keys, id, &data)))
            .await
    }

    async fn write_large(&self, item: &Listed, replaces: bool) -> Result<()> {
        let written = object_write(self.from, self.to, item, replaces).await?;
        if self.to.stat(&item.key).await? != Some(item.bytes) {
            return Err(changed(&item.key));
        }
        if !self.read_back {
            return Ok(());
        }
        let mut read = blake3::Hasher::new();
        for piece in pieces(item.bytes) {
            read.update(&self.to.get_range(&item.key, piece).await?);
        }
        if read.finalize() == written {
            Ok(())
        } else {
            Err(changed(&item.key))
        }
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
        let source = self.from.get(key).await?;
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
            let reason = "it is another one than the copy's, and both are whole; the copy keeps what it has";
            return Ok(Done::kept(key, reason));
        }
        self.replace(key, source).await?;
        Ok(Done::Replaced(item.bytes))
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
        for piece in pieces(item.bytes) {
            let source = self.from.get_range(&item.key, piece.clone()).await?;
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
/// the hash of what was written.
pub(crate) async fn object_write(
    from: &dyn Backend,
    to: &dyn Backend,
    item: &Listed,
    replaces: bool,
) -> Result<blake3::Hash> {
    let mut put = if replaces {
        to.put_replace(&item.key).await?
    } else {
        to.put_begin(&item.key).await?
    };
    let mut written = blake3::Hasher::new();
    for piece in pieces(item.bytes) {
        let data = from.get_range(&item.key, piece).await?;
        written.update(&data);
        put.write(data).await?;
    }
    put.finish().await?;
    Ok(written.finalize())
}

fn changed(key: &str) -> Error {
    Error::new(Kind::Io, format!("`{key}` is not what was written"))
}
