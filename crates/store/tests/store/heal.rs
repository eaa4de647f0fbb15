//! Damaged and missing objects come back from a copy, also an older one, and nothing else does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use store::gc::{self, Progress};
use store::{
    Algorithm, Backend, CopyOptions, CopyProgress, Fault, Faulty, Healed, KeyKind, Kind, Options,
    RebuildProgress, Settings, Store, VerifyProgress, WrappingKey, backend_open,
};

use crate::support::{Place, encrypted, files_below, import, local, noise};

fn folder(path: &Path) -> Arc<dyn Backend> {
    backend_open(path.to_str().unwrap(), &Settings::new()).unwrap()
}

/// A store with two disks, and an older copy of it, which has the first.
struct Case {
    place: Place,
    store: Store,
    copy: Arc<dyn Backend>,
    disks: [Vec<u8>; 2],
}

impl Case {
    async fn new(place: Place) -> Self {
        let store = place.store().await;
        let disks = [noise(1, 3 << 20), noise(2, 3 << 20)];
        import(&store, &place.db, "old", &disks[0]).await;
        let to = folder(&place.dir.path().join("copy"));
        let options = CopyOptions {
            key: place.options().key,
            ..CopyOptions::default()
        };
        store::copy(&*place.backend, &*to, &options, &CopyProgress::default())
            .await
            .unwrap();
        import(&store, &place.db, "new", &disks[1]).await;
        Self {
            place,
            store,
            copy: to,
            disks,
        }
    }

    /// What only the copy has, as gc has freed it since.
    fn stray_put(&self) {
        let copy = self.place.dir.path().join("copy");
        let stray = copy.join("p/ab/abcdef00-0000-4000-8000-000000000000");
        std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
        std::fs::write(stray, "freed").unwrap();
    }

    fn live(&self) -> PathBuf {
        self.place.dir.path().join("objects")
    }

    async fn heal(&self) -> Healed {
        let progress = VerifyProgress::default();
        self.store
            .heal_from(Arc::clone(&self.copy), &progress)
            .await
            .unwrap()
    }

    async fn verify(&self) -> Vec<store::Damage> {
        self.store.verify(true, &VerifyProgress::default()).await.unwrap()
    }

    async fn assert_whole(&self) {
        assert_eq!(self.verify().await, []);
        assert_eq!(self.store.health().await.unwrap().damaged_roots, 0);
        for (owner, data) in ["old", "new"].into_iter().zip(&self.disks) {
            let root = self.store.root_get("image", owner).await.unwrap().unwrap().tree;
            let mut out = vec![0; data.len()];
            self.store.disk_open(root).read_at(0, &mut out).await.unwrap();
            assert!(out == *data, "{owner}");
        }
    }
}

/// Every object, by its path, with its bytes.
fn content(of: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path.strip_prefix(of).unwrap().to_owned(), bytes)
    };
    files_below(of).into_iter().map(read).collect()
}

