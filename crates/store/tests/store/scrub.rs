//! Reading what is stored again, oldest first, and the record of damage.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sea_orm::ConnectionTrait as _;
use store::scrub::{Health, Options, Report};
use store::{Fault, Faulty, Kind, Store};
use tokio_util::sync::CancellationToken;

use crate::support::{Place, import, local, noise, places};

fn options() -> Options {
    Options {
        bytes_per_second: 1 << 40,
        every: Duration::from_hours(24),
        time: Duration::from_mins(1),
        stop: CancellationToken::new(),
    }
}

async fn scrub(store: &Store) -> Report {
    store.scrub(&options(), &AtomicU64::new(0)).await.unwrap()
}

/// Flips a bit in the middle of the largest pack; gives the way back.
async fn spoil(place: &Place) -> (String, Bytes) {
    let packs: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
    let key = packs.into_iter().max_by_key(|pack| pack.bytes).unwrap().key;
    let right = place.backend.get(&key).await.unwrap();
    let mut wrong = right.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    put(place, &key, Bytes::from(wrong)).await;
    (key, right)
}

async fn put(place: &Place, key: &str, data: Bytes) {
    place.backend.delete(key).await.unwrap();
    place.backend.put_new(key, data).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_longest_ago_is_read_first_and_not_twice() {
    for place in places().await {
        let store = place.store().await;
        assert_eq!(store.health().await.unwrap(), Health::default());
        import(&store, &place.db, "1", &noise(1, 300_000)).await;
        place.clock.advance(Duration::from_hours(30));
        import(&store, &place.db, "2", &noise(2, 300_000)).await;
        let oldest = store.health().await.unwrap().oldest_us.unwrap();
        let report = scrub(&store).await;
        assert_eq!(
            (report.objects, report.damaged, report.is_done),
            (1, 0, true),
            "{}",
            place.name
        );
        assert!(report.bytes > 300_000);
        assert!(store.health().await.unwrap().oldest_us.unwrap() > oldest);
        assert_eq!(
            scrub(&store).await.objects,
            0,
            "both were read, or written, lately"
        );
        place.clock.advance(Duration::from_hours(25));
        assert_eq!(scrub(&store).await.objects, 2);

        // Who has all of it read spares the scrub that; who only looks does not.
        place.clock.advance(Duration::from_hours(25));
        let progress = store::VerifyProgress::default();
        assert_eq!(store.verify(true, &progress).await.unwrap(), []);
        assert_eq!(scrub(&store).await.objects, 0);
        place.clock.advance(Duration::from_hours(25));
        assert_eq!(store.verify(false, &progress).await.unwrap(), []);
        assert_eq!(scrub(&store).await.objects, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_while_the_clock_was_ahead_is_read_again_once() {
    for place in places().await {
        let store = place.store().await;
        let is_ahead = async || store.health().await.unwrap().is_ahead(place.clock.now_us());
        import(&store, &place.db, "1", &noise(1, 300_000)).await;
        assert!(!is_ahead().await, "{}", place.name);
        place.clock.set_back(Duration::from_hours(24 * 365));
        import(&store, &place.db, "2", &noise(2, 300_000)).await;
        assert!(is_ahead().await);
        let report = scrub(&store).await;
        assert_eq!((report.objects, report.is_done), (1, true), "{}", place.name);
        assert!(!is_ahead().await);
        assert_eq!(scrub(&store).await.objects, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_recorded_by_disk_until_it_is_healed() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(3, 40 * 65536);
        import(&store, &place.db, "hurt", &data).await;
        import(&store, &place.db, "fine", &noise(4, 65536)).await;
        spoil(&place).await;
        place.clock.advance(Duration::from_hours(25));
        let report = scrub(&store).await;
        assert_eq!((report.objects, report.damaged), (2, 1), "{}", place.name);
        let damage = store.damage_of("image", "hurt").await.unwrap();
        assert_eq!(damage.len(), 1, "{damage:?}");
        let range = &damage[0].range;
        assert!(range.end - range.start == 65536 && range.start % 65536 == 0 && range.end <= 40 * 65536);
        assert_eq!(store.damage_of("image", "fine").await.unwrap(), []);
        assert_eq!(
            store.damaged_among("image", &["fine", "hurt"]).await.unwrap(),
            ["hurt"]
        );
        assert_eq!(store.health().await.unwrap().damaged_roots, 1);
        // The same content heals it, and the record follows.
        import(&store, &place.db, "again", &data).await;
        store.damage_update().await.unwrap();
        assert_eq!(store.health().await.unwrap().damaged_roots, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_is_made_anew_when_something_changed_and_reads_a_tree_once() {
    for place in places().await {
        let plain = place.store().await;
        let common = noise(7, 10 * 65536);
        for number in 0..30 {
            import(&plain, &place.db, &format!("same {number}"), &common).await;
        }
        import(&plain, &place.db, "hurt", &noise(8, 40 * 65536)).await;
        spoil(&place).await;
        place.clock.advance(Duration::from_hours(25));
        scrub(&plain).await;
        // One that counts how often the backend is asked.
        let counting = Arc::new(Faulty::new(Arc::clone(&place.backend), Fault::Io, 0));
        let store = place.store_on(Arc::<Faulty>::clone(&counting)).await;
        let asked = async |store: &Store| {
            let before = counting.calls();
            store.damage_update().await.unwrap();
            counting.calls() - before
        };
        assert_eq!(asked(&store).await, 2, "thirty of the disks are one tree");
        assert_eq!(asked(&store).await, 0, "nothing has changed");
        // A disk more, a disk less, and what another process finds.
        import(&plain, &place.db, "more", &noise(9, 50 * 65536)).await;
        assert_eq!((asked(&store).await, asked(&store).await), (3, 0));
        spoil(&place).await;
        place.clock.advance(Duration::from_hours(25));
        scrub(&plain).await;
        assert_eq!((asked(&store).await, asked(&store).await), (3, 0));
        assert_eq!(store.damaged_roots().await.unwrap(), 2, "{}", place.name);
        let tx = place.begin().await;
        assert!(store.root_delete_in_tx(&tx, "image", "hurt").await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!((asked(&store).await, asked(&store).await), (2, 0));
        assert_eq!(store.damaged_roots().await.unwrap(), 1);
        // The record was written by somebody who knew less.
        place
            .db
            .execute_unprepared("DELETE FROM store_damage")
            .await
            .unwrap();
        asked(&store).await;
        assert_eq!(store.damaged_roots().await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_again_is_relied_on_again() {
    let place = local().await;
    let store = place.store().await;
    import(&store, &place.db, "1", &noise(5, 10 * 65536)).await;
    let (key, right) = spoil(&place).await;
    place.clock.advance(Duration::from_hours(25));
    scrub(&store).await;
    assert_eq!(store.health().await.unwrap().damaged_roots, 1);
    // A verification without data does not forget it.
    store
        .verify(false, &store::VerifyProgress::default())
        .await
        .unwrap();
    assert_eq!(store.health().await.unwrap().damaged_roots, 1);
    put(&place, &key, right).await;
    place.clock.advance(Duration::from_hours(25));
    assert_eq!(scrub(&store).await.damaged, 0);
    assert_eq!(store.health().await.unwrap().damaged_roots, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_keeps_to_its_rate_and_stops_when_told() {
    let place = local().await;
    let store = place.store().await;
    import(&store, &place.db, "1", &noise(6, 400_000)).await;
    place.clock.advance(Duration::from_hours(25));
    let slow = Options {
        bytes_per_second: 1_000_000,
        ..options()
    };
    let start = std::time::Instant::now();
    assert!(store.scrub(&slow, &AtomicU64::new(0)).await.unwrap().bytes > 400_000);
    assert!(
        start.elapsed() >= Duration::from_millis(390),
        "{:?}",
        start.elapsed()
    );
    place.clock.advance(Duration::from_hours(25));
    slow.stop.cancel();
    let error = store.scrub(&slow, &AtomicU64::new(0)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped);
}

/// However many are asked for, and however many ranges each has.
#[tokio::test(flavor = "multi_thread")]
async fn which_of_many_disks_are_damaged_is_told_once_each() {
    let place = local().await;
    let store = place.store().await;
    for owner in ["7", "39000"] {
        // The same chunk again and again, with others between: a range of its own each time.
        let (shared, mut disk) = (noise(1, 65_536), Vec::new());
        for n in 0..8 {
            disk.extend_from_slice(&shared);
            disk.extend(noise(2 + n, 65_536));
        }
        import(&store, &place.db, owner, &disk).await;
    }
    import(&store, &place.db, "8", &noise(99, 65_536)).await;
    let key = {
        let packs: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
        packs.into_iter().max_by_key(|pack| pack.bytes).unwrap().key
    };
    let mut bytes = place.backend.get(&key).await.unwrap().to_vec();
    bytes[1000] ^= 1;
    put(&place, &key, bytes.into()).await;
    place.clock.advance(Duration::from_hours(30));
    assert_eq!(scrub(&store).await.damaged, 1);
    assert_eq!(store.damage_of("image", "7").await.unwrap().len(), 8);
    let owners: Vec<String> = (0..40_000).map(|owner| owner.to_string()).collect();
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    let damaged = store.damaged_among("image", &owners).await.unwrap();
    assert_eq!(damaged, ["7", "39000"]);
}
