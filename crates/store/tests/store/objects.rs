//! Whole objects: taken in, found, read by range, collected, verified.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use store::gc::{Options, Progress};
use store::{Algorithm, Fault, Faulty, Kind, ObjectName, ObjectRef, Store, VerifyProgress};

use crate::support::{Place, import, local, noise, places};

const MIB: usize = 1 << 20;

fn sha256(data: &[u8]) -> ObjectName {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(data)))
        .parse()
        .unwrap()
}

fn sha512(data: &[u8]) -> ObjectName {
    use sha2::Digest as _;
    format!("sha512:{}", hex::encode(sha2::Sha512::digest(data)))
        .parse()
        .unwrap()
}

async fn put(
    store: &Store,
    place: &Place,
    owner: &str,
    data: &[u8],
    name: &ObjectName,
) -> store::Result<ObjectRef> {
    let session = store.session_open(owner).await?;
    let mut ingest = session.object_begin(name.algorithm());
    for piece in data.chunks(3_000_001) {
        ingest.write(Bytes::copy_from_slice(piece)).await?;
    }
    let stored = ingest.finish(name).await?;
    let tx = place.begin().await;
    session
        .commit_objects_in_tx(&tx, &[("blob", owner, stored)])
        .await?;
    tx.commit().await.unwrap();
    Ok(stored)
}

async fn read(store: &Store, of: ObjectRef) -> store::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = store.object_stream(of, 0..of.bytes).try_collect().await?;
    Ok(pieces.concat())
}

/// Bytes that sealing adds: 16 to each segment, of which there is one at least.
fn tags(place: &Place, length: usize) -> usize {
    if place.options().encrypt {
        return length.div_ceil(64 << 10).max(1) * 16;
    }
    0
}

async fn objects(place: &Place) -> usize {
    let listed: Vec<_> = place.backend.list("b/").try_collect().await.unwrap();
    listed.len()
}

async fn delete(store: &Store, place: &Place, owner: &str) {
    let tx = place.begin().await;
    assert!(store.root_delete_in_tx(&tx, "blob", owner).await.unwrap());
    tx.commit().await.unwrap();
}

