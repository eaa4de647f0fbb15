//! A file that does nothing but take room: beside SQLite's, and in the folder of the objects where that is on another
//! disk. On a disk that something else filled to the last byte it is removed, and what it took is enough to go on:
//! images can be deleted, failures written down, and what gc has to note before it frees anything is written. When
//! there is room again it is made anew.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use store::owner;
use store::room::Space;

/// Its size at most, four times what SQLite's log of changes grows to before it is written over.
const SIZE: u64 = 16 << 20;
/// So little is left on a full disk: more than most transactions take. No sooner is the reserve given away, or whoever
/// fills the disk would have it before the database needs it.
const LOW: u64 = 1 << 20;

/// With less than that, not even a small transaction finds room.
const SPENT: u64 = 64 << 10;

/// The file.
#[derive(Clone, Debug)]
pub struct Reserve {
    path: PathBuf,
    /// Whose disk it is on, for people.
    disk: &'static str,
    /// The disk was full at the last [`Reserve::look`].
    was_full: Arc<AtomicBool>,
}

/// What [`Reserve::look`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing was to be done.
    Nothing,
    /// The disk was full: the reserve's room is free now.
    Released,
    /// There is room: the reserve was made.
    Made,
}

impl Reserve {
    /// The reserve of the database `path`, whose folder exists. That is no link: a reserve helps on its own disk only.
    pub fn beside(path: &Path) -> Self {
        Self {
            path: path.with_extension("reserve"),
            disk: "the database's disk",
            was_full: Arc::default(),
        }
    }

    /// The reserve of objects that lie in `folder`.
    pub fn of_objects(folder: &Path) -> Self {
        Self {
            path: folder.join("reserve"),
            disk: "the objects' disk",
            was_full: Arc::default(),
        }
    }

    /// Gives the room away where the disk is full and was so at the last look, and takes it again where there is
    /// enough.
    pub fn look(&self) -> io::Result<Looked> {
        let space = self.space()?;
        let was_full = self.was_full.swap(is_full(space), Ordering::Relaxed);
        if was_full && self.release(space) {
            return Ok(Looked::Released);
        }
        self.take(space)
    }

    /// Takes the room of a reserve of objects where there is enough, and gives none away: who needs it asks for it
    /// ([`Reserve::release_if_short`]).
    pub fn keep(&self) -> io::Result<Looked> {
        // Not in the folder under a mount that went away.
        if !self.folder().join("h").is_dir() {
            return Ok(Looked::Nothing);
        }
        self.take(self.space()?)
    }

    /// Looks after it by one of these, on a thread that may wait for the disk, and tells the log.
    pub async fn tend(&self, by: fn(&Self) -> io::Result<Looked>) {
        let reserve = self.clone();
        let looked = tokio::task::spawn_blocking(move || by(&reserve)).await;
        match looked.map_err(io::Error::other).flatten() {
            Ok(Looked::Made) => tracing::info!("there is room on {}: a reserve was made", self.disk),
            Ok(Looked::Nothing | Looked::Released) => {}
            Err(error) => tracing::warn!(%error, "could not look after the reserve on {}", self.disk),
        }
    }

    fn take(&self, space: Space) -> io::Result<Looked> {
        // Where the file system does not say how large it is, nothing is known of its end either.
        if size(space) == 0 {
            return Ok(Looked::Nothing);
        }
        // A part of it, which a crash left, is not the whole.
        let is_there = fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= size(space));
        if is_there || space.free < space.reserve() + size(space) {
            return Ok(Looked::Nothing);
        }
        let made = make(&self.path, size(space));
        if made.is_err() {
            // A part of it would be taken for the whole.
            let _ = fs::remove_file(&self.path);
        }
        made.map(|()| Looked::Made)
    }

    /// Gives the room away where the disk is about full. One look at a local disk, to be done before each transaction:
    /// it takes microseconds.
    pub fn release_if_full(&self) -> bool {
        self.space().is_ok_and(|space| self.release(space))
    }

    /// Gives the room away where so little is left that it may be what is missing: to be asked after something failed.
    pub fn release_if_short(&self) -> bool {
        self.space()
            .is_ok_and(|space| space.free < 2 * size(space) && self.remove(space))
    }

    /// Whether it was given away, and nothing is left of what it took.
    pub fn is_spent(&self) -> bool {
        !self.path.exists()
            && self
                .space()
                .is_ok_and(|space| space.total > 0 && space.free < SPENT)
    }

    /// The room on its disk.
    pub fn space(&self) -> io::Result<Space> {
        Space::of(self.folder())
    }

    fn release(&self, space: Space) -> bool {
        is_full(space) && self.remove(space)
    }

    fn remove(&self, space: Space) -> bool {
        let is_released = fs::remove_file(&self.path).is_ok();
        if is_released {
            tracing::warn!(
                free_bytes = space.free,
                "{} is full: its reserve was released; free or add space",
                self.disk
            );
        }
        is_released
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

fn is_full(space: Space) -> bool {
    space.free < LOW.min(size(space) / 2)
}

/// Its size on this disk. Not more than what writers of images leave free: given away, it is nothing to them.
fn size(space: Space) -> u64 {
    SIZE.min(space.reserve())
}

fn make(path: &Path, size: u64) -> io::Result<()> {
    let file = owner::file_open(path)?;
    file.set_len(0)?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        // A file system that cannot: zeros take room as well, unless it compresses them.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(&file, size),
        done => Ok(done?),
    }
}

fn fill(mut file: &File, size: u64) -> io::Result<()> {
    let block = vec![0; 1 << 16];
    for _ in 0..size.div_ceil(1 << 16) {
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_takes_room_and_gives_it_away_when_none_is_left() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let reserve = Reserve::beside(&dir.path().join("cistern.sqlite"));
        assert_eq!(reserve.look().expect("looks"), Looked::Made);
        let meta = fs::metadata(&reserve.path).expect("is there");
        assert!(
            meta.blocks() * 512 >= meta.len(),
            "it really takes room: {meta:?}"
        );
        assert_eq!(reserve.look().expect("looks"), Looked::Nothing);

        let total = 1 << 30;
        let space = |free| Space { free, total };
        assert!(!reserve.release(space(2 << 20)), "there is room");
        assert!(reserve.release(space(1 << 19)));
        assert!(!reserve.path.exists());
        assert!(!reserve.release(Space { free: 0, total }), "only once");
        assert_eq!(reserve.look().expect("looks"), Looked::Made, "and again");
    }
}
