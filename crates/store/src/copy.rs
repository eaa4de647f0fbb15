//! Copies a whole store from one backend to another: a folder into a bucket, and back.
//!
//! Objects never change and no key is used twice, so what is there with the right size need not be copied again, and a
//! copy that was cut off goes on. Headers come last: a half-copied place is no store yet. Every pack is decoded and
//! hashed on its way, so that damage is told here and not taken along unseen, and never takes the place of what the
//! copy has whole. Beside a server, what it writes meanwhile is looked for once more before the journal that tells of
//! it is copied. The database knows nothing of the place: a service goes on with the copy when it is told to, and from
//! then on the copy is ahead, and nothing is copied to it any more.
//!
//! What is there with the same size is trusted unread, unless all of it is to be read back, or it was damaged or in
//! doubt when it was copied, which is noted in the copy and told each time until it is whole. Of what differs both
//! sides are judged by themselves, and what is damaged at the destination is replaced by what is whole at the source.
//!
//! What cannot be read at the source is noted and told like what is damaged, and all else is copied: a disk that begins
//! to fail is when a copy is needed. An unreadable object of the journal has an empty one in its place.
//!
//! What is damaged of the journal is copied as it is, because a recovery tells of what it finds damaged, and not of a
//! last object that is missing. That it is of a generation which a newer whole one has superseded, so that a recovery
//! never gets to it, is a note.

pub(crate) mod object;

use std::collections::{BTreeSet, HashSet};
use std::future::ready;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::alone::{generation_whole, journal_missing};
use crate::backend::{Backend, Listed};
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::gc::id_of;
use crate::header::{Header, header_load};
use crate::journal::{Journal, place_of};
use crate::keys::WrappingKey;
use crate::world::World;
use object::{Done, Fault};

/// How often it is looked for what was written meanwhile, at most: a server may write all the time.
const ROUNDS: u32 = 8;
/// Where the keys of what was damaged or unreadable at the source, or in doubt, are noted in a copy.
pub(crate) const DOUBTED: &str = "damaged/";
/// Where packs and whole objects lie.
const DATA: [&str; 2] = ["p/", "b/"];
/// Objects on their way at the same time.
const AT_ONCE: usize = 4;
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
    /// Objects that are damaged or cannot be read at the source, or differ and do not tell which of the two is right:
    /// keys of the first of them, with the reason, and what the copy has now.
    pub damaged: Vec<String>,
    /// The same of journal objects that no recovery reads, as a newer generation of the journal is whole.
    pub superseded: Vec<String>,
    /// Objects of the source's journal.
    pub journal: u64,
    /// Packs and whole objects of the source.
    pub data: u64,
    /// Keys at the source that the store cannot have written, and that were left out.
    pub foreign: Vec<String>,
    /// Objects with data that the copy has and the source does not: gc freed them, or they are lost there.
    pub extra: u64,
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
    other_refuse(to, store_id).await?;
    ahead_refuse(from, to, store_id).await?;
    let on = Copier {
        from,
        to,
        store_id,
        keys: keys.clone(),
        read_back: options.read_back,
        doubted: Mutex::new(doubted(to).await?),
        doubted_there: doubted(from).await?,
        gone: Mutex::default(),
        foreign: Mutex::default(),
        world: World::system(),
    };
    let (mut copied, mut faults) = (Copied::default(), Vec::new());
    let mut seen = HashSet::new();
    let journal = on.data(&mut seen, (&mut copied, &mut faults), progress).await?;
    let listed = stream::iter(journal.iter().cloned().map(Ok));
    on.all(listed, (&mut copied, &mut faults), progress).await?;
    on.headers((&mut copied, &mut faults), progress).await?;
    on.gone_check().await?;
    let lost = on.doubts_look().await?;
    copied.extra = on.extra(&seen).await?;
    copied.data = seen.len() as u64;
    copied.foreign = std::mem::take(&mut *on.foreign()).into_iter().collect();
    there_check(from, store_id).await?;
    let read = Journal::of(Arc::clone(source), store_id, keys);
    if has_holes(&journal) {
        for (key, reason) in journal_missing(&read, &journal).await? {
            fault_note(&mut faults, Fault { key, reason });
        }
    }
    let whole = if faults
        .iter()
        .chain(&lost)
        .any(|fault| place_of(&fault.key).is_some())
    {
        generation_whole(&read, &journal).await?
    } else {
        None
    };
    for fault in lost {
        // A generation that gave way to a newer one is of no use here either.
        if is_superseded(&fault.key, whole) {
            on.doubt_end(&fault.key).await?;
        } else {
            fault_note(&mut faults, fault);
        }
    }
    copied.journal = journal.len() as u64;
    copied.tell(faults, whole);
    Ok(copied)
}

