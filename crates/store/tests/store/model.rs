//! Random disks against a model in memory: any extents in, any ranges out, with and without a parent.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::{Ingest, Piece, Store, TreeRoot};

use crate::support::{CHUNK, noise, places};

/// One extent; lengths are capped to what is left of the disk.
#[derive(Debug, Clone)]
enum Extent {
    Zero(usize),
    Parent(usize),
    Data(u64, usize),
    File(u64, usize),
}

fn extent() -> impl Strategy<Value = Extent> {
    // Around chunk boundaries, small, and long enough to cross leaves (64 MiB) now and then.
    let length = prop_oneof![
        1..200_usize,
        (1..40_usize, 0..3_usize).prop_map(|(chunks, ragged)| chunks * 65536 + ragged - 1),
        (0..70_usize).prop_map(|mib| mib << 20),
    ];
    // Few seeds, so that chunks repeat.
    prop_oneof![
        length.clone().prop_map(Extent::Zero),
        length.clone().prop_map(Extent::Parent),
        (0..4_u64, 1..3_000_000_usize).prop_map(|(seed, length)| Extent::Data(seed, length)),
        (0..4_u64, length).prop_map(|(at, length)| Extent::File(at * 70_000, length.min(5 << 20))),
    ]
}

#[derive(Debug, Clone)]
struct Plan {
    virtual_bytes: usize,
    extents: Vec<Extent>,
    reads: Vec<(usize, usize)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let size = prop_oneof![0..300_000_usize, 1..90_000_000_usize];
    let reads = prop::collection::vec((any::<usize>(), 0..400_000_usize), 6);
    (size, prop::collection::vec(extent(), 0..12), reads).prop_map(|(virtual_bytes, extents, reads)| Plan {
        virtual_bytes,
        extents,
        reads,
    })
}

/// The file that `Extent::File` reads: data with a hole.
fn source(dir: &std::path::Path) -> (Arc<std::fs::File>, Vec<u8>) {
    let path = dir.join("source");
    let file = std::fs::File::create(&path).unwrap();
    file.write_all_at(&noise(20, 1_500_000), 0).unwrap();
    file.write_all_at(&noise(21, 3_000_000), 3_000_000).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (Arc::new(std::fs::File::open(&path).unwrap()), bytes)
}

async fn feed(
    ingest: &mut Ingest,
    plan: &Plan,
    parent: &[u8],
    file: &(Arc<std::fs::File>, Vec<u8>),
) -> Vec<u8> {
    let mut model: Vec<u8> = Vec::new();
    let from_parent = |model: &mut Vec<u8>, length: usize| {
        let (at, end) = (
            model.len().min(parent.len()),
            (model.len() + length).min(parent.len()),
        );
        let to = model.len() + length;
        model.extend_from_slice(&parent[at..end]);
        model.resize(to, 0);
    };
    for extent in &plan.extents {
        let left = plan.virtual_bytes - model.len();
        match *extent {
            Extent::Zero(length) => {
                let length = length.min(left);
                ingest.extent_zero(length as u64).await.unwrap();
                model.resize(model.len() + length, 0);
            }
            Extent::Parent(length) => {
                let length = length.min(left);
                ingest.extent_parent(length as u64).await.unwrap();
                from_parent(&mut model, length);
            }
            Extent::Data(seed, length) => {
                let data = noise(seed, length.min(left));
                model.extend_from_slice(&data);
                ingest.extent_data(Bytes::from(data)).await.unwrap();
            }
            Extent::File(at, length) => {
                let from = usize::try_from(at).unwrap();
                let length = length.min(left).min(file.1.len() - from);
                ingest.extent_file(&file.0, at, length as u64).await.unwrap();
                model.extend_from_slice(&file.1[from..from + length]);
            }
        }
        assert_eq!(ingest.position(), model.len() as u64);
    }
    let left = plan.virtual_bytes - model.len();
    from_parent(&mut model, left);
    model
}

