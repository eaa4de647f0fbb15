//! Changes of the keys of an encrypted store that come half way: what is told is what was done, and what is left is
//! done by the next who can.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use store::{Backend, Error, KeyKind, Kind, Listed, Options, Put, Result, Store, WrappingKey};

use crate::damage::journal_write;
use crate::support::{Place, local};

/// As much as there is room for.
const ALL: u32 = u32::MAX;

/// A backend in which so many headers find room, and so many are deleted.
#[derive(Debug)]
struct Narrow {
    inner: Arc<dyn Backend>,
    writes: AtomicU32,
    deletions: AtomicU32,
    kind: Kind,
}

impl Narrow {
    fn set(&self, writes: u32, deletions: u32) {
        self.writes.store(writes, Ordering::SeqCst);
        self.deletions.store(deletions, Ordering::SeqCst);
    }

    fn take(&self, left: &AtomicU32) -> Result<()> {
        let taken = left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken
            .map(drop)
            .map_err(|_| Error::new(self.kind, "no more (injected)"))
    }
}

#[async_trait]
impl Backend for Narrow {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        if key.starts_with("h/") {
            self.take(&self.writes)?;
        }
        self.inner.put_new(key, data).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        self.inner.put_begin(key).await
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.inner.put_replace(key).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        if key.starts_with("h/") {
            self.take(&self.deletions)?;
        }
        self.inner.delete(key).await
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        self.inner.leftovers_clear().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// An encrypted store with two keys, which a server has open, and whose keys another process changes.
struct Case {
    place: Place,
    server: Store,
    narrow: Arc<Narrow>,
    changing: Store,
    /// The other key.
    id: String,
}

fn key(seed: u8) -> WrappingKey {
    WrappingKey::new(KeyKind::KeyFile, &[seed; 44]).unwrap()
}

async fn open(place: &Place, backend: Arc<dyn Backend>, seed: u8) -> Result<Store> {
    let options = Options {
        encrypt: true,
        key: Some(key(seed)),
        ..place.options()
    };
    Store::open_or_init(backend, &place.db, options).await
}

async fn case(kind: Kind) -> Case {
    let place = local().await;
    let backend = Arc::clone(&place.backend);
    let server = open(&place, Arc::clone(&backend), 1).await.unwrap();
    journal_write(&server).await;
    let id = server.key_add(&key(2)).await.unwrap().key.id;
    let (writes, deletions) = (AtomicU32::new(ALL), AtomicU32::new(ALL));
    let inner = Arc::clone(&backend);
    let narrow = Arc::new(Narrow {
        inner,
        writes,
        deletions,
        kind,
    });
    let changing = open(&place, Arc::clone(&narrow) as _, 1).await.unwrap();
    Case {
        place,
        server,
        narrow,
        changing,
        id,
    }
}

impl Case {
    fn folder(&self) -> PathBuf {
        self.place.dir.path().join("objects/h")
    }

    fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn opens(&self, seed: u8) -> bool {
        let opened = open(&self.place, Arc::clone(&self.place.backend), seed).await;
        opened.is_ok()
    }

