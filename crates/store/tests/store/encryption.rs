//! Encrypted stores: what they hold is unreadable without a key, and every change of it is noticed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use store::{Fault, Faulty, KeyKind, Kind, Options, RecoveryKey, Store, VerifyProgress, World, WrappingKey};

use crate::damage::journal_write;
use crate::support::{Place, import, local, noise, places};

fn key(seed: u8) -> WrappingKey {
    WrappingKey::new(KeyKind::KeyFile, &[seed; 44]).unwrap()
}

fn with(place: &Place, key: Option<WrappingKey>) -> Options {
    Options {
        encrypt: true,
        key,
        ..place.options()
    }
}

async fn open(place: &Place, key: Option<WrappingKey>) -> store::Result<Store> {
    let backend = Arc::clone(&place.backend);
    Store::open(backend, &place.db, with(place, key)).await
}

async fn made(place: &Place) -> Store {
    let backend = Arc::clone(&place.backend);
    Store::init(backend, &place.db, with(place, Some(key(1))))
        .await
        .unwrap()
}

/// Text that is easy to find, in chunks that compress and chunks that do not.
fn disk() -> Vec<u8> {
    let mut data = b"a canary sings in this disk. ".repeat(40_000);
    data.truncate(1 << 20);
    let mut noise = noise(5, 1 << 20);
    for at in (0..noise.len()).step_by(4096) {
        noise[at..at + 29].copy_from_slice(b"a canary sings in this disk. ");
    }
    data.extend(noise);
    data
}

async fn reads(store: &Store, root: store::TreeRoot) -> store::Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(root.virtual_bytes).unwrap()];
    store.disk_open(root).read_at(0, &mut out).await.map(|()| out)
}

