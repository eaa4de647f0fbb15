//! What goes in comes out.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use store::{DiskReader, Piece, Store, TreeRoot};

use crate::support::{CHUNK, import, local, noise, places};

async fn read_all(disk: &DiskReader) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pieces = disk.stream(0..disk.virtual_bytes());
    while let Some(piece) = pieces.try_next().await.unwrap() {
        match piece {
            Piece::Zero(length) => out.resize(out.len() + usize::try_from(length).unwrap(), 0),
            Piece::Data(data) => out.extend_from_slice(&data),
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_reads_back_and_is_stored_once() {
    for place in places().await {
        let store = place.store().await;
        store.probe_backend().await.unwrap();
        let mut data = noise(1, 5 << 20);
        data.resize(70 << 20, 0);
        data.extend(noise(2, 1_000_001));
        let root = import(&store, &place.db, "1", &data).await;
        assert!(read_all(&store.disk_open(root)).await == data, "{}", place.name);
        let before = store.stats().await.unwrap();
        assert_eq!(before.roots, 1);
        assert_eq!(before.virtual_bytes, data.len() as u64);
        assert_eq!(before.logical_bytes, (80 + 16) * CHUNK);
        let again = import(&store, &place.db, "2", &data).await;
        assert_eq!(again, root);
        let after = store.stats().await.unwrap();
        assert_eq!(
            (after.packs, after.stored_bytes, after.chunks),
            (before.packs, before.stored_bytes, before.chunks)
        );
        assert_eq!(after.open_sessions, 0);
        let kept = store.root_get("image", "2").await.unwrap().unwrap();
        assert_eq!((kept.tree, kept.allocated_bytes), (root, 96 * CHUNK));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_reads_leave_their_chunks_decoded_for_a_while() {
    let place = local().await;
    let store = place.store().await;
    let data = noise(4, 1 << 20);
    let root = import(&store, &place.db, "1", &data).await;
    let read = async |range: std::ops::Range<u64>| {
        let pieces = store.disk_open(root).stream(range.clone());
        let pieces: Vec<Piece> = pieces.try_collect().await.unwrap();
        let bytes = pieces.iter().flat_map(|piece| match piece {
            Piece::Data(data) => data.to_vec(),
            Piece::Zero(_) => panic!("noise has no zeros"),
        });
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        assert!(bytes.collect::<Vec<u8>>() == data[start..end], "{range:?}");
        let stats = store.memory_stats();
        (stats.hits, stats.misses, stats.bytes / CHUNK)
    };
    assert_eq!(read(CHUNK - 100..CHUNK + 4000).await, (0, 2, 2));
    assert_eq!(read(CHUNK + 4000..CHUNK + 8000).await, (1, 2, 2));
    assert_eq!(read(0..3 * CHUNK).await, (1, 2, 2), "this is no small one");
    store.memory_tidy();
    assert_eq!(store.memory_stats().bytes, 2 * CHUNK, "it was read lately");
    store.memory_tidy();
    assert_eq!(store.memory_stats().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_holes_and_several_extents() {
    for place in places().await {
        let store = place.store().await;
        let path = place.dir.path().join("source");
        let mut file = std::fs::File::create_new(&path).unwrap();
        let body = noise(3, 3 << 20);
        file.write_all(&body).unwrap();
        file.seek(SeekFrom::Start(40 << 20)).unwrap();
        file.write_all(b"the end").unwrap();
        let file = Arc::new(std::fs::File::open(&path).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let session = store.session_open("x").await.unwrap();
        let mut ingest = session.ingest(50 << 20, None).await.unwrap();
        ingest.extent_zero(100).await.unwrap();
        ingest.extent_file(&file, 0, whole.len() as u64).await.unwrap();
        ingest.extent_data(Bytes::from_static(b"tail")).await.unwrap();
        let progress = ingest.progress();
        let disk = ingest.finish().await.unwrap();
        let mut expected = vec![0; 100];
        expected.extend_from_slice(&whole);
        expected.extend_from_slice(b"tail");
        expected.resize(50 << 20, 0);
        assert!(read_all(&store.disk_open(disk.root)).await == expected);
        assert_eq!(progress.stats(), disk.stats);
        assert_eq!(disk.stats.logical_bytes, 50 << 20);
        assert_eq!(disk.stats.new_bytes, 50 * CHUNK);
        session.abort().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_takes_the_rest_from_its_parent() {
    for place in places().await {
        let store = place.store().await;
        let mut data = noise(4, 66 << 20);
        data[10 << 20..30 << 20].fill(0);
        let parent = import(&store, &place.db, "1", &data).await;
        let session = store.session_open("2").await.unwrap();
        let grown = 130 << 20;
        let mut ingest = session.ingest(grown, Some(parent)).await.unwrap();
        ingest.extent_parent((1 << 20) + 5).await.unwrap();
        ingest.extent_data(Bytes::from_static(b"changed")).await.unwrap();
        ingest.extent_zero(3 << 20).await.unwrap();
        ingest.extent_parent(100 << 20).await.unwrap();
        ingest
            .extent_data(Bytes::from_static(b"beyond the parent"))
            .await
            .unwrap();
        let disk = ingest.finish().await.unwrap();
        let at = (1 << 20) + 5;
        data.resize(130 << 20, 0);
        data[at..at + 7].copy_from_slice(b"changed");
        data[at + 7..at + 7 + (3 << 20)].fill(0);
        let later = at + 7 + (103 << 20);
        data[later..later + 17].copy_from_slice(b"beyond the parent");
        assert!(read_all(&store.disk_open(disk.root)).await == data);
        let tx = place.begin().await;
        session
            .commit_in_tx(&tx, "snapshot", "2", disk.root)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let root = store.root_get("snapshot", "2").await.unwrap().unwrap();
        let chunks = data
            .chunks(65536)
            .filter(|chunk| chunk.iter().any(|byte| *byte != 0))
            .count() as u64;
        assert_eq!(root.allocated_bytes, chunks * CHUNK);
        // The increment's tree is the one that a full import of the same bytes would have.
        let full: TreeRoot = import(&store, &place.db, "3", &data).await;
        assert_eq!(full, disk.root);
        assert!(disk.stats.new_bytes <= 4 * CHUNK, "{:?}", disk.stats);
    }
}

/// A client that does not read leaves its stream unpolled, at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_keep_no_connection() {
    let place = crate::support::local().await;
    let data = noise(9, 12 << 20);
    let root = import(&place.store().await, &place.db, "1", &data).await;
    let url = format!("sqlite://{}", place.dir.path().join("db.sqlite").display());
    let mut options = sea_orm::ConnectOptions::new(url);
    options
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(10));
    let few = sea_orm::Database::connect(options).await.unwrap();
    let store = Store::open(Arc::clone(&place.backend), &few, place.options())
        .await
        .unwrap();
    let mut left: Vec<_> = (0..32)
        .map(|_| store.disk_open(root).stream(0..data.len() as u64))
        .collect();
    for stream in &mut left {
        // Once, and never again.
        assert!(futures::poll!(stream.next()).is_pending());
    }
    assert!(store.root_get("image", "1").await.unwrap().is_some());
    assert!(read_all(&store.disk_open(root)).await == data);
}
