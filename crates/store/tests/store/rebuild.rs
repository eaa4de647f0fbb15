//! The index of chunks comes back from the packs alone: on an intact database, on a new one, and with damaged packs.

use std::sync::Arc;

use futures::FutureExt as _;
use sea_orm::ConnectionTrait as _;
use store::{
    Algorithm, Backend, DedupDomain, Fault, Faulty, Kind, ObjectName, Options, RebuildProgress, Store,
    VerifyProgress,
};

use crate::meanwhile::Meanwhile;
use crate::support::{Place, encrypted, import, import_in, local, noise, places};

async fn rebuild(place: &Place) -> store::Rebuilt {
    let store = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options())
        .await
        .unwrap();
    store.rebuild_index(&RebuildProgress::default()).await.unwrap()
}

async fn assert_reads(store: &Store, owner: &str, data: &[u8]) {
    let root = store.root_get("image", owner).await.unwrap().unwrap().tree;
    let mut out = vec![0; data.len()];
    store.disk_open(root).read_at(0, &mut out).await.unwrap();
    assert!(out == data, "{owner}");
}

async fn rows(place: &Place, sql: &str) -> i64 {
    let backend = place.db.get_database_backend();
    let statement = sea_orm::Statement::from_string(backend, sql.to_owned());
    let row = place.db.query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

#[tokio::test]
async fn an_index_that_was_lost_comes_back_and_the_store_goes_on() {
    for place in places().await {
        let store = place.store().await;
        let one = noise(1, 40 << 20);
        let mut two = one[..8 << 20].to_vec();
        two.extend(noise(2, 3 << 20));
        import(&store, &place.db, "one", &one).await;
        import(&store, &place.db, "two", &two).await;
        let before = store.stats().await.unwrap();
        let epoch = rows(&place, "SELECT epoch FROM store_meta").await;
        drop(store);
        for table in ["store_chunk", "store_object"] {
            place
                .db
                .execute_unprepared(&format!("DELETE FROM {table}"))
                .await
                .unwrap();
        }
        let rebuilt = rebuild(&place).await;
        assert_eq!(
            (rebuilt.packs, rebuilt.chunks, rebuilt.stored_bytes),
            (before.packs, before.chunks, before.stored_bytes),
            "{}",
            place.name
        );
        assert!(rebuilt.salvaged.is_empty() && rebuilt.unreadable.is_empty());
        assert!(rows(&place, "SELECT epoch FROM store_meta").await > epoch);
        let untimed = "SELECT count(*) FROM store_object WHERE created_us < 1700000000000000";
        assert_eq!(rows(&place, untimed).await, 0, "{}", place.name);
        let store = place.store().await;
        assert_eq!(store.stats().await.unwrap(), before);
        assert_reads(&store, "one", &one).await;
        assert_reads(&store, "two", &two).await;
        let damage = store.verify(true, &VerifyProgress::default()).await.unwrap();
        assert_eq!(damage, []);
        // What is there is hit, and what nobody needs is found.
        import(&store, &place.db, "three", &two).await;
        assert_eq!(store.stats().await.unwrap().packs, before.packs);
        let tx = place.begin().await;
        store.root_delete_in_tx(&tx, "image", "one").await.unwrap();
        tx.commit().await.unwrap();
        let options = store::gc::Options {
            now: true,
            ..store::gc::Options::new(place.dir.path())
        };
        let report = store.gc(&options, &store::gc::Progress::default()).await.unwrap();
        assert!(report.freed_bytes > 20 << 20, "{report:?}");
        assert_reads(&store, "two", &two).await;
        assert_reads(&store, "three", &two).await;
    }
}

#[tokio::test]
async fn a_rebuild_that_was_cut_off_is_noticed_and_done_again() {
    let place = local().await;
    let store = place.store().await;
    let data = noise(3, 2 << 20);
    import(&store, &place.db, "one", &data).await;
    drop(store);
    let open = |place: &Place| {
        let (backend, db, options) = (Arc::clone(&place.backend), place.db.clone(), place.options());
        async move { Store::open_or_init(backend, &db, options).await }
    };
    let half = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
    drop(half.unwrap());
    let refusal = open(&place).await.unwrap_err().to_string();
    assert!(refusal.contains("cistern store rebuild-index"), "{refusal}");
    rebuild(&place).await;
    assert_reads(&open(&place).await.unwrap(), "one", &data).await;
}

#[tokio::test]
async fn nobody_may_be_writing() {
    let place = local().await;
    let store = place.store().await;
    let _session = store.session_open("writer").await.unwrap();
    let opened = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
    let refusal = opened.unwrap_err().to_string();
    assert!(refusal.contains("stop every server"), "{refusal}");
    assert!(
        place.store().await.root_list().await.is_ok(),
        "and nothing changed"
    );
}

#[tokio::test]
async fn a_pack_without_its_footer_gives_its_whole_frames_and_one_of_rubbish_is_named() {
    for place in [local().await, encrypted().await] {
        let store = place.store().await;
        let data = noise(4, 5 << 20);
        import(&store, &place.db, "one", &data).await;
        drop(store);
        let folder = std::fs::read_dir(place.dir.path().join("objects/p")).unwrap();
        let packs: Vec<_> = folder
            .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(packs.len(), 1);
        let mut bytes = std::fs::read(&packs[0]).unwrap();
        let last = bytes.len() - 100;
        bytes[last] ^= 1;
        std::fs::write(&packs[0], bytes).unwrap();
        let rubbish = packs[0].with_file_name(format!(
            "{}0000000-0000-4000-8000-000000000000",
            &packs[0].file_name().unwrap().to_str().unwrap()[..1]
        ));
        let rubbish = place
            .dir
            .path()
            .join("objects/p")
            .join(&rubbish.file_name().unwrap().to_str().unwrap()[..2])
            .join(rubbish.file_name().unwrap());
        std::fs::create_dir_all(rubbish.parent().unwrap()).unwrap();
        std::fs::write(&rubbish, vec![1; 500]).unwrap();

        let rebuilt = rebuild(&place).await;
        assert_eq!(
            (rebuilt.salvaged.len(), rebuilt.unreadable.len()),
            (1, 1),
            "{rebuilt:?}"
        );
        assert_eq!(rebuilt.packs, 1);
        assert_reads(&place.store().await, "one", &data).await;
    }
}

/// The format's field among them: a newer version says it at both ends.
#[tokio::test]
async fn no_flipped_byte_of_a_header_or_trailer_ends_a_rebuild() {
    for place in [local().await, encrypted().await] {
        let data = noise(7, 200_000);
        import(&place.store().await, &place.db, "one", &data).await;
        let pack = packs(&place).remove(0);
        let whole = std::fs::read(&pack).unwrap();
        for at in (0..64).chain(whole.len() - 64..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 2;
            std::fs::write(&pack, bytes).unwrap();
            let rebuilt = rebuild(&place).await;
            assert_eq!(
                (rebuilt.packs, rebuilt.salvaged.len()),
                (1, 1),
                "byte {at}: {rebuilt:?}"
            );
            assert_reads(&place.store().await, "one", &data).await;
        }
        let mut bytes = whole.clone();
        bytes[8] = 2;
        let trailer = whole.len() - 64;
        bytes[trailer + 8] = 2;
        std::fs::write(&pack, bytes).unwrap();
        let store = Store::open_to_rebuild(Arc::clone(&place.backend), &place.db, place.options()).await;
        let refused = store.unwrap().rebuild_index(&RebuildProgress::default()).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Incompatible, "both say so");
    }
}

