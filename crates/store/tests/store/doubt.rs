//! What readers find that no single chunk explains is in the record of damage a moment later, as what a rebuilt index
//! lacks is.

use std::path::{Path, PathBuf};

use sea_orm::ConnectionTrait as _;
use store::{RebuildProgress, Store, VerifyProgress};

use crate::support::{Place, files_below, import, local, noise};

/// One disk of noise, and the pack that holds all of it.
async fn case() -> (Place, PathBuf) {
    let place = local().await;
    let store = place.store().await;
    import(&store, &place.db, "one", &noise(3, 1 << 20)).await;
    let packs = files_below(&place.dir.path().join("objects/p"));
    let [pack] = &packs[..] else {
        panic!("one pack: {packs:?}")
    };
    let pack = pack.clone();
    (place, pack)
}

/// What is recorded once the disk was read, and how many bytes of it are.
async fn recorded_after_a_read(store: &Store) -> (u64, u64) {
    let root = store.root_get("image", "one").await.unwrap().unwrap().tree;
    let mut out = vec![0; 1 << 20];
    store.disk_open(root).read_at(0, &mut out).await.unwrap_err();
    assert!(store.damage_looked_for(), "it has to be told soon");
    store.damage_update().await.unwrap();
    let damage = store.damage_of("image", "one").await.unwrap();
    let bytes = damage.iter().map(|one| one.range.end - one.range.start).sum();
    (store.health().await.unwrap().damaged_roots, bytes)
}

fn cut(pack: &Path, by: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(pack).unwrap();
    file.set_len(file.metadata().unwrap().len() - by).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_cannot_be_read_is_recorded_by_who_reads_it() {
    let (place, pack) = case().await;
    // The node lies behind the chunks.
    cut(&pack, 5000);
    assert_eq!(recorded_after_a_read(&place.store().await).await, (1, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_is_recorded_by_who_reads_it() {
    let (place, pack) = case().await;
    let store = place.store().await;
    // The tree is in memory, so that it is the chunks that are missed.
    let root = store.root_get("image", "one").await.unwrap().unwrap().tree;
    let disk = store.disk_open(root);
    disk.read_at(0, &mut vec![0; 65536]).await.unwrap();
    std::fs::remove_file(pack).unwrap();
    disk.read_at(0, &mut vec![0; 1 << 20]).await.unwrap_err();
    assert_eq!(recorded_after_a_read(&store).await, (1, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_in_no_index_is_recorded_by_who_reads_it_until_it_is_stored_again() {
    let (place, _pack) = case().await;
    let sql = "DELETE FROM store_chunk WHERE kind = 1 AND \"offset\" = 64";
    assert_eq!(place.db.execute_unprepared(sql).await.unwrap().rows_affected(), 1);
    let store = place.store().await;
    assert_eq!(recorded_after_a_read(&store).await, (1, 65536));
    store.damage_update().await.unwrap();
    assert_eq!(
        store.health().await.unwrap().damaged_roots,
        1,
        "it has no mark, and stays"
    );
    import(&store, &place.db, "two", &noise(3, 1 << 20)).await;
    store.damage_update().await.unwrap();
    assert_eq!(store.health().await.unwrap().damaged_roots, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_damaged_is_told_without_reading_data() {
    let (place, pack) = case().await;
    let store = place.store().await;
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let progress = VerifyProgress::default();
    assert_eq!(store.verify(false, &progress).await.unwrap(), []);
    let found = store.verify(true, &progress).await.unwrap();
    let known = store.verify(false, &progress).await.unwrap();
    let [found, known] = [found, known].map(|all| {
        all.into_iter()
            .map(|one| (one.owner, one.range))
            .collect::<Vec<_>>()
    });
    assert_eq!((known.len(), &known), (1, &found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_index_says_which_disks_it_has_not_all_of() {
    let (place, pack) = case().await;
    std::fs::remove_file(pack).unwrap();
    let store = Store::open_to_rebuild(place.backend.clone(), &place.db, place.options())
        .await
        .unwrap();
    let rebuilt = store.rebuild_index(&RebuildProgress::default()).await.unwrap();
    assert_eq!((rebuilt.packs, rebuilt.damaged_roots), (0, 1));
    let store = place.store().await;
    assert_eq!(store.health().await.unwrap().damaged_roots, 1);
}
