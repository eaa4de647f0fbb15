//! A folder as a backend: one file an object.
//!
//! An object is written to `tmp/`, which has to be a real folder, synced, moved to its name without replacing one, but
//! for a damaged one that is to be replaced (`renameat2(RENAME_NOREPLACE)`, or link and unlink where the file system
//! lacks it), and then the folder that holds the name is synced. Writers that wait for the same folder share one sync.
//! Temporary files have a folder of their own, on the same file system, so that what a crash left is found without
//! reading every folder. A pack or whole object that would take of the disk's reserve ([`crate::room`]) is not written.

mod files;
mod filesystem;
mod temporary;
mod unfinished;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustix::fs::Access;

use super::{Backend, Listed, Put, key_check};
use crate::copy::DOUBTED;
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::owner::Within;
use crate::room::Room;
use crate::world::World;

use files::write_synced;
pub use filesystem::{FilesystemKind, filesystem_kind};
use temporary::{TEMPORARY, Temporary};
pub use unfinished::writes_settle;

/// Where the headers of a store lie: the first that a store has, and the last that a copy of one gets.
const HEADERS: &str = "h";

/// Objects as files under one folder.
#[derive(Debug, Clone)]
pub struct Folder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    folders: Mutex<HashMap<PathBuf, Arc<FolderSync>>>,
    /// Folders whose names are known to be durable. One that is merely there may have been made a moment ago, or by a
    /// server that was killed before it had synced the name.
    durable: Mutex<HashSet<PathBuf>>,
    /// A store was there when the folder was opened, or has been made since.
    holds_store: AtomicBool,
    /// Whether the root, where it is made here, is given to the owner of the folder that it lies in.
    is_given: bool,
    world: World,
}

/// What opening may make and clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// The folder, which is the caller's: what is in a store is for nobody else's eyes.
    Make,
    /// The folder, which is of the owner of the one it is made in.
    MakeWithin,
    /// What is in the folder, where a store is.
    Existing,
    /// Nothing.
    Read,
}

/// Shares one sync of a folder among all who asked before it began.
#[derive(Debug, Default)]
struct FolderSync {
    asked: AtomicU64,
    done: Mutex<u64>,
}

impl Folder {
    /// Opens the folder, makes it if absent, and clears what crashed writers left in `tmp/`. One that cannot be written
    /// can be read. A folder that is made is the caller's, whosever folder it lies in.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_as(root, Opening::Make)
    }

    /// The same for a store that belongs to what it lies in: where root makes it, it is of that folder's owner.
    pub fn open_within(root: &Path) -> Result<Self> {
        Self::open_as(root, Opening::MakeWithin)
    }

    /// The same, but a folder in which no store lies is left as it is, also where it is absent: whoever finds no store
    /// there must not have made anything in the place of one that is not mounted, or was moved away.
    pub fn open_existing(root: &Path) -> Result<Self> {
        Self::open_as(root, Opening::Existing)
    }

    /// Opens the folder of a store that is only read: nothing is made there, or cleared.
    pub fn open_to_read(root: &Path) -> Result<Self> {
        Self::open_as(root, Opening::Read)
    }

    fn open_as(root: &Path, opening: Opening) -> Result<Self> {
        let root =
            std::path::absolute(root).map_err(|error| Error::io("cannot find the store's folder", error))?;
        let inner = Inner {
            root: root.clone(),
            folders: Mutex::default(),
            durable: Mutex::default(),
            holds_store: AtomicBool::new(root.join(HEADERS).is_dir()),
            is_given: opening == Opening::MakeWithin,
            world: World::system(),
        };
        let is_prepared = match opening {
            Opening::Make | Opening::MakeWithin => true,
            Opening::Existing => root.join(HEADERS).is_dir(),
            Opening::Read => false,
        };
        let is_for_reading = root.is_dir() && rustix::fs::access(&root, Access::WRITE_OK).is_err();
        if !is_for_reading && is_prepared {
            // Only here: what is written under a mount that went away must find no such folder.
            inner.folder_make(&root.join(TEMPORARY))?;
            inner.temporary_clear()?;
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|error| Error::new(Kind::Io, "a file operation was stopped").with_source(error))?
    }

    async fn begin(&self, key: &str, naming: Naming) -> Result<Box<dyn Put>> {
        key_check(key)?;
        let context = format!("cannot begin object `{key}`");
        let file = self.run(|inner| Temporary::create(inner).map_err(|error| Error::io(context, error)));
        Ok(Box::new(FolderPut {
            file: Some(file.await?),
            inner: Arc::clone(&self.inner),
            key: key.to_owned(),
            naming,
        }))
    }
}

