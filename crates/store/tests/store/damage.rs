//! Damage in the backend: found, named by disk and byte range, and never passed on as data.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use store::gc::{self, Progress, Report};
use store::{
    Damage, Error, Fault, Faulty, JournalHead, JournalLink, JournalPart, JournalPlace, Kind, Options, Store,
    VerifyProgress, scrub,
};
use tokio_util::sync::CancellationToken;

use crate::support::{CHUNK, Place, encrypted, import, local, noise};

/// Two disks in packs of their own: the first of noise with a hole, the second shares its first MiB.
pub(crate) struct Case {
    pub(crate) place: Place,
    pub(crate) store: Store,
    pub(crate) one: Vec<u8>,
    pub(crate) two: Vec<u8>,
    /// The pack that both need, and the one that only the second needs.
    pub(crate) packs: Vec<PathBuf>,
}

pub(crate) async fn case() -> Case {
    case_in(local().await).await
}

async fn case_in(place: Place) -> Case {
    let store = place.store().await;
    let mut one = noise(8, 6 << 20);
    one[2 << 20..4 << 20].fill(0);
    let mut two = one[..1 << 20].to_vec();
    two.extend(noise(9, 3 << 20));
    import(&store, &place.db, "one", &one).await;
    let first = packs(&place);
    import(&store, &place.db, "two", &two).await;
    let second = packs(&place).into_iter().filter(|pack| !first.contains(pack));
    let packs = first.iter().cloned().chain(second).collect();
    Case {
        place,
        store,
        one,
        two,
        packs,
    }
}