async fn keys(place: &Place, prefix: &str) -> Vec<String> {
    let listed: Vec<_> = place.backend.list(prefix).try_collect().await.unwrap();
    let mut keys: Vec<_> = listed.into_iter().map(|item| item.key).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_comes_back_with_the_key_and_nothing_of_it_lies_anywhere() {
    for place in places().await {
        let store = made(&place).await;
        let data = disk();
        let root = import(&store, &place.db, "1", &data).await;
        let again = import(&store, &place.db, "2", &data).await;
        assert_eq!(root, again, "what is encrypted is still found again");
        let packs = keys(&place, "p/").await;
        drop(store);
        let store = open(&place, Some(key(1))).await.unwrap();
        assert!(reads(&store, root).await.unwrap() == data, "{}", place.name);
        let damage = store.verify(true, &VerifyProgress::default()).await.unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        // The compressed form of a chunk, too: it begins as every one of its kind.
        let frame = zstd::bulk::compress(&data[..65536], 1).unwrap();
        let words: [&[u8]; 3] = [b"canary sings", &frame[..24], &data[(1 << 20) + 64..][..24]];
        for key in packs.iter().chain(&keys(&place, "h/").await) {
            let bytes = place.backend.get(key).await.unwrap();
            for word in words {
                assert!(!bytes.windows(word.len()).any(|part| part == word), "in {key}");
            }
            // The header holds no key in clear, but wrapped ones.
            assert!(!find(&bytes, &hex::encode([7; 32])), "the digest key is in {key}");
        }
        assert_eq!(packs.len(), 1);
    }
}

fn find(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|part| part == word.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_nothing_opens() {
    let place = local().await;
    made(&place).await;
    for (given, said) in [
        (None, "is encrypted, and no key is given: set `key_file`"),
        (Some(key(2)), "is not one of the store"),
    ] {
        for again in [false, true] {
            let options = with(&place, given.clone());
            let backend = Arc::clone(&place.backend);
            let opened = if again {
                Store::open_or_init(backend, &place.db, options).await
            } else {
                Store::open(backend, &place.db, options).await
            };
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), Kind::Incompatible);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    assert!(open(&place, Some(key(1))).await.unwrap().is_encrypted());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_a_key_is_not_given_a_store_in_clear() {
    let place = local().await;
    let open = |options| Store::open_or_init(Arc::clone(&place.backend), &place.db, options);
    let clear = Options {
        encrypt: false,
        ..with(&place, Some(key(1)))
    };
    // Neither made …
    let error = open(clear.clone()).await.unwrap_err();
    assert!(error.to_string().contains("cistern init --encrypt"), "{error}");
    assert!(keys(&place, "h/").await.is_empty());
    // … nor opened.
    let store = place.store().await;
    assert!(!store.is_encrypted());
    let error = open(clear).await.unwrap_err();
    assert!(error.to_string().contains("is not encrypted"), "{error}");
    let error = store.key_add(&key(2)).await.unwrap_err();
    assert!(
        error.to_string().contains("chosen when a store is made"),
        "{error}"
    );
}

/// The files of a place, for whoever may write to them.
fn objects(place: &Place) -> PathBuf {
    place.dir.path().join("objects")
}

fn copy(objects: &Path, from: &str, to: &str) {
    std::fs::copy(objects.join(from), objects.join(to)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_in_anothers_place_is_noticed() {
    let place = local().await;
    let store = made(&place).await;
    let root = import(&store, &place.db, "1", &noise(1, 14 << 20)).await;
    let packs = keys(&place, "p/").await;
    assert_eq!(packs.len(), 2);
    let (one, two) = (&packs[0], &packs[1]);
    let folder = objects(&place);
    // A whole pack under another's name.
    std::fs::copy(folder.join(two), folder.join("kept")).unwrap();
    copy(&folder, one, two);
    let error = reads(&store, root).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    copy(&folder, "kept", two);
    std::fs::remove_file(folder.join("kept")).unwrap();
    assert!(reads(&store, root).await.is_ok());

    // The same content in another encrypted store of the same installation, and so with the same digests.
    let other_place = local().await;
    let other = made(&other_place).await;
    let other_root = import(&other, &other_place.db, "1", &noise(1, 14 << 20)).await;
    assert_eq!(root.digest, other_root.digest);
    let theirs = keys(&other_place, "p/").await;
    for (mine, its) in packs.iter().zip(&theirs) {
        std::fs::copy(objects(&other_place).join(its), folder.join(mine)).unwrap();
    }
    assert_eq!(reads(&store, root).await.unwrap_err().kind(), Kind::Damaged);

    // Its headers are another store's.
    for header in keys(&other_place, "h/").await {
        std::fs::copy(objects(&other_place).join(&header), folder.join(&header)).unwrap();
    }
    drop(store);
    assert_eq!(
        open(&place, Some(key(1))).await.unwrap_err().kind(),
        Kind::Incompatible
    );
}

/// A server that has the store open while its keys are changed by another process. What it writes anew where all
/// headers are lost has the new keys; where it cannot know them it writes nothing, and an old header that comes back
/// goes.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_mended_bring_no_removed_key_back() {
    for has_seen in [true, false] {
        let place = local().await;
        let server = made(&place).await;
        journal_write(&server).await;
        let folder = objects(&place).join("h");
        let before = keep(&folder);
        let first = server.key_list().await.unwrap().remove(0);
        server.key_add(&key(2)).await.unwrap();
        let changing = open(&place, Some(key(2))).await.unwrap();
        changing.key_remove(&first.id).await.unwrap();
        if has_seen {
            server.header_check().await.unwrap();
        }
        let after = keep(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        let mended = server.headers_mend().await;
        if has_seen {
            assert!(mended.unwrap());
            assert!(open(&place, Some(key(1))).await.is_err());
            open(&place, Some(key(2))).await.unwrap();
        } else {
            assert_eq!(mended.unwrap_err().kind(), Kind::HeadersDamaged);
            assert!(!folder.exists());
            put_back(&folder, &after);
        }
        // As after a power loss, or when a copy was put back.
        put_back(&folder, &before);
        let told = server.headers_verify().await.unwrap();
        assert_eq!(told.len(), before.len(), "{told:?}");
        assert!(server.headers_mend().await.unwrap());
        assert_eq!(server.headers_verify().await.unwrap(), []);
        for (name, _) in &before {
            assert!(!folder.join(name).exists());
        }
        // Alone they are not believed by who knows the newer ones.
        for (name, _) in keep(&folder) {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        put_back(&folder, &before);
        assert!(server.headers_mend().await.unwrap());
        assert!(open(&place, Some(key(1))).await.is_err());
        open(&place, Some(key(2))).await.unwrap();
    }
}

/// Whatever call fails while they are written anew, as on a full disk, the next try writes them.
#[tokio::test(flavor = "multi_thread")]
async fn lost_headers_are_written_when_the_fault_that_kept_them_from_it_is_gone() {
    let mut failed = 0;
    for step in 1.. {
        let place = local().await;
        journal_write(&made(&place).await).await;
        let faulty = Faulty::new(Arc::clone(&place.backend), Fault::NoSpace, 0);
        let backend = Arc::new(faulty.clone());
        let options = with(&place, Some(key(1)));
        let server = Store::open(backend, &place.db, options).await.unwrap();
        std::fs::remove_dir_all(objects(&place).join("h")).unwrap();
        faulty.rearm(step);
        let first = server.headers_mend().await;
        failed += u8::from(first.is_err());
        let struck = faulty.calls() >= step;
        faulty.rearm(0);
        server.headers_mend().await.unwrap();
        open(&place, Some(key(1))).await.unwrap();
        assert_eq!(server.headers_verify().await.unwrap(), [], "step {step}");
        if !struck {
            break;
        }
    }
    assert!(failed >= 4, "{failed} steps failed");
}

/// The files of a folder.
fn keep(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    files
        .map(|file| (file.file_name(), std::fs::read(file.path()).unwrap()))
        .collect()
}

fn put_back(folder: &Path, files: &[(std::ffi::OsString, Vec<u8>)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, data) in files {
        std::fs::write(folder.join(name), data).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_what_was_removed_opens_nothing_any_more() {
    for place in places().await {
        let store = made(&place).await;
        let root = import(&store, &place.db, "1", &disk()).await;
        assert_eq!(keys(&place, "h/").await, ["h/00000000", "h/00000001"]);
        let old_headers: Vec<Bytes> = headers(&place).await;
        let recovery = RecoveryKey::draw(&World::system());
        store.key_add(&recovery.wrapping()).await.unwrap();
        let added = store.key_add(&key(2)).await.unwrap().key;
        assert_eq!(store.key_add(&key(2)).await.unwrap_err().kind(), Kind::Exists);
        let listed = store.key_list().await.unwrap();
        let kinds: Vec<_> = listed.iter().map(|key| key.kind).collect();
        assert_eq!(kinds, [KeyKind::KeyFile, KeyKind::Recovery, KeyKind::KeyFile]);
        assert_eq!(listed[2], added);
        // All three open the same.
        let typed = RecoveryKey::parse(&recovery.text()).unwrap();
        for key in [key(1), key(2), typed.wrapping()] {
            let opened = open(&place, Some(key)).await.unwrap();
            assert!(reads(&opened, root).await.unwrap() == disk());
        }
        // The one that the store was opened with is not removed.
        let error = store.key_remove(&listed[0].id).await.unwrap_err();
        assert!(error.to_string().contains("would not open any more"), "{error}");
        let store = open(&place, Some(key(2))).await.unwrap();
        store.key_remove(&listed[0].id).await.unwrap();
        assert_eq!(
            store.key_remove(&listed[0].id).await.unwrap_err().kind(),
            Kind::NotFound
        );
        assert_eq!(
            open(&place, Some(key(1))).await.unwrap_err().kind(),
            Kind::Incompatible
        );
        assert!(open(&place, Some(key(2))).await.is_ok());
        // Nor is there an older header that still holds it.
        assert_eq!(
            keys(&place, "h/").await,
            ["h/00000006", "h/00000007"],
            "{}",
            place.name
        );
        let wrapped = listed[0].wrapped.as_bytes();
        assert!(old_headers.iter().all(|bytes| holds(bytes, wrapped)));
        assert!(headers(&place).await.iter().all(|bytes| !holds(bytes, wrapped)));
    }
}

async fn headers(place: &Place) -> Vec<Bytes> {
    let mut out = Vec::new();
    for key in keys(place, "h/").await {
        out.push(place.backend.get(&key).await.unwrap());
    }
    out
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_is_replaced_by_its_copy_and_both_damaged_open_nothing() {
    let place = local().await;
    made(&place).await;
    let folder = objects(&place);
    let spoil = |name: &str| {
        let path = folder.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    spoil("h/00000001");
    let store = open(&place, Some(key(1))).await.unwrap();
    // The next change writes two whole ones.
    store.key_add(&key(2)).await.unwrap();
    assert_eq!(keys(&place, "h/").await, ["h/00000002", "h/00000003"]);
    spoil("h/00000002");
    spoil("h/00000003");
    assert_eq!(
        open(&place, Some(key(1))).await.unwrap_err().kind(),
        Kind::HeadersDamaged
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_keys_that_fails_at_any_step_loses_nothing_and_uses_no_number_twice() {
    for fault in [Fault::Io, Fault::Short, Fault::AnswerLost] {
        let place = local().await;
        made(&place).await;
        let faulty = Faulty::new(Arc::clone(&place.backend), fault, 0);
        let backend = Arc::new(faulty.clone());
        let store = Store::open(backend, &place.db, with(&place, Some(key(1))))
            .await
            .unwrap();
        let (mut failed, mut step) = (0, 0_u8);
        loop {
            step += 1;
            let before: Vec<_> = keys(&place, "h/")
                .await
                .into_iter()
                .zip(headers(&place).await)
                .collect();
            faulty.rearm(u64::from(step));
            let done = store.key_add(&key(40 + step)).await;
            let struck = faulty.calls() >= u64::from(step);
            faulty.rearm(0);
            failed += u8::from(done.is_err());
            assert!(open(&place, Some(key(1))).await.is_ok(), "step {step}");
            let added = open(&place, Some(key(40 + step))).await;
            // Who says that it failed has not made the change, or says that this is not known.
            match &done {
                Err(error) => assert!(
                    added.is_err() || error.to_string().contains("did not say whether"),
                    "step {step}: {error}"
                ),
                Ok(_) => assert!(added.is_ok(), "step {step}"),
            }
            for (name, bytes) in &before {
                if let Ok(now) = place.backend.get(name).await {
                    assert_eq!(&now, bytes, "{name} was written twice");
                }
            }
            // Doing it again finishes, and cleans up.
            store.key_add(&key(140 + step)).await.unwrap();
            assert_eq!(keys(&place, "h/").await.len(), 2, "step {step}");
            if !struck {
                break;
            }
        }
        assert!(failed >= 3 && step >= 8, "{failed} of {step} steps failed");
    }
}