/// Takes a whole object in and publishes it.
async fn whole(store: &Store, place: &Place, owner: &str, name: &str, algorithm: Algorithm, data: &[u8]) {
    let name: ObjectName = name.parse().unwrap();
    let session = store.session_open(owner).await.unwrap();
    let mut object = session.object_begin(algorithm);
    object.write(bytes::Bytes::copy_from_slice(data)).await.unwrap();
    let object = object.finish(&name).await.unwrap();
    let tx = place.begin().await;
    session
        .commit_objects_in_tx(&tx, &[("blob", owner, object)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn whole_objects_come_back_by_the_digest_of_their_bytes() {
    use sha2::Digest as _;

    for place in [local().await, encrypted().await] {
        let store = place.store().await;
        let (one, two) = (noise(5, 3 << 20), noise(6, 100));
        let of_one = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&one)));
        let of_two = format!("sha512:{}", hex::encode(sha2::Sha512::digest(&two)));
        whole(&store, &place, "one", &of_one, Algorithm::Sha256, &one).await;
        whole(&store, &place, "two", &of_two, Algorithm::Sha512, &two).await;
        whole(&store, &place, "gone", &of_two, Algorithm::Sha512, &two).await;
        let tx = place.begin().await;
        store.root_delete_in_tx(&tx, "blob", "gone").await.unwrap();
        tx.commit().await.unwrap();
        drop(store);
        let rebuilt = rebuild(&place).await;
        assert_eq!((rebuilt.whole, rebuilt.packs), (2, 0), "{rebuilt:?}");
        let store = place.store().await;
        for (owner, data) in [("one", &one), ("two", &two)] {
            let object = store.object_get("blob", owner).await.unwrap().unwrap();
            let back = store.object_read(object, 0..data.len() as u64).await.unwrap();
            assert!(back == data[..], "{owner}");
        }
    }
}

