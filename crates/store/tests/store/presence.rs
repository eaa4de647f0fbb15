//! A store that is not where it was: under a disk that is not mounted, or went away in the middle of a call.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use store::gc::{self, Progress};
use store::{Fault, Faulty, JournalHead, JournalPart, JournalPlace, Kind, Options, Store, VerifyProgress};

use crate::damage::{case, read, verify};
use crate::meanwhile::Meanwhile;
use crate::support::{Place, files_below, import, local, noise};

/// Work that takes the objects' folder away, as an unmount does, and leaves in its place what a start before the mount
/// left there.
fn unmount(place: &Place) -> BoxFuture<'static, ()> {
    let objects = place.dir.path().join("objects");
    Box::pin(async move {
        std::fs::rename(&objects, objects.with_extension("aside")).unwrap();
        std::fs::create_dir_all(objects.join("tmp")).unwrap();
    })
}

/// Neither a header nor an object of the journal that was written into the folder under a mount stays there, where
/// each would make the next one believe that this is the store.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_store_is_unmounted_does_not_make_a_store_of_the_folder_below() {
    for at in ["put j/", "put h/"] {
        let place = local().await;
        drop(place.store().await);
        let backend = Meanwhile::new(&place.backend, at, unmount(&place));
        let store = place.store_on(backend.clone()).await;
        let objects = place.dir.path().join("objects");
        if at == "put h/" {
            std::fs::remove_file(objects.join("h/00000001")).unwrap();
            let error = store.headers_mend().await.unwrap_err();
            assert_eq!(error.kind(), Kind::StoreAway, "{error}");
        }
        let head = JournalHead {
            lineage: uuid::Uuid::from_u128(9),
            place: JournalPlace::default(),
            part: JournalPart::DumpEnd,
            previous: None,
            at_us: 5,
        };
        let sealed = store.journal().seal(&head, b"a document").unwrap();
        for _ in 0..2 {
            let error = store.journal_put(&sealed).await.unwrap_err();
            assert_eq!(error.kind(), Kind::StoreAway, "{at}: {error}");
            assert!(store.headers_mend().await.is_err(), "{at}");
        }
        assert!(backend.is_done());
        let left = files_below(&objects);
        assert_eq!(left, Vec::<PathBuf>::new(), "{at}");
        std::fs::remove_dir_all(&objects).unwrap();
        std::fs::rename(objects.with_extension("aside"), &objects).unwrap();
        store.journal_put(&sealed).await.unwrap();
        store.headers_mend().await.unwrap();
        assert_eq!(verify(&store, true).await, []);
    }
}

/// What an import has written under a mount that went away and came back is not in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_written_while_the_store_was_unmounted_is_not_published() {
    let place = local().await;
    let first = place.store().await;
    import(&first, &place.db, "first", &noise(1, 1 << 20)).await;
    let objects = place.dir.path().join("objects");
    let aside = objects.with_extension("aside");
    let backend = Meanwhile::new(&place.backend, "put p/", unmount(&place));
    let store = place.store_on(backend.clone()).await;
    let data = noise(2, 1 << 20);
    let session = store.session_open("second").await.unwrap();
    let mut ingest = session.ingest(data.len() as u64, None).await.unwrap();
    let written = ingest.extent_data(Bytes::copy_from_slice(&data)).await;
    let error = match written {
        Ok(()) => ingest.finish().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), Kind::StoreAway, "{error}");
    assert!(backend.is_done());
    assert_eq!(files_below(&objects), Vec::<PathBuf>::new());
    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::rename(&aside, &objects).unwrap();
    import(&store, &place.db, "second", &data).await;
    assert_eq!(verify(&store, true).await, []);
    assert_eq!(read(&store, "second", 0, 65536).await.unwrap(), data[..65536]);
}

/// A disk that went away under its mount: every call fails, and that says nothing about what is on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_went_away_is_a_store_that_is_not_there_and_no_damage() {
    let case = case().await;
    let device = Arc::new(Faulty::new(Arc::clone(&case.place.backend), Fault::Io, 0));
    let store = Store::open(device.clone(), &case.place.db, Options::default())
        .await
        .unwrap();
    assert_eq!(read(&store, "one", 0, 65536).await.unwrap(), case.one[..65536]);
    device.fail_all();
    for (owner, offset) in [("one", 5 << 20), ("two", 2 << 20)] {
        let error = read(&store, owner, offset, 65536).await.unwrap_err();
        assert_eq!(error.kind(), Kind::StoreAway, "{error}");
    }
    assert_eq!(store.there_check().await.unwrap_err().kind(), Kind::StoreAway);
    for read_data in [false, true] {
        let refused = store
            .verify(read_data, &VerifyProgress::default())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::StoreAway, "{refused}");
    }
    let options = gc::Options::new(case.place.dir.path());
    let refused = store.gc(&options, &Progress::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::StoreAway, "{refused}");
    device.rearm(0);
    assert_eq!(verify(&store, true).await, [], "nothing was marked meanwhile");
    assert_eq!(
        read(&store, "two", 2 << 20, 65536).await.unwrap(),
        case.two[2 << 20..(2 << 20) + 65536]
    );
}
