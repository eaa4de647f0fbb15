//! Copies: what is at the destination is never made worse by what is at the source.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{FutureExt as _, TryStreamExt as _};
use store::{
    Backend, Copied, CopyOptions, CopyProgress, Fault, Faulty, KeyKind, Kind, Listed, Options, Result,
    Settings, Store, WrappingKey, backend_open,
};

use crate::damage::journal_write;
use crate::meanwhile::Meanwhile;
use crate::support::{Place, files_below, import, local, noise};

pub(crate) fn folder(path: &Path) -> Arc<dyn Backend> {
    backend_open(path.to_str().unwrap(), &Settings::new()).unwrap()
}

pub(crate) async fn copy(from: &Path, to: &Path) -> Result<Copied> {
    let options = CopyOptions::default();
    store::copy(&folder(from), &*folder(to), &options, &CopyProgress::default()).await
}

/// A store with one disk, and where its copy is to be.
pub(crate) async fn made() -> (Place, PathBuf, PathBuf) {
    let place = local().await;
    let store = place.store().await;
    import(&store, &place.db, "one", &noise(3, 3 << 20)).await;
    let (from, to) = (place.dir.path().join("objects"), place.dir.path().join("copy"));
    (place, from, to)
}

fn pack(of: &Path) -> PathBuf {
    let folder = std::fs::read_dir(of.join("p")).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

#[tokio::test]
async fn a_cut_or_damaged_source_replaces_nothing() {
    let (_place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    let (source, target) = (pack(&from), pack(&to));
    let whole = std::fs::read(&target).unwrap();
    for length in [whole.len() / 2, 0] {
        std::fs::write(&source, &whole[..length]).unwrap();
        let copied = copy(&from, &to).await.unwrap();
        assert_eq!((copied.objects, copied.damaged.len()), (0, 1), "{copied:?}");
        assert!(copied.damaged[0].contains("keeps what it has"), "{copied:?}");
        assert!(std::fs::read(&target).unwrap() == whole, "at {length}");
    }
    // Longer than what is there, and damaged.
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    std::fs::write(&source, &damaged).unwrap();
    std::fs::write(&target, &whole[..1000]).unwrap();
    let copied = copy(&from, &to).await.unwrap();
    assert!(copied.damaged[0].contains("keeps what it has"), "{copied:?}");
    assert_eq!(std::fs::read(&target).unwrap().len(), 1000);
    // What was cut off on its way is completed.
    std::fs::write(&source, &whole).unwrap();
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.objects, copied.damaged.len()), (1, 0), "{copied:?}");
    assert!(std::fs::read(&target).unwrap() == whole);
}

#[tokio::test]
async fn a_copy_that_went_on_by_itself_is_no_destination() {
    let (_place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    std::fs::create_dir_all(to.join("j/00000001")).unwrap();
    std::fs::write(to.join("j/00000001/0000000000000007"), "newer").unwrap();
    let refused = copy(&from, &to).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Exists);
    assert!(refused.to_string().contains("images were changed"), "{refused}");
    std::fs::remove_dir_all(to.join("j")).unwrap();
    std::fs::copy(to.join("h/00000000"), to.join("h/00000009")).unwrap();
    let refused = copy(&from, &to).await.unwrap_err();
    assert!(refused.to_string().contains("keys were changed"), "{refused}");
}

#[tokio::test]
async fn what_is_left_of_a_store_is_no_place_for_a_new_one() {
    let (place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    std::fs::remove_dir_all(to.join("h")).unwrap();
    let fresh = local().await;
    let refused = Store::open_or_init(folder(&to), &fresh.db, fresh.options())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Exists);
    assert!(refused.to_string().contains("Finish the copy"), "{refused}");
    assert!(!to.join("h").exists(), "nothing was written");
    let known = Store::open_or_init(folder(&to), &place.db, place.options())
        .await
        .unwrap_err();
    assert!(known.to_string().contains("being copied"), "{known}");
    // And the copy can be finished.
    copy(&from, &to).await.unwrap();
    Store::open(folder(&to), &place.db, place.options())
        .await
        .unwrap();
}