/// The packs that the copy has, and those that only the store has.
fn packs(case: &Case) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let copied = content(&case.place.dir.path().join("copy"));
    let live = content(&case.live());
    let packs = live.into_keys().filter(|path| path.starts_with("p"));
    let (old, new): (Vec<_>, Vec<_>) = packs.partition(|path| copied.contains_key(path));
    let at = |paths: Vec<PathBuf>| paths.into_iter().map(|path| case.live().join(path)).collect();
    (at(old), at(new))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_packs_come_back_and_nothing_else_changes() {
    for place in [local().await, encrypted().await] {
        let case = Case::new(place).await;
        // What only the copy has, as gc has freed it since, is nobody's.
        case.stray_put();
        let whole = content(&case.live());
        assert_eq!(case.heal().await, Healed::default(), "nothing is damaged");
        let (old, _) = packs(&case);
        let damages: [&dyn Fn(&Path); 4] = [
            &|pack| flip(pack, 200_000),
            &|pack| std::fs::remove_file(pack).unwrap(),
            &|pack| std::fs::write(pack, "cut").unwrap(),
            &|pack| std::fs::write(pack, vec![0; 5 << 20]).unwrap(),
        ];
        for damage in damages {
            damage(&old[0]);
            let healed = case.heal().await;
            assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
            assert_eq!(healed.bytes, std::fs::metadata(&old[0]).unwrap().len());
            assert!(content(&case.live()) == whole, "as it was before");
            case.assert_whole().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_copy_does_not_have_whole_is_left_and_named() {
    let case = Case::new(local().await).await;
    let (old, new) = packs(&case);
    for pack in [&old[0], &new[0]] {
        flip(pack, 1000);
    }
    let in_copy = case
        .place
        .dir
        .path()
        .join("copy")
        .join(old[0].strip_prefix(case.live()).unwrap());
    flip(&in_copy, 2000);
    let damaged = content(&case.live());
    let healed = case.heal().await;
    assert_eq!((healed.objects, healed.left), (0, 2), "{healed:?}");
    assert!(
        healed
            .named
            .iter()
            .any(|one| one.contains("damaged in the copy too"))
    );
    assert!(healed.named.iter().any(|one| one.contains("does not have it")));
    assert!(
        content(&case.live()) == damaged,
        "nothing is replaced by what is no better"
    );
    assert_eq!(case.store.health().await.unwrap().damaged_roots, 2);
    // And after gc has taken what was whole of it away, the copy still has what is left.
    flip(&in_copy, 2000);
    flip(&new[0], 1000);
    let options = gc::Options {
        now: true,
        ..gc::Options::new(case.place.dir.path())
    };
    case.store.gc(&options, &Progress::default()).await.unwrap();
    assert!(old[0].exists());
    assert_eq!(case.heal().await.objects, 1);
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_objects_come_back_too() {
    for place in [local().await, encrypted().await] {
        let data = noise(5, 20 << 20);
        let case = Case::new(place).await;
        let session = case.store.session_open("a blob").await.unwrap();
        let mut ingest = session.object_begin(Algorithm::Sha256);
        ingest.write(Bytes::copy_from_slice(&data)).await.unwrap();
        let name = {
            use sha2::Digest as _;
            let text = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&data)));
            text.parse().unwrap()
        };
        let object = ingest.finish(&name).await.unwrap();
        let tx = case.place.begin().await;
        session
            .commit_objects_in_tx(&tx, &[("blob", "1", object)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let path = files_below(&case.live().join("b")).remove(0);
        let in_copy = case
            .place
            .dir
            .path()
            .join("copy")
            .join(path.strip_prefix(case.live()).unwrap());
        std::fs::create_dir_all(in_copy.parent().unwrap()).unwrap();
        std::fs::copy(&path, &in_copy).unwrap();
        let whole = std::fs::read(&path).unwrap();
        flip(&path, 17 << 20);
        let healed = case.heal().await;
        assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
        assert!(std::fs::read(&path).unwrap() == whole);
        case.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_no_copy() {
    let (one, other) = (local().await, local().await);
    let store = one.store().await;
    let progress = VerifyProgress::default();
    let refused = store.heal_from(Arc::clone(&other.backend), &progress).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::NotFound);
    other.store().await;
    let refused = store.heal_from(Arc::clone(&other.backend), &progress).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Incompatible);
}

/// A write that fails must not cost what was there.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_the_damaged_object_or_the_whole_one_is_there() {
    let case = Case::new(local().await).await;
    let (old, _) = packs(&case);
    let whole = std::fs::read(&old[0]).unwrap();
    flip(&old[0], 200_000);
    let damaged = std::fs::read(&old[0]).unwrap();
    for fault in [Fault::NoSpace, Fault::Unavailable, Fault::AnswerLost] {
        let device = Arc::new(Faulty::new(Arc::clone(&case.place.backend), fault, 0));
        let store = case.place.store_on(Arc::clone(&device) as _).await;
        for call in 1.. {
            std::fs::write(&old[0], &damaged).unwrap();
            device.rearm(call);
            let done = store
                .heal_from(Arc::clone(&case.copy), &VerifyProgress::default())
                .await;
            let is_over = device.calls() < call;
            let now = std::fs::read(&old[0]).unwrap_or_default();
            assert!(now == damaged || now == whole, "{fault:?} at call {call}");
            if is_over {
                assert_eq!(done.unwrap().objects, 1);
                break;
            }
            assert!(done.is_err(), "{fault:?} at call {call}");
        }
    }
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_a_change_of_keys_is_one() {
    let case = Case::new(encrypted().await).await;
    let (old, _) = packs(&case);
    let whole = content(&case.live());
    let new = WrappingKey::new(KeyKind::KeyFile, &[45; 44]).unwrap();
    case.store.key_add(&new).await.unwrap();
    let options = Options {
        key: Some(new),
        ..case.place.options()
    };
    let store = Store::open(Arc::clone(&case.place.backend), &case.place.db, options).await;
    let store = store.unwrap();
    let first = store.header().wrapped_keys[0].id.clone();
    store.key_remove(&first).await.unwrap();
    flip(&old[0], 200_000);
    let healed = store
        .heal_from(Arc::clone(&case.copy), &VerifyProgress::default())
        .await
        .unwrap();
    assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
    let key = old[0].strip_prefix(case.live()).unwrap();
    assert!(std::fs::read(&old[0]).unwrap() == whole[key]);
}

/// A pack was missing when the index was made anew, so that no row names it: its trees tell that it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_no_row_knows_comes_back_where_a_disk_needs_it() {
    for place in [local().await, encrypted().await] {
        let mut case = Case::new(place).await;
        case.stray_put();
        let whole = content(&case.live());
        let (old, _) = packs(&case);
        let place = &case.place;
        // Gone altogether, or so that nothing of it can be read.
        for left in [None, Some("rubbish")] {
            std::fs::remove_file(&old[0]).unwrap();
            if let Some(left) = left {
                std::fs::write(&old[0], left).unwrap();
            }
            let rebuilding =
                Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
            let progress = RebuildProgress::default();
            rebuilding.unwrap().rebuild_index(&progress).await.unwrap();
            case.store = place.store().await;
            assert_ne!(
                case.store.verify(true, &VerifyProgress::default()).await.unwrap(),
                []
            );
            let healed = case
                .store
                .heal_from(Arc::clone(&case.copy), &VerifyProgress::default())
                .await
                .unwrap();
            assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
            assert!(content(&case.live()) == whole, "and nothing that gc has freed");
        }
        case.assert_whole().await;
        assert_eq!(case.heal().await, Healed::default());
    }
}

/// The index was made anew while a pack was cut: its row has the wrong size, and lacks what lay behind the cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_cut_when_the_index_was_made_anew_comes_back_with_what_is_in_it() {
    for place in [local().await, encrypted().await] {
        let mut case = Case::new(place).await;
        let (old, _) = packs(&case);
        let whole = std::fs::read(&old[0]).unwrap();
        std::fs::write(&old[0], &whole[..1_000_000]).unwrap();
        let place = &case.place;
        let rebuilding = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
        let rebuilt = rebuilding
            .unwrap()
            .rebuild_index(&RebuildProgress::default())
            .await
            .unwrap();
        assert_eq!(rebuilt.salvaged.len(), 1, "{rebuilt:?}");
        case.store = place.store().await;
        assert_ne!(case.verify().await, []);
        let healed = case.heal().await;
        assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
        assert!(std::fs::read(&old[0]).unwrap() == whole);
        case.assert_whole().await;
        assert_eq!(case.heal().await, Healed::default());
    }
}
