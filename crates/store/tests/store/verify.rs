//! What a verification marks, and when: beside readers, heals, and others that verify, and where it is cut off.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use sea_orm::{ConnectionTrait as _, Statement};
use store::{
    Algorithm, Backend, CopyOptions, CopyProgress, Damage, Error, HealProgress, Kind, Listed, ObjectName,
    Put, Result, Settings, Store, VerifyProgress, backend_open, scrub,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{CHUNK, Place, files_below, import, local, noise};

/// A backend that holds one call up, or does not answer it.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn Backend>,
    /// The call, `get KEY` or `stat KEY`, and which of them it is: from 1.
    call: Mutex<(String, u32)>,
    /// Whether it fails, at once, instead of waiting.
    fails: AtomicBool,
    /// The calls that went through.
    passed: watch::Sender<Vec<String>>,
    reached: Notify,
    go: Notify,
}

impl Gated {
    fn new(place: &Place) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(&place.backend),
            call: Mutex::default(),
            fails: AtomicBool::new(false),
            passed: watch::Sender::default(),
            reached: Notify::new(),
            go: Notify::new(),
        })
    }

    fn arm(&self, call: String, number: u32) {
        *self.call.lock().unwrap() = (call, number);
    }

    fn strikes(&self, what: &str, key: &str) -> bool {
        let mut call = self.call.lock().unwrap();
        if call.1 == 0 || call.0 != format!("{what} {key}") {
            return false;
        }
        call.1 -= 1;
        call.1 == 0
    }

    async fn until_passed(&self, call: String) {
        let mut passed = self.passed.subscribe();
        passed.wait_for(|passed| passed.contains(&call)).await.unwrap();
    }

    async fn pass(&self, what: &str, key: &str) -> Result<()> {
        if !self.strikes(what, key) {
            self.passed
                .send_modify(|passed| passed.push(format!("{what} {key}")));
            return Ok(());
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "the service does not answer"));
        }
        self.reached.notify_one();
        self.go.notified().await;
        Ok(())
    }
}