fn packs(place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(place.dir.path().join("objects/p")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

pub(crate) async fn verify(store: &Store, read_data: bool) -> Vec<Damage> {
    store.verify(read_data, &VerifyProgress::default()).await.unwrap()
}

pub(crate) async fn read(store: &Store, owner: &str, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let root = store.root_get("image", owner).await.unwrap().unwrap().tree;
    let mut out = vec![0; length];
    store.disk_open(root).read_at(offset, &mut out).await?;
    Ok(out)
}

/// Every chunk of the disk either reads right or fails with its range; those that fail are `bad`.
async fn assert_bad(case: &Case, owner: &str, bad: &[u64]) {
    let data = if owner == "one" { &case.one } else { &case.two };
    for chunk in 0..data.len() as u64 / CHUNK {
        let at = usize::try_from(chunk * CHUNK).unwrap();
        match read(&case.store, owner, chunk * CHUNK, 65536).await {
            Ok(bytes) => assert!(
                bytes == data[at..at + 65536] && !bad.contains(&chunk),
                "chunk {chunk}"
            ),
            Err(error) => {
                assert!(bad.contains(&chunk), "chunk {chunk}: {error}");
                assert_eq!(error.kind(), Kind::Damaged);
                assert!(error.range().unwrap().contains(&(chunk * CHUNK)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_damaged_at_first() {
    let case = case().await;
    assert_eq!(verify(&case.store, false).await, []);
    assert_eq!(verify(&case.store, true).await, []);
    assert_eq!(case.packs.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_shared_frame_names_both_disks() {
    let case = case().await;
    // Frames of noise are stored raw, 16 bytes of header each: this is chunk 3 of both disks.
    flip(&case.packs[0], 64 + 3 * (65536 + 16) + 16 + 1000);
    assert_eq!(verify(&case.store, false).await, [], "sizes alone do not show it");
    let damage = verify(&case.store, true).await;
    let hit: Vec<_> = damage
        .iter()
        .map(|one| (one.owner.as_str(), one.range.clone()))
        .collect();
    assert_eq!(
        hit,
        [("one", 3 * CHUNK..4 * CHUNK), ("two", 3 * CHUNK..4 * CHUNK)]
    );
    assert_bad(&case, "one", &[3]).await;
    assert_bad(&case, "two", &[3]).await;
}

/// Each damaged range says what is wrong with itself, ranges with the same fault are told together, and of a pack that
/// no disk needs the frames are counted.
#[tokio::test(flavor = "multi_thread")]
async fn each_frame_of_a_pack_is_told_with_its_own_reason() {
    let case = case().await;
    let frame = |number: usize| 64 + number * (65536 + 16);
    let mut bytes = std::fs::read(&case.packs[0]).unwrap();
    // Another codec; then contents of two neighbours; then a length.
    bytes[frame(3)] ^= 0x40;
    bytes[frame(8) + 16 + 100] ^= 1;
    bytes[frame(9) + 16 + 100] ^= 1;
    bytes[frame(20) + 14] ^= 1;
    std::fs::write(&case.packs[0], &bytes).unwrap();
    let damage = verify(&case.store, true).await;
    let told = |owner: &str| -> Vec<(u64, u64, bool)> {
        let of_it = damage.iter().filter(|one| one.owner == owner);
        let words = [
            (3, "has unknown codec"),
            (8, "does not match its digest"),
            (20, "wrong length"),
        ];
        of_it
            .map(|one| {
                let (from, to) = (one.range.start / CHUNK, one.range.end / CHUNK);
                let word = words.iter().find(|(at, _)| *at == from).unwrap().1;
                (from, to, one.reason.contains(word))
            })
            .collect()
    };
    // Disk one has no chunks 32 to 63, and the other one begins with its first 16.
    assert_eq!(
        told("one"),
        [(3, 4, true), (8, 10, true), (20, 21, true)],
        "{damage:#?}"
    );
    assert_eq!(told("two"), [(3, 4, true), (8, 10, true)], "{damage:#?}");
    assert!(damage.iter().all(|one| one.kind == "image"), "{damage:#?}");
    for owner in ["one", "two"] {
        let tx = case.place.begin().await;
        assert!(case.store.root_delete_in_tx(&tx, "image", owner).await.unwrap());
        tx.commit().await.unwrap();
    }
    let damage = verify(&case.store, true).await;
    assert_eq!(damage.len(), 1, "{damage:#?}");
    let reason = &damage[0].reason;
    for part in [
        "4 of 65 frames",
        "1 × frame has unknown codec",
        "2 × frame does not match its digest",
        "1 × frame has the wrong length",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

/// The codec, and the cipher: neither says that a newer version wrote the frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_frame_header_is_named_and_its_content_is_stored_anew() {
    for (place, tag, byte) in [
        (local().await, 0, 0),
        (local().await, 0, 1),
        (encrypted().await, 16, 0),
        (encrypted().await, 16, 1),
    ] {
        let case = case_in(place).await;
        let mut bytes = std::fs::read(&case.packs[0]).unwrap();
        bytes[64 + 3 * (65536 + 16 + tag) + byte] ^= 0x40;
        std::fs::write(&case.packs[0], &bytes).unwrap();
        let damage = verify(&case.store, true).await;
        let hit = damage.iter().map(|one| (one.owner.as_str(), one.range.clone()));
        let expected = [("one", 3 * CHUNK..4 * CHUNK), ("two", 3 * CHUNK..4 * CHUNK)];
        assert_eq!(hit.collect::<Vec<_>>(), expected, "byte {byte}");
        case.place.clock.advance(Duration::from_hours(25));
        let options = scrub::Options {
            bytes_per_second: 1 << 40,
            every: Duration::from_hours(24),
            time: Duration::from_mins(1),
            stop: CancellationToken::new(),
        };
        let scrubbed = case.store.scrub(&options, &AtomicU64::new(0)).await.unwrap();
        assert_eq!((scrubbed.objects, scrubbed.damaged), (2, 1), "{scrubbed:?}");
        import(&case.store, &case.place.db, "again", &case.two).await;
        assert_eq!(packs(&case.place).len(), 3, "it is stored anew");
        assert_bad(&case, "one", &[]).await;
        assert_bad(&case, "two", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_footer_hurts_no_disk_and_is_still_told() {
    let case = case().await;
    let bytes = std::fs::metadata(&case.packs[0]).unwrap().len();
    flip(&case.packs[0], usize::try_from(bytes).unwrap() - 100);
    let damage = verify(&case.store, true).await;
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0].kind, "store");
    assert!(damage[0].owner.starts_with("p/"));
    assert_bad(&case, "one", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_pack_loses_what_lies_behind_the_cut() {
    let case = case().await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&case.packs[1])
        .unwrap();
    // The pack of disk two begins with its chunk 16; the cut falls into the third frame. Its tree lies behind.
    file.set_len(64 + 2 * (65536 + 16) + 500).unwrap();
    for read_data in [false, true] {
        let damage = verify(&case.store, read_data).await;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(
            (damage[0].owner.as_str(), damage[0].range.clone()),
            ("two", 0..4 << 20)
        );
    }
    assert_bad(&case, "one", &[]).await;
    assert_eq!(
        read(&case.store, "two", 0, 10).await.unwrap_err().kind(),
        Kind::Damaged
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_named_without_reading_data() {
    let case = case().await;
    std::fs::remove_file(&case.packs[1]).unwrap();
    let damage = verify(&case.store, false).await;
    assert_eq!(damage.len(), 1, "{damage:?}");
    let id = case.packs[1].file_name().unwrap().to_str().unwrap();
    let reason = &damage[0].reason;
    assert!(reason.contains("is missing") && reason.contains(id), "{reason}");
    assert_bad(&case, "one", &[]).await;
    assert_eq!(verify(&case.store, true).await, damage);
}

/// `/proc/self/mem` where nothing is mapped: the kernel's own EIO, on the way that reads files.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_the_disk_cannot_read_is_an_error_and_no_damage() {
    let case = case().await;
    let aside = case.place.dir.path().join("aside");
    std::fs::rename(&case.packs[0], &aside).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &case.packs[0]).unwrap();
    for chunk in 0..case.two.len() as u64 / CHUNK {
        let at = usize::try_from(chunk * CHUNK).unwrap();
        match read(&case.store, "two", chunk * CHUNK, 65536).await {
            Ok(bytes) => assert!(chunk >= 16 && bytes == case.two[at..at + 65536], "chunk {chunk}"),
            Err(error) => assert!(chunk < 16 && error.kind() == Kind::Io, "chunk {chunk}: {error}"),
        }
    }
    std::fs::rename(&aside, &case.packs[0]).unwrap();
    assert_bad(&case, "one", &[]).await;
    assert_bad(&case, "two", &[]).await;
    assert_eq!(
        verify(&case.store, true).await,
        [],
        "nothing was marked meanwhile"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_together_is_refused() {
    let (one, two) = (local().await, local().await);
    let store = one.store().await;
    two.store().await;
    let crossed = Store::open(std::sync::Arc::clone(&two.backend), &one.db, Options::default()).await;
    let error = crossed.unwrap_err();
    assert_eq!(error.kind(), Kind::Incompatible);
    assert!(error.to_string().contains("newest copy"), "{error}");
    let again = Store::init(std::sync::Arc::clone(&one.backend), &one.db, Options::default()).await;
    assert_eq!(again.unwrap_err().kind(), Kind::Exists);
    for header in ["h/00000000", "h/00000001"] {
        flip(&one.dir.path().join("objects").join(header), 40);
    }
    let error = Store::open(std::sync::Arc::clone(&one.backend), &one.db, Options::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::HeadersDamaged);
    assert!(error.to_string().contains("below `h/`"), "{error}");
    drop(store);
}

/// Importing the disks again heals them, and the new ones are right.
async fn assert_healed(case: &Case) {
    let disks = [("one", &case.one), ("two", &case.two)];
    for (owner, data) in disks {
        import(&case.store, &case.place.db, &format!("{owner} again"), data).await;
    }
    for (owner, data) in disks {
        for owner in [owner, &format!("{owner} again")] {
            let back = read(&case.store, owner, 0, data.len()).await;
            assert!(back.expect("reads") == *data, "{owner}");
        }
    }
    let left = verify(&case.store, true).await;
    assert!(left.iter().all(|damage| damage.kind == "store"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verify_found_damaged_is_stored_anew_by_the_next_import() {
    let case = case().await;
    for at in [5000, 900_000] {
        flip(&case.packs[0], at);
    }
    assert!(!verify(&case.store, true).await.is_empty());
    assert_healed(&case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_found_damaged_is_stored_anew_by_the_next_import() {
    let case = case().await;
    flip(&case.packs[0], 5000);
    assert_eq!(
        read(&case.store, "one", 0, 65536).await.unwrap_err().kind(),
        Kind::Damaged
    );
    assert_healed(&case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_notices_missing_and_cut_packs_by_itself() {
    let missing = case().await;
    for pack in &missing.packs {
        std::fs::remove_file(pack).unwrap();
    }
    assert_healed(&missing).await;

    let cut = case().await;
    for pack in &cut.packs {
        let file = std::fs::File::options().write(true).open(pack).unwrap();
        file.set_len(70_000).unwrap();
    }
    assert_healed(&cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_came_back_is_relied_on_again() {
    let case = case().await;
    let whole = std::fs::read(&case.packs[0]).unwrap();
    std::fs::remove_file(&case.packs[0]).unwrap();
    assert!(!verify(&case.store, false).await.is_empty());
    std::fs::write(&case.packs[0], whole).unwrap();
    assert_eq!(verify(&case.store, true).await, []);
    let before = case.store.stats().await.unwrap().stored_bytes;
    import(&case.store, &case.place.db, "again", &case.one).await;
    assert_eq!(
        case.store.stats().await.unwrap().stored_bytes,
        before,
        "nothing is new"
    );
}

/// A run that waits for nothing.
async fn gc(case: &Case) -> Report {
    let options = gc::Options {
        now: true,
        ..gc::Options::new(case.place.dir.path())
    };
    case.store.gc(&options, &Progress::default()).await.unwrap()
}

fn hits(damage: &[Damage]) -> Vec<(&str, u64)> {
    let chunk = |one: &Damage| {
        assert_eq!(one.range.end - one.range.start, CHUNK, "{one:?}");
        one.range.start / CHUNK
    };
    damage
        .iter()
        .map(|one| (one.owner.as_str(), chunk(one)))
        .collect()
}

/// Where frame number `index` of a pack of noise has its bytes.
fn frame_at(case: &Case, index: usize) -> usize {
    let tag = if case.place.name.contains("encrypted") {
        16
    } else {
        0
    };
    64 + index * (65536 + 16 + tag) + 16 + 1000
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_healed_is_damaged_until_gc_has_removed_its_pack() {
    for place in [local().await, encrypted().await] {
        let case = case_in(place).await;
        flip(&case.packs[0], frame_at(&case, 3));
        assert_eq!(hits(&verify(&case.store, true).await), [("one", 3), ("two", 3)]);
        import(&case.store, &case.place.db, "one again", &case.one).await;
        let left = verify(&case.store, true).await;
        assert_eq!((left.len(), left[0].kind.as_str()), (1, "store"), "{left:?}");
        assert!(left[0].reason.contains("gc keeps what is whole"), "{left:?}");
        // It is nearly all needed, and written anew all the same; with the usual waits in two runs.
        let options = gc::Options::new(case.place.dir.path());
        let report = case.store.gc(&options, &Progress::default()).await.unwrap();
        assert_eq!((report.repacked, report.objects), (1, 0), "{report:?}");
        let report = case.store.gc(&options, &Progress::default()).await.unwrap();
        assert_eq!((report.repacked, report.objects), (0, 1), "{report:?}");
        assert!(!case.packs[0].exists());
        assert_eq!(verify(&case.store, true).await, []);
        assert_bad(&case, "one", &[]).await;
        assert_bad(&case, "two", &[]).await;
        assert_eq!(gc(&case).await.repacked, 0, "what is whole stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_healed_stays_and_is_named() {
    let case = case().await;
    for index in [3, 20] {
        flip(&case.packs[0], frame_at(&case, index));
    }
    assert_eq!(
        hits(&verify(&case.store, true).await),
        [("one", 3), ("one", 20), ("two", 3)]
    );
    // Only one of them comes back.
    import(&case.store, &case.place.db, "head", &case.one[..1 << 20]).await;
    assert_eq!(gc(&case).await.repacked, 1);
    for _ in 0..2 {
        assert_eq!(hits(&verify(&case.store, true).await), [("one", 20)]);
        assert_bad(&case, "one", &[20]).await;
        assert_bad(&case, "two", &[]).await;
        let report = gc(&case).await;
        assert_eq!(
            (report.repacked, report.objects),
            (0, 0),
            "nothing else is left of it"
        );
    }
    import(&case.store, &case.place.db, "one again", &case.one).await;
    gc(&case).await;
    assert_eq!(verify(&case.store, true).await, []);
    assert_bad(&case, "one", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_with_a_damaged_index_or_end_is_written_anew_as_far_as_it_is_whole() {
    let case = case().await;
    let bytes = std::fs::metadata(&case.packs[0]).unwrap().len();
    let footer = usize::try_from(bytes).unwrap() - 100;
    let data_pack = || {
        let others = packs(&case.place)
            .into_iter()
            .filter(|pack| *pack != case.packs[1]);
        others
            .max_by_key(|pack| std::fs::metadata(pack).unwrap().len())
            .unwrap()
    };
    // The index, and what the pack says of itself.
    for at in [footer, 5] {
        flip(&data_pack(), at);
        let damage = verify(&case.store, true).await;
        assert_eq!(
            (damage.len(), damage[0].kind.as_str()),
            (1, "store"),
            "{damage:?}"
        );
        assert_eq!(gc(&case).await.repacked, 1);
        assert_eq!(verify(&case.store, true).await, []);
    }
    // The end of it; its tree lies elsewhere by now, without which gc would not run.
    let pack = data_pack();
    let whole = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &whole[..64 + 20 * (65536 + 16) + 500]).unwrap();
    let lost: Vec<u64> = (20..32).chain(64..96).collect();
    for read_data in [false, true] {
        let damage = verify(&case.store, read_data).await;
        assert!(
            damage.len() == 2 && damage.iter().all(|one| one.owner == "one"),
            "{damage:?}"
        );
        assert_bad(&case, "one", &lost).await;
        assert_eq!(
            gc(&case).await.repacked,
            u64::from(!read_data),
            "twenty chunks are whole"
        );
    }
    assert_bad(&case, "two", &[]).await;
    // It is there again, and what was left in it is live.
    std::fs::write(&pack, whole).unwrap();
    assert_eq!(verify(&case.store, true).await, []);
    assert_bad(&case, "one", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_reads_again_is_live_again_though_its_pack_has_another_fault() {
    let case = case().await;
    for index in [3, 20] {
        flip(&case.packs[0], frame_at(&case, index));
    }
    verify(&case.store, true).await;
    flip(&case.packs[0], frame_at(&case, 3));
    assert_eq!(hits(&verify(&case.store, true).await), [("one", 20)]);
    assert_eq!(case.store.damage_of("image", "two").await.unwrap(), []);
}

/// The kernel's own EIO, as above: gc goes on, and leaves it to a verification to say what is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_the_disk_cannot_read_ends_no_gc_and_loses_nothing() {
    let case = case().await;
    let tx = case.place.begin().await;
    assert!(case.store.root_delete_in_tx(&tx, "image", "one").await.unwrap());
    tx.commit().await.unwrap();
    let aside = case.place.dir.path().join("aside");
    std::fs::rename(&case.packs[0], &aside).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &case.packs[0]).unwrap();
    assert_eq!(gc(&case).await.repacked, 0);
    std::fs::remove_file(&case.packs[0]).unwrap();
    std::fs::rename(&aside, &case.packs[0]).unwrap();
    assert_bad(&case, "two", &[]).await;
    assert_eq!(gc(&case).await.repacked, 1);
    assert_eq!(verify(&case.store, true).await, []);
}

async fn header_keys(place: &Place) -> Vec<String> {
    use futures::TryStreamExt as _;
    let listed: Vec<_> = place.backend.list("h/").try_collect().await.unwrap();
    let mut keys: Vec<String> = listed.into_iter().map(|item| item.key).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_is_replaced_by_its_copy_and_mended() {
    for place in [local().await, encrypted().await] {
        let header = |name: &str| place.dir.path().join("objects/h").join(name);
        let first = place.store().await;
        assert_eq!(header_keys(&place).await, ["h/00000000", "h/00000001"]);
        assert!(!first.headers_mend().await.unwrap(), "nothing is wrong");
        for name in ["00000000", "00000001"] {
            let whole = std::fs::read(header(name)).unwrap();
            for at in [3, 9, 40, whole.len() - 40, whole.len() - 1] {
                flip(&header(name), at);
                assert_eq!(place.store().await.id(), first.id(), "{name}, byte {at}");
                std::fs::write(header(name), &whole).unwrap();
            }
        }
        flip(&header("00000001"), 40);
        assert!(place.store().await.headers_mend().await.unwrap());
        assert_eq!(header_keys(&place).await, ["h/00000000", "h/00000002"]);
        assert!(!first.headers_mend().await.unwrap());
        // Lost rather than damaged.
        std::fs::remove_file(header("00000000")).unwrap();
        assert!(first.headers_mend().await.unwrap());
        assert_eq!(header_keys(&place).await, ["h/00000002", "h/00000003"]);
        // Both: whoever has it open still knows it.
        for name in ["00000002", "00000003"] {
            flip(&header(name), 40);
        }
        assert!(first.headers_mend().await.unwrap());
        assert_eq!(header_keys(&place).await, ["h/00000004", "h/00000005"]);
        assert_eq!(place.store().await.id(), first.id());
        // A place that is away altogether is given none.
        for name in ["00000004", "00000005"] {
            std::fs::remove_file(header(name)).unwrap();
        }
        let error = first.headers_mend().await.unwrap_err();
        assert_eq!(error.kind(), Kind::StoreAway);
        assert!(header_keys(&place).await.is_empty());
    }
}

/// As an earlier version made them.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_one_header_gets_its_second_whatever_fails_meanwhile() {
    for fault in [Fault::Io, Fault::Short, Fault::AnswerLost] {
        for call in 1.. {
            let place = local().await;
            let id = place.store().await.id();
            std::fs::remove_file(place.dir.path().join("objects/h/00000001")).unwrap();
            let device = Arc::new(Faulty::new(Arc::clone(&place.backend), fault, 0));
            let store = place.store_on(Arc::clone(&device) as _).await;
            device.rearm(call);
            let _ = store.headers_mend().await;
            let struck = device.calls() >= call;
            device.rearm(0);
            let again = place.store().await;
            assert_eq!(again.id(), id);
            again.headers_mend().await.unwrap();
            assert!(!again.headers_mend().await.unwrap(), "{fault:?}, call {call}");
            assert!(header_keys(&place).await.len() >= 2);
            if !struck {
                assert_eq!(header_keys(&place).await, ["h/00000000", "h/00000001"]);
                break;
            }
        }
    }
    // Several at once.
    let place = local().await;
    place.store().await;
    std::fs::remove_file(place.dir.path().join("objects/h/00000001")).unwrap();
    let (one, two) = (place.store().await, place.store().await);
    let (one, two) = tokio::join!(one.headers_mend(), two.headers_mend());
    assert!(one.is_ok() && two.is_ok());
    assert!(header_keys(&place).await.len() >= 2);
    assert!(!place.store().await.headers_mend().await.unwrap());
}

/// The keys that are told of, which stand in the reasons too.
fn told(damage: &[Damage]) -> Vec<&str> {
    for one in damage {
        assert_eq!(one.kind, "store", "{one:?}");
        assert!(one.reason.contains(&one.owner), "{one:?}");
    }
    damage.iter().map(|one| one.owner.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_headers_are_told() {
    for place in [local().await, encrypted().await] {
        let store = place.store().await;
        let path = place.dir.path().join("objects/h/00000001");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            flip(&path, at);
            let damage = verify(&store, true).await;
            assert!(told(&damage).contains(&"h/00000001"), "byte {at}: {damage:?}");
            std::fs::write(&path, &whole).unwrap();
        }
        assert_eq!(verify(&store, true).await, []);
        std::fs::remove_file(place.dir.path().join("objects/h/00000000")).unwrap();
        assert_eq!(told(&verify(&store, false).await), ["h/00000001"], "it is alone");
    }
}

/// Two generations: a dump in two parts, and changes.
pub(crate) async fn journal_write(store: &Store) {
    let journal = store.journal();
    let parts = [
        JournalPart::Dump,
        JournalPart::DumpEnd,
        JournalPart::Changes,
        JournalPart::Changes,
    ];
    for generation in 1..3 {
        let mut previous = None;
        for (sequence, part) in (0..).zip(parts) {
            let head = JournalHead {
                lineage: uuid::Uuid::from_u128(9),
                place: JournalPlace { generation, sequence },
                part,
                previous,
                at_us: 5,
            };
            let sealed = journal.seal(&head, b"a document").unwrap();
            journal.put(&sealed).await.unwrap();
            let code = sealed.code;
            previous = Some(JournalLink { sequence, code });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_byte_of_the_journal_that_a_recovery_needs_is_told() {
    for place in [local().await, encrypted().await] {
        let store = place.store().await;
        journal_write(&store).await;
        assert_eq!(verify(&store, true).await, []);
        for sequence in 0..4 {
            let key = format!("j/00000002/{sequence:016x}");
            let path = place.dir.path().join("objects").join(&key);
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                flip(&path, at);
                assert_eq!(told(&verify(&store, true).await), [&key], "byte {at}");
                std::fs::write(&path, &whole).unwrap();
            }
            std::fs::remove_file(&path).unwrap();
            for read_data in [false, true] {
                let damage = verify(&store, read_data).await;
                // The database knows which was the last.
                let expected: &[&str] = if sequence < 3 { &[&key] } else { &[] };
                assert_eq!(told(&damage), expected);
            }
            std::fs::write(&path, &whole).unwrap();
        }
        // What is older than a whole generation is not needed, unless that is not whole.
        flip(&place.dir.path().join("objects/j/00000001/0000000000000000"), 150);
        assert_eq!(verify(&store, true).await, []);
        flip(&place.dir.path().join("objects/j/00000002/0000000000000001"), 150);
        let damage = verify(&store, true).await;
        assert_eq!(
            told(&damage),
            ["j/00000002/0000000000000001", "j/00000001/0000000000000000"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_cut_off_is_no_damage() {
    let place = local().await;
    let store = place.store().await;
    journal_write(&store).await;
    for sequence in 1..4 {
        let path = format!("objects/j/00000002/{sequence:016x}");
        std::fs::remove_file(place.dir.path().join(path)).unwrap();
    }
    assert_eq!(verify(&store, true).await, []);
}

/// Headers that are lost alone are no disk that is not mounted: the journal is there.
#[tokio::test(flavor = "multi_thread")]
async fn lost_headers_hide_no_damage_and_are_told_with_it() {
    let case = case().await;
    journal_write(&case.store).await;
    let headers = case.place.dir.path().join("objects/h");
    std::fs::remove_dir_all(&headers).unwrap();
    flip(&case.packs[1], 64 + 16 + 1000);
    let error = read(&case.store, "two", 1 << 20, 65536).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    let found = verify(&case.store, true).await;
    assert!(found.iter().any(|one| one.owner == "two"), "{found:?}");
    assert!(found.iter().any(|one| one.owner == "h/"), "{found:?}");
    // Who has the store open still knows them. Another store's are none of it.
    assert!(case.store.headers_mend().await.unwrap());
    assert_eq!(header_keys(&case.place).await.len(), 2);
    assert_eq!(case.place.store().await.id(), case.store.id());
    let other = local().await;
    other.store().await;
    std::fs::remove_dir_all(&headers).unwrap();
    std::fs::rename(other.dir.path().join("objects/h"), &headers).unwrap();
    assert!(case.store.headers_mend().await.is_err());
    assert_eq!(
        case.store.there_check().await.unwrap_err().kind(),
        Kind::StoreAway
    );
    std::fs::remove_dir_all(&headers).unwrap();
    // With the journal away as well nothing is there that damage could be told of.
    std::fs::remove_dir_all(case.place.dir.path().join("objects/j")).unwrap();
    let refused = case.store.verify(true, &VerifyProgress::default()).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::StoreAway);
    assert!(case.store.headers_mend().await.is_err());
}
