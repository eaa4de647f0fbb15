//! Who may publish, and what is left of those who did not.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sea_orm::{ConnectionTrait as _, Statement};
use store::{Kind, Session, TreeRoot};

use crate::support::{CHUNK, Place, import, noise, places};

async fn count(place: &Place, sql: &str) -> i64 {
    let statement = Statement::from_string(place.db.get_database_backend(), sql);
    place
        .db
        .query_one_raw(statement)
        .await
        .unwrap()
        .unwrap()
        .try_get_by_index(0)
        .unwrap()
}

async fn ingest(session: &Session, data: &[u8]) -> Result<TreeRoot, store::Error> {
    let mut ingest = session.ingest(data.len() as u64, None).await?;
    ingest.extent_data(Bytes::copy_from_slice(data)).await?;
    Ok(ingest.finish().await?.root)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_commit_can_be_repeated() {
    for place in places().await {
        let store = place.store().await;
        let session = store.session_open("x").await.unwrap();
        let root = ingest(&session, &noise(1, 100_000)).await.unwrap();
        let tx = place.begin().await;
        session.commit_in_tx(&tx, "image", "1", root).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(store.root_get("image", "1").await.unwrap(), None);
        let tx = place.begin().await;
        session
            .commit_all_in_tx(&tx, &[("image", "1", root), ("image", "2", root)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.root_list().await.unwrap().len(), 2);
        let tx = place.begin().await;
        let again = session.commit_in_tx(&tx, "image", "3", root).await.unwrap_err();
        assert_eq!(again.kind(), Kind::LeaseLost);
        assert_eq!(count(&place, "SELECT count(*) FROM store_session").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_lease_is_over_cannot_publish() {
    for place in places().await {
        let store = place.store().await;
        let session = store.session_open("x").await.unwrap();
        let root = ingest(&session, &noise(1, 100_000)).await.unwrap();
        place.clock.advance(Duration::from_hours(1));
        // Nobody has taken it yet: the row's time alone is enough to be refused.
        let tx = place.begin().await;
        let late = session.commit_in_tx(&tx, "image", "1", root).await.unwrap_err();
        assert_eq!(late.kind(), Kind::LeaseLost);
        tx.rollback().await.unwrap();
        assert_eq!(store.sessions_expire().await.unwrap().taken, 1);
        assert_eq!(
            ingest(&session, &noise(2, 100_000)).await.unwrap_err().kind(),
            Kind::LeaseLost
        );
        assert!(session.is_lost());
        place.clock.advance(Duration::from_hours(1));
        assert_eq!(store.sessions_expire().await.unwrap().removed, 1);
        assert_eq!(count(&place, "SELECT count(*) FROM store_session").await, 0);
        assert_eq!(store.root_list().await.unwrap(), []);
    }
}

/// The parent is kept as long as the session is. What is missing then is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_taken_away_says_so_when_its_parent_is_gone() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(1, 10 * 65536);
        let parent = import(&store, &place.db, "parent", &data).await;
        let session = store.session_open("child").await.unwrap();
        let size = data.len() as u64;
        let [whole, mut in_parts] = [
            session.ingest(size, Some(parent)).await.unwrap(),
            session.ingest(size, Some(parent)).await.unwrap(),
        ];
        let tx = place.begin().await;
        assert!(store.root_delete_in_tx(&tx, "image", "parent").await.unwrap());
        tx.commit().await.unwrap();
        for _ in 0..2 {
            place.clock.advance(Duration::from_hours(1));
            store.sessions_expire().await.unwrap();
        }
        let options = store::gc::Options {
            now: true,
            ..store::gc::Options::new(place.dir.path())
        };
        let done = store.gc(&options, &store::gc::Progress::default()).await.unwrap();
        assert_eq!(done.buried, 11, "{}", place.name);
        assert_eq!(whole.finish().await.unwrap_err().kind(), Kind::LeaseLost);
        let part = in_parts.extent_parent(100).await.unwrap_err();
        assert_eq!(part.kind(), Kind::LeaseLost, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpublished_pack_of_a_dead_writer_is_removed_after_the_grace_only() {
    for place in places().await {
        let store = place.store().await;
        import(&store, &place.db, "kept", &noise(1, 100_000)).await;
        let session = store.session_open("dies").await.unwrap();
        let id = session.id();
        drop(session);
        // What a crash between the write of the object and its publication leaves: both, unpublished.
        let key = uuid::Uuid::new_v4();
        let object = format!("p/{}/{key}", &key.to_string()[..2]);
        place
            .backend
            .put_new(&object, Bytes::from_static(b"half a pack"))
            .await
            .unwrap();
        let sql = "INSERT INTO store_object (store, key, kind, state, session, bytes, frames, created_us, changed_us)
            VALUES (1, $1, 1, 1, $2, 11, 1, 0, 0)";
        let backend = place.db.get_database_backend();
        place
            .db
            .execute_raw(Statement::from_sql_and_values(
                backend,
                sql,
                [key.into(), id.into()],
            ))
            .await
            .unwrap();
        place.clock.advance(Duration::from_mins(5));
        let first = store.sessions_expire().await.unwrap();
        assert_eq!(
            (first.taken, first.removed),
            (1, 0),
            "its writer may still be writing"
        );
        assert!(place.backend.stat(&object).await.unwrap().is_some());
        place.clock.advance(Duration::from_hours(1));
        let second = store.sessions_expire().await.unwrap();
        assert_eq!((second.taken, second.removed, second.objects), (0, 1, 1));
        assert_eq!(place.backend.stat(&object).await.unwrap(), None);
        let packs: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
        assert_eq!(packs.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_on_older_chunks_are_pinned_and_outlive_a_commit_during_a_gc() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(3, 40 * 65536);
        import(&store, &place.db, "1", &data).await;
        let session = store.session_open("2").await.unwrap();
        let root = ingest(&session, &data).await.unwrap();
        // 40 chunks and the one node, which the first session wrote.
        let pinned = count(
            &place,
            "SELECT CAST(sum(length(digests)) AS bigint) FROM store_session_pin",
        )
        .await;
        assert_eq!(pinned, 41 * 32);
        // A gc that took its snapshot before the commit below must still see the pins when it condemns.
        let fence = Statement::from_sql_and_values(
            place.db.get_database_backend(),
            "UPDATE store_meta SET gc_fence = $1",
            [uuid::Uuid::new_v4().into()],
        );
        place.db.execute_raw(fence).await.unwrap();
        let tx = place.begin().await;
        session.commit_in_tx(&tx, "image", "2", root).await.unwrap();
        tx.commit().await.unwrap();
        place.clock.advance(Duration::from_hours(2));
        store.sessions_expire().await.unwrap();
        assert!(count(&place, "SELECT count(*) FROM store_session_pin").await > 0);
        place
            .db
            .execute_unprepared("UPDATE store_meta SET gc_fence = NULL")
            .await
            .unwrap();
        store.sessions_expire().await.unwrap();
        assert_eq!(count(&place, "SELECT count(*) FROM store_session_pin").await, 0);
        assert_eq!(count(&place, "SELECT count(*) FROM store_session").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_brings_a_condemned_chunk_back() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(4, 10 * 65536);
        let root = import(&store, &place.db, "1", &data).await;
        place
            .db
            .execute_unprepared("UPDATE store_chunk SET state = 2")
            .await
            .unwrap();
        let mut out = vec![0; data.len()];
        store.disk_open(root).read_at(0, &mut out).await.unwrap();
        assert!(out == data, "what is condemned can still be read");
        import(&store, &place.db, "2", &data).await;
        assert_eq!(
            count(&place, "SELECT count(*) FROM store_chunk WHERE state = 1").await,
            11
        );
        // Gone for good is gone: the next import writes the data again.
        place
            .db
            .execute_unprepared("DELETE FROM store_chunk")
            .await
            .unwrap();
        import(&store, &place.db, "3", &data).await;
        assert_eq!(store.stats().await.unwrap().packs, 2);
        assert_eq!(
            count(&place, "SELECT count(*) FROM store_chunk WHERE state = 1").await,
            11
        );
        store.disk_open(root).read_at(0, &mut out).await.unwrap();
        assert!(out == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_at_once_share_what_they_have_in_common() {
    for place in places().await {
        let store = place.store().await;
        let common = noise(5, 200 * 65536);
        let imports = (0..6_u64).map(|number| {
            let (store, db, mut data) = (store.clone(), place.db.clone(), common.clone());
            data.extend(noise(100 + number, 3 * 65536));
            tokio::spawn(async move {
                let root = import(&store, &db, &number.to_string(), &data).await;
                let mut out = vec![0; data.len()];
                store.disk_open(root).read_at(0, &mut out).await.unwrap();
                assert!(out == data);
            })
        });
        for done in futures::future::join_all(imports).await {
            done.unwrap();
        }
        let stats = store.stats().await.unwrap();
        assert_eq!(
            stats.chunks,
            200 + 6 * 3 + 6,
            "one row a digest, whoever was first"
        );
        assert_eq!(stats.logical_bytes, 6 * 203 * CHUNK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_share_nothing_and_parents_must_live() {
    for place in places().await {
        let store = place.store().await;
        let data = noise(6, 4 * 65536);
        for domain in [1, 2] {
            let session = store.session_open_in("x", domain).await.unwrap();
            let root = ingest(&session, &data).await.unwrap();
            assert_eq!(root.domain, domain);
            let tx = place.begin().await;
            session
                .commit_in_tx(&tx, "image", &domain.to_string(), root)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(store.stats().await.unwrap().chunks, 2 * 5);
        let root = store.root_get("image", "1").await.unwrap().unwrap().tree;
        let session = store.session_open_in("x", 2).await.unwrap();
        assert_eq!(
            session.ingest(1 << 20, Some(root)).await.unwrap_err().kind(),
            Kind::Invalid
        );
        let tx = place.begin().await;
        store.root_delete_in_tx(&tx, "image", "1").await.unwrap();
        tx.commit().await.unwrap();
        let session = store.session_open_in("x", 1).await.unwrap();
        assert_eq!(
            session.ingest(1 << 20, Some(root)).await.unwrap_err().kind(),
            Kind::NotFound
        );
    }
}
