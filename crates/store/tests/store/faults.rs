//! One call to the backend fails, whichever: a clear error, nothing half visible, and the next try works.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use store::{Error, Fault, Faulty, Kind, Store, TreeRoot, VerifyProgress};

use crate::support::{Place, begin, noise, places};

/// Data that takes two packs.
fn data(seed: u64) -> Vec<u8> {
    noise(seed, 20 << 20)
}

async fn try_import(store: &Store, place: &Place, data: &[u8]) -> Result<TreeRoot, Error> {
    let session = store.session_open("x").await?;
    let mut ingest = session.ingest(data.len() as u64, None).await?;
    ingest.extent_data(Bytes::copy_from_slice(data)).await?;
    let root = ingest.finish().await?.root;
    let tx = begin(&place.db).await;
    session.commit_in_tx(&tx, "image", "x", root).await?;
    tx.commit().await.unwrap();
    Ok(root)
}

fn expected(fault: Fault) -> Kind {
    match fault {
        Fault::NoSpace => Kind::NoSpace,
        Fault::Io | Fault::Short => Kind::Io,
        Fault::Unavailable | Fault::AnswerLost => Kind::Unavailable,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_failing_call_leaves_the_store_whole() {
    let faults = [
        Fault::NoSpace,
        Fault::Io,
        Fault::Unavailable,
        Fault::AnswerLost,
        Fault::Short,
    ];
    for place in places().await {
        let quiet = place.store().await;
        for (seed, fault) in faults.into_iter().enumerate() {
            let data = data(seed as u64);
            let device = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 0));
            let store = place.store_on(Arc::clone(&device) as _).await;
            let mut failures = 0;
            for call in 1.. {
                device.rearm(call);
                let Err(error) = try_import(&store, &place, &data).await else {
                    break;
                };
                assert_eq!(error.kind(), expected(fault), "call {call}, {fault:?}: {error}");
                assert_eq!(quiet.root_list().await.unwrap(), [], "call {call}, {fault:?}");
                failures += 1;
                cleaned(&place, &quiet).await;
            }
            // Each pack is written and looked at; what was published before a failure is not written again.
            assert!(failures >= 2, "{fault:?}: {failures}");
            assert_eq!(
                quiet.verify(true, &VerifyProgress::default()).await.unwrap(),
                [],
                "{}",
                place.name
            );
            let root = quiet.root_get("image", "x").await.unwrap().unwrap().tree;
            let mut back = vec![0; data.len()];
            quiet.disk_open(root).read_at(0, &mut back).await.unwrap();
            assert!(back == data);
            let tx = place.begin().await;
            assert!(quiet.root_delete_in_tx(&tx, "image", "x").await.unwrap());
            tx.commit().await.unwrap();
        }
    }
}

/// What a failed writer left is gone once its lease and the grace are over: only published packs remain.
async fn cleaned(place: &Place, store: &Store) {
    place.clock.advance(Duration::from_hours(1));
    store.sessions_expire().await.unwrap();
    place.clock.advance(Duration::from_hours(1));
    store.sessions_expire().await.unwrap();
    let stats = store.stats().await.unwrap();
    let listed: Vec<_> = place.backend.list("p/").try_collect().await.unwrap();
    assert_eq!(listed.len() as u64, stats.packs);
    assert_eq!(
        listed.iter().map(|item| item.bytes).sum::<u64>(),
        stats.stored_bytes
    );
    assert_eq!(stats.open_sessions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_reads_give_an_error_and_never_wrong_bytes() {
    let data = data(5);
    for place in places().await {
        let root = try_import(&place.store().await, &place, &data).await.unwrap();
        for fault in [Fault::Io, Fault::Unavailable, Fault::Short] {
            for call in 1.. {
                let device = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 0));
                // Anew each time: what a store remembers of a tree is not read again.
                let store = place.store_on(Arc::clone(&device) as _).await;
                device.rearm(call);
                let mut back = vec![0; data.len()];
                let read = store.disk_open(root).read_at(0, &mut back).await;
                if device.calls() < call {
                    assert!(call > 3, "leaf, node and packs are read");
                    assert!(read.is_ok() && back == data);
                    break;
                }
                match read {
                    // What was wrong once was looked for again.
                    Ok(()) => assert!(fault == Fault::Short && back == data, "call {call}, {fault:?}"),
                    Err(error) => assert!(error.range().is_some(), "call {call}, {fault:?}: {error}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_place_whose_first_write_fails_can_be_tried_again() {
    for place in places().await {
        for fault in [Fault::NoSpace, Fault::AnswerLost] {
            // Calls: a listing to look for a header, another in `init`, the write of the header.
            let device = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 3));
            let made = Store::open_or_init(device, &place.db, place.options()).await;
            if place.backend.stat("h/00000000").await.unwrap().is_none() {
                assert_eq!(made.unwrap_err().kind(), expected(fault));
            }
        }
        let store = place.store().await;
        let again = place.store().await;
        assert_eq!(store.id(), again.id());
    }
}