/// The packs of a folder, in the order in which they are listed.
fn packs(place: &Place) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(place.dir.path().join("objects/p")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

/// An index that was made anew numbers packs as they are listed: which are the newest, the clock of their place tells.
#[tokio::test]
async fn an_older_copy_is_told_by_the_newest_packs_also_after_the_index_was_made_anew() {
    let place = local().await;
    let store = place.store().await;
    for seed in 0..4 {
        import(&store, &place.db, &seed.to_string(), &noise(seed, 1 << 20)).await;
    }
    drop(store);
    let mut packs = packs(&place);
    packs.sort();
    // The first that is listed is the newest.
    for (age, pack) in (1..).zip(&packs) {
        let file = std::fs::File::options().write(true).open(pack).unwrap();
        let at = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * age);
        file.set_modified(at).unwrap();
    }
    rebuild(&place).await;
    let store = place.store().await;
    assert_eq!(store.newest_missing(1, 0).await.unwrap(), None);
    std::fs::remove_file(&packs[0]).unwrap();
    let missing = store.newest_missing(1, 0).await.unwrap().expect("it is missing");
    assert!(packs[0].ends_with(&missing), "{missing}");
}

#[tokio::test]
async fn what_healed_a_damaged_chunk_is_what_comes_back() {
    // In which order the two packs are listed is chance: both have to be seen.
    let mut seen = std::collections::BTreeSet::new();
    for trial in 0..64 {
        if seen.len() == 2 {
            break;
        }
        let place = local().await;
        let store = place.store().await;
        let data = noise(trial, 1 << 20);
        import(&store, &place.db, "one", &data).await;
        let hurt = packs(&place).remove(0);
        let mut bytes = std::fs::read(&hurt).unwrap();
        bytes[200_000] ^= 1;
        std::fs::write(&hurt, bytes).unwrap();
        assert_eq!(
            store
                .verify(true, &VerifyProgress::default())
                .await
                .unwrap()
                .len(),
            1
        );
        import(&store, &place.db, "two", &data).await;
        let listed = packs(&place);
        assert_eq!(listed.len(), 2, "what was damaged is stored anew");
        seen.insert(listed[0] == hurt);
        drop(store);
        assert!(rebuild(&place).await.salvaged.is_empty());
        let store = place.store().await;
        assert_reads(&store, "one", &data).await;
        let options = store::gc::Options {
            now: true,
            ..store::gc::Options::new(place.dir.path())
        };
        store.gc(&options, &store::gc::Progress::default()).await.unwrap();
        assert_reads(&store, "one", &data).await;
        assert_reads(&store, "two", &data).await;
    }
    assert_eq!(seen.len(), 2, "64 stores, and always the same order");
}

#[tokio::test]
async fn a_pack_that_cannot_be_read_now_ends_the_rebuild() {
    let place = local().await;
    let data = noise(5, 1 << 20);
    import(&place.store().await, &place.db, "one", &data).await;
    let device = Arc::new(Faulty::new(Arc::clone(&place.backend), Fault::Io, 0));
    let mut failures = 0;
    for call in 1.. {
        let store = Store::open_to_rebuild(Arc::clone(&device) as _, &place.db, place.options()).await;
        let store = store.unwrap();
        device.rearm(call);
        match store.rebuild_index(&RebuildProgress::default()).await {
            Err(error) => assert_eq!(error.kind(), Kind::Io, "call {call}: {error}"),
            Ok(rebuilt) => {
                assert_eq!((rebuilt.packs, rebuilt.unreadable.len()), (1, 0), "{rebuilt:?}");
                break;
            }
        }
        failures += 1;
    }
    assert_eq!(failures, 4, "two lists, footer and header");
    assert_reads(&place.store().await, "one", &data).await;
}

