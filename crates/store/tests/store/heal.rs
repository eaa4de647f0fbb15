//! Damaged and missing objects come back from a copy, also an older one, and nothing else does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use sea_orm::ConnectionTrait as _;
use store::gc::{self, Progress};
use store::{
    Algorithm, Backend, CopyOptions, CopyProgress, DedupDomain, Fault, Faulty, HealProgress, Healed, KeyKind,
    Kind, Options, RebuildProgress, Settings, Store, VerifyProgress, WrappingKey, backend_open,
};

use crate::meanwhile::Meanwhile;
use crate::support::{CHUNK, Place, begin, encrypted, files_below, import, import_in, local, noise};

fn folder(path: &Path) -> Arc<dyn Backend> {
    backend_open(path.to_str().unwrap(), &Settings::new()).unwrap()
}

/// Chunks that a disk shares with another.
const SHARED: u64 = 32;

async fn copied(place: &Place) -> Arc<dyn Backend> {
    let to = folder(&place.dir.path().join("copy"));
    let options = CopyOptions {
        key: place.options().key,
        ..CopyOptions::default()
    };
    store::copy(&place.backend, &*to, &options, &CopyProgress::default())
        .await
        .unwrap();
    to
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
        let copy = copied(&place).await;
        import(&store, &place.db, "new", &disks[1]).await;
        Self {
            place,
            store,
            copy,
            disks,
        }
    }

    /// The same, but for what the old disk shares with one that was deleted when the copy was made: gc has written that
    /// anew since, in a pack that the copy does not have.
    async fn repacked(place: Place) -> (Self, PathBuf) {
        let store = place.store().await;
        let garbage = noise(9, 8 << 20);
        let mut old = garbage[..2 << 20].to_vec();
        old.extend(noise(1, 1 << 20));
        import(&store, &place.db, "garbage", &garbage).await;
        import(&store, &place.db, "old", &old).await;
        let copy = copied(&place).await;
        let disks = [old, noise(2, 3 << 20)];
        import(&store, &place.db, "new", &disks[1]).await;
        let case = Self {
            place,
            store,
            copy,
            disks,
        };
        let before = content(&case.live());
        case.root_delete("garbage").await;
        assert_eq!(case.gc_now().await.repacked, 1);
        let mut written = content(&case.live());
        written.retain(|path, _| !before.contains_key(path));
        assert_eq!(written.len(), 1, "{:?}", written.keys());
        let pack = written.into_keys().next().unwrap();
        let pack = case.live().join(pack);
        (case, pack)
    }

    async fn root_delete(&self, owner: &str) {
        let tx = self.place.begin().await;
        self.store.root_delete_in_tx(&tx, "image", owner).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn gc_now(&self) -> gc::Report {
        let options = gc::Options {
            now: true,
            ..gc::Options::new(self.place.dir.path())
        };
        self.store.gc(&options, &Progress::default()).await.unwrap()
    }

    async fn index_made_anew(&mut self) -> store::Rebuilt {
        let place = &self.place;
        let rebuilding = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
        let progress = RebuildProgress::default();
        let rebuilt = rebuilding.unwrap().rebuild_index(&progress).await.unwrap();
        self.store = place.store().await;
        rebuilt
    }

    /// How many chunks lie in a pack, as the index has it.
    async fn rows_of(&self, pack: &Path) -> i64 {
        let id: uuid::Uuid = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let sql =
            "SELECT count(*) FROM store_chunk WHERE object = (SELECT id FROM store_object WHERE key = $1)";
        let backend = self.place.db.get_database_backend();
        let statement = sea_orm::Statement::from_sql_and_values(backend, sql, [id.into()]);
        let row = self.place.db.query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index(0).unwrap()
    }

    fn in_copy(&self, pack: &Path) -> PathBuf {
        let path = pack.strip_prefix(self.live()).unwrap();
        self.place.dir.path().join("copy").join(path)
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
        self.store
            .heal_from(Arc::clone(&self.copy), &HealProgress::default())
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
    let in_copy = case.in_copy(&old[0]);
    flip(&in_copy, 2000);
    let damaged = content(&case.live());
    let healed = case.heal().await;
    assert_eq!((healed.objects, healed.chunks), (0, 0), "{healed:?}");
    assert_eq!((healed.left, healed.absent, healed.lost), (2, 1, 2), "{healed:?}");
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
    case.gc_now().await;
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
        let in_copy = case.in_copy(&path);
        std::fs::create_dir_all(in_copy.parent().unwrap()).unwrap();
        std::fs::copy(&path, &in_copy).unwrap();
        let whole = std::fs::read(&path).unwrap();
        flip(&path, 17 << 20);
        let healed = case.heal().await;
        assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
        assert!(std::fs::read(&path).unwrap() == whole);
        case.assert_whole().await;

        // It was missing when the index was made anew: no row knows it, and the root still names it.
        let mut case = case;
        std::fs::remove_file(&path).unwrap();
        case.index_made_anew().await;
        assert_ne!(case.verify().await, []);
        let healed = case.heal().await;
        assert_eq!(
            (healed.objects, healed.chunks, healed.lost),
            (0, 1, 0),
            "{healed:?}"
        );
        assert!(!path.exists());
        let back = case
            .store
            .object_read(object, 0..data.len() as u64)
            .await
            .unwrap();
        assert!(back == data[..]);
        case.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_no_copy() {
    let (one, other) = (local().await, local().await);
    let store = one.store().await;
    let progress = HealProgress::default();
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
                .heal_from(Arc::clone(&case.copy), &HealProgress::default())
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
        .heal_from(Arc::clone(&case.copy), &HealProgress::default())
        .await
        .unwrap();
    assert_eq!((healed.objects, healed.left), (1, 0), "{healed:?}");
    let key = old[0].strip_prefix(case.live()).unwrap();
    assert!(std::fs::read(&old[0]).unwrap() == whole[key]);
}

/// A pack was missing when the index was made anew, so that no row names it: its trees tell that it is needed. It does
/// not come back under its key, which a gc may be about to delete.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pack_held_that_no_row_knows_comes_back_where_a_disk_needs_it() {
    // So that nothing of it can be read; and gone altogether.
    for (place, left) in [(local().await, Some("rubbish")), (encrypted().await, None)] {
        let mut case = Case::new(place).await;
        case.stray_put();
        let (old, _) = packs(&case);
        std::fs::remove_file(&old[0]).unwrap();
        if let Some(left) = left {
            std::fs::write(&old[0], left).unwrap();
        }
        case.index_made_anew().await;
        let before = content(&case.live());
        assert_ne!(case.verify().await, []);
        let healed = case.heal().await;
        assert_eq!(
            (healed.objects, healed.left, healed.lost),
            (0, 0, 0),
            "{healed:?}"
        );
        assert_eq!(healed.chunks, 48 + 1, "its chunks and its node: {healed:?}");
        let now = content(&case.live());
        assert!(before.iter().all(|(path, bytes)| now[path] == *bytes));
        assert_eq!(
            now.len(),
            before.len() + 2,
            "chunks and node, and nothing that gc has freed"
        );
        case.assert_whole().await;
        assert_eq!(case.heal().await, Healed::default());
    }
}

/// The index was made anew while a pack was cut: its row has the wrong size, and lacks what lay behind the cut. The
/// pack gets no row that it did not have, as a gc may have found it empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_cut_when_the_index_was_made_anew_comes_back_with_what_is_in_it() {
    for place in [local().await, encrypted().await] {
        let mut case = Case::new(place).await;
        let (old, _) = packs(&case);
        let whole = std::fs::read(&old[0]).unwrap();
        std::fs::write(&old[0], &whole[..1_000_000]).unwrap();
        let rebuilt = case.index_made_anew().await;
        assert_eq!(rebuilt.salvaged.len(), 1, "{rebuilt:?}");
        assert_ne!(case.verify().await, []);
        let rows = case.rows_of(&old[0]).await;
        let healed = case.heal().await;
        assert_eq!(
            (healed.objects, healed.left, healed.lost),
            (1, 0, 0),
            "{healed:?}"
        );
        assert_eq!(healed.chunks, 48 + 1 - 15, "15 lie before the cut: {healed:?}");
        assert!(std::fs::read(&old[0]).unwrap() == whole);
        assert_eq!(case.rows_of(&old[0]).await, rows);
        case.assert_whole().await;
        assert_eq!(case.heal().await, Healed::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gc_wrote_anew_since_comes_back_from_the_older_packs_of_the_copy() {
    type Done<'a> = (&'a dyn Fn(&Path), u64);
    let damages: [Done<'_>; 4] = [
        (&|pack: &Path| flip(pack, 200_000), 1),
        (&|pack: &Path| flip(pack, 8), 0),
        (&|pack: &Path| std::fs::remove_file(pack).unwrap(), SHARED),
        (&|pack: &Path| std::fs::write(pack, "cut").unwrap(), SHARED),
    ];
    for is_encrypted in [false, true] {
        for (damage, chunks) in &damages {
            let place = if is_encrypted {
                encrypted().await
            } else {
                local().await
            };
            let (case, pack) = Case::repacked(place).await;
            assert_eq!(case.heal().await, Healed::default(), "nothing is damaged");
            damage(&pack);
            let healed = case.heal().await;
            let told = (healed.objects, healed.chunks, healed.left, healed.lost);
            assert_eq!(told, (0, *chunks, 0, 0), "{healed:?}");
            assert_eq!(healed.chunk_bytes > 0, *chunks > 0, "{healed:?}");
            assert_eq!(case.store.health().await.unwrap().damaged_roots, 0);
            // What was damaged nobody needs any more.
            case.gc_now().await;
            assert!(!pack.exists());
            case.assert_whole().await;
        }
    }
}

/// An older copy of the store lacks what was healed, and nothing in the journal tells it: so that is noted, whatever
/// becomes of the heal. What was lost before is damage all the while.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_anew_is_noted_until_somebody_was_told() {
    for is_told_by_gc in [false, true] {
        let (case, pack) = Case::repacked(local().await).await;
        let (store, before) = (&case.store, content(&case.live()));
        assert_eq!(store.untold_since().await.unwrap(), None);
        std::fs::remove_file(&pack).unwrap();
        case.place.clock.advance(Duration::from_secs(1));
        assert_eq!(case.heal().await.chunks, SHARED);
        case.place.clock.advance(Duration::from_hours(1));
        store.sessions_expire().await.unwrap();
        let since = store.untold_since().await.unwrap().expect("it is noted");
        assert_eq!(store.newest_missing(64, since).await.unwrap(), None);
        assert!(
            store.newest_missing(64, 0).await.unwrap().is_some(),
            "what was lost"
        );

        let written = content(&case.live())
            .into_keys()
            .find(|path| !before.contains_key(path));
        let written = case.live().join(written.expect("a pack"));
        let aside = case.place.dir.path().join("aside");
        std::fs::rename(&written, &aside).unwrap();
        let missing = store
            .newest_missing(64, since)
            .await
            .unwrap()
            .expect("it is missing");
        assert!(written.ends_with(&missing), "{missing}");
        std::fs::rename(&aside, &written).unwrap();

        if is_told_by_gc {
            case.gc_now().await;
        } else {
            let notes = store.heals_over().await.unwrap();
            assert_eq!(notes.len(), 1);
            store.heals_told(&notes).await.unwrap();
        }
        assert_eq!(store.untold_since().await.unwrap(), None);
    }
}

/// A copy is believed in nothing: each frame of it is decoded before it is taken.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_damaged_copy_what_is_whole_is_taken_and_the_rest_is_told() {
    for place in [local().await, encrypted().await] {
        let (case, pack) = Case::repacked(place).await;
        let largest = files_below(&case.place.dir.path().join("copy/p"))
            .into_iter()
            .max_by_key(|path| std::fs::metadata(path).unwrap().len())
            .unwrap();
        // A frame that is wanted, the code of the index, and a pack of another format.
        flip(&largest, 200_000);
        let end = usize::try_from(std::fs::metadata(&largest).unwrap().len()).unwrap();
        flip(&largest, end - 20);
        let mut other = std::fs::read(&largest).unwrap();
        let trailer = other.len() - 64;
        (other[8], other[trailer + 8]) = (9, 9);
        let name = "p/ab/abcdef00-0000-4000-8000-000000000000";
        let stray = case.place.dir.path().join("copy").join(name);
        std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
        std::fs::write(stray, other).unwrap();

        std::fs::remove_file(&pack).unwrap();
        let healed = case.heal().await;
        let told = (healed.objects, healed.chunks, healed.lost);
        assert_eq!(told, (0, SHARED - 1, 1), "{healed:?}");
        assert_eq!((healed.left, healed.absent), (1, 1), "{healed:?}");
        assert_eq!(healed.named.len(), 1);
        let damage = case.verify().await;
        let of_disks: Vec<_> = damage.iter().filter(|one| one.kind == "image").collect();
        assert_eq!(of_disks.len(), 1, "{damage:?}");
        assert_eq!(of_disks[0].range, 3 * CHUNK..4 * CHUNK);
        flip(&largest, 200_000);
        let healed = case.heal().await;
        assert_eq!((healed.chunks, healed.lost), (1, 0), "{healed:?}");
        case.gc_now().await;
        case.assert_whole().await;
    }
}