#[async_trait]
impl Backend for Gated {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        self.inner.put_new(key, data).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        self.inner.put_begin(key).await
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.inner.put_replace(key).await
    }

    /// Held up when it is done: what it gives is what was there before.
    async fn get(&self, key: &str) -> Result<Bytes> {
        let data = self.inner.get(key).await;
        self.pass("get", key).await?;
        data
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let data = self.inner.get_range(key, range).await;
        self.pass("range", key).await?;
        data
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        let found = self.inner.stat(key).await;
        self.pass("stat", key).await?;
        found
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        self.inner.leftovers_clear().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Two disks of noise, each with a pack of its own, in a store that is reached by way of a gate.
struct Case {
    place: Place,
    gate: Arc<Gated>,
    store: Store,
    packs: [PathBuf; 2],
}

const DISKS: [&str; 2] = ["one", "two"];

impl Case {
    async fn new() -> Self {
        let place = local().await;
        let gate = Gated::new(&place);
        let store = place.store_on(Arc::clone(&gate) as _).await;
        let mut packs = Vec::new();
        for (seed, owner) in (1..).zip(DISKS) {
            import(&store, &place.db, owner, &noise(seed, 1 << 20)).await;
            let new = files_below(&place.dir.path().join("objects/p"));
            packs.extend(new.into_iter().find(|pack| !packs.contains(pack)));
        }
        let packs = packs.try_into().unwrap();
        Self {
            place,
            gate,
            store,
            packs,
        }
    }

    /// A verification that is held up at a call; gives it when it has come there.
    async fn verify_held_at(&self, call: String, number: u32) -> JoinHandle<Vec<Damage>> {
        self.gate.arm(call, number);
        let store = self.store.clone();
        let verifying = tokio::spawn(async move { verify(&store).await });
        self.gate.reached.notified().await;
        verifying
    }

    async fn read(&self, owner: &str) -> Result<Vec<u8>> {
        let root = self.store.root_get("image", owner).await.unwrap().unwrap().tree;
        let mut out = vec![0; 1 << 20];
        self.store.disk_open(root).read_at(0, &mut out).await?;
        Ok(out)
    }

    async fn copied(&self) -> Arc<dyn Backend> {
        let path = self.place.dir.path().join("copy");
        let to: Arc<dyn Backend> = backend_open(path.to_str().unwrap(), &Settings::new()).unwrap();
        let progress = CopyProgress::default();
        store::copy(&self.place.backend, &*to, &CopyOptions::default(), &progress)
            .await
            .unwrap();
        to
    }

    async fn heal_from(&self, copy: &Arc<dyn Backend>) {
        let progress = HealProgress::default();
        let healed = self.store.heal_from(Arc::clone(copy), &progress).await.unwrap();
        assert_eq!((healed.objects, healed.lost), (1, 0), "{healed:?}");
    }

    async fn number(&self, sql: &str) -> i64 {
        let statement = Statement::from_string(self.place.db.get_database_backend(), sql);
        let row = self.place.db.query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index(0).unwrap()
    }

    /// Chunks that are marked as damaged, and objects that are noted as such.
    async fn marks(&self) -> (i64, i64) {
        (
            self.number("SELECT count(*) FROM store_chunk WHERE state = 4")
                .await,
            self.number("SELECT count(*) FROM store_object WHERE damaged")
                .await,
        )
    }

    /// Nothing is damaged, and nothing says so.
    async fn assert_whole(&self) {
        assert_eq!((self.marks().await, self.damaged_roots().await), ((0, 0), 0));
        for (seed, owner) in (1..).zip(DISKS) {
            assert!(self.read(owner).await.unwrap() == noise(seed, 1 << 20), "{owner}");
        }
        assert_eq!(verify(&self.store).await, []);
    }

    async fn damaged_roots(&self) -> u64 {
        self.store.damage_update().await.unwrap();
        self.store.health().await.unwrap().damaged_roots
    }
}

async fn verify(store: &Store) -> Vec<Damage> {
    store.verify(true, &VerifyProgress::default()).await.unwrap()
}

async fn scrub(store: &Store) -> scrub::Report {
    let options = scrub::Options {
        bytes_per_second: 1 << 40,
        every: Duration::from_hours(24 * 30),
        time: Duration::from_hours(1),
        stop: CancellationToken::new(),
    };
    store.scrub(&options, &AtomicU64::new(0)).await.unwrap()
}

/// Its key in the backend.
fn key(file: &Path) -> String {
    let mut parts = file.iter().rev().map(|part| part.to_str().unwrap());
    let [id, folder, kind] = [(); 3].map(|()| parts.next().unwrap());
    format!("{kind}/{folder}/{id}")
}

/// Flips a bit of chunk number `chunk`; done twice it is whole again.
fn flip(pack: &Path, chunk: usize) {
    let mut bytes = std::fs::read(pack).unwrap();
    bytes[64 + chunk * (65536 + 16) + 16 + 1000] ^= 1;
    std::fs::write(pack, bytes).unwrap();
}

fn told(damage: &[Damage]) -> Vec<(&str, Range<u64>)> {
    let told = |one: &'_ Damage| one.range.start / CHUNK..one.range.end / CHUNK;
    damage.iter().map(|one| (one.owner.as_str(), told(one))).collect()
}

/// Of a pack that the verification has read before, and of the one that it is reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_a_reader_sets_meanwhile_stays() {
    for hurt in [0, 1] {
        let case = Case::new().await;
        let verifying = case
            .verify_held_at(format!("get {}", key(&case.packs[1])), 1)
            .await;
        if hurt == 0 {
            case.gate
                .until_passed(format!("get {}", key(&case.packs[0])))
                .await;
        }
        flip(&case.packs[hurt], 3);
        case.read(DISKS[hurt]).await.unwrap_err();
        assert_eq!(case.marks().await, (1, 1));
        case.gate.go.notify_one();
        let damage = verifying.await.unwrap();
        assert_eq!(told(&damage), [(DISKS[hurt], 3..4)], "{damage:?}");
        assert_eq!((case.marks().await, case.damaged_roots().await), ((1, 1), 1));
        // What is imported does not rely on it.
        let data = noise(1 + hurt as u64, 1 << 20);
        import(&case.store, &case.place.db, "again", &data).await;
        assert_eq!(case.read("again").await.unwrap(), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_before_a_verification_is_cut_off_is_marked_and_only_that_is_noted_as_read() {
    let case = Case::new().await;
    flip(&case.packs[0], 3);
    case.place.clock.advance(Duration::from_hours(24 * 31));
    case.gate.fails.store(true, Ordering::SeqCst);
    case.gate.arm(format!("get {}", key(&case.packs[1])), 1);
    let cut_off = case.store.verify(true, &VerifyProgress::default()).await;
    assert_eq!(cut_off.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(case.marks().await, (1, 1));
    // What was not read to its end is due.
    let report = scrub(&case.store).await;
    assert_eq!((report.objects, report.damaged), (1, 0), "{report:?}");
    assert_eq!(case.store.health().await.unwrap().damaged_roots, 1);
    let data = noise(1, 1 << 20);
    import(&case.store, &case.place.db, "again", &data).await;
    assert_eq!(case.read("again").await.unwrap(), data);
}

/// Whether the verification has looked once when it comes back, or is about to mark it; and whether it is on its way to
/// something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_that_a_heal_brings_back_meanwhile_is_neither_marked_nor_told() {
    for held_at in [("stat", 0, 1), ("stat", 0, 2), ("get", 1, 1)] {
        let case = Case::new().await;
        let copy = case.copied().await;
        std::fs::remove_file(&case.packs[0]).unwrap();
        let (what, pack, number) = held_at;
        let call = format!("{what} {}", key(&case.packs[pack]));
        let verifying = case.verify_held_at(call, number).await;
        if pack == 1 {
            case.gate
                .until_passed(format!("stat {}", key(&case.packs[0])))
                .await;
        }
        case.heal_from(&copy).await;
        case.gate.go.notify_one();
        assert_eq!(verifying.await.unwrap(), [], "{held_at:?}");
        case.assert_whole().await;
    }
}

/// One that is put back by hand is not judged by whoever does that.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_that_is_put_back_meanwhile_is_neither_marked_nor_told() {
    for held_at in [("stat", 0, 1), ("get", 1, 1)] {
        let case = Case::new().await;
        let bytes = std::fs::read(&case.packs[0]).unwrap();
        std::fs::remove_file(&case.packs[0]).unwrap();
        let (what, pack, number) = held_at;
        let call = format!("{what} {}", key(&case.packs[pack]));
        let verifying = case.verify_held_at(call, number).await;
        if pack == 1 {
            case.gate
                .until_passed(format!("stat {}", key(&case.packs[0])))
                .await;
        }
        std::fs::write(&case.packs[0], bytes).unwrap();
        case.gate.go.notify_one();
        assert_eq!(verifying.await.unwrap(), [], "{held_at:?}");
        case.assert_whole().await;
    }
}

/// When the whole pack was read, and when each frame was tried once more: sixteen chunks and a node.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_that_a_heal_brings_back_meanwhile_is_neither_marked_nor_told() {
    for (what, number) in [("get", 1), ("range", 17)] {
        let case = Case::new().await;
        let copy = case.copied().await;
        flip(&case.packs[0], 3);
        let call = format!("{what} {}", key(&case.packs[0]));
        let verifying = case.verify_held_at(call, number).await;
        case.heal_from(&copy).await;
        case.gate.go.notify_one();
        assert_eq!(verifying.await.unwrap(), [], "{what}");
        case.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_verifications_the_one_that_read_last_counts() {
    // What the first has read as damaged the second reads as whole.
    let case = Case::new().await;
    flip(&case.packs[0], 3);
    let call = format!("get {}", key(&case.packs[0]));
    let verifying = case.verify_held_at(call.clone(), 1).await;
    assert_eq!(told(&verify(&case.store).await), [("one", 3..4)]);
    flip(&case.packs[0], 3);
    assert_eq!(verify(&case.store).await, []);
    case.gate.go.notify_one();
    assert_eq!(verifying.await.unwrap(), []);
    case.assert_whole().await;
    // And the other way round, of a chunk that is marked.
    flip(&case.packs[0], 3);
    assert_eq!(told(&verify(&case.store).await), [("one", 3..4)]);
    flip(&case.packs[0], 3);
    let verifying = case.verify_held_at(call, 1).await;
    flip(&case.packs[0], 3);
    assert_eq!(told(&verify(&case.store).await), [("one", 3..4)]);
    case.gate.go.notify_one();
    assert_eq!(told(&verifying.await.unwrap()), [("one", 3..4)]);
    assert_eq!((case.marks().await, case.damaged_roots().await), ((1, 1), 1));
}

/// An image that was uploaded as it is, say: it lies by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_object_that_comes_back_meanwhile_is_neither_marked_nor_told() {
    use sha2::Digest as _;
    for (is_healed, number) in [(true, 1), (true, 2), (false, 1)] {
        let case = Case::new().await;
        let data = noise(9, 6 << 20);
        let name = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&data)));
        let name: ObjectName = name.parse().unwrap();
        let session = case.store.session_open("whole").await.unwrap();
        let mut ingest = session.object_begin(Algorithm::Sha256);
        ingest.write(data.into()).await.unwrap();
        let stored = ingest.finish(&name).await.unwrap();
        let tx = case.place.begin().await;
        let objects = [("blob", "whole", stored)];
        session.commit_objects_in_tx(&tx, &objects).await.unwrap();
        tx.commit().await.unwrap();
        let object = files_below(&case.place.dir.path().join("objects/b")).remove(0);
        let copy = case.copied().await;
        let bytes = std::fs::read(&object).unwrap();
        std::fs::remove_file(&object).unwrap();
        let call = format!("stat {}", key(&object));
        let verifying = case.verify_held_at(call, number).await;
        if is_healed {
            case.heal_from(&copy).await;
        } else {
            std::fs::write(&object, bytes).unwrap();
        }
        case.gate.go.notify_one();
        assert_eq!(verifying.await.unwrap(), [], "{number}");
        case.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_mark_tells_no_pack_that_came_back_meanwhile() {
    let case = Case::new().await;
    let bytes = std::fs::read(&case.packs[0]).unwrap();
    std::fs::remove_file(&case.packs[0]).unwrap();
    flip(&case.packs[1], 3);
    case.gate.arm(format!("get {}", key(&case.packs[1])), 1);
    let store = case.store.clone();
    let verifying =
        tokio::spawn(async move { store.verify_unmarked(true, &VerifyProgress::default()).await });
    case.gate.reached.notified().await;
    case.gate
        .until_passed(format!("stat {}", key(&case.packs[0])))
        .await;
    std::fs::write(&case.packs[0], bytes).unwrap();
    case.gate.go.notify_one();
    assert_eq!(told(&verifying.await.unwrap().unwrap()), [("two", 3..4)]);
    assert_eq!(case.marks().await, (0, 0));
}

/// What is healed while something else stays damaged, and is damaged again, is found by readers as it was the first
/// time.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_healed_and_is_damaged_again_is_looked_at_again() {
    let case = Case::new().await;
    let copy = case.copied().await;
    flip(&case.packs[1], 3);
    case.read("two").await.unwrap_err();
    let other = key(&case.packs[1]);
    let path = |key: &str| case.place.dir.path().join("copy").join(key);
    // The copy cannot help with the other one.
    std::fs::remove_file(path(&other)).unwrap();
    let lost = case.packs[0].clone();
    let chunks = 17;
    for _ in 0..3 {
        std::fs::remove_file(&lost).unwrap();
        case.read("one").await.unwrap_err();
        assert_eq!(case.marks().await, (1 + chunks, 2));
        assert_eq!(case.damaged_roots().await, 2);
        let progress = HealProgress::default();
        let healed = case.store.heal_from(Arc::clone(&copy), &progress).await.unwrap();
        assert_eq!((healed.objects, healed.lost), (1, 1), "{healed:?}");
        assert_eq!((case.marks().await, case.damaged_roots().await), ((1, 1), 1));
        case.read("one").await.unwrap();
    }
    // Whoever reads it again and again does not have it read whole each time.
    std::fs::remove_file(&lost).unwrap();
    case.read("one").await.unwrap_err();
    let asked = || {
        case.gate
            .passed
            .borrow()
            .iter()
            .filter(|call| **call == format!("stat {}", key(&lost)))
            .count()
    };
    let before = asked();
    case.read("one").await.unwrap_err();
    assert_eq!(asked(), before);
}

/// What a tree names that cannot be read nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_tree_is_unreadable_no_damaged_pack_is_said_to_be_needed_by_nobody() {
    let place = local().await;
    let store = place.store().await;
    let data = noise(1, 1 << 20);
    import(&store, &place.db, "first", &data).await;
    let objects = place.dir.path().join("objects/p");
    let first = files_below(&objects);
    // Most of its data lie in the first one's pack, its tree in another.
    import(
        &store,
        &place.db,
        "one",
        &[&data[..], &noise(2, 1 << 20)].concat(),
    )
    .await;
    let tx = place.begin().await;
    assert!(store.root_delete_in_tx(&tx, "image", "first").await.unwrap());
    tx.commit().await.unwrap();
    let second = files_below(&objects)
        .into_iter()
        .find(|file| !first.contains(file));
    let second = second.unwrap();
    std::fs::remove_file(&second).unwrap();
    flip(&first[0], 0);
    let found = verify(&store).await;
    let reason = |owner: &str| &found.iter().find(|one| one.owner == owner).unwrap().reason;
    assert!(reason("one").contains(&key(&second)), "{found:?}");
    assert!(reason(&key(&first[0])).contains("is not known"), "{found:?}");
}
