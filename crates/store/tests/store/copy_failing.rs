//! Copies of a source of which not everything can be read, or not everything is the store's: all else is copied, and
//! what is missing is told until it is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use store::{Backend, Copied, CopyOptions, CopyProgress, Fault, Faulty, Kind, Store};

use crate::copy::{copy, copy_read_back, folder, made};
use crate::damage::{journal_write, read, verify};
use crate::meanwhile::Meanwhile;
use crate::support::{Place, files_below, import, noise};

/// A file that the disk cannot read any more: the kernel's own EIO.
struct Unreadable {
    path: PathBuf,
    aside: PathBuf,
}

impl Unreadable {
    fn new(path: &Path, place: &Place) -> Self {
        let (path, aside) = (path.to_owned(), place.dir.path().join("unreadable"));
        std::fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
        Self { path, aside }
    }

    fn end(self) {
        std::fs::rename(self.aside, self.path).unwrap();
    }
}

/// A store with the disks `one` and `two`, each with a pack of its own, and a journal; that of the first.
async fn two_disks() -> (Place, PathBuf, PathBuf, PathBuf) {
    let (place, from, to) = made().await;
    let packs = files_below(&from.join("p"));
    assert_eq!(packs.len(), 1);
    let store = place.store().await;
    import(&store, &place.db, "two", &noise(4, 3 << 20)).await;
    journal_write(&store).await;
    (place, from, to, packs[0].clone())
}

fn only<'a>(copied: &'a Copied, key: &str) -> &'a str {
    assert_eq!(copied.damaged.len(), 1, "{copied:?}");
    let told = &copied.damaged[0];
    assert!(told.starts_with(key), "{told}");
    assert!(told.contains("it cannot be read (Input/output error"), "{told}");
    told
}

fn assert_alike(from: &Path, to: &Path) {
    for prefix in ["p", "b", "j", "h"].map(|prefix| from.join(prefix)) {
        for path in prefix
            .is_dir()
            .then(|| files_below(&prefix))
            .into_iter()
            .flatten()
        {
            let copy = to.join(path.strip_prefix(from).unwrap());
            assert!(
                std::fs::read(&copy).ok() == std::fs::read(&path).ok(),
                "{}",
                copy.display()
            );
        }
    }
    let notes = to.join("damaged");
    assert!(!notes.is_dir() || files_below(&notes).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_cannot_read_costs_the_copy_nothing_else() {
    let (place, from, to, pack) = two_disks().await;
    let key = pack.strip_prefix(&from).unwrap().to_str().unwrap().to_owned();
    let unreadable = Unreadable::new(&pack, &place);
    for objects in [1 + 8 + 2, 0] {
        let copied = copy(&from, &to).await.unwrap();
        let told = only(&copied, &key);
        assert!(told.contains("the copy does not have it"), "{told}");
        assert_eq!((copied.objects, copied.data), (objects, 2), "{copied:?}");
        assert!(!to.join(&key).exists() && to.join("damaged").join(&key).exists());
    }
    // It is a store, with all that could be read.
    let store = Store::open(folder(&to), &place.db, place.options())
        .await
        .unwrap();
    assert!(read(&store, "two", 0, 3 << 20).await.unwrap() == noise(4, 3 << 20));
    let damage = verify(&store, true).await;
    let is_told = |owner: &str| damage.iter().any(|one| one.owner == owner);
    assert!(is_told("one") && !is_told("two"), "{damage:?}");
    let id = key.rsplit('/').next().unwrap();
    assert!(damage.iter().all(|one| one.reason.contains(id)), "{damage:?}");

    unreadable.end();
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.objects, copied.damaged.len()), (1, 0), "{copied:?}");
    assert_alike(&from, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_cannot_read_replaces_nothing() {
    let (place, from, to, pack) = two_disks().await;
    copy(&from, &to).await.unwrap();
    let target = to.join(pack.strip_prefix(&from).unwrap());
    let whole = std::fs::read(&target).unwrap();
    let unreadable = Unreadable::new(&pack, &place);
    let told = copy_read_back(&from, &to).await;
    assert!(only(&told, "p/").contains("the copy keeps what it has"));
    assert!(std::fs::read(&target).unwrap() == whole);
    unreadable.end();
    assert_eq!(copy(&from, &to).await.unwrap().damaged.len(), 0);
    assert_alike(&from, &to);
}

/// A recovery would not miss the last object of the journal: it tells of one that it cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_object_of_the_journal_has_an_empty_one_in_its_place() {
    let (place, from, to, _) = two_disks().await;
    let key = "j/00000002/0000000000000003";
    let unreadable = Unreadable::new(&from.join(key), &place);
    for _ in 0..2 {
        let copied = copy(&from, &to).await.unwrap();
        only(&copied, key);
        assert_eq!(std::fs::read(to.join(key)).unwrap(), b"");
    }
    // So does a copy of the copy.
    let third = to.with_extension("third");
    let copied = copy(&to, &third).await.unwrap();
    assert_eq!(copied.damaged.len(), 1, "{copied:?}");
    assert!(copied.damaged[0].starts_with(key), "{copied:?}");

    unreadable.end();
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.replaced, copied.damaged.len()), (1, 0), "{copied:?}");
    assert_alike(&from, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_header_is_told_and_the_other_one_opens_the_copy() {
    let (place, from, to, _) = two_disks().await;
    for key in ["h/00000000", "h/00000001"] {
        let to = to.join(key);
        let unreadable = Unreadable::new(&from.join(key), &place);
        only(&copy(&from, &to).await.unwrap(), key);
        Store::open(folder(&to), &place.db, place.options())
            .await
            .unwrap();
        unreadable.end();
        assert_eq!(copy(&from, &to).await.unwrap().damaged.len(), 0);
        assert_alike(&from, &to);
    }
}

/// A device that fails altogether says nothing of its objects, and none of them is noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_altogether_ends_the_copy() {
    let (_place, from, to, _) = two_disks().await;
    let files = files_below(&from);
    let failing = async move {
        for path in files {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
        }
    };
    let source: Arc<dyn Backend> = Meanwhile::new(&folder(&from), "list p/", failing.boxed());
    let (options, progress) = (CopyOptions::default(), CopyProgress::default());
    let error = store::copy(&source, &*folder(&to), &options, &progress)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::HeadersDamaged, "{error}");
    assert!(!to.join("damaged").exists());
}