/// What lies under a key that no row knows is what gc deletes when it has seen it twice: what is healed must not be
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn a_gc_that_has_listed_what_no_row_knows_deletes_nothing_that_was_healed() {
    let place = local().await;
    let store = place.store().await;
    // So large that the tree lies in another pack, without which no gc would run.
    let disk = noise(1, 20 << 20);
    import(&store, &place.db, "old", &disk).await;
    let copy = copied(&place).await;
    let mut case = Case {
        place,
        store,
        copy,
        disks: [disk, Vec::new()],
    };
    let lost = files_below(&case.live().join("p"))
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    std::fs::write(&lost, "rubbish").unwrap();
    case.index_made_anew().await;
    assert_eq!(case.gc_now().await.orphans, 1);
    case.place.clock.advance(Duration::from_hours(25));

    let (store, copy) = (case.store.clone(), Arc::clone(&case.copy));
    let heal = async move {
        let healed = store.heal_from(copy, &HealProgress::default()).await.unwrap();
        assert!(healed.chunks > 100 && healed.lost == 0, "{healed:?}");
    };
    // Between the list of packs and the first deletion.
    let device = Meanwhile::new(&case.place.backend, "list b/", heal.boxed());
    let store = case.place.store_on(Arc::clone(&device) as _).await;
    let options = gc::Options::new(case.place.dir.path());
    let report = store.gc(&options, &Progress::default()).await.unwrap();
    assert!(device.is_done());
    assert_eq!(report.objects, 1, "the rubbish: {report:?}");
    assert_eq!(case.verify().await, []);
    let root = case.store.root_get("image", "old").await.unwrap().unwrap().tree;
    let mut out = vec![0; case.disks[0].len()];
    case.store.disk_open(root).read_at(0, &mut out).await.unwrap();
    assert!(out == case.disks[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gc_deletes_while_it_is_healed_is_not_there_afterwards() {
    let case = Case::new(local().await).await;
    let (old, _) = packs(&case);
    flip(&old[0], 200_000);
    let (store, db) = (case.store.clone(), case.place.db.clone());
    let options = gc::Options {
        now: true,
        ..gc::Options::new(case.place.dir.path())
    };
    let collect = async move {
        let tx = begin(&db).await;
        store.root_delete_in_tx(&tx, "image", "old").await.unwrap();
        tx.commit().await.unwrap();
        let report = store.gc(&options, &Progress::default()).await.unwrap();
        assert_eq!(report.objects, 1, "{report:?}");
    };
    let device = Meanwhile::new(&case.place.backend, "put_replace", collect.boxed());
    let store = case.place.store_on(Arc::clone(&device) as _).await;
    let healed = store
        .heal_from(Arc::clone(&case.copy), &HealProgress::default())
        .await
        .unwrap();
    assert!(device.is_done());
    assert_eq!(healed, Healed::default());
    assert!(!old[0].exists());
    assert_eq!(case.verify().await, []);
}

/// Two teams have the same disk, each for itself, and the copy lacks what one of them has.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_team_lost_does_not_come_back_from_what_another_has() {
    let place = local().await;
    let options = Options {
        dedup_domain: DedupDomain::Team,
        ..place.options()
    };
    let store = Store::open_or_init(Arc::clone(&place.backend), &place.db, options).await;
    let store = store.unwrap();
    let data = noise(1, 1 << 20);
    for team in [1, 2] {
        import_in(&store, &place.db, team, &data).await;
    }
    let copy = copied(&place).await;
    let of_team = |folder: &str, team: u8| {
        let mut packs = files_below(&place.dir.path().join(folder).join("p"));
        packs.retain(|pack| std::fs::read(pack).unwrap()[48] == team);
        packs
    };
    let kept = place.dir.path().join("kept");
    std::fs::rename(&of_team("copy", 1)[0], &kept).unwrap();
    let lost = of_team("objects", 1).remove(0);
    std::fs::remove_file(&lost).unwrap();
    let progress = HealProgress::default();
    let healed = store.heal_from(Arc::clone(&copy), &progress).await.unwrap();
    assert_eq!((healed.objects, healed.chunks), (0, 0), "{healed:?}");
    assert!(healed.lost > 0 && healed.left == 1, "{healed:?}");

    // From its own it does.
    let key = lost.strip_prefix(place.dir.path().join("objects")).unwrap();
    std::fs::rename(&kept, place.dir.path().join("copy").join(key)).unwrap();
    let healed = store.heal_from(copy, &progress).await.unwrap();
    assert_eq!((healed.objects, healed.lost), (1, 0), "{healed:?}");
    assert_eq!(store.verify(true, &VerifyProgress::default()).await.unwrap(), []);
}