#[async_trait]
impl Backend for Folder {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        key_check(key)?;
        let key = key.to_owned();
        self.run(move |inner| inner.put(&key, &data)).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        self.begin(key, Naming::New).await
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.begin(key, Naming::Replace).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let key = key.to_owned();
        self.run(move |inner| {
            let context = format!("cannot read object `{key}`");
            std::fs::read(inner.root.join(&key))
                .map(Bytes::from)
                .map_err(|error| Error::io(context, error))
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let key = key.to_owned();
        self.run(move |inner| inner.read(&key, &range)).await
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.inner.root)
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        let key = key.to_owned();
        self.run(move |inner| match std::fs::metadata(inner.root.join(&key)) {
            Ok(data) => Ok(Some(data.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("cannot look at object `{key}`"), error)),
        })
        .await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        self.list_after(prefix, "")
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'_, Result<Listed>> {
        let folder = self.inner.root.join(prefix.trim_end_matches('/'));
        let after: Arc<str> = after.into();
        let whole = Arc::clone(&after);
        let first = self.run(move |inner| inner.folder_list(&folder, &whole));
        // One folder of names in memory at a time: the two-level layout keeps that small.
        futures::stream::once(first)
            .flat_map(move |entries| match entries {
                Ok((folders, files)) => {
                    let after = Arc::clone(&after);
                    let deeper = futures::stream::iter(folders).then(move |folder| {
                        let after = Arc::clone(&after);
                        self.run(move |inner| inner.folder_list_deep(&folder, &after))
                    });
                    let deeper = deeper.flat_map(|list| match list {
                        Ok(files) => futures::stream::iter(files.into_iter().map(Ok)).boxed(),
                        Err(error) => futures::stream::iter([Err(error)]).boxed(),
                    });
                    futures::stream::iter(files.into_iter().map(Ok))
                        .chain(deeper)
                        .boxed()
                }
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key_check(key)?;
        let key = key.to_owned();
        self.run(move |inner| match std::fs::remove_file(inner.root.join(&key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot delete object `{key}`"), error))
            }
            // A header that comes back has a key that was taken away.
            Ok(()) if key.starts_with("h/") => inner.folder_sync(&inner.root.join(HEADERS)),
            // Should another name come back after a power loss, it is an orphan that gc's listing finds.
            _ => Ok(()),
        })
        .await
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        self.run(Inner::temporary_clear).await
    }

    fn describe(&self) -> String {
        self.inner.root.display().to_string()
    }
}

/// An object being written. A file that cannot be given back to it is lost, and with it the object.
#[derive(Debug)]
struct FolderPut {
    inner: Arc<Inner>,
    key: String,
    naming: Naming,
    file: Option<Temporary>,
}

/// What becomes of an object that has the name already.
#[derive(Debug, Clone, Copy)]
enum Naming {
    /// It stays, and the new one fails.
    New,
    /// The new one takes its place.
    Replace,
}

impl FolderPut {
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Inner, &str, Temporary) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::new(Kind::Io, "an earlier write of the object failed");
        let file = self.file.take().ok_or_else(gone)?;
        let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
        let done = tokio::task::spawn_blocking(move || work(&inner, &key, file)).await;
        done.map_err(|error| Error::new(Kind::Io, "a file operation was stopped").with_source(error))?
    }
}

#[async_trait]
impl Put for FolderPut {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let file = self.run(move |_, key, mut file| match file.write(&data) {
            Ok(()) => Ok(file),
            Err(error) => Err(Error::io(format!("cannot write object `{key}`"), error)),
        });
        self.file = Some(file.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let naming = self.naming;
        self.run(move |inner, key, mut file| {
            let synced = file.file.sync_all();
            synced.map_err(|error| Error::io(format!("cannot write object `{key}`"), error))?;
            inner.name(&mut file, key, naming)
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Opens the file that an object is.
pub(crate) fn open(root: &Path, key: &str) -> Result<File> {
    let failed = |error| Error::io(format!("cannot read object `{key}`"), error);
    File::open(root.join(key)).map_err(failed)
}

/// Fills `data` from the file of the object `key`; it is damaged where that is too short.
pub(crate) fn read_exactly(file: &File, key: &str, from: u64, data: &mut [u8]) -> Result<()> {
    file.read_exact_at(data, from)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let text = format!("object `{key}` ends before byte {}", from + data.len() as u64);
                Error::new(Kind::Damaged, text).with_source(error)
            }
            _ => Error::io(format!("cannot read object `{key}`"), error),
        })
}

impl Inner {
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        let failed = |error| self.unwritten(key, error);
        if !keeps_books(key) {
            Room::new(&self.root).take(data.len() as u64).map_err(failed)?;
        }
        let mut temporary = Temporary::create(self).map_err(failed)?;
        write_synced(&temporary.file, data).map_err(failed)?;
        self.name(&mut temporary, key, Naming::New)
    }

    fn unwritten(&self, key: &str, error: io::Error) -> Error {
        let text = format!("cannot write object `{key}` to `{}`", self.root.display());
        Error::io(text, error)
    }

    /// Gives a file that was synced its name, durably. The folders of the name are made only now: where the disk of the
    /// store is gone, whatever lies in its place has no folder for temporary files, and nothing is made there.
    fn name(&self, file: &mut Temporary, key: &str, naming: Naming) -> Result<()> {
        let target = self.root.join(key);
        let folder = target.parent().unwrap_or(&self.root);
        self.folder_make(folder)?;
        let name = target.file_name().unwrap_or_default();
        let renamed = Within::open(folder).and_then(|opened| file.rename(&opened, name, naming));
        renamed.map_err(|error| self.unwritten(key, error))?;
        self.folder_sync(folder)?;
        self.named_check(key, &target, naming)
    }