/// Whose a pack is stands in its header alone, which one flipped bit makes another team's.
#[tokio::test]
async fn no_damage_of_a_pack_gives_what_is_in_it_to_another_team() {
    for place in [local().await, encrypted().await] {
        let options = Options {
            dedup_domain: DedupDomain::Team,
            ..place.options()
        };
        let store = Store::open_or_init(Arc::clone(&place.backend), &place.db, options).await;
        let store = store.unwrap();
        let disks = [noise(1, 2 << 20), noise(2, 1 << 20)];
        for (team, data) in [1, 2].into_iter().zip(&disks) {
            import_in(&store, &place.db, team, data).await;
        }
        let count = async |team: i64| {
            rows(
                &place,
                &format!("SELECT count(*) FROM store_chunk WHERE domain = {team}"),
            )
            .await
        };
        assert_eq!((count(1).await, count(2).await), (33, 17));
        let of_one = |pack: &std::path::PathBuf| std::fs::read(pack).unwrap()[48] == 1;
        let pack = packs(&place).into_iter().find(of_one).unwrap();
        let whole = std::fs::read(&pack).unwrap();
        let code = whole.len() - 20;
        let spoil = |places: &[usize]| {
            let mut bytes = whole.clone();
            for at in places {
                bytes[*at] ^= 3;
            }
            std::fs::write(&pack, bytes).unwrap();
        };
        // Its header, its footer, both, and so that the header says nothing.
        for places in [&[48][..], &[code], &[48, code], &[0, code], &[0], &[50, code]] {
            spoil(places);
            let rebuilt = rebuild(&place).await;
            assert_eq!(
                (rebuilt.salvaged.len(), rebuilt.unreadable.len()),
                (1, 0),
                "{places:?}: {rebuilt:?}"
            );
            assert_eq!((count(1).await, count(2).await), (33, 17), "{places:?}");
            let store = place.store().await;
            assert_reads(&store, "team1", &disks[0]).await;
            assert_reads(&store, "team2", &disks[1]).await;
        }
        // What no disk needs is nobody's.
        let tx = place.begin().await;
        store.root_delete_in_tx(&tx, "image", "team1").await.unwrap();
        tx.commit().await.unwrap();
        spoil(&[48, code]);
        let rebuilt = rebuild(&place).await;
        assert_eq!(
            (rebuilt.salvaged.len(), rebuilt.unreadable.len()),
            (0, 1),
            "{rebuilt:?}"
        );
        assert_eq!((count(1).await, count(2).await), (0, 17));
    }
}

/// The index of a disk that went away, for good or a little while, would be an empty one, or lack what could not be
/// read meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_is_not_taken_for_an_empty_one() {
    for (goes, comes_back) in [("list p/", false), ("list p/", true), ("read p/", true)] {
        let place = local().await;
        import(&place.store().await, &place.db, "one", &noise(1, 3 << 20)).await;
        let (objects, aside) = (place.dir.path().join("objects"), place.dir.path().join("aside"));
        let (from, to) = (objects.clone(), aside.clone());
        let away = async move { std::fs::rename(from, to).unwrap() };
        let mut device: Arc<dyn Backend> = Meanwhile::nth(&place.backend, (goes, 1), away.boxed());
        let back = async move { std::fs::rename(aside, objects).unwrap() };
        if comes_back {
            device = Meanwhile::nth(&device, ("list b/", 1), back.boxed());
        }
        let store = Store::open_to_rebuild(device, &place.db, place.options())
            .await
            .unwrap();
        let error = store
            .rebuild_index(&RebuildProgress::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::StoreAway, "{goes}: {error}");
        if comes_back {
            let opened = Store::open(Arc::clone(&place.backend), &place.db, place.options()).await;
            assert!(opened.is_err(), "half an index is none");
            assert!(rebuild(&place).await.chunks > 0);
        }
    }
}