pub(crate) async fn copy_read_back(from: &Path, to: &Path) -> Copied {
    let options = CopyOptions {
        read_back: true,
        ..CopyOptions::default()
    };
    store::copy(&folder(from), &*folder(to), &options, &CopyProgress::default())
        .await
        .unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn reading_back_finds_and_replaces_what_was_damaged_there() {
    let (_place, from, to) = made().await;
    let first = copy_read_back(&from, &to).await;
    assert_eq!((first.replaced, first.damaged.len()), (0, 0), "{first:?}");
    let objects = first.objects;
    // Of the same size as it should be: a pack, a header.
    let header = to.join("h/00000000");
    for path in [pack(&to), header.clone()] {
        flip(&path, 100);
        let trusted = copy(&from, &to).await.unwrap();
        assert_eq!((trusted.objects, trusted.present), (0, objects), "trusted unread");
        let copied = copy_read_back(&from, &to).await;
        assert_eq!((copied.objects, copied.replaced), (1, 1), "{copied:?}");
        assert_eq!((copied.present, copied.damaged.len()), (objects - 1, 0));
        let source = from.join(path.strip_prefix(&to).unwrap());
        assert!(std::fs::read(&path).unwrap() == std::fs::read(source).unwrap());
    }
    assert_eq!(copy_read_back(&from, &to).await.present, objects);
}

#[tokio::test]
async fn reading_back_replaces_nothing_by_what_is_damaged_at_the_source() {
    let (_place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    let whole = std::fs::read(pack(&to)).unwrap();
    flip(&pack(&from), 100);
    let copied = copy_read_back(&from, &to).await;
    assert_eq!((copied.objects, copied.damaged.len()), (0, 1), "{copied:?}");
    assert!(
        copied.damaged[0].contains("the copy keeps what it has"),
        "{copied:?}"
    );
    assert!(std::fs::read(pack(&to)).unwrap() == whole);
    // Alike, and damaged: that is told too.
    flip(&pack(&to), 100);
    let copied = copy_read_back(&from, &to).await;
    assert!(copied.damaged[0].contains("so is the copy's"), "{copied:?}");
    // Nothing tells which of two whole objects is right.
    flip(&pack(&to), 100);
    for place in [&from, &to] {
        std::fs::create_dir_all(place.join("b/ab")).unwrap();
        let object = place.join("b/ab/abcdef00-0000-4000-8000-000000000000");
        std::fs::write(object, place.as_os_str().as_encoded_bytes()[..4].repeat(9)).unwrap();
    }
    let object = to.join("b/ab/abcdef00-0000-4000-8000-000000000000");
    flip(&object, 7);
    let before = std::fs::read(&object).unwrap();
    let copied = copy_read_back(&from, &to).await;
    assert!(
        copied.damaged.iter().any(|one| one.contains("does not tell")),
        "{copied:?}"
    );
    assert!(std::fs::read(&object).unwrap() == before);
}

/// A copy that is made each night tells of it each night, and not the first time alone.
#[tokio::test]
async fn what_was_copied_damaged_is_told_each_time_until_it_is_whole() {
    let (_place, from, to) = made().await;
    let whole = std::fs::read(pack(&from)).unwrap();
    flip(&pack(&from), 100);
    for time in 0..3 {
        let copied = copy(&from, &to).await.unwrap();
        assert_eq!(copied.damaged.len(), 1, "{time}: {copied:?}");
    }
    std::fs::write(pack(&from), &whole).unwrap();
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.replaced, copied.damaged.len()), (1, 0), "{copied:?}");
    assert!(std::fs::read(pack(&to)).unwrap() == whole);
    // From then on it is trusted as all else is.
    flip(&pack(&to), 100);
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.replaced, copied.damaged.len()), (0, 0), "{copied:?}");
    assert!(files_below(&to.join("damaged")).is_empty());
    // What is gone at the source was freed or lost there: it is told of until the copy has it whole, or not at all.
    let (source, aside) = (pack(&from), from.join("aside"));
    for end in ["is there again", "is removed"] {
        flip(&source, 100);
        assert_eq!(copy_read_back(&from, &to).await.damaged.len(), 1);
        std::fs::rename(&source, &aside).unwrap();
        for _ in 0..2 {
            let copied = copy(&from, &to).await.unwrap();
            assert_eq!((copied.damaged.len(), copied.extra), (1, 1), "{copied:?}");
            assert!(
                copied.damaged[0].contains("does not have it any more"),
                "{copied:?}"
            );
        }
        std::fs::rename(&aside, &source).unwrap();
        flip(&source, 100);
        if end == "is removed" {
            std::fs::remove_file(pack(&to)).unwrap();
        }
        let copied = copy(&from, &to).await.unwrap();
        assert_eq!(
            (copied.damaged.len(), copied.objects),
            (0, 1),
            "{end}: {copied:?}"
        );
        assert!(files_below(&to.join("damaged")).is_empty(), "{end}");
        flip(&pack(&to), 100);
    }
    // What the copy has whole is no longer told of.
    assert_eq!(copy_read_back(&from, &to).await.replaced, 1);
    flip(&source, 100);
    assert_eq!(copy_read_back(&from, &to).await.damaged.len(), 1);
    std::fs::remove_file(&source).unwrap();
    let copied = copy(&from, &to).await.unwrap();
    assert_eq!((copied.damaged.len(), copied.extra), (0, 1), "{copied:?}");
    assert!(files_below(&to.join("damaged")).is_empty());
}