    /// Fails where what was written did not go into the store, but into the folder below its mount, which went away
    /// meanwhile and may be back.
    fn named_check(&self, key: &str, target: &Path, naming: Naming) -> Result<()> {
        if key.starts_with("h/") {
            self.holds_store.store(true, Ordering::Relaxed);
        }
        if !self.holds_store.load(Ordering::Relaxed) {
            return Ok(());
        }
        let has_store = self.root.join(HEADERS).is_dir();
        if has_store && target.exists() {
            return Ok(());
        }
        // What took another's place may have taken it in the store, whose headers alone are lost.
        if !has_store && matches!(naming, Naming::New) {
            let _ = std::fs::remove_file(target);
        }
        let text = format!(
            "`{}` no longer holds the store that was there",
            self.root.display()
        );
        Err(Error::new(Kind::StoreAway, text))
    }

    fn read(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        let file = open(&self.root, key)?;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        memory::filled(length, |data| read_exactly(&file, key, range.start, data))
    }

    /// Makes a folder and those above it, each durable before anything is put into it. What is above the root and there
    /// already is not ours to sync.
    fn folder_make(&self, folder: &Path) -> Result<()> {
        let is_settled = !folder.starts_with(&self.root) || self.durable().contains(folder);
        if is_settled && folder.is_dir() {
            return Ok(());
        }
        let Some(parent) = folder.parent() else {
            return Ok(());
        };
        self.folder_make(parent)?;
        match self.folder_new(parent, folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let text = format!("cannot make folder `{}`", folder.display());
                return Err(Error::io(text, error));
            }
            // Who made the root may keep the folder above from us.
            Err(_) if folder == self.root && File::open(parent).is_err() => {}
            // Also when another made it: its sync may not have happened yet.
            _ => self.folder_sync(parent)?,
        }
        self.durable().insert(folder.to_owned());
        Ok(())
    }

    /// Makes one folder. The root, and what is above it, is given away only where the store belongs to what it lies in.
    fn folder_new(&self, parent: &Path, folder: &Path) -> io::Result<()> {
        let parent = Within::open(parent)?;
        let name = folder.file_name().unwrap_or_default();
        parent.folder_new(name)?;
        let is_inside = folder != self.root && folder.starts_with(&self.root);
        if is_inside || self.is_given {
            parent.folder_give(name)?;
        }
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder_sync(&self, folder: &Path) -> Result<()> {
        let shared = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(folders.entry(folder.to_owned()).or_default())
        };
        let mine = shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done >= mine {
            return Ok(());
        }
        let covers = shared.asked.load(Ordering::SeqCst);
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|error| Error::io(format!("cannot sync folder `{}`", folder.display()), error))?;
        *done = covers;
        Ok(())
    }

    /// The folders and the objects directly in a folder, without those whose keys are up to `after`. A folder that is
    /// absent is empty.
    fn folder_list(&self, folder: &Path, after: &str) -> Result<(Vec<PathBuf>, Vec<Listed>)> {
        let context = |error| Error::io(format!("cannot list folder `{}`", folder.display()), error);
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.map_err(context)?,
        };
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in entries {
            let path = entry.map_err(context)?.path();
            let Ok(key) = path.strip_prefix(&self.root) else {
                continue;
            };
            let key = key.to_string_lossy().into_owned();
            if key == TEMPORARY || is_passed(&key, after) {
                continue;
            }
            let data = match std::fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                data => data.map_err(context)?,
            };
            if data.is_dir() {
                folders.push(path);
            } else if key.as_str() > after {
                files.push(Listed {
                    key,
                    bytes: data.len(),
                    modified_us: modified_us(&data),
                });
            }
        }
        Ok((folders, files))
    }

    fn folder_list_deep(&self, folder: &Path, after: &str) -> Result<Vec<Listed>> {
        let (folders, mut files) = self.folder_list(folder, after)?;
        for folder in folders {
            files.extend(self.folder_list_deep(&folder, after)?);
        }
        Ok(files)
    }
}

fn modified_us(data: &std::fs::Metadata) -> i64 {
    data.mtime()
        .saturating_mul(1_000_000)
        .saturating_add(data.mtime_nsec() / 1_000)
}

/// Whether neither an object of this name nor what is in a folder of it has a key greater than `after`.
fn is_passed(name: &str, after: &str) -> bool {
    let inside = format!("{name}/");
    name <= after && inside.as_str() <= after && !after.starts_with(&inside)
}

/// Journal and headers are what the reserve is there for: without them nothing could be deleted on a full disk; and
/// notes of damage, without which what is damaged would be trusted.
fn keeps_books(key: &str) -> bool {
    ["j/", "h/", DOUBTED].iter().any(|books| key.starts_with(books))
}

#[cfg(test)]
mod tests;
