//! Garbage collection on the real databases and backends: what is freed, what stays, and what happens when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sea_orm::ConnectionTrait as _;
use store::gc::{Options, Progress, Report};
use store::{Fault, Faulty, Kind, Store, TreeRoot};

use crate::support::{Place, import, local, noise, places};

const CHUNK: usize = 65536;

pub(crate) fn now(place: &Place) -> Options {
    Options {
        now: true,
        ..Options::new(place.dir.path())
    }
}

async fn gc(store: &Store, options: &Options) -> Report {
    store.gc(options, &Progress::default()).await.unwrap()
}

pub(crate) async fn delete(store: &Store, place: &Place, owner: &str) {
    let tx = place.begin().await;
    assert!(store.root_delete_in_tx(&tx, "image", owner).await.unwrap());
    tx.commit().await.unwrap();
}

async fn read(store: &Store, root: TreeRoot) -> store::Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(root.virtual_bytes).unwrap()];
    store.disk_open(root).read_at(0, &mut out).await?;
    Ok(out)
}

/// Bytes and number of the objects with data.
async fn objects(place: &Place) -> (u64, usize) {
    let listed: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
    (listed.iter().map(|item| item.bytes).sum(), listed.len())
}

/// What lies in the backend is what the rows say, and every root reads back.
async fn check(store: &Store, place: &Place) {
    let found = store
        .verify(true, &store::VerifyProgress::default())
        .await
        .unwrap();
    assert_eq!(found, [], "{}", place.name);
    let stats = store.stats().await.unwrap();
    let (bytes, count) = objects(place).await;
    assert_eq!(
        (stats.stored_bytes, stats.packs),
        (bytes, count as u64),
        "{}",
        place.name
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_is_freed_and_the_rest_stays() {
    for place in places().await {
        let store = place.store().await;
        let common = noise(1, 300 * CHUNK);
        let one = [&common[..], &noise(2, 200 * CHUNK)].concat();
        let two = [&common[..], &noise(3, 200 * CHUNK)].concat();
        import(&store, &place.db, "1", &one).await;
        let kept = import(&store, &place.db, "2", &two).await;
        assert_eq!(gc(&store, &now(&place)).await.condemned, 0, "nothing is garbage");
        delete(&store, &place, "1").await;
        let before = objects(&place).await.0;
        let report = gc(&store, &now(&place)).await;
        // Its own chunks and its top node.
        assert_eq!((report.condemned, report.buried), (201, 201), "{}", place.name);
        assert!(report.objects >= 1 && report.freed_bytes > 0, "{report:?}");
        check(&store, &place).await;
        assert!(objects(&place).await.0 < before - 190 * CHUNK as u64);
        assert!(read(&store, kept).await.unwrap() == two);
        assert_eq!(store.stats().await.unwrap().chunks, 501);
        delete(&store, &place, "2").await;
        gc(&store, &now(&place)).await;
        assert_eq!(objects(&place).await, (0, 0));
        assert_eq!(store.stats().await.unwrap().chunks, 0);
        let (_, last) = store.gc_last().await.unwrap().unwrap();
        assert_eq!(last.buried, 501);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn condemned_chunks_come_back_until_the_grace_is_over() {
    for place in places().await {
        let store = place.store().await;
        let (one, two) = (noise(1, 50 * CHUNK), noise(2, 60 * CHUNK));
        import(&store, &place.db, "1", &one).await;
        import(&store, &place.db, "2", &two).await;
        delete(&store, &place, "1").await;
        delete(&store, &place, "2").await;
        let options = Options::new(place.dir.path());
        let report = gc(&store, &options).await;
        assert_eq!(
            (report.condemned, report.buried, report.objects),
            (112, 0, 0),
            "{}",
            place.name
        );
        place.clock.advance(Duration::from_mins(30));
        assert_eq!(gc(&store, &options).await.buried, 0);
        // One of the two is imported again, which takes nothing new.
        let root = import(&store, &place.db, "1", &one).await;
        assert_eq!(objects(&place).await.1, 2);
        place.clock.advance(Duration::from_mins(31));
        let report = gc(&store, &options).await;
        assert_eq!(
            (report.condemned, report.buried, report.objects),
            (0, 61, 1),
            "{}",
            place.name
        );
        check(&store, &place).await;
        assert!(read(&store, root).await.unwrap() == one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_go_and_changes_nothing() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "1", &noise(1, 50 * CHUNK)).await;
        delete(&store, &place, "1").await;
        let options = Options {
            dry_run: true,
            ..now(&place)
        };
        for _ in 0..2 {
            let report = gc(&store, &options).await;
            assert_eq!((report.condemned, report.buried, report.objects), (51, 51, 1));
            assert!(report.condemned_bytes > 50 * CHUNK as u64);
            assert_eq!(report.freed_bytes, objects(&place).await.0, "{}", place.name);
            assert_eq!(report.later_bytes, report.freed_bytes);
        }
        // What can be restored is kept, and counted apart.
        import(&store, &place.db, "2", &noise(2, 20 * CHUNK)).await;
        let tx = place.begin().await;
        assert!(
            store
                .root_restorable_in_tx(&tx, "image", "2", true)
                .await
                .unwrap()
        );
        tx.commit().await.unwrap();
        assert_eq!(gc(&store, &options).await.condemned, 51);
        let purged = Options {
            purged: true,
            ..options.clone()
        };
        assert_eq!(gc(&store, &purged).await.condemned, 51 + 21);
        let error = store
            .gc(
                &Options {
                    dry_run: false,
                    ..purged
                },
                &Progress::default(),
            )
            .await;
        assert_eq!(error.unwrap_err().kind(), Kind::Invalid);
        let stats = store.stats().await.unwrap();
        assert_eq!(
            (stats.restorable_roots, stats.restorable_bytes),
            (1, 20 * CHUNK as u64)
        );
        assert_eq!(stats.chunks, 51 + 21);
        assert_eq!(store.gc_last().await.unwrap(), None);
        check(&store, &place).await;
    }
}

/// What a run did, or would do.
fn done(report: &Report) -> [u64; 6] {
    [
        report.buried,
        report.objects,
        report.freed_bytes,
        report.repacked,
        report.orphans,
        report.writers.silent,
    ]
}

/// A dry run, and then the same for real, which it has to have foreseen. Gives both.
async fn foreseen(store: &Store, place: &Place, options: &Options) -> [Report; 2] {
    let dry = Options {
        dry_run: true,
        ..options.clone()
    };
    let (dry, real) = (gc(store, &dry).await, gc(store, options).await);
    // What earlier runs have found counts as found by the dry one.
    assert!(
        real.condemned <= dry.condemned,
        "{}: {dry:?} {real:?}",
        place.name
    );
    assert_eq!(done(&dry), done(&real), "{}: {dry:?} {real:?}", place.name);
    // Headers and trailers of the new packs are not foreseen.
    let apart = dry.repacked_bytes.abs_diff(real.repacked_bytes);
    assert!(apart <= 1024, "{}: {dry:?} {real:?}", place.name);
    [dry, real]
}

/// A disk of which every third chunk is one of `kept`.
fn mixed(kept: &[u8], seed: u64) -> Vec<u8> {
    let other = noise(seed, 2 * kept.len());
    kept.chunks(CHUNK)
        .zip(other.chunks(2 * CHUNK))
        .flat_map(|(one, two)| [one, two].concat())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_the_next_run_does() {
    for place in places().await {
        let store = place.store().await;
        let usual = Options::new(place.dir.path());
        let kept = noise(1, 300 * CHUNK);
        import(&store, &place.db, "mixed", &mixed(&kept, 2)).await;
        let root = import(&store, &place.db, "kept", &kept).await;
        delete(&store, &place, "mixed").await;

        // Found, and waited with; then gone, and packs written anew; then what these replaced is deleted.
        let [dry, real] = foreseen(&store, &place, &usual).await;
        assert_eq!((dry.condemned, dry.objects, dry.repacked), (601, 0, 0), "{dry:?}");
        assert_eq!(real.later_bytes, 0, "only a dry run foresees");
        assert!(dry.later_bytes > 590 * CHUNK as u64, "{dry:?}");
        place.clock.advance(Duration::from_mins(61));
        let before = objects(&place).await.0;
        let [dry, _] = foreseen(&store, &place, &usual).await;
        assert!(
            dry.buried == 601 && dry.repacked >= 4 && dry.repacked_bytes > 290 * CHUNK as u64,
            "{dry:?}"
        );
        let [last, _] = foreseen(&store, &place, &usual).await;
        assert!(
            last.objects >= 4 && last.freed_bytes > 800 * CHUNK as u64,
            "{last:?}"
        );
        let less = before - objects(&place).await.0;
        assert!(less.abs_diff(dry.later_bytes) <= 1024, "{less}: {dry:?}");
        let [dry, _] = foreseen(&store, &place, &usual).await;
        assert_eq!(
            (dry.condemned, dry.objects, dry.repacked, dry.later_bytes),
            (0, 0, 0, 0)
        );

        // All of that at once.
        let second = noise(3, 150 * CHUNK);
        import(&store, &place.db, "mixed", &mixed(&second, 4)).await;
        import(&store, &place.db, "second", &second).await;
        delete(&store, &place, "mixed").await;
        let [dry, _] = foreseen(&store, &place, &now(&place)).await;
        assert!(dry.repacked > 0 && dry.objects >= dry.repacked, "{dry:?}");
        assert_eq!(dry.later_bytes, dry.freed_bytes - dry.repacked_bytes, "{dry:?}");
        check(&store, &place).await;
        assert!(read(&store, root).await.unwrap() == kept);
    }
}

/// What a run that was killed, and writes that landed late, have left.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_of_leftovers() {
    for place in places().await {
        let store = place.store().await;
        let usual = Options::new(place.dir.path());
        for (owner, state) in [("empty", "2"), ("dead", "4")] {
            import(&store, &place.db, owner, &noise(1, 20 * CHUNK)).await;
            delete(&store, &place, owner).await;
            let newest = "(SELECT max(id) FROM store_object)";
            for sql in [
                format!("DELETE FROM store_chunk WHERE object = {newest}"),
                format!("UPDATE store_object SET state = {state} WHERE id = {newest}"),
            ] {
                place.db.execute_unprepared(&sql).await.unwrap();
            }
            let [dry, _] = foreseen(&store, &place, &usual).await;
            assert_eq!((dry.objects, dry.condemned), (1, 0), "{owner}: {dry:?}");
            assert_eq!(dry.later_bytes, dry.freed_bytes, "{owner}: {dry:?}");
        }
        let id = uuid::Uuid::new_v4().to_string();
        let orphan = format!("p/{}/{id}", &id[..2]);
        let late = Bytes::from_static(b"late");
        place.backend.put_new(&orphan, late).await.unwrap();
        let [dry, _] = foreseen(&store, &place, &usual).await;
        assert_eq!((dry.orphans, dry.objects), (1, 0), "{dry:?}");
        place.clock.advance(Duration::from_hours(25));
        let [dry, _] = foreseen(&store, &place, &usual).await;
        assert_eq!((dry.orphans, dry.objects, dry.freed_bytes), (0, 1, 4), "{dry:?}");
        assert_eq!(objects(&place).await, (0, 0));
    }
}

/// A session whose writer was killed: what is younger is kept until its lease is over, and everybody is told so.
#[tokio::test(flavor = "multi_thread")]
async fn who_writes_no_more_is_told_until_the_lease_is_over() {
    for place in places().await {
        let store = place.store().await;
        let options = now(&place);
        let session = store.session_open("killed").await.unwrap();
        drop(session);
        let begun = place.options().lease;
        import(&store, &place.db, "1", &noise(1, 10 * CHUNK)).await;
        delete(&store, &place, "1").await;
        let [_, real] = foreseen(&store, &place, &options).await;
        let told = |report: &Report| (report.condemned, report.writers.at_work, report.writers.silent);
        assert_eq!(told(&real), (0, 1, 0), "{}: {real:?}", place.name);
        place.clock.advance(begun / 2);
        let [dry, real] = foreseen(&store, &place, &options).await;
        assert_eq!(told(&real), (0, 0, 1), "{}: {real:?}", place.name);
        assert_eq!(dry.writers, real.writers);
        let writers = store.stats().await.unwrap().writers;
        assert_eq!(writers, real.writers);
        let seconds = (writers.silent_until_us - writers.silent_since_us) / 1_000_000;
        assert_eq!(u64::try_from(seconds).unwrap(), begun.as_secs());
        // The dry run comes first, and knows that the lease is over.
        place.clock.advance(begun);
        let [_, real] = foreseen(&store, &place, &options).await;
        assert_eq!(told(&real), (11, 0, 0), "{}: {real:?}", place.name);
        assert_eq!(objects(&place).await, (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gc_beside_an_open_import_frees_what_was_deleted_before_it() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "old", &noise(1, 40 * CHUNK)).await;
        import(&store, &place.db, "hit", &noise(2, 40 * CHUNK)).await;
        delete(&store, &place, "old").await;
        delete(&store, &place, "hit").await;
        let session = store.session_open("long").await.unwrap();
        let data = [noise(2, 40 * CHUNK), noise(3, 40 * CHUNK)].concat();
        let mut ingest = session.ingest(data.len() as u64, None).await.unwrap();
        ingest.extent_data(Bytes::copy_from_slice(&data)).await.unwrap();
        let disk = ingest.finish().await.unwrap();
        let report = gc(&store, &now(&place)).await;
        // 40 chunks and a node of `old`, and the node of `hit`; what the import hit or wrote stays.
        assert_eq!((report.condemned, report.objects), (42, 1), "{}", place.name);
        let tx = place.begin().await;
        session
            .commit_in_tx(&tx, "image", "new", disk.root)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(gc(&store, &now(&place)).await.condemned, 0);
        assert!(read(&store, disk.root).await.unwrap() == data);
        check(&store, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_between_mark_and_sweep_keeps_what_it_pinned() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(1, 40 * CHUNK);
        import(&store, &place.db, "1", &data).await;
        delete(&store, &place, "1").await;
        let (options, progress) = (now(&place), Progress::default());
        let marked = store.gc_mark(&options, &progress).await.unwrap();
        // The look at the database knows nothing of this import, which is over before the first chunk is condemned.
        let root = import(&store, &place.db, "2", &data).await;
        let report = marked.finish(&options, &progress).await.unwrap();
        assert_eq!((report.condemned, report.objects), (0, 0), "{}", place.name);
        assert!(read(&store, root).await.unwrap() == data);
        assert_eq!(gc(&store, &options).await.condemned, 0);
        check(&store, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_of_a_running_incremental_is_kept() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(1, 100 * CHUNK);
        let parent = import(&store, &place.db, "parent", &data).await;
        let session = store.session_open("child").await.unwrap();
        let mut ingest = session.ingest(data.len() as u64, Some(parent)).await.unwrap();
        delete(&store, &place, "parent").await;
        assert_eq!(gc(&store, &now(&place)).await.condemned, 0);
        let new = noise(2, CHUNK);
        ingest.extent_data(Bytes::copy_from_slice(&new)).await.unwrap();
        let disk = ingest.finish().await.unwrap();
        gc(&store, &now(&place)).await;
        let tx = place.begin().await;
        session
            .commit_in_tx(&tx, "image", "child", disk.root)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        // The parent's first chunk and its node.
        assert_eq!(gc(&store, &now(&place)).await.condemned, 2, "{}", place.name);
        assert!(read(&store, disk.root).await.unwrap() == [&new[..], &data[CHUNK..]].concat());
        check(&store, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_run_fails_when_a_newer_one_has_the_fence() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "1", &noise(1, 40 * CHUNK)).await;
        delete(&store, &place, "1").await;
        let (options, progress) = (now(&place), Progress::default());
        let paused = store.gc_mark(&options, &progress).await.unwrap();
        let other = place.store().await;
        let marked = other.gc_mark(&options, &progress).await.unwrap();
        let error = paused.finish(&options, &progress).await.unwrap_err();
        assert_eq!(error.kind(), Kind::LeaseLost, "{error}");
        assert_eq!(store.stats().await.unwrap().chunks, 41, "it has changed nothing");
        assert_eq!(marked.finish(&options, &progress).await.unwrap().buried, 41);
        check(&store, &place).await;
    }
}

/// What it has marked, the newer run may condemn, when it was deleted between the two: no reason for alarm.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_run_takes_nothing_back_from_a_newer_one() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "1", &noise(1, 40 * CHUNK)).await;
        let (options, progress) = (Options::new(place.dir.path()), Progress::default());
        let paused = store.gc_mark(&options, &progress).await.unwrap();
        let dry = Options {
            dry_run: true,
            ..options.clone()
        };
        let (paused_dry, dry_progress) = (store.gc_mark(&dry, &progress).await.unwrap(), Progress::default());
        delete(&store, &place, "1").await;
        assert_eq!(gc(&store, &options).await.condemned, 41, "{}", place.name);
        let error = paused.finish(&options, &progress).await.unwrap_err();
        assert_eq!(error.kind(), Kind::LeaseLost, "{error}");
        assert_eq!(progress.taken_back.load(Relaxed), 0, "{}", place.name);
        paused_dry.finish(&dry, &dry_progress).await.unwrap();
        assert_eq!(dry_progress.taken_back.load(Relaxed), 0, "{}", place.name);
        assert_eq!(gc(&store, &now(&place)).await.buried, 41, "they stay condemned");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_stop_stops_and_can_begin_again() {
    let place = local().await;
    let store = place.store().await;
    import(&store, &place.db, "1", &noise(1, 40 * CHUNK)).await;
    delete(&store, &place, "1").await;
    let (options, progress) = (now(&place), Progress::default());
    let marked = store.gc_mark(&options, &progress).await.unwrap();
    options.stop.cancel();
    let error = marked.finish(&options, &progress).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped);
    assert_eq!(
        store.gc(&options, &progress).await.unwrap_err().kind(),
        Kind::Stopped
    );
    assert_eq!(gc(&store, &now(&place)).await.buried, 41);
}

/// Packs of which much is garbage become smaller, and a reader that knows the old places does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn packs_with_much_garbage_are_written_anew_under_a_reader() {
    for place in places().await {
        let store = place.store().await;
        // Every third chunk of many packs is needed.
        let kept = noise(1, 300 * CHUNK);
        let other = noise(2, 600 * CHUNK);
        let mixed: Vec<u8> = kept
            .chunks(CHUNK)
            .zip(other.chunks(2 * CHUNK))
            .flat_map(|(one, two)| [one, two].concat())
            .collect();
        import(&store, &place.db, "mixed", &mixed).await;
        let root = import(&store, &place.db, "kept", &kept).await;
        let disk = store.disk_open(root);
        let mut first = vec![0; CHUNK];
        disk.read_at(0, &mut first).await.unwrap();
        delete(&store, &place, "mixed").await;
        let options = Options {
            repack_below: 0,
            ..now(&place)
        };
        gc(&store, &options).await;
        let (before, packs) = objects(&place).await;
        assert!(
            before > 800 * CHUNK as u64,
            "garbage in packs that are needed stays"
        );
        let report = gc(&store, &now(&place)).await;
        assert!(
            report.repacked >= 4 && report.objects >= 4,
            "{report:?} of {packs}"
        );
        let after = objects(&place).await.0;
        assert!(after < 310 * CHUNK as u64, "{after}");
        // It had looked these up before they moved.
        let mut rest = vec![0; 200 * CHUNK];
        disk.read_at(CHUNK as u64, &mut rest).await.unwrap();
        assert!(first == kept[..CHUNK] && rest == kept[CHUNK..201 * CHUNK]);
        check(&store, &place).await;
        let report = gc(&store, &now(&place)).await;
        assert_eq!((report.repacked, report.objects), (0, 0), "once is enough");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_they_were_seen_twice() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "1", &noise(1, CHUNK)).await;
        let id = uuid::Uuid::new_v4().to_string();
        let orphan = format!("p/{}/{id}", &id[..2]);
        let notes = "p/notes";
        for key in [&orphan[..], notes] {
            place
                .backend
                .put_new(key, Bytes::from_static(b"late"))
                .await
                .unwrap();
        }
        for hours in [0, 23] {
            place.clock.advance(Duration::from_hours(hours));
            assert_eq!(gc(&store, &now(&place)).await.orphans, 1);
            assert!(place.backend.stat(&orphan).await.unwrap().is_some());
        }
        place.clock.advance(Duration::from_hours(1));
        let report = gc(&store, &now(&place)).await;
        assert_eq!((report.orphans, report.objects, report.freed_bytes), (0, 1, 4));
        assert_eq!(place.backend.stat(&orphan).await.unwrap(), None);
        assert!(
            place.backend.stat(notes).await.unwrap().is_some(),
            "not ours to delete"
        );
        assert_eq!(gc(&store, &now(&place)).await.objects, 0);
    }
}

/// A server that goes on has to find what a crash left: at the start after the crash that was too young.
#[tokio::test(flavor = "multi_thread")]
async fn what_dead_writers_left_in_the_folder_goes_with_a_run() {
    let place = local().await;
    let backend = Arc::new(Faulty::new(Arc::clone(&place.backend), Fault::Io, 0));
    let store = place.store_on(Arc::<Faulty>::clone(&backend)).await;
    import(&store, &place.db, "1", &noise(1, CHUNK)).await;
    let folder = place.dir.path().join("objects/tmp");
    let left = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, "cut off").unwrap();
        path
    };
    let (old, young) = (left("old"), left("young"));
    let file = std::fs::File::open(&old).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_hours(25))
        .unwrap();
    let dry = Options {
        dry_run: true,
        ..now(&place)
    };
    gc(&store, &dry).await;
    assert!(old.exists(), "a dry run changes nothing");
    let report = gc(&store, &Options::new(place.dir.path())).await;
    assert!(!old.exists() && young.exists());
    assert_eq!((report.objects, report.freed_bytes), (0, 0), "it was no object");

    // It is the last that a run does, and fails none.
    backend.rearm(0);
    gc(&store, &now(&place)).await;
    let last = backend.calls();
    backend.rearm(last);
    gc(&store, &now(&place)).await;
    assert_eq!(backend.calls(), last);
    check(&store, &place).await;
}

/// Every call to the backend fails once, in each way: nothing that is needed is lost, and the next run ends the work.
#[tokio::test(flavor = "multi_thread")]
async fn no_failure_of_the_backend_costs_a_chunk() {
    for fault in [
        Fault::Io,
        Fault::Unavailable,
        Fault::AnswerLost,
        Fault::Short,
        Fault::NoSpace,
    ] {
        let (mut struck, mut narrow) = (0, 0);
        for fail_at in 1.. {
            let place = local().await;
            let plain = place.store().await;
            let kept = noise(1, 60 * CHUNK);
            let mixed: Vec<u8> = kept
                .chunks(CHUNK)
                .flat_map(|chunk| [chunk, &noise(u64::from(chunk[0]) + 1000, 2 * CHUNK)].concat())
                .collect();
            import(&plain, &place.db, "mixed", &mixed).await;
            let root = import(&plain, &place.db, "kept", &kept).await;
            delete(&plain, &place, "mixed").await;
            let id = uuid::Uuid::new_v4().to_string();
            let orphan = format!("p/{}/{id}", &id[..2]);
            place
                .backend
                .put_new(&orphan, Bytes::from_static(b"late"))
                .await
                .unwrap();
            gc(&plain, &Options::new(place.dir.path())).await;
            place.clock.advance(Duration::from_hours(25));
            let faulty = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 0));
            let store = place.store_on(Arc::<Faulty>::clone(&faulty)).await;
            faulty.rearm(fail_at);
            let done = store.gc(&now(&place), &Progress::default()).await;
            let calls = faulty.calls();
            struck += u64::from(done.is_err());
            narrow += u64::from(done.as_ref().is_ok_and(|report| report.no_room_bytes > 0));
            assert!(
                read(&plain, root).await.unwrap() == kept,
                "{fault:?} at {fail_at}: {done:?}"
            );
            place.clock.advance(Duration::from_hours(2));
            gc(&plain, &now(&place)).await;
            place.clock.advance(Duration::from_hours(25));
            gc(&plain, &now(&place)).await;
            check(&plain, &place).await;
            assert!(read(&plain, root).await.unwrap() == kept);
            assert!(
                objects(&place).await.0 < 70 * CHUNK as u64,
                "{fault:?} at {fail_at} leaks"
            );
            if calls < fail_at {
                break;
            }
        }
        assert!(struck >= 4, "{fault:?} struck {struck} times");
        assert_eq!(
            narrow > 0,
            fault == Fault::NoSpace,
            "{fault:?}: {narrow} had no room"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_ends_no_run_and_stays_where_it_is() {
    let place = local().await;
    let store = place.store().await;
    let kept = noise(1, 16 * CHUNK);
    import(
        &store,
        &place.db,
        "1",
        &[&kept[..], &noise(2, 100 * CHUNK)].concat(),
    )
    .await;
    let root = import(&store, &place.db, "2", &kept).await;
    // The fourth chunk of what both have.
    let pack = packs_below(&place)
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len());
    let pack = pack.unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[64 + 3 * (CHUNK + 16) + 500] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    delete(&store, &place, "1").await;
    let report = gc(&store, &now(&place)).await;
    assert_eq!(report.repacked, 1, "{report:?}");
    let held = async || store.stats().await.unwrap().damaged_objects;
    assert_eq!(held().await, 1, "it stays");
    let mut out = vec![0; CHUNK];
    for chunk in 0..16 {
        let done = store
            .disk_open(root)
            .read_at((chunk * CHUNK) as u64, &mut out)
            .await;
        match done {
            Ok(()) => assert!(
                chunk != 3 && out == kept[chunk * CHUNK..][..CHUNK],
                "chunk {chunk}"
            ),
            Err(error) => assert_eq!((chunk, error.kind()), (3, Kind::Damaged), "{error}"),
        }
    }
    // Found, so the next import stores it anew, and nothing needs the old pack then.
    import(&store, &place.db, "3", &kept).await;
    assert!(read(&store, root).await.unwrap() == kept);
    gc(&store, &now(&place)).await;
    assert!(!pack.exists(), "the damaged pack is freed");
    assert_eq!(held().await, 0);
    check(&store, &place).await;
}

fn packs_below(place: &Place) -> Vec<std::path::PathBuf> {
    crate::support::files_below(&place.dir.path().join("objects/p"))
}