/// Of a whole object nothing tells what it should be, but that it was in doubt when the source was copied.
#[tokio::test]
async fn a_copy_of_a_copy_tells_what_is_in_doubt_there() {
    let (_place, from, to) = made().await;
    let key = "b/0a/0a000000-0000-4000-8000-00000000000a";
    for (key, bytes) in [(key, "content"), (&format!("damaged/{key}"), "")] {
        let path = from.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let third = to.with_extension("third");
    for (from, to) in [(&from, &to), (&from, &to), (&to, &third), (&to, &third)] {
        let copied = copy(from, to).await.unwrap();
        assert_eq!(copied.damaged.len(), 1, "{copied:?}");
        assert!(copied.damaged[0].starts_with(key), "{copied:?}");
        assert!(to.join("damaged").join(key).exists());
    }
    std::fs::remove_file(from.join("damaged").join(key)).unwrap();
    for (from, to) in [(&from, &to), (&to, &third)] {
        assert_eq!(copy(from, to).await.unwrap().damaged.len(), 0);
        assert!(!to.join("damaged").join(key).exists());
    }
}

/// What a recovery would miss of the journal is told, although every object that is there was copied.
#[tokio::test]
async fn a_hole_in_the_journal_of_the_source_is_told() {
    let (place, from, to) = made().await;
    journal_write(&place.store().await).await;
    assert_eq!(copy(&from, &to).await.unwrap().journal, 8);
    let missing = "j/00000002/0000000000000002";
    std::fs::remove_file(from.join(missing)).unwrap();
    for _ in 0..2 {
        let copied = copy(&from, &to).await.unwrap();
        assert_eq!(copied.damaged.len(), 1, "{copied:?}");
        assert!(copied.damaged[0].starts_with(missing), "{copied:?}");
    }
}

/// Bytes that were added make neither side the whole one.
#[tokio::test]
async fn the_whole_one_wins_and_not_the_longer_one() {
    let (_place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    let (source, target) = (pack(&from), pack(&to));
    let whole = std::fs::read(&source).unwrap();
    let lengthened = [&whole[..], &[0]].concat();
    let far_longer = [&whole[..], &vec![0; 17 << 20]].concat();
    for read_back in [false, true] {
        for longer in [&lengthened, &far_longer] {
            let run = async || {
                if read_back {
                    copy_read_back(&from, &to).await
                } else {
                    copy(&from, &to).await.unwrap()
                }
            };
            std::fs::write(&target, longer).unwrap();
            let copied = run().await;
            assert_eq!((copied.replaced, copied.damaged.len()), (1, 0), "{copied:?}");
            assert!(std::fs::read(&target).unwrap() == whole);
            std::fs::write(&source, longer).unwrap();
            let copied = run().await;
            assert_eq!((copied.objects, copied.damaged.len()), (0, 1), "{copied:?}");
            assert!(!copied.damaged[0].contains("cut short"), "{copied:?}");
            assert!(std::fs::read(&target).unwrap() == whole);
            std::fs::write(&source, &whole).unwrap();
        }
    }
}

/// A destination that refuses what would replace a damaged object keeps what it has.
#[tokio::test]
async fn whatever_call_fails_what_was_there_is_there() {
    let (_place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    let (source, target) = (pack(&from), pack(&to));
    let whole = std::fs::read(&source).unwrap();
    flip(&target, 100);
    let damaged = std::fs::read(&target).unwrap();
    let options = CopyOptions {
        read_back: true,
        ..CopyOptions::default()
    };
    let device = Faulty::new(folder(&to), Fault::NoSpace, 0);
    let mut told = 0;
    for call in 1.. {
        std::fs::write(&target, &damaged).unwrap();
        device.rearm(call);
        let done = store::copy(&folder(&from), &device, &options, &CopyProgress::default()).await;
        let now = std::fs::read(&target).unwrap_or_default();
        assert!(now == damaged || now == whole, "at call {call}");
        if device.calls() < call {
            assert_eq!(done.unwrap().replaced, 1);
            break;
        }
        let error = done.expect_err("a call failed").to_string();
        // From the moment that it was found damaged it is not trusted any more, or that is said.
        let is_told = error.contains("is damaged");
        if is_told && !error.contains("--read-back") {
            told += 1;
            std::fs::write(&target, &damaged).unwrap();
            assert_eq!(
                copy(&from, &to).await.unwrap().replaced,
                1,
                "at call {call}: {error}"
            );
        }
    }
    assert!(told > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_store_at_work_has_what_its_journal_tells_of() {
    let (place, from, to) = made().await;
    let before = copy(&from, &to).await.unwrap();
    // After its packs have been listed, and before its journal is.
    let (store, db) = (place.store().await, place.db.clone());
    let late = async move {
        import(&store, &db, "late", &noise(4, 3 << 20)).await;
    };
    let busy: Arc<dyn Backend> = Meanwhile::new(&folder(&from), "list b/", late.boxed());
    let copied = store::copy(
        &busy,
        &*folder(&to),
        &CopyOptions::default(),
        &CopyProgress::default(),
    )
    .await;
    let copied = copied.unwrap();
    assert!(copied.objects > 0, "what was written meanwhile");
    assert_eq!(copied.present, before.objects, "each is counted once");
    let packs = async |of: &Path| -> Vec<Listed> { folder(of).list("p/").try_collect().await.unwrap() };
    let (mut source, mut there) = (packs(&from).await, packs(&to).await);
    source.sort_by(|one, other| one.key.cmp(&other.key));
    there.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(source.len(), there.len());
    assert!(source.iter().zip(&there).all(|(one, other)| one.key == other.key));
}

/// A pack that lies nowhere where a listing passes: gc moves what is in it before it comes there, and behind it. Gc has
/// written to the journal then.
#[tokio::test(flavor = "multi_thread")]
async fn what_gc_moves_past_the_listing_of_a_copy_is_looked_for_again() {
    let (place, from, to) = made().await;
    let store = place.store().await;
    journal_write(&store).await;
    let before: HashSet<PathBuf> = files_below(&from.join("p")).into_iter().collect();
    import(&store, &place.db, "late", &noise(4, 3 << 20)).await;
    let late: Vec<PathBuf> = files_below(&from.join("p"));
    let late: Vec<PathBuf> = late.into_iter().filter(|pack| !before.contains(pack)).collect();
    let aside = place.dir.path().join("aside");
    let (newest, told) = (from.join("j/00000002"), place.dir.path().join("told"));
    std::fs::create_dir(&aside).unwrap();
    std::fs::rename(&newest, &told).unwrap();
    let moves = |pairs: Vec<(PathBuf, PathBuf)>| {
        async move {
            for (from, to) in pairs {
                std::fs::rename(from, to).unwrap();
            }
        }
        .boxed()
    };
    let at = |pack: &PathBuf| aside.join(pack.file_name().unwrap());
    let away: Vec<_> = late.iter().map(|pack| (pack.clone(), at(pack))).collect();
    let mut back: Vec<_> = late.iter().map(|pack| (at(pack), pack.clone())).collect();
    back.push((told.clone(), newest.clone()));
    // Written after the first listing.
    moves(away.clone()).await;
    let come: Vec<_> = away
        .iter()
        .map(|(one, other)| (other.clone(), one.clone()))
        .collect();
    let written: Arc<dyn Backend> = Meanwhile::new(&folder(&from), "list j/", moves(come));
    let gone: Arc<dyn Backend> = Meanwhile::nth(&written, ("list p/", 2), moves(away));
    let busy: Arc<dyn Backend> = Meanwhile::nth(&gone, ("list b/", 2), moves(back));
    let (options, progress) = (CopyOptions::default(), CopyProgress::default());
    let copied = store::copy(&busy, &*folder(&to), &options, &progress)
        .await
        .unwrap();
    assert!(!copied.unsettled);
    for pack in late {
        let copy = to.join(pack.strip_prefix(&from).unwrap());
        assert!(copy.exists(), "{copy:?}");
    }
    assert!(to.join("j/00000002").exists());
}

/// What is damaged of headers and journal is told when it is copied, and what no recovery reads any more is a note.
#[tokio::test]
async fn damaged_headers_and_journal_objects_are_told_and_superseded_ones_are_a_note() {
    let (place, from, to) = made().await;
    let store = place.store().await;
    journal_write(&store).await;
    let (newer, aside) = (from.join("j/00000002"), place.dir.path().join("newer"));
    std::fs::rename(&newer, &aside).unwrap();
    flip(&from.join("j/00000001/0000000000000001"), 100);
    flip(&from.join("h/00000001"), 100);
    for read_back in [false, true] {
        let to = to.join(read_back.to_string());
        let options = CopyOptions {
            read_back,
            ..CopyOptions::default()
        };
        for _ in 0..2 {
            let progress = CopyProgress::default();
            let copied = store::copy(&folder(&from), &*folder(&to), &options, &progress)
                .await
                .unwrap();
            if copied.objects == 0 && !read_back {
                continue;
            }
            assert!(
                copied.damaged[0].starts_with("j/00000001/0000000000000001: "),
                "{copied:?}"
            );
            assert!(copied.damaged[1].starts_with("h/00000001: "), "{copied:?}");
            assert_eq!(
                (copied.damaged.len(), copied.superseded.len()),
                (2, 0),
                "{copied:?}"
            );
        }
    }
    // A generation that is not whole supersedes nothing.
    std::fs::rename(&aside, &newer).unwrap();
    let newest = newer.join("0000000000000000");
    flip(&newest, 100);
    assert_eq!(copy_read_back(&from, &to.join("one")).await.damaged.len(), 3);
    flip(&newest, 100);
    for _ in 0..2 {
        let copied = copy_read_back(&from, &to.join("two")).await;
        assert_eq!(
            (copied.damaged.len(), copied.superseded.len()),
            (1, 1),
            "{copied:?}"
        );
        assert!(
            copied.superseded[0].starts_with("j/00000001/0000000000000001: "),
            "{copied:?}"
        );
    }
}

/// A disk that goes away shows empty folders: nothing to copy, and no header that would have to be kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_goes_away_costs_the_copy_nothing() {
    for (at, number) in [
        ("list p/", 1),
        ("list b/", 2),
        ("list j/", 2),
        ("list h/", 3),
        ("list h/", 4),
    ] {
        let (place, from, to) = made().await;
        copy(&from, &to).await.unwrap();
        let before = files_below(&to);
        import(&place.store().await, &place.db, "late", &noise(4, 3 << 20)).await;
        let (source, aside) = (from.clone(), place.dir.path().join("aside"));
        let unmount = async move {
            std::fs::rename(&source, &aside).unwrap();
            std::fs::create_dir(&source).unwrap();
        };
        let source: Arc<dyn Backend> = Meanwhile::nth(&folder(&from), (at, number), unmount.boxed());
        let (options, progress) = (CopyOptions::default(), CopyProgress::default());
        let error = store::copy(&source, &*folder(&to), &options, &progress).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::StoreAway | Kind::Unavailable),
            "{at}, {number}: {error}"
        );
        let after = files_below(&to);
        assert!(before.iter().all(|file| after.contains(file)), "{at}, {number}");
        Store::open(folder(&to), &place.db, place.options())
            .await
            .unwrap();
    }
}

/// For a moment, in which the headers are listed: none of them must be missed at the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_blinks_costs_the_copy_no_header() {
    let (place, from, to) = made().await;
    copy(&from, &to).await.unwrap();
    let aside = place.dir.path().join("aside");
    let moved = |from: PathBuf, to: PathBuf| async move { std::fs::rename(from, to).unwrap() }.boxed();
    let away = Meanwhile::nth(&folder(&from), ("list h/", 7), moved(from.clone(), aside.clone()));
    let away: Arc<dyn Backend> = away;
    let blinking = Meanwhile::nth(&away, ("list h/", 9), moved(aside, from.clone()));
    let source: Arc<dyn Backend> = blinking.clone();
    let (options, progress) = (CopyOptions::default(), CopyProgress::default());
    store::copy(&source, &*folder(&to), &options, &progress)
        .await
        .unwrap();
    assert!(blinking.is_done());
    assert_eq!(files_below(&to.join("h")).len(), 2);
}

/// Between any two of its calls: the copy has the headers of before or of after, and never none.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_changed_meanwhile_leave_the_copy_its_headers() {
    let key = |seed| WrappingKey::new(KeyKind::KeyFile, &[seed; 44]).unwrap();
    for number in 1.. {
        let place = local().await;
        let with = |seed| Options {
            encrypt: true,
            key: Some(key(seed)),
            ..place.options()
        };
        let store = Store::init(Arc::clone(&place.backend), &place.db, with(1))
            .await
            .unwrap();
        let (from, to) = (place.dir.path().join("objects"), place.dir.path().join("copy"));
        let change = async move { drop(store.key_add(&key(2)).await.unwrap()) };
        let changed = Meanwhile::nth(&folder(&from), ("list h/", number), change.boxed());
        let source: Arc<dyn Backend> = changed.clone();
        let options = CopyOptions {
            key: Some(key(1)),
            ..CopyOptions::default()
        };
        store::copy(&source, &*folder(&to), &options, &CopyProgress::default())
            .await
            .unwrap();
        assert_eq!(files_below(&to.join("h")).len(), 2, "at listing {number}");
        let opened = Store::open(folder(&to), &place.db, with(1)).await;
        assert!(opened.is_ok(), "at listing {number}");
        if !changed.is_done() {
            assert!(number > 4, "{number}");
            return;
        }
    }
}

#[tokio::test]
async fn several_copies_to_one_place_get_in_nobodys_way() {
    let (place, from, to) = made().await;
    let store = place.store().await;
    for seed in 10..14 {
        import(&store, &place.db, &seed.to_string(), &noise(seed, 1 << 20)).await;
    }
    let at_once = (0..4).map(|_| copy(&from, &to));
    for copied in futures::future::join_all(at_once).await {
        let copied = copied.unwrap();
        assert!(copied.damaged.is_empty(), "{copied:?}");
    }
    let again = copy(&from, &to).await.unwrap();
    assert_eq!(again.objects, 0, "{again:?}");
}