/// Whichever call to the source fails: it ends the copy, or it is one object that is told, and all else is there.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_to_the_source_fails_the_next_copy_is_whole() {
    let (place, from, to, _) = two_disks().await;
    // In several pieces.
    let whole = from.join("b/ab/abcdef00-0000-4000-8000-000000000000");
    std::fs::create_dir_all(whole.parent().unwrap()).unwrap();
    std::fs::write(&whole, noise(5, 17 << 20)).unwrap();
    for (fault, read_back) in [(Fault::Io, false), (Fault::Io, true), (Fault::Unavailable, false)] {
        let device = Arc::new(Faulty::new(folder(&from), fault, 0));
        let source: Arc<dyn Backend> = device.clone();
        let mut told = 0;
        for call in 1.. {
            if !read_back && to.exists() {
                std::fs::remove_dir_all(&to).unwrap();
            }
            let options = CopyOptions {
                read_back,
                ..CopyOptions::default()
            };
            device.rearm(call);
            let copied = store::copy(&source, &*folder(&to), &options, &CopyProgress::default()).await;
            if device.calls() < call {
                assert_eq!(copied.unwrap().damaged.len(), 0);
                break;
            }
            match copied {
                Err(error) if fault == Fault::Io => assert_eq!(error.kind(), Kind::Io, "at call {call}"),
                Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "at call {call}"),
                Ok(copied) => {
                    assert_eq!(fault, Fault::Io, "at call {call}: {copied:?}");
                    // None where a header is looked for: there is another one.
                    let faults = copied.damaged.len() + copied.superseded.len();
                    assert!(faults <= 1, "at call {call}: {copied:?}");
                    told += faults;
                    Store::open(folder(&to), &place.db, place.options())
                        .await
                        .unwrap();
                }
            }
            assert_eq!(copy(&from, &to).await.unwrap().damaged.len(), 0, "at call {call}");
            assert_alike(&from, &to);
        }
        // Two packs, the journal, the headers, and the pieces of what is large.
        let expected = if fault == Fault::Io { 2 + 8 + 2 + 3 } else { 0 };
        assert_eq!(told, expected, "{fault:?}, read back: {read_back}");
    }
}

#[tokio::test]
async fn what_is_not_the_stores_is_left_out_and_left_alone() {
    let (_place, from, to, _) = two_disks().await;
    let foreign = [
        "p/.DS_Store",
        "p/ab/notes~",
        "b/a b",
        "j/Thumbs.db",
        "h/.DS_Store",
    ];
    let put = |place: &Path, key: &str| {
        let path = place.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "foreign").unwrap();
    };
    for key in foreign {
        put(&from, key);
    }
    let is_at = |place: &Path, key: &str| place.join(key).exists();
    let copied = copy(&from, &to).await.unwrap();
    let mut told = copied.foreign.clone();
    told.sort_by_key(|key| foreign.iter().position(|one| one == key));
    assert_eq!(told, foreign, "each once");
    assert_eq!((copied.data, copied.damaged.len()), (2, 0), "{copied:?}");
    assert!(foreign.iter().all(|key| !is_at(&to, key)));
    assert_alike_but(&from, &to, &foreign);

    // Beside the copy as well, also where it has its notes.
    let there = [&foreign[..], &["damaged/.DS_Store", "j/zz", "h/zz"]].concat();
    for key in &there {
        put(&to, key);
    }
    for copied in [copy(&from, &to).await.unwrap(), copy_read_back(&from, &to).await] {
        assert_eq!((copied.objects, copied.damaged.len()), (0, 0), "{copied:?}");
        assert_eq!((copied.extra, copied.foreign.len()), (0, foreign.len()));
    }
    assert!(there.iter().all(|key| is_at(&to, key)));
}

fn assert_alike_but(from: &Path, to: &Path, foreign: &[&str]) {
    let count = |of: &Path| files_below(of).len();
    assert_eq!(count(from) - foreign.len(), count(to));
}