async fn check(store: &Store, root: TreeRoot, model: &[u8], reads: &[(usize, usize)]) {
    let disk = store.disk_open(root);
    let mut at = 0;
    let mut pieces = disk.stream(0..model.len() as u64);
    while let Some(piece) = pieces.try_next().await.unwrap() {
        match piece {
            Piece::Zero(length) => {
                let end = at + usize::try_from(length).unwrap();
                assert!(model[at..end].iter().all(|byte| *byte == 0));
                at = end;
            }
            Piece::Data(data) => {
                assert!(model[at..at + data.len()] == data);
                at += data.len();
            }
        }
    }
    assert_eq!(at, model.len());
    for (seed, length) in reads {
        let from = seed % (model.len() + 1);
        let length = (*length).min(model.len() - from);
        let mut out = vec![1; length];
        disk.read_at(from as u64, &mut out).await.unwrap();
        assert!(out == model[from..from + length]);
        let range = from as u64..(from + length) as u64;
        let streamed: Vec<Piece> = disk.stream(range.clone()).try_collect().await.unwrap();
        let streamed = streamed.into_iter().flat_map(|piece| match piece {
            Piece::Zero(length) => vec![0; usize::try_from(length).unwrap()],
            Piece::Data(data) => data.to_vec(),
        });
        assert!(streamed.collect::<Vec<_>>() == out);
        let runs = disk.allocated(range.clone()).await.unwrap();
        assert!(
            runs.iter()
                .all(|run| run.start < run.end && run.start >= range.start && run.end <= range.end)
        );
        let stored = |at: u64| runs.iter().any(|run| run.contains(&at));
        assert!((from..from + length).all(|at| model[at] == 0 || stored(at as u64)));
    }
    assert!(disk.read_at(model.len() as u64, &mut [0]).await.is_err());
}

async fn run(store: &Store, db: &sea_orm::DatabaseConnection, plans: &[Plan; 2], dir: &std::path::Path) {
    let file = source(dir);
    let mut parent: Option<(TreeRoot, Vec<u8>)> = None;
    for (number, plan) in plans.iter().enumerate() {
        let mut plan = plan.clone();
        let below = parent.as_ref().map_or(&[][..], |(_, data)| data);
        plan.virtual_bytes = plan.virtual_bytes.max(below.len());
        let owner = format!("{}-{number}", uuid::Uuid::new_v4());
        let session = store.session_open(&owner).await.unwrap();
        let root = parent.as_ref().map(|(root, _)| *root);
        let mut ingest = session.ingest(plan.virtual_bytes as u64, root).await.unwrap();
        let model = feed(&mut ingest, &plan, below, &file).await;
        let disk = ingest.finish().await.unwrap();
        let tx = crate::support::begin(db).await;
        session
            .commit_in_tx(&tx, "image", &owner, disk.root)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        check(store, disk.root, &model, &plan.reads).await;
        let allocated = model
            .chunks(65536)
            .filter(|chunk| chunk.iter().any(|byte| *byte != 0))
            .count() as u64;
        let kept = store.root_get("image", &owner).await.unwrap().unwrap();
        assert_eq!(kept.allocated_bytes, allocated * CHUNK);
        assert_eq!(
            disk.stats.logical_bytes,
            (plan.virtual_bytes as u64).next_multiple_of(CHUNK)
        );
        parent = Some((disk.root, model));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_disks_read_back_as_the_model_says() {
    for place in places().await {
        let store = place.store().await;
        let handle = tokio::runtime::Handle::current();
        let (db, dir) = (place.db.clone(), place.dir.path().to_owned());
        // proptest is synchronous: it gets a thread of its own.
        let cases = if place.name.starts_with("SQLite") { 16 } else { 6 };
        tokio::task::spawn_blocking(move || {
            let config = Config {
                cases,
                failure_persistence: None,
                ..Config::default()
            };
            let strategy = (plan(), plan()).prop_map(|(one, two)| [one, two]);
            let result = TestRunner::new(config).run(&strategy, |plans| {
                handle.block_on(run(&store, &db, &plans, &dir));
                Ok(())
            });
            result.unwrap();
        })
        .await
        .unwrap();
    }
}