impl Copied {
    /// Adds what was done with the headers.
    fn with(&mut self, done: &Self) {
        self.objects += done.objects;
        self.bytes += done.bytes;
        self.present += done.present;
        self.replaced += done.replaced;
        self.gone += done.gone;
    }

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
            let list = if is_superseded(&key, whole) {
                &mut self.superseded
            } else {
                &mut self.damaged
            };
            list.push(format!("{key}: {reason}"));
        }
    }
}

/// Whether this is of a generation of the journal before the one that a recovery begins from.
fn is_superseded(key: &str, whole: Option<u32>) -> bool {
    place_of(key).is_some_and(|place| whole.is_some_and(|whole| place.generation < whole))
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

/// A place that holds another store is not written to.
async fn other_refuse(to: &dyn Backend, store_id: Uuid) -> Result<()> {
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
    Ok(())
}

/// A place that a server has written to since is no copy any more: keys that were taken away would open it again, and
/// what its journal tells would be mixed with what the source's does.
async fn ahead_refuse(from: &dyn Backend, to: &dyn Backend, store_id: Uuid) -> Result<()> {
    for (prefix, what) in [("h/", "keys were changed"), ("j/", "images were changed")] {
        let (source, copy) = (newest(from, prefix).await?, newest(to, prefix).await?);
        if copy > source {
            there_check(from, store_id).await?;
            let (to, from, newest) = (to.describe(), from.describe(), copy.unwrap_or_default());
            let text = format!(
                "`{to}` has {newest}, and `{from}` has not. Either {what} at `{to}` since it was copied: then copy in the other \
                 direction, or to an empty place. Or `{from}` has lost it: a server of it writes what it knows anew when it \
                 starts; then copy again. To bring what is damaged there back from this copy, use `cistern store heal`"
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
    let keys = listed.into_iter().map(|item| item.key);
    Ok(keys.filter(|key| is_own(key)).max())
}

/// The keys of the headers of a place.
async fn header_keys(of: &dyn Backend) -> Result<HashSet<String>> {
    let listed: Vec<Listed> = of.list("h/").try_collect().await?;
    let keys = listed.into_iter().map(|item| item.key);
    Ok(keys.filter(|key| is_own(key)).collect())
}

/// Whether the store can have written this. What else lies there, as desktops and editors leave it, is neither copied
/// nor deleted.
fn is_own(key: &str) -> bool {
    if let Some(number) = key.strip_prefix("h/") {
        return number.parse().is_ok_and(|number| Header::key(number) == key);
    }
    let is_data = DATA.iter().any(|prefix| key.starts_with(prefix));
    place_of(key).is_some() || (is_data && id_of(key).is_some())
}

/// Fails where the store is not there (any more): under a disk that went away every listing is empty, and so it looks
/// as if nothing were to be copied, and everything were gone at the source. Gives the key of its header.
async fn there_check(place: &dyn Backend, store_id: Uuid) -> Result<String> {
    match header_load(place).await? {
        Some(found) if found.header.store_id == store_id => Ok(Header::key(found.header.number)),
        _ => Err(away(place)),
    }
}

fn away(place: &dyn Backend) -> Error {
    let text = format!(
        "`{}` does not hold the store that is copied, or did not for a moment: copy again, which goes on from here",
        place.describe()
    );
    Error::new(Kind::StoreAway, text)
}

/// The keys of what earlier copies told of.
async fn doubted(to: &dyn Backend) -> Result<HashSet<String>> {
    let keys = to.list(DOUBTED).try_filter_map(|item| {
        let key = item.key.strip_prefix(DOUBTED).filter(|key| is_own(key));
        ready(Ok(key.map(str::to_owned)))
    });
    keys.try_collect().await
}

struct Copier<'a> {
    from: &'a dyn Backend,
    to: &'a dyn Backend,
    store_id: Uuid,
    keys: Keys,
    read_back: bool,
    /// Noted by earlier copies, and by this one.
    doubted: Mutex<HashSet<String>>,
    /// Noted at the source, where that is a copy itself.
    doubted_there: HashSet<String>,
    /// What was listed, and not there when its turn came.
    gone: Mutex<Vec<String>>,
    /// What lies at the source and is not the store's.
    foreign: Mutex<BTreeSet<String>>,
    world: World,
}

impl Copier<'_> {
    /// What the source has of the store's under a prefix; what else lies there is noted.
    fn listed(&self, prefix: &str) -> impl Stream<Item = Result<Listed>> {
        self.from.list(prefix).try_filter(|item| {
            let is_own = is_own(&item.key);
            if !is_own {
                self.foreign().insert(item.key.clone());
            }
            ready(is_own)
        })
    }

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

    /// Copies packs and whole objects, and what a server writes of them meanwhile, until its journal is at rest or it
    /// was looked often enough; gives the journal that tells of no more than was copied.
    async fn data(
        &self,
        seen: &mut HashSet<Uuid>,
        (copied, faults): (&mut Copied, &mut Vec<Fault>),
        progress: &CopyProgress,
    ) -> Result<Vec<Listed>> {
        for prefix in DATA {
            let listed = self
                .listed(prefix)
                .inspect_ok(|item| seen.extend(id_of(&item.key)));
            self.all(listed, (&mut *copied, &mut *faults), progress).await?;
            there_check(self.from, self.store_id).await?;
        }
        let mut journal: Vec<Listed> = self.listed("j/").try_collect().await?;
        for round in 1..=ROUNDS {
            for prefix in DATA {
                let mut is_new = |item: &Listed| id_of(&item.key).is_some_and(|id| seen.insert(id));
                let newer = self.from.list(prefix).try_filter(|item| ready(is_new(item)));
                self.all(newer, (&mut *copied, &mut *faults), progress).await?;
                there_check(self.from, self.store_id).await?;
            }
            // Gc writes to the journal before it deletes: where nothing was written, a listing has missed nothing.
            let now: Vec<Listed> = self.listed("j/").try_collect().await?;
            if now.iter().map(|item| &item.key).max() == journal.iter().map(|item| &item.key).max() {
                break;
            }
            copied.unsettled = round == ROUNDS;
            if !copied.unsettled {
                journal = now;
            }
        }
        Ok(journal)
    }

    /// Copies the headers, and removes those that an earlier copy brought and that are gone at the source since: they
    /// may be opened by a key that was taken away. By one listing, and once more where keys were changed meanwhile:
    /// what is removed must never be more than what gave way.
    async fn headers(
        &self,
        (copied, faults): (&mut Copied, &mut Vec<Fault>),
        progress: &CopyProgress,
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            let listed: Vec<Listed> = self.listed("h/").try_collect().await?;
            let kept: HashSet<String> = listed.iter().map(|item| item.key.clone()).collect();
            let (mut done, mut found) = (Copied::default(), Vec::new());
            let listed = stream::iter(listed.into_iter().map(Ok));
            self.all(listed, (&mut done, &mut found), progress).await?;
            let is_settled = header_keys(self.from).await? == kept;
            if !is_settled || !kept.contains(&there_check(self.from, self.store_id).await?) {
                continue;
            }
            if !kept.contains(&there_check(self.to, self.store_id).await?) {
                return Err(away(self.to));
            }
            for old in header_keys(self.to).await?.difference(&kept) {
                self.to.delete(old).await?;
            }
            copied.with(&done);
            faults.extend(found);
            return Ok(());
        }
        let text = format!("the keys of `{}` are changed all the while", self.from.describe());
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Fails where something that was gone when its turn came is there after all.
    async fn gone_check(&self) -> Result<()> {
        let gone = std::mem::take(&mut *self.gone());
        for key in gone {
            if self.from.stat(&key).await?.is_some() {
                return Err(away(self.from));
            }
        }
        Ok(())
    }

    fn gone(&self) -> MutexGuard<'_, Vec<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn foreign(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubted(&self) -> MutexGuard<'_, HashSet<String>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is noted and not at the source any more, where gc freed it or it was lost: forgotten only where
    /// the copy has it whole, or has nothing of it. Gives the rest.
    async fn doubts_look(&self) -> Result<Vec<Fault>> {
        let (noted, mut lost) = (self.doubted().clone(), Vec::new());
        for key in noted {
            if self.from.stat(&key).await?.is_some() {
                continue;
            }
            match self.own_fault(&key).await? {
                Some(fault) => lost.push(fault),
                None => self.doubt_end(&key).await?,
            }
        }
        Ok(lost)
    }

    /// How many objects with data the copy has that the source did not.
    async fn extra(&self, seen: &HashSet<Uuid>) -> Result<u64> {
        let mut count = 0;
        for prefix in DATA {
            let is_extra = |item: &Listed| id_of(&item.key).is_some_and(|id| !seen.contains(&id));
            let mut extra = pin!(self.to.list(prefix).try_filter(|item| ready(is_extra(item))));
            while extra.try_next().await?.is_some() {
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Whether numbers are missing among those of the newest generation of the journal.
fn has_holes(listed: &[Listed]) -> bool {
    let places = || listed.iter().filter_map(|item| place_of(&item.key));
    let Some(newest) = places().max() else {
        return false;
    };
    let there = places().filter(|place| place.generation == newest.generation);
    there.count() as u64 <= newest.sequence
}
