use super::*;

fn part(pack: Uuid, pack_bytes: u64, range: Range<u64>) -> Part {
    Part {
        pack,
        pack_bytes,
        start: range.start,
        end: range.end,
    }
}

fn open(folder: &Path, limit_bytes: u64) -> PackCache {
    PackCache::open(&CacheOptions {
        folder: folder.to_owned(),
        limit_bytes,
    })
    .unwrap()
}

fn bytes_on_disk(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// A pack's bytes from a block on, each block filled with its number.
fn blocks(first: u64, count: u64) -> Vec<u8> {
    let fill = |number| vec![u8::try_from(number).unwrap(); BLOCK];
    (first..first + count).flat_map(fill).collect()
}

#[test]
fn it_never_holds_more_than_its_limit_and_drops_what_was_used_longest_ago() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 5 * BLOCK_BYTES);
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    cache.keep_all(one, 0, &blocks(0, 3));
    cache.keep_all(two, 7, &blocks(7, 2));
    assert_eq!(bytes_on_disk(dir.path()), 5 * BLOCK_BYTES);
    let has = |pack, number: u64| {
        cache.has(part(
            pack,
            1 << 30,
            number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES,
        ))
    };
    let first = part(one, 1 << 30, 10..BLOCK_BYTES + 20);
    assert_eq!(cache.bytes_read(first).unwrap().len() as u64, BLOCK_BYTES + 10);
    cache.keep_all(two, 9, &blocks(9, 2));
    assert_eq!(
        (cache.stats().bytes, bytes_on_disk(dir.path())),
        (5 * BLOCK_BYTES, 5 * BLOCK_BYTES)
    );
    assert!(has(one, 0) && has(one, 1), "they were used last");
    assert!(!has(one, 2) && !has(two, 7), "they were used longest ago");
    cache.keep_all(two, 20, &blocks(0, 9));
    assert_eq!(
        bytes_on_disk(dir.path()),
        5 * BLOCK_BYTES,
        "more than all of it at once"
    );
    cache.forget(two);
    assert_eq!((cache.stats().bytes, bytes_on_disk(dir.path())), (0, 0));
}

#[test]
fn a_block_that_does_not_fit_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), BLOCK_BYTES - 1);
    cache.keep_all(Uuid::from_u128(1), 0, &blocks(0, 2));
    assert_eq!((cache.stats().bytes, bytes_on_disk(dir.path())), (0, 0));
}

#[test]
fn another_process_goes_on_with_what_is_there_within_its_own_limit() {
    let dir = tempfile::tempdir().unwrap();
    let pack = Uuid::from_u128(1);
    open(dir.path(), 9 * BLOCK_BYTES).keep_all(pack, 3, &blocks(3, 4));
    for name in ["17.tmp", "notes", "00000000-0000-0000-0000-000000000001-03"] {
        fs::write(dir.path().join(name), b"left by a crash, or somebody else's").unwrap();
    }
    let cache = open(dir.path(), 9 * BLOCK_BYTES);
    let all = part(pack, 1 << 30, 3 * BLOCK_BYTES..7 * BLOCK_BYTES);
    assert!(cache.bytes_read(all).unwrap()[..] == blocks(3, 4)[..]);
    assert_eq!(
        bytes_on_disk(dir.path()),
        4 * BLOCK_BYTES,
        "what is no block is removed"
    );
    let smaller = open(dir.path(), 2 * BLOCK_BYTES);
    assert!(!smaller.has(all));
    assert_eq!(
        (smaller.stats().bytes, bytes_on_disk(dir.path())),
        (2 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    );
}

#[test]
fn what_follows_is_asked_for_with_what_is_missing_the_more_was_wanted_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 99 * BLOCK_BYTES);
    let (pack, size) = (Uuid::from_u128(1), 12 * BLOCK_BYTES + 5);
    let one = |number: u64| part(pack, size, number * BLOCK_BYTES + 7..number * BLOCK_BYTES + 9);
    assert_eq!(cache.missing(one(2)), 2..3, "nothing was wanted before it");
    cache.keep_all(pack, 2, &blocks(2, 1));
    assert_eq!(cache.missing(one(3)), 3..5);
    cache.keep_all(pack, 3, &blocks(3, 2));
    assert_eq!(cache.missing(one(5)), 5..9);
    cache.keep_all(pack, 7, &blocks(7, 1));
    assert_eq!(cache.missing(one(5)), 5..7, "what is there is not asked for");
    cache.keep_all(pack, 11, &blocks(11, 1));
    assert_eq!(cache.missing(one(12)), 12..13, "the pack ends");
    let across = part(pack, size, 6 * BLOCK_BYTES..9 * BLOCK_BYTES);
    assert_eq!(cache.missing(across).start, 6);
    assert!(cache.missing(across).end >= 9);
}