fn now(place: &Place) -> Options {
    Options {
        now: true,
        ..Options::new(place.dir.path())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_in_is_read_back_whole_and_by_range() {
    for place in places().await {
        let store = place.store().await;
        for (owner, length) in [
            ("empty", 0),
            ("small", 1000),
            ("edge", 8 * MIB),
            ("large", 40 * MIB + 7),
        ] {
            let data = noise(length as u64, length);
            let name = if owner == "small" {
                sha512(&data)
            } else {
                sha256(&data)
            };
            let stored = put(&store, &place, owner, &data, &name).await.unwrap();
            assert_eq!(stored.bytes, length as u64);
            assert!(
                read(&store, stored).await.unwrap() == data,
                "{owner} on {}",
                place.name
            );
            assert_eq!(store.object_get("blob", owner).await.unwrap(), Some(stored));
            if length > 100 {
                let range = (length / 3) as u64..(length - 1) as u64;
                let pieces: Vec<Bytes> = store
                    .object_stream(stored, range.clone())
                    .try_collect()
                    .await
                    .unwrap();
                assert!(pieces.concat() == data[length / 3..length - 1]);
            }
            let outside: store::Result<Vec<Bytes>> = store
                .object_stream(stored, 0..length as u64 + 1)
                .try_collect()
                .await;
            assert_eq!(outside.unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(objects(&place).await, 4);
        assert_eq!(store.root_list().await.unwrap(), [], "they are no disks");
        let stats = store.stats().await.unwrap();
        assert_eq!((stats.packs, stats.objects), (0, 4));
        let tags: usize = [0, 1000, 8 * MIB, 40 * MIB + 7]
            .into_iter()
            .map(|length| tags(&place, length))
            .sum();
        assert_eq!(stats.stored_bytes, (48 * MIB + 1007 + tags) as u64);
        assert_eq!(store.verify(true, &VerifyProgress::default()).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_was_said_leave_nothing() {
    for place in places().await {
        let store = place.store().await;
        for length in [1000, 20 * MIB] {
            let data = noise(1, length);
            let other = sha256(b"something else");
            let error = put(&store, &place, "x", &data, &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(&sha256(&data).to_string()), "{error}");
            assert_eq!(store.object_get("blob", "x").await.unwrap(), None);
        }
        assert_eq!(objects(&place).await, 0);
        place.clock.advance(std::time::Duration::from_hours(1));
        for _ in 0..2 {
            store.sessions_expire().await.unwrap();
            place.clock.advance(std::time::Duration::from_hours(1));
        }
        let session = store.session_open("y").await.unwrap();
        assert_eq!(session.object_find(&sha256(&noise(1, 1000))).await.unwrap(), None);
        // And an object that nobody brought cannot be committed.
        let made_up = ObjectRef {
            digest: store::Digest([7; 32]),
            bytes: 1,
            domain: 0,
        };
        let tx = place.begin().await;
        let error = session
            .commit_objects_in_tx(&tx, &[("blob", "x", made_up)])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_stored_once_and_freed_with_their_last_root() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(2, 10 * MIB);
        let name = sha256(&data);
        let first = put(&store, &place, "one", &data, &name).await.unwrap();
        assert_eq!(put(&store, &place, "two", &data, &name).await.unwrap(), first);
        // Mounted: found by its name alone.
        let session = store.session_open("three").await.unwrap();
        let found = session.object_find(&name).await.unwrap().unwrap();
        let tx = place.begin().await;
        session
            .commit_objects_in_tx(&tx, &[("blob", "three", found)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(objects(&place).await, 1);
        for owner in ["one", "two"] {
            delete(&store, &place, owner).await;
            assert_eq!(
                store
                    .gc(&now(&place), &Progress::default())
                    .await
                    .unwrap()
                    .condemned,
                0
            );
        }
        assert!(read(&store, found).await.unwrap() == data);
        delete(&store, &place, "three").await;
        let report = store.gc(&now(&place), &Progress::default()).await.unwrap();
        let freed = (data.len() + tags(&place, data.len())) as u64;
        assert_eq!(
            (report.condemned, report.objects, report.freed_bytes),
            (1, 1, freed)
        );
        assert_eq!(objects(&place).await, 0);
        assert_eq!(read(&store, found).await.unwrap_err().kind(), Kind::Damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_found_object_outlives_a_gc_beside_its_session() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "a disk", &noise(9, 100_000)).await;
        let data = noise(3, 1000);
        let name = sha256(&data);
        put(&store, &place, "one", &data, &name).await.unwrap();
        let session = store.session_open("two").await.unwrap();
        let found = session.object_find(&name).await.unwrap().unwrap();
        let written = session.object_begin(Algorithm::Sha256);
        delete(&store, &place, "one").await;
        assert_eq!(
            store
                .gc(&now(&place), &Progress::default())
                .await
                .unwrap()
                .condemned,
            0
        );
        let other = noise(4, 9 * MIB);
        let mut written = written;
        written.write(Bytes::from(other.clone())).await.unwrap();
        store.gc(&now(&place), &Progress::default()).await.unwrap();
        let stored = written.finish(&sha256(&other)).await.unwrap();
        store.gc(&now(&place), &Progress::default()).await.unwrap();
        let tx = place.begin().await;
        session
            .commit_objects_in_tx(&tx, &[("blob", "two", found), ("blob", "three", stored)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        store.gc(&now(&place), &Progress::default()).await.unwrap();
        assert!(read(&store, found).await.unwrap() == data);
        assert!(read(&store, stored).await.unwrap() == other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_named_and_healed_by_the_same_bytes() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(5, 300_000);
        let name = sha256(&data);
        put(&store, &place, "one", &data, &name).await.unwrap();
        let listed: Vec<_> = place.backend.list("b/").try_collect().await.unwrap();
        let key = &listed[0].key;
        let mut bad = place.backend.get(key).await.unwrap().to_vec();
        bad[77] ^= 1;
        place.backend.delete(key).await.unwrap();
        place.backend.put_new(key, Bytes::from(bad)).await.unwrap();
        assert_eq!(
            store.verify(false, &VerifyProgress::default()).await.unwrap(),
            [],
            "its size is right"
        );
        let found = store.verify(true, &VerifyProgress::default()).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (&found[0].kind[..], &found[0].owner[..], found[0].range.clone()),
            ("blob", "one", 0..300_000)
        );
        // Pushed again: nothing relies on the damaged one any more.
        put(&store, &place, "two", &data, &name).await.unwrap();
        let one = store.object_get("blob", "one").await.unwrap().unwrap();
        assert!(
            read(&store, one).await.unwrap() == data,
            "the first is healed too"
        );
        store.gc(&now(&place), &Progress::default()).await.unwrap();
        assert_eq!(store.verify(true, &VerifyProgress::default()).await.unwrap(), []);
        assert_eq!(objects(&place).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_of_the_backend_makes_an_object_of_half_the_bytes() {
    for fault in [
        Fault::Io,
        Fault::NoSpace,
        Fault::Unavailable,
        Fault::AnswerLost,
        Fault::Short,
    ] {
        for fail_at in 1.. {
            let place = local().await;
            let faulty = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 0));
            let store = place.store_on(Arc::<Faulty>::clone(&faulty)).await;
            let data = noise(6, 30 * MIB);
            let name = sha256(&data);
            faulty.rearm(fail_at);
            let done = put(&store, &place, "one", &data, &name).await;
            let calls = faulty.calls();
            faulty.rearm(0);
            match store.object_get("blob", "one").await.unwrap() {
                Some(of) => assert!(read(&store, of).await.unwrap() == data),
                None => assert!(done.is_err(), "{fault:?} at {fail_at}"),
            }
            if store.object_get("blob", "one").await.unwrap().is_none() {
                put(&store, &place, "one", &data, &name).await.unwrap();
            }
            for _ in 0..3 {
                place.clock.advance(std::time::Duration::from_hours(25));
                store.gc(&now(&place), &Progress::default()).await.unwrap();
            }
            assert_eq!(objects(&place).await, 1, "{fault:?} at {fail_at} leaks");
            if calls < fail_at {
                break;
            }
        }
    }
}
