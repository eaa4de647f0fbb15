//! A folder as a backend: one file an object.
//!
//! An object is written to `tmp/`, synced, moved to its name without ever replacing one
//! (`renameat2(RENAME_NOREPLACE)`, or link and unlink where the file system lacks it), and then the folder
//! that holds the name is synced. Writers that wait for the same folder share one sync. Temporary files have
//! a folder of their own, on the same file system, so that what a crash left is found without reading
//! every folder. A pack or whole object that would take of the disk's reserve ([`crate::room`]) is not written.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustix::fs::{Access, CWD, OFlags, RenameFlags, fcntl_setfl};

use super::{Backend, Listed, Put, key_check};
use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::room::Room;
use crate::world::World;

const TEMPORARY: &str = "tmp";
/// What a direct write is made of, whatever the disk; also where it begins in memory.
const BLOCK: usize = 4096;
/// Less is not worth it.
const DIRECT: usize = 1 << 20;
/// A temporary file this old belongs to no living writer.
const TEMPORARY_AGE: Duration = Duration::from_hours(24);

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
    world: World,
}

/// Shares one sync of a folder among all who asked before it began.
#[derive(Debug, Default)]
struct FolderSync {
    asked: AtomicU64,
    done: Mutex<u64>,
}

impl Folder {
    /// Opens the folder, makes it if absent, and clears what crashed writers left in `tmp/`. One that cannot be written can be read.
    pub fn open(root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(root).map_err(|error| Error::io("cannot find the store's folder", error))?;
        let inner = Inner {
            root: root.clone(),
            folders: Mutex::default(),
            durable: Mutex::default(),
            world: World::system(),
        };
        let is_for_reading = root.is_dir() && rustix::fs::access(&root, Access::WRITE_OK).is_err();
        if !is_for_reading {
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
}

#[async_trait]
impl Backend for Folder {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        key_check(key)?;
        let key = key.to_owned();
        self.run(move |inner| inner.put(&key, &data)).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        key_check(key)?;
        let context = format!("cannot begin object `{key}`");
        let file = self.run(|inner| Temporary::create(inner).map_err(|error| Error::io(context, error)));
        Ok(Box::new(FolderPut {
            file: Some(file.await?),
            inner: Arc::clone(&self.inner),
            key: key.to_owned(),
        }))
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
        let folder = self.inner.root.join(prefix.trim_end_matches('/'));
        let first = self.run(move |inner| inner.folder_list(&folder));
        // One folder of names in memory at a time: the two-level layout keeps that small.
        futures::stream::once(first)
            .flat_map(move |entries| match entries {
                Ok((folders, files)) => {
                    let deeper = futures::stream::iter(folders)
                        .then(move |folder| self.run(move |inner| inner.folder_list_deep(&folder)));
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
        // Not synced: should the name come back after a power loss, it is an orphan that gc's listing finds.
        self.run(move |inner| match std::fs::remove_file(inner.root.join(&key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot delete object `{key}`"), error))
            }
            _ => Ok(()),
        })
        .await
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
    file: Option<Temporary>,
}

/// A file under `tmp/`; what is there of it when this is dropped goes.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
    room: Room,
}

impl Temporary {
    fn create(inner: &Inner) -> io::Result<Self> {
        let path = inner.root.join(TEMPORARY).join(inner.world.uuid().to_string());
        Ok(Self {
            file: create_new(&path)?,
            path,
            room: Room::new(&inner.root),
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.room.take(data.len() as u64)?;
        self.file.write_all(data)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may have its name by now; where it has not and cannot be removed, a later start clears it.
        let _ = std::fs::remove_file(&self.path);
    }
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
        self.run(|inner, key, file| {
            let target = inner.root.join(key);
            let folder = target.parent().unwrap_or(&inner.root).to_owned();
            inner.folder_make(&folder)?;
            let named = file
                .file
                .sync_all()
                .and_then(|()| rename_new(&file.path, &target));
            named.map_err(|error| Error::io(format!("cannot write object `{key}`"), error))?;
            inner.folder_sync(&folder)
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
        let target = self.root.join(key);
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        self.folder_make(&folder)?;
        if !keeps_books(key) {
            let full = |error| Error::io(format!("cannot write object `{key}`"), error);
            Room::new(&self.root).take(data.len() as u64).map_err(full)?;
        }
        let temporary = self.root.join(TEMPORARY).join(self.world.uuid().to_string());
        let written = write_synced(&temporary, data).and_then(|()| rename_new(&temporary, &target));
        if let Err(error) = written {
            // The error below is what counts; a file that stays is cleared at a later start.
            let _ = std::fs::remove_file(&temporary);
            return Err(Error::io(
                format!("cannot write object `{key}` to `{}`", self.root.display()),
                error,
            ));
        }
        self.folder_sync(&folder)
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
        match std::fs::create_dir(folder) {
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

    fn temporary_clear(&self) -> Result<()> {
        let folder = self.root.join(TEMPORARY);
        let context = || format!("cannot read folder `{}`", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(|error| Error::io(context(), error))? {
            let entry = entry.map_err(|error| Error::io(context(), error))?;
            let modified = entry.metadata().and_then(|data| data.modified());
            let age = modified.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if age > TEMPORARY_AGE {
                // Another process may clear the same file at the same time.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// The folders and the objects directly in a folder. A folder that is absent is empty.
    fn folder_list(&self, folder: &Path) -> Result<(Vec<PathBuf>, Vec<Listed>)> {
        let context = |error| Error::io(format!("cannot list folder `{}`", folder.display()), error);
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.map_err(context)?,
        };
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in entries {
            let path = entry.map_err(context)?.path();
            let data = match std::fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                data => data.map_err(context)?,
            };
            let Ok(key) = path.strip_prefix(&self.root) else {
                continue;
            };
            let key = key.to_string_lossy().into_owned();
            if key == TEMPORARY {
                continue;
            }
            if data.is_dir() {
                folders.push(path);
            } else {
                files.push(Listed {
                    key,
                    bytes: data.len(),
                });
            }
        }
        Ok((folders, files))
    }

    fn folder_list_deep(&self, folder: &Path) -> Result<Vec<Listed>> {
        let (folders, mut files) = self.folder_list(folder)?;
        for folder in folders {
            files.extend(self.folder_list_deep(&folder)?);
        }
        Ok(files)
    }
}

/// Journal and headers are what the reserve is there for: without them nothing could be deleted on a full disk.
fn keeps_books(key: &str) -> bool {
    key.starts_with("j/") || key.starts_with("h/")
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes as much of `data` as can go to the disk without a copy in the system's memory; gives how much that was. To
/// make that copy takes more time than to write it, and throws out what others read; nobody reads a pack soon but
/// the job that computes the image's checksum, which sees the disk then.
fn write_direct(file: &File, data: &[u8]) -> io::Result<usize> {
    let is_aligned = data.as_ptr().addr().is_multiple_of(BLOCK);
    let whole = data.len() / BLOCK * BLOCK;
    if !is_aligned || whole < DIRECT || fcntl_setfl(file, OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let mut written = 0;
    while written < whole {
        match file.write_at(&data[written..whole], written as u64) {
            Ok(some) if some > 0 && some.is_multiple_of(BLOCK) => written += some,
            // The file system has another opinion of blocks, or of all this.
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    fcntl_setfl(file, OFlags::empty())?;
    Ok(written)
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let file = create_new(path)?;
    let written = write_direct(&file, data)?;
    file.write_all_at(&data[written..], written as u64)?;
    // A failed fsync may have thrown the pages away: the file is given up, never synced again.
    file.sync_all()
}

/// Gives the file its name unless the name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system (NFS, some FUSE) or an old kernel has no flags for rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(from, to),
        done => done.map_err(io::Error::from),
    }
}

fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// Whether a database file may live on the file system that holds `path` (which may not exist yet).
///
/// SQLite's locks and its shared memory do not work over the network or through most user-space file systems;
/// see <https://www.sqlite.org/wal.html>, "WAL does not work over a network filesystem".
pub fn filesystem_kind(path: &Path) -> Result<FilesystemKind> {
    let mut existing = path;
    while !existing.try_exists().unwrap_or(false) {
        existing = match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let stat = rustix::fs::statfs(existing)
        .map_err(|error| Error::io(format!("cannot look at `{}`", existing.display()), error.into()))?;
    // The magic numbers of statfs(2); the field's type differs between architectures.
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "magics have 32 bits"
    )]
    let magic = stat.f_type as u32;
    Ok(FilesystemKind::from_magic(magic))
}

/// A file system, as far as it matters to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemKind {
    /// Locks and shared memory work as SQLite needs them.
    Local,
    /// They do not; the name is that of the file system.
    Unfit(&'static str),
}

impl FilesystemKind {
    fn from_magic(magic: u32) -> Self {
        match magic {
            0x6969 => Self::Unfit("NFS"),
            0xff53_4d42 | 0xfe53_4d42 | 0x517b => Self::Unfit("CIFS/SMB"),
            0x0102_1997 => Self::Unfit("9p"),
            0x6573_5546 => Self::Unfit("FUSE"),
            0x00c3_6400 => Self::Unfit("Ceph"),
            0x5346_414f | 0x7375_7245 => Self::Unfit("AFS/Coda"),
            0x0bd0_0bd0 => Self::Unfit("Lustre"),
            0x786f_4256 => Self::Unfit("a VirtualBox shared folder"),
            _ => Self::Local,
        }
    }

    /// A sentence that refuses to put the database at `path` here and says where to put it instead.
    pub fn database_refusal(self, path: &Path) -> Option<String> {
        let Self::Unfit(name) = self else { return None };
        Some(format!(
            "the database `{}` would be on {name}, where SQLite loses data: put the data folder on a local \
             disk (the objects may stay where they are: `--objects`), or use PostgreSQL with `--database`",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[tokio::test]
    async fn what_goes_to_the_disk_directly_is_what_was_given() {
        let (dir, folder) = folder();
        let probe = OpenOptions::new()
            .write(true)
            .create(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(dir.path().join("probe"));
        // A mapping begins where a direct write may; what lies a byte further is written the usual way.
        let mut map = memmap2::MmapMut::map_anon(DIRECT + 3 * BLOCK).unwrap();
        blake3::Hasher::new().finalize_xof().fill(&mut map);
        let bytes = Bytes::from_owner(map);
        for (n, range) in [
            0..DIRECT,
            0..DIRECT + 1,
            0..DIRECT + 2 * BLOCK - 1,
            1..DIRECT + 2 * BLOCK,
            0..DIRECT - 1,
        ]
        .into_iter()
        .enumerate()
        {
            let (key, data) = (format!("p/ab/{n}"), bytes.slice(range.clone()));
            folder.put_new(&key, data.clone()).await.unwrap();
            assert!(folder.get(&key).await.unwrap() == data, "{range:?}");
            let file = create_new(&dir.path().join(format!("{n}"))).unwrap();
            let written = write_direct(&file, &data).unwrap();
            let wanted = if n < 3 { data.len() / BLOCK * BLOCK } else { 0 };
            // Some file systems have no direct writes.
            assert_eq!(written, if probe.is_ok() { wanted } else { 0 }, "{range:?}");
            // The file is an ordinary one again.
            (&file).write_all(b"x").unwrap();
        }
    }

    #[tokio::test]
    async fn keys_are_exclusive_under_a_race() {
        let (dir, folder) = folder();
        let tries = (0..16_u8).map(|n| {
            let folder = folder.clone();
            tokio::spawn(async move { folder.put_new("p/ab/one", Bytes::from(vec![n; 1000])).await })
        });
        let results = futures::future::join_all(tries).await;
        let won = results
            .iter()
            .filter(|result| result.as_ref().unwrap().is_ok())
            .count();
        assert_eq!(won, 1);
        for lost in results.into_iter().filter_map(|result| result.unwrap().err()) {
            assert_eq!(lost.kind(), Kind::Exists);
        }
        assert_eq!(folder.get("p/ab/one").await.unwrap().len(), 1000);
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn the_fall_back_is_exclusive_too() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, to] = ["a", "b", "to"].map(|name| dir.path().join(name));
        std::fs::write(&a, "a").unwrap();
        std::fs::write(&b, "b").unwrap();
        link_new(&a, &to).unwrap();
        assert_eq!(
            link_new(&b, &to).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&to).unwrap(), b"a");
        assert!(!a.exists());
    }

    #[tokio::test]
    async fn ranges_listing_and_deletion() {
        let (_dir, folder) = folder();
        folder
            .put_new("p/ab/one", Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
        folder
            .put_new("p/cd/two", Bytes::from_static(b"x"))
            .await
            .unwrap();
        folder
            .put_new("h/00000000", Bytes::from_static(b"header"))
            .await
            .unwrap();
        assert_eq!(folder.get_range("p/ab/one", 2..5).await.unwrap(), "234");
        assert_eq!(
            folder.get_range("p/ab/one", 8..11).await.unwrap_err().kind(),
            Kind::Damaged
        );
        assert_eq!(
            folder.get_range("p/ab/none", 0..1).await.unwrap_err().kind(),
            Kind::NotFound
        );
        let keys = |list: Vec<Result<Listed>>| {
            let mut keys: Vec<_> = list.into_iter().map(|item| item.unwrap().key).collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(folder.list("p/").collect().await), ["p/ab/one", "p/cd/two"]);
        assert_eq!(
            keys(folder.list("").collect().await),
            ["h/00000000", "p/ab/one", "p/cd/two"]
        );
        assert_eq!(keys(folder.list("j/").collect().await), [""; 0]);
        folder.delete("p/ab/one").await.unwrap();
        folder.delete("p/ab/one").await.unwrap();
        assert_eq!(folder.stat("p/ab/one").await.unwrap(), None);
        assert_eq!(
            folder.put_new("../x", Bytes::new()).await.unwrap_err().kind(),
            Kind::Invalid
        );
    }

    #[test]
    fn network_file_systems_are_refused_with_a_way_out() {
        assert_eq!(
            filesystem_kind(Path::new("/proc/none/such")).unwrap(),
            FilesystemKind::Local
        );
        let refusal = FilesystemKind::from_magic(0x6969)
            .database_refusal(Path::new("/mnt/x"))
            .unwrap();
        assert!(
            refusal.contains("NFS") && refusal.contains("--database"),
            "{refusal}"
        );
        assert_eq!(FilesystemKind::from_magic(0xef53), FilesystemKind::Local);
    }
}
