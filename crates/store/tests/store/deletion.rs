//! What gc waits with until its caller has noted it, and what it leaves although no row names it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use sea_orm::ConnectionTrait as _;
use store::gc::{Next, Options, Progress, Underway};
use store::{RebuildProgress, Store};

use crate::gc::{delete, now};
use crate::support::{Place, import, noise, places};

const CHUNK: usize = 65536;

async fn packs(place: &Place) -> BTreeSet<String> {
    let listed: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
    listed.into_iter().map(|item| item.key).collect()
}

async fn paused(underway: Underway, options: &Options) -> Underway {
    match underway.go_on(options, &Progress::default()).await.unwrap() {
        Next::Deletion(paused) => paused,
        Next::End(report) => panic!("it has ended: {report:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_before_each_thing_that_an_earlier_state_needs() {
    for place in places().await {
        let (store, options) = (place.store().await, now(&place));
        import(&store, &place.db, "kept", &noise(1, 20 * CHUNK)).await;
        let mark = async || store.gc_mark(&options, &Progress::default()).await.unwrap();
        let nothing = mark().await.go_on(&options, &Progress::default()).await.unwrap();
        assert!(matches!(nothing, Next::End(_)), "{}", place.name);

        // A pack of which little is needed, and two of which nothing is: data and nodes.
        let shared = noise(2, 10 * CHUNK);
        import(
            &store,
            &place.db,
            "large",
            &[&shared[..], &noise(3, 200 * CHUNK)].concat(),
        )
        .await;
        import(&store, &place.db, "small", &shared).await;
        let before_gone = packs(&place).await;
        import(&store, &place.db, "gone", &noise(4, 30 * CHUNK)).await;
        let all = packs(&place).await;
        let gone: BTreeSet<String> = &all - &before_gone;
        delete(&store, &place, "large").await;
        delete(&store, &place, "gone").await;

        let swept = paused(mark().await, &options).await;
        assert_eq!(packs(&place).await, all, "{}: nothing is deleted yet", place.name);
        let repacked = paused(swept, &options).await;
        let there = packs(&place).await;
        assert!(there.is_disjoint(&gone), "{}", place.name);
        let anew: BTreeSet<String> = &there - &all;
        assert!(!anew.is_empty(), "{}: packs were written anew", place.name);
        let old: BTreeSet<String> = &all - &there;
        let Next::End(report) = repacked.go_on(&options, &Progress::default()).await.unwrap() else {
            panic!("{}: nothing is left to be deleted", place.name);
        };
        let left = packs(&place).await;
        assert!(anew.is_subset(&left), "{}", place.name);
        let late = there.difference(&left).count();
        assert!(
            late > 0,
            "{}: what was written anew is replaced by it",
            place.name
        );
        assert_eq!(report.objects, (old.len() + late) as u64, "{}", place.name);
    }
}

/// A store whose disk `one` has its first 20 chunks in a pack that no row names: as with an older database that nobody
/// noticed their rows name another, where they are not. Gives that pack's key.
async fn misplaced(place: &Place, store: &Store) -> String {
    let data = disk();
    import(store, &place.db, "first", &data[..20 * CHUNK]).await;
    let first = packs(place).await;
    assert_eq!(first.len(), 1, "{}", place.name);
    import(store, &place.db, "one", &data).await;
    delete(store, place, "first").await;
    for sql in [
        "UPDATE store_chunk SET state = 4, object = (SELECT MAX(object) FROM store_chunk) \
         WHERE kind = 1 AND object = (SELECT MIN(object) FROM store_chunk)",
        "DELETE FROM store_chunk WHERE object = (SELECT MIN(id) FROM store_object)",
        "DELETE FROM store_object WHERE id = (SELECT MIN(id) FROM store_object)",
    ] {
        assert!(place.db.execute_unprepared(sql).await.unwrap().rows_affected() > 0);
    }
    store.damage_update().await.unwrap();
    first.into_iter().next().unwrap()
}

fn disk() -> Vec<u8> {
    noise(1, 40 * CHUNK)
}

/// Two runs, a day apart.
async fn a_day_of_gc(store: &Store, place: &Place) {
    for _ in 0..2 {
        store.gc(&now(place), &Progress::default()).await.unwrap();
        place.clock.advance(Duration::from_hours(25));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_of_something_damaged_is_no_orphan() {
    for place in places().await {
        let store = place.store().await;
        let orphan = misplaced(&place, &store).await;
        a_day_of_gc(&store, &place).await;
        a_day_of_gc(&store, &place).await;
        assert!(packs(&place).await.contains(&orphan), "{}", place.name);

        // What it is kept for.
        drop(store);
        let (backend, options) = (Arc::clone(&place.backend), place.options());
        let rebuilt = Store::open_to_rebuild(backend, &place.db, options).await.unwrap();
        rebuilt.rebuild_index(&RebuildProgress::default()).await.unwrap();
        let store = place.store().await;
        let root = store.root_get("image", "one").await.unwrap().unwrap().tree;
        let mut out = vec![0; disk().len()];
        store.disk_open(root).read_at(0, &mut out).await.unwrap();
        assert!(out == disk(), "{}", place.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_goes_once_what_it_holds_is_whole_elsewhere() {
    for place in places().await {
        let store = place.store().await;
        let orphan = misplaced(&place, &store).await;
        import(&store, &place.db, "again", &disk()[..20 * CHUNK]).await;
        // Something else is damaged.
        let sql = "UPDATE store_chunk SET state = 4 WHERE digest = (SELECT digest FROM store_chunk \
                   WHERE kind = 1 AND object = (SELECT MIN(object) FROM store_chunk) ORDER BY digest LIMIT 1)";
        place.db.execute_unprepared(sql).await.unwrap();
        a_day_of_gc(&store, &place).await;
        assert!(!packs(&place).await.contains(&orphan), "{}", place.name);
    }
}
