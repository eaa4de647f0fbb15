//! The cache of packs, as readers see it: fewer requests, the same bytes whatever happens to its files, and the
//! backend's damage found as without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt as _;
use store::{CacheOptions, Fault, Faulty, Kind, Piece, Store, TreeRoot};

use crate::support::{CHUNK, Place, encrypted, import, local, noise, places};

const MIB: u64 = 1 << 20;
/// More than two packs of what does not compress.
const DISK: u64 = 26 * MIB;

/// A store with a cache over a backend that counts, and a disk in it.
struct Cached {
    store: Store,
    backend: Faulty,
    folder: PathBuf,
    root: TreeRoot,
    disk: Vec<u8>,
}

async fn cached(place: &Place, limit_bytes: u64) -> Cached {
    let disk = noise(5, usize::try_from(DISK).unwrap());
    let root = import(&place.store().await, &place.db, "1", &disk).await;
    let backend = Faulty::new(Arc::clone(&place.backend), Fault::Io, 0);
    let folder = place.dir.path().join("cache");
    let store = open(place, &backend, &folder, limit_bytes).await;
    backend.rearm(0);
    Cached {
        store,
        backend,
        folder,
        root,
        disk,
    }
}

async fn open(place: &Place, backend: &Faulty, folder: &Path, limit_bytes: u64) -> Store {
    let store = Store::open(Arc::new(backend.clone()), &place.db, place.options())
        .await
        .unwrap();
    store
        .cache_use(&CacheOptions {
            folder: folder.to_owned(),
            limit_bytes,
        })
        .unwrap();
    store
}