    /// The server, which has seen nothing of it, finds what is wrong, and leaves nothing of it.
    async fn mended(&self) {
        assert_ne!(self.server.headers_verify().await.unwrap(), []);
        assert!(self.server.headers_mend().await.unwrap());
        assert_eq!(self.server.headers_verify().await.unwrap(), []);
        assert_eq!(self.names().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_second_header_finds_no_room_is_made_and_says_so() {
    for is_removal in [true, false] {
        let case = case(Kind::NoSpace).await;
        case.narrow.set(1, ALL);
        let change = if is_removal {
            case.changing.key_remove(&case.id).await
        } else {
            case.changing.key_add(&key(3)).await
        };
        assert_eq!(change.unwrap().rest.unwrap().kind(), Kind::NoSpace);
        assert_eq!(case.names(), ["00000005"], "no other holds other keys");
        assert_eq!(
            (case.opens(2).await, case.opens(3).await),
            (!is_removal, !is_removal)
        );
        case.mended().await;
        assert_eq!(
            (case.opens(2).await, case.opens(3).await),
            (!is_removal, !is_removal)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_which_no_header_finds_room_is_not_made() {
    let case = case(Kind::NoSpace).await;
    let before = case.names();
    case.narrow.set(0, ALL);
    let error = case.changing.key_remove(&case.id).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    let error = case.changing.key_add(&key(3)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert_eq!(case.names(), before);
    assert!(case.opens(2).await && !case.opens(3).await);
    // The numbers are not used again.
    case.narrow.set(ALL, ALL);
    case.changing.key_remove(&case.id).await.unwrap();
    assert_eq!(case.names(), ["00000008", "00000009"]);
}

/// The failed change of another process is no change that a server has not seen: it writes lost headers all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_wrote_no_header_leaves_lost_headers_to_be_mended() {
    for kind in [Kind::NoSpace, Kind::Refused, Kind::Unavailable] {
        let case = case(kind).await;
        case.narrow.set(0, ALL);
        let error = case.changing.key_add(&key(3)).await.unwrap_err();
        std::fs::remove_dir_all(case.folder()).unwrap();
        let mended = case.server.headers_mend().await;
        if kind == Kind::Unavailable {
            // What was not answered may come yet, and then the keys are others.
            let text = error.to_string();
            assert!(
                text.contains("did not say whether") && !text.contains("  "),
                "{text}"
            );
            assert_eq!(mended.unwrap_err().kind(), Kind::HeadersDamaged);
            continue;
        }
        assert!(mended.unwrap(), "{kind:?}");
        assert_eq!(case.names().len(), 2);
        assert!(case.opens(1).await && case.opens(2).await && !case.opens(3).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_left_older_headers_is_done_again() {
    let case = case(Kind::Io).await;
    for deletions in [0, 1] {
        case.narrow.set(ALL, deletions);
        let error = case.changing.key_remove(&case.id).await.unwrap_err();
        assert!(error.to_string().contains("do it again"), "{error}");
        assert!(!case.opens(2).await, "it is removed");
    }
    assert_eq!(case.names().len(), 3);
    let error = case.changing.key_remove("00000000").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "no older one has it");
    assert_eq!(case.names().len(), 3);
    // Also where there is no room for anything, and another process does it.
    case.narrow.set(0, ALL);
    let again = open(&case.place, Arc::clone(&case.narrow) as _, 1).await.unwrap();
    let change = again.key_remove(&case.id).await.unwrap();
    assert_eq!((change.key.id, change.rest.is_none()), (case.id.clone(), true));
    assert_eq!(case.names(), ["00000004", "00000005"]);
    let error = again.key_remove(&case.id).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

/// Killed when the first header was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_off_is_done_again_or_by_a_server() {
    for by_server in [true, false] {
        let case = case(Kind::NoSpace).await;
        let before: Vec<_> = case
            .names()
            .into_iter()
            .map(|name| {
                (
                    case.folder().join(&name),
                    std::fs::read(case.folder().join(&name)).unwrap(),
                )
            })
            .collect();
        case.changing.key_remove(&case.id).await.unwrap();
        std::fs::remove_file(case.folder().join("00000004")).unwrap();
        for (path, bytes) in &before {
            std::fs::write(path, bytes).unwrap();
        }
        if by_server {
            case.mended().await;
        } else {
            case.narrow.set(0, ALL);
            let change = case.changing.key_remove(&case.id).await.unwrap();
            assert_eq!(change.rest.unwrap().kind(), Kind::NoSpace);
            assert_eq!(case.names(), ["00000005"]);
            case.mended().await;
        }
        assert!(before.iter().all(|(path, _)| !path.exists()));
        assert!(case.opens(1).await && !case.opens(2).await);
    }
}

/// They are not in force, and hold no key that was taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_added_where_older_headers_cannot_be_deleted() {
    let case = case(Kind::Io).await;
    case.narrow.set(ALL, 0);
    let change = case.changing.key_add(&key(3)).await.unwrap();
    assert!(change.rest.is_some() && case.opens(3).await);
    case.mended().await;
    assert!(case.opens(3).await);
}
