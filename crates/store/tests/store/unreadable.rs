//! What cannot be read of a disk is named, and nothing that can.

use futures::StreamExt as _;
use store::{Error, Kind};

use crate::support::{Place, files_below, import, local, noise};

const CHUNK: u64 = 65_536;
/// A frame of noise: its header, and the chunk as it is.
const FRAME: usize = 65_536 + 16;

/// Reads a range of the disk as a stream, whose end is an error.
async fn fault(place: &Place, range: std::ops::Range<u64>) -> Error {
    // A store of its own, which has nothing in memory.
    let store = place.store().await;
    let root = store.root_get("image", "one").await.unwrap().unwrap().tree;
    let mut pieces = store.disk_open(root).stream(range);
    loop {
        match pieces.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// Frames that lie beside each other are read together; a pack that was cut off holds those before the cut all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_chunks_that_cannot_be_read_and_not_those_read_with_them() {
    let place = local().await;
    let data = noise(5, 24 << 20);
    import(&place.store().await, &place.db, "one", &data).await;
    let packs = files_below(&place.dir.path().join("objects/p"));
    assert!(packs.len() > 1, "the tree is in another than the first chunks");
    let is_first = |path: &&std::path::PathBuf| std::fs::read(path).unwrap()[64 + 16..][..64] == data[..64];
    let first = packs.iter().find(is_first).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(first).unwrap();
    file.set_len((64 + 102 * FRAME + 500) as u64).unwrap();
    // Of what was asked for: to the end of what is read at once, or to the end of the range.
    for (asked, last) in [
        (0..24 << 20, None),
        (100 * CHUNK..104 * CHUNK, Some(104)),
        (102 * CHUNK..103 * CHUNK, Some(103)),
    ] {
        let error = fault(&place, asked.clone()).await;
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        let range = error.range().unwrap();
        assert_eq!(range.start, 102 * CHUNK, "{asked:?}: {error}");
        if let Some(last) = last {
            assert_eq!(range.end, last * CHUNK, "{asked:?}: {error}");
        }
    }
}