impl Cached {
    /// Reads with a reader that has seen nothing yet; gives what the backend was asked.
    async fn read(&self, offset: u64, length: usize) -> u64 {
        let before = self.backend.calls();
        let mut buffer = vec![0; length];
        self.store
            .disk_open(self.root)
            .read_at(offset, &mut buffer)
            .await
            .unwrap();
        let at = usize::try_from(offset).unwrap();
        assert!(buffer == self.disk[at..at + length], "{length} bytes at {offset}");
        self.backend.calls() - before
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn bytes(&self) -> u64 {
        self.files()
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_asked_for_again() {
    for place in places().await {
        let cached = cached(&place, 64 * MIB).await;
        let first = cached.read(5 * MIB + 1000, 4096).await;
        assert!(
            (1..=2).contains(&first),
            "{}: its block and its leaf's: {first}",
            place.name
        );
        assert_eq!(cached.read(5 * MIB + 1000, 4096).await, 0, "{}", place.name);
        assert_eq!(cached.read(5 * MIB + 2 * CHUNK, 4096).await, 0, "a neighbour");
        // From end to end in small reads: each request brings up to 4 MiB.
        let before = cached.backend.calls();
        for n in 0..DISK / CHUNK {
            cached.read(n * CHUNK, 64 << 10).await;
        }
        let asked = cached.backend.calls() - before;
        assert!(asked <= 15, "{}: {asked} requests for 26 MiB", place.name);
        for n in 0..DISK / CHUNK {
            assert_eq!(cached.read(n * CHUNK + 7, 9).await, 0);
        }
        // Another process finds it.
        let again = open(&place, &cached.backend, &cached.folder, 64 * MIB).await;
        let reader = again.disk_open(cached.root);
        cached.backend.rearm(0);
        let mut buffer = vec![0; 1 << 20];
        reader.read_at(9 * MIB, &mut buffer).await.unwrap();
        assert!(buffer == cached.disk[9 << 20..10 << 20]);
        assert_eq!(cached.backend.calls(), 0, "{}", place.name);
        assert!(again.cache_stats().unwrap().hits > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_within_its_limit_and_many_readers_ask_once() {
    let place = local().await;
    let cached = Arc::new(cached(&place, 6 * MIB).await);
    let readers: Vec<_> = (0..16)
        .map(|n| {
            let cached = Arc::clone(&cached);
            tokio::spawn(async move { cached.read(17 * MIB + n * 16, 4096).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(
        cached.backend.calls() <= 2,
        "{} requests for one block",
        cached.backend.calls()
    );
    let walks: Vec<_> = (0..4)
        .map(|n| {
            let cached = Arc::clone(&cached);
            tokio::spawn(async move {
                for step in 0..DISK / MIB {
                    cached.read((step * 7 + n) % (DISK / MIB) * MIB, 8192).await;
                    let bytes = cached.store.cache_stats().unwrap().bytes;
                    assert!(bytes <= 6 * MIB, "{bytes}");
                }
            })
        })
        .collect();
    for walk in walks {
        walk.await.unwrap();
    }
    assert!(
        cached.bytes() <= 6 * MIB && cached.bytes() > 3 * MIB,
        "{}",
        cached.bytes()
    );
    cached.store.cache_clear();
    assert_eq!(cached.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_its_files_hold_the_right_bytes_are_read_and_no_damage_is_told() {
    let ruin: [fn(&Path); 5] = [
        |file| std::fs::write(file, vec![0; usize::try_from(MIB).unwrap()]).unwrap(),
        |file| std::fs::write(file, b"short").unwrap(),
        |file| std::fs::remove_file(file).unwrap(),
        |file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes.iter_mut().step_by(9973).for_each(|byte| *byte ^= 0x10);
            std::fs::write(file, bytes).unwrap();
        },
        |file| {
            std::fs::remove_file(file).unwrap();
            std::fs::create_dir(file).unwrap();
        },
    ];
    for place in [local().await, encrypted().await] {
        let cached = cached(&place, 64 * MIB).await;
        for ruin in ruin {
            cached.read(0, usize::try_from(DISK).unwrap()).await;
            cached.files().iter().for_each(|file| ruin(file));
            // More than what small reads leave in memory.
            assert!(
                cached.read(3 * MIB, 400_000).await > 0,
                "it was read from the backend"
            );
            cached.read(0, usize::try_from(DISK).unwrap()).await;
            for folder in cached.files().iter().filter(|file| file.is_dir()) {
                std::fs::remove_dir(folder).unwrap();
            }
        }
        // Written to no more: reading goes on.
        std::fs::remove_dir_all(&cached.folder).unwrap();
        cached.read(0, usize::try_from(DISK).unwrap()).await;
        let damage = cached
            .store
            .verify(true, &store::VerifyProgress::default())
            .await
            .unwrap();
        assert!(damage.is_empty(), "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_backend_is_found_where_it_is_and_only_there() {
    let place = local().await;
    let cached = cached(&place, 64 * MIB).await;
    let packs = crate::support::files_below(&place.dir.path().join("objects/p"));
    let first = packs
        .iter()
        .max_by_key(|file| file.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(first).unwrap();
    bytes[200 << 10] ^= 1;
    bytes.truncate(bytes.len() - (3 << 20));
    std::fs::write(first, bytes).unwrap();
    let reader = cached.store.disk_open(cached.root);
    let mut wrong = 0;
    for n in 0..DISK / CHUNK {
        let mut buffer = vec![0; 64 << 10];
        match reader.read_at(n * CHUNK, &mut buffer).await {
            Ok(()) => assert!(buffer == cached.disk[usize::try_from(n * CHUNK).unwrap()..][..buffer.len()]),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "{error}");
                wrong += 1;
            }
        }
    }
    assert!(
        (40..60).contains(&wrong),
        "one flipped and 3 MiB cut off: {wrong} chunks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_disk_that_is_read_whole_does_not_throw_out_the_rest() {
    let place = local().await;
    let cached = cached(&place, 64 * MIB).await;
    let large = noise(6, 70 << 20);
    let root = import(&place.store().await, &place.db, "2", &large).await;
    cached.read(0, 4096).await;
    let kept = cached.bytes();
    let pieces: Vec<Piece> = cached
        .store
        .disk_open(root)
        .stream(0..70 * MIB)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(pieces.iter().map(Piece::length).sum::<u64>(), 70 * MIB);
    assert!(
        cached.bytes() <= kept + 2 * MIB,
        "its leaves are kept, and nothing else"
    );
    let some: Vec<Piece> = cached
        .store
        .disk_open(root)
        .stream(0..20 * MIB)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(some.iter().map(Piece::length).sum::<u64>(), 20 * MIB);
    assert!(cached.bytes() >= 20 * MIB, "a part of it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gc_deleted_goes_and_nothing_is_in_clear() {
    let place = encrypted().await;
    let cached = cached(&place, 64 * MIB).await;
    cached.read(0, usize::try_from(DISK).unwrap()).await;
    for file in cached.files() {
        let bytes = std::fs::read(&file).unwrap();
        let is_clear = bytes.windows(24).any(|window| {
            window == &cached.disk[4096..4120] || window == &cached.disk[9 << 20..(9 << 20) + 24]
        });
        assert!(!is_clear, "{}", file.display());
    }
    let tx = place.begin().await;
    cached.store.root_delete_in_tx(&tx, "image", "1").await.unwrap();
    tx.commit().await.unwrap();
    let options = store::gc::Options {
        now: true,
        ..store::gc::Options::new(place.dir.path())
    };
    cached
        .store
        .gc(&options, &store::gc::Progress::default())
        .await
        .unwrap();
    assert_eq!(cached.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_sees_what_is_stored_whatever_the_cache_has() {
    let place = local().await;
    let cached = cached(&place, 64 * MIB).await;
    cached.read(0, usize::try_from(DISK).unwrap()).await;
    let packs = crate::support::files_below(&place.dir.path().join("objects/p"));
    for pack in &packs {
        let mut bytes = std::fs::read(pack).unwrap();
        bytes[100 << 10] ^= 1;
        std::fs::write(pack, bytes).unwrap();
    }
    let damage = cached
        .store
        .verify(true, &store::VerifyProgress::default())
        .await
        .unwrap();
    let of_the_disk = damage
        .iter()
        .filter(|one| one.kind == "image" && one.owner == "1")
        .count();
    assert_eq!(of_the_disk, packs.len(), "{damage:?}");
    let before = cached.backend.calls();
    cached.read(0, usize::try_from(DISK).unwrap()).await;
    assert_eq!(
        cached.backend.calls(),
        before,
        "what the cache has can still be read"
    );
}
