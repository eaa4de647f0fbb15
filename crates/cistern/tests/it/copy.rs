//! A store moved from a folder into a bucket and back, with everything in it.

use std::path::Path;

use serde_json::Value;

use crate::harness::disks;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{cistern, document, reason, run, run_ok, stdout};
use crate::harness::server::{Server, Setup};
use crate::harness::world::{Place, place_if_there};
use crate::harness::{files_below, largest_spoil};

/// `cistern store copy`, with the keys to the bucket.
fn copied(server: &Server, place: &Place, from: &str, to: &str, more: &[&str]) -> Value {
    let mut words = vec!["store", "copy"];
    words.extend(more);
    words.extend([from, to]);
    let mut copy = cistern();
    copy.args(words).arg("--data").arg(server.data());
    for (name, value) in &place.env {
        copy.env(name, value);
    }
    document(&mut copy)["copy"].take()
}

#[tokio::test]
async fn a_service_moves_into_a_bucket_and_back_and_loses_nothing() {
    let Some(bucket) = place_if_there("sqlite+s3") else {
        return;
    };
    let url = bucket.objects.clone().expect("a bucket");
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    let api = server.api();
    let (one, two) = (disks::raw(8, 1), disks::raw(24, 2));
    imported(&api, "one", &files.put("one.img", one.clone())).await;
    let folder = server.objects().display().to_string();
    // While it runs: what comes later is copied later.
    let first = copied(&server, &bucket, &folder, &url, &[]);
    assert!(
        first["objects"].as_u64() >= Some(2) && first["present"] == 0,
        "{first}"
    );
    imported(&api, "two", &files.put("two.img", two.clone())).await;
    assert_eq!(server.terminate().code(), Some(0));
    let second = copied(&server, &bucket, &folder, &url, &["--read-back"]);
    assert!(
        second["objects"].as_u64() >= Some(1) && second["present"].as_u64() >= first["objects"].as_u64(),
        "{second}"
    );
    let third = copied(&server, &bucket, &folder, &url, &[]);
    assert_eq!(third["objects"], 0, "nothing is left to do: {third}");

    // It goes on in the bucket, without the folder.
    std::fs::remove_dir_all(&folder).expect("removes it");
    let mut moved = Setup::default().at(bucket.clone()).data(server.data()).stopped();
    moved.start_again();
    let api = moved.api_with(&[]);
    assert!(downloaded(&api, 1, "raw").await == one && downloaded(&api, 2, "raw").await == two);
    let three = disks::raw(6, 3);
    imported(&api, "three", &files.put("three.img", three.clone())).await;
    drop(moved);

    // And back, into a folder of another name.
    let back = format!("{folder}-again");
    copied(&server, &bucket, &url, &back, &[]);
    assert!(files_below(Path::new(&back)).len() > 3);
    let place = Place {
        objects: Some(back),
        ..Place::default()
    };
    let mut home = Setup::default().at(place).data(server.data()).stopped();
    home.start_again();
    let api = home.api_with(&[]);
    for (id, disk) in [(1, &one), (2, &two), (3, &three)] {
        assert!(downloaded(&api, id, "raw").await == *disk, "image {id}");
    }
}

/// What would look like a copy, or like a look at one, and is none.
#[tokio::test]
async fn what_is_no_copy_is_refused() {
    let server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("one.img", disks::raw(2, 1))).await;
    let (data, store) = (server.data(), server.objects());
    let link = data.join("link");
    std::os::unix::fs::symlink(&store, &link).expect("links");
    let refused = |words: &[&str], said: &str| {
        let mut command = cistern();
        let told = reason(&run(command.args(words)));
        assert!(told.contains(said), "{words:?}: {told}");
    };
    let [store, link, data] = [store, link, data].map(|path| path.display().to_string());
    let [dotted, inside] = [format!("{store}/../store/"), format!("{store}/sub/copy")];
    for (to, said) in [
        (&store, "is the store itself"),
        (&link, "is the store itself"),
        (&dotted, "is the store itself"),
        (&inside, "lie one in the other"),
        (&data, "lie one in the other"),
    ] {
        refused(&["store", "copy", &store, to], said);
    }
    assert!(!Path::new(&store).join("sub").exists());
    refused(&["store", "heal", &store, "--data", &data], "is the store itself");
    let copy = format!("{data}/../copy");
    refused(&["store", "copy", &data, &copy], "holds no store");

    // A copy that is looked at by what leads elsewhere.
    run_ok(cistern().args(["store", "copy", &store, &copy]));
    for words in [
        &["store", "verify", "--objects", &copy][..],
        &["store", "stats", "--objects", &copy],
        &["gc", "--dry-run", "--objects", &copy],
        &["jobs", "--objects", &copy],
    ] {
        let told = run(&mut server.remote(words));
        assert_eq!(told.status.code(), Some(2), "{words:?}");
        assert!(reason(&told).contains("--objects is for work on the data folder"));
    }
    for words in [
        &["serve", "--data", &copy][..],
        &["store", "verify", "--data", &copy],
        &["recover", "--data", &copy],
    ] {
        refused(words, "is a store itself");
    }
    assert!(!Path::new(&copy).join("cistern.sqlite").exists());
}

#[tokio::test]
async fn another_store_is_not_written_into_and_damage_is_told() {
    let (mut one, two) = (
        Setup::default().at(Place::default()).start(),
        Setup::default().at(Place::default()).start(),
    );
    let files = Files::start().await;
    imported(&one.api(), "one", &files.put("one.img", disks::raw(8, 1))).await;
    let [from, to] = [&one, &two].map(|server| server.objects().display().to_string());
    let refused = run(&mut one.local(&["store", "copy", &from, &to]));
    assert!(reason(&refused).contains("another store"), "{refused:?}");
    let nowhere = run(&mut one.local(&["store", "copy", "/nonexistent", &to]));
    assert!(reason(&nowhere).contains("there is no folder"), "{nowhere:?}");
    // From here on nothing is written that the copy would not find.
    assert_eq!(one.terminate().code(), Some(0));
    let pack = files_below(&one.objects().join("p"))
        .into_iter()
        .max_by_key(|path| path.metadata().expect("is there").len())
        .expect("a pack");
    let mut bytes = std::fs::read(&pack).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).expect("writes");
    let target = one.data().join("copy").display().to_string();
    let told = run(&mut one.local(&["store", "copy", &from, &target]));
    assert_eq!(told.status.code(), Some(1));
    let name = pack.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(reason(&told).contains(&name), "{told:?}");
    let noted = files_below(&Path::new(&target).join("damaged"));
    assert_eq!(noted.len(), 1, "what is damaged is noted: {noted:?}");
    assert_eq!(
        files_below(Path::new(&target)).len(),
        files_below(&one.objects()).len() + noted.len(),
        "all of it is there"
    );
}

#[tokio::test]
async fn what_is_damaged_comes_back_from_an_older_copy_while_the_server_runs() {
    let server = Setup::default().at(Place::default()).start();
    let (files, api) = (Files::start().await, server.api());
    let old = disks::raw(24, 1);
    imported(&api, "old", &files.put("old.img", old.clone())).await;
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let words = [&live, &copy].map(|path| path.display().to_string());
    run_ok(&mut server.local(&["store", "copy", &words[0], &words[1]]));
    imported(&api, "new", &files.put("new.img", disks::raw(4, 2))).await;

    largest_spoil(&live);
    let verify = ["store", "verify", "--read-data"];
    let told = run(&mut server.local(&verify));
    assert!(reason(&told).contains("cistern store heal"), "{told:?}");
    // A copy in the other direction would put back what was.
    let refused = run(&mut server.local(&["store", "copy", "--read-back", &words[1], &words[0]]));
    assert!(reason(&refused).contains("cistern store heal"), "{refused:?}");
    let healed = document(&mut server.local(&["store", "heal", &words[1]]));
    assert_eq!(healed["heal"]["objects"], 1, "{healed}");
    let healed = ["events", "--what", "store.heal"];
    let told = document(&mut server.local(&healed));
    assert_eq!(told["events"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["events"][0]["detail"]["objects"], 1, "{told}");
    run_ok(&mut server.local(&verify));
    assert!(downloaded(&server.api(), 1, "raw").await == old);

    // What came after the copy is not in it.
    let copied = files_below(&copy.join("p")).len();
    let newest = files_below(&live.join("p")).into_iter().find(|pack| {
        let below = pack.strip_prefix(&live).expect("is below");
        !copy.join(below).exists()
    });
    std::fs::remove_file(newest.expect("one that is not in the copy")).expect("removes it");
    let told = run(&mut server.local(&["store", "heal", &words[1]]));
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(reason(&told).contains("the copy does not have it"), "{told:?}");
    assert_eq!(files_below(&copy.join("p")).len(), copied);

    let other = Setup::default().at(Place::default()).start();
    let place = other.objects().display().to_string();
    let told = run(&mut server.local(&["store", "heal", &place]));
    assert!(reason(&told).contains("is a copy of another store"), "{told:?}");
    let told = run(&mut server.local(&["store", "heal", "/nonexistent"]));
    assert!(reason(&told).contains("there is no folder"), "{told:?}");
}

#[tokio::test]
async fn what_gc_wrote_anew_since_comes_back_from_an_older_copy() {
    let mut server = Setup::default().at(Place::default()).start();
    let (files, api) = (Files::start().await, server.api());
    // The second shares with the first all but its partition table.
    let (garbage, kept) = (disks::raw(48, 1), disks::raw(8, 1));
    imported(&api, "garbage", &files.put("garbage.img", garbage)).await;
    imported(&api, "kept", &files.put("kept.img", kept.clone())).await;
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let words = [&live, &copy].map(|path| path.display().to_string());
    run_ok(&mut server.local(&["store", "copy", &words[0], &words[1]]));
    let deleted = api.delete("/v2/images/1?purge=true").await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    assert_eq!(server.terminate().code(), Some(0));

    let report = document(&mut server.local(&["gc", "--now"]));
    assert!(report["gc"]["repacked"].as_u64() >= Some(1), "{report}");
    let mut anew = files_below(&live.join("p"));
    anew.retain(|pack| !copy.join(pack.strip_prefix(&live).expect("is below")).exists());
    assert!(!anew.is_empty());
    for pack in &anew {
        std::fs::remove_file(pack).expect("removes it");
    }
    let verify = ["store", "verify", "--read-data"];
    assert_eq!(run(&mut server.local(&verify)).status.code(), Some(1));
    let healed = document(&mut server.local(&["store", "heal", &words[1]]));
    let healed = &healed["heal"];
    assert!(healed["chunks"].as_u64() > Some(30), "{healed}");
    assert_eq!(
        (&healed["left"], &healed["lost"]),
        (&0.into(), &0.into()),
        "{healed}"
    );
    let told = run_ok(&mut server.local(&["store", "heal", &words[1]]));
    assert!(told.contains("Nothing that an image needs is damaged"), "{told}");
    run_ok(&mut server.local(&["gc", "--now"]));
    run_ok(&mut server.local(&verify));
    server.start_again();
    assert!(downloaded(&server.api(), 2, "raw").await == kept);
}

/// The journal mends itself by a new generation; what was damaged before is no reason to fail then.
#[tokio::test]
async fn a_damaged_journal_object_is_told_until_a_newer_generation_is_whole() {
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("one.img", disks::raw(4, 1))).await;
    assert_eq!(server.terminate().code(), Some(0));
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let words = [&live, &copy].map(|path| path.display().to_string());
    let mut journal = files_below(&live.join("j"));
    journal.sort();
    let newest = journal.last().expect("an object of the journal").clone();
    let mut bytes = std::fs::read(&newest).expect("reads");
    bytes[200..202].fill(0xa5);
    std::fs::write(&newest, bytes).expect("writes");
    let key = newest
        .strip_prefix(&live)
        .expect("is below")
        .display()
        .to_string();
    for read_back in [&[][..], &["--read-back"]] {
        let words = [&["store", "copy"], read_back, &[&words[0], &words[1]]].concat();
        let told = run(&mut server.local(&words));
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        let said = reason(&told);
        assert!(
            said.contains(&key) && said.contains("a server of it writes anew"),
            "{said}"
        );
        assert!(!said.contains("names the images"), "{said}");
    }

    server.start_again();
    // The start mends it, or this, which finds it or not.
    run(&mut server.remote(&["store", "verify", "--read-data"]));
    assert_eq!(server.terminate().code(), Some(0));
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
    for place in [words[1].clone(), format!("{}-anew", words[1]), words[1].clone()] {
        let copied = document(&mut server.local(&["store", "copy", "--read-back", &words[0], &place]));
        assert_eq!(copied["copy"]["damaged"], serde_json::json!([]), "{copied}");
        // It goes when yet another generation begins.
        let expected = usize::from(newest.exists());
        let superseded = copied["copy"]["superseded"].as_array().expect("a list").clone();
        assert_eq!(superseded.len(), expected, "{copied}");
    }
}

/// The kernel's own EIO: a restore from what could be copied has every other image, and says what is missing.
#[tokio::test]
async fn a_disk_that_begins_to_fail_is_copied_and_restored_but_for_what_it_cannot_read() {
    let mut server = Setup::default().at(Place::default()).start();
    let (files, api) = (Files::start().await, server.api());
    imported(&api, "lost", &files.put("lost.img", disks::raw(8, 1))).await;
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let lost = files_below(&live.join("p"));
    let kept = disks::raw(8, 2);
    imported(&api, "kept", &files.put("kept.img", kept.clone())).await;
    assert_eq!(server.terminate().code(), Some(0));
    for pack in &lost {
        std::fs::remove_file(pack).expect("removes it");
        std::os::unix::fs::symlink("/proc/self/mem", pack).expect("links");
    }
    let words = [&live, &copy].map(|path| path.display().to_string());
    for _ in 0..2 {
        let told = run(&mut server.local(&["store", "copy", &words[0], &words[1]]));
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        let said = reason(&told);
        for pack in &lost {
            let key = pack.strip_prefix(&live).expect("is below").display().to_string();
            assert!(
                said.contains(&format!("{key}: it cannot be read (Input/output error")),
                "{said}"
            );
        }
        assert!(
            said.contains("names the images") && said.contains("cistern store heal"),
            "{said}"
        );
    }
    assert_eq!(
        files_below(&copy.join("j")).len(),
        files_below(&live.join("j")).len()
    );

    let mut home = Setup::default().at(Place::default()).stopped();
    let restored = home.objects().display().to_string();
    run_ok(&mut home.local(&["store", "copy", &words[1], &restored]));
    let recovered = run(&mut home.local(&["recover"]));
    assert_eq!(recovered.status.code(), Some(1), "{recovered:?}");
    let verified = run(&mut home.local(&["store", "verify"]));
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let said = stdout(&verified) + &String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains("image 1") && !said.contains("image 2"), "{said}");
    home.start_again();
    assert!(downloaded(&home.api_with(&[]), 2, "raw").await == kept);
}

/// However small the store is: two headers and a pack are as many objects as the headers of a new one may be.
#[tokio::test]
async fn a_copy_without_a_journal_is_no_success_where_anything_is_stored() {
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("one.img", disks::raw(1, 1))).await;
    assert_eq!(server.terminate().code(), Some(0));
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let count = |prefix: &str| files_below(&live.join(prefix)).len();
    assert_eq!((count("h"), count("p")), (2, 1));
    std::fs::remove_dir_all(live.join("j")).expect("removes it");
    let words = [&live, &copy].map(|path| path.display().to_string());
    let told = run(&mut server.local(&["store", "copy", &words[0], &words[1]]));
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(reason(&told).contains("there is no journal"), "{told:?}");
    // With nothing stored there need not be one.
    std::fs::remove_dir_all(live.join("p")).expect("removes it");
    let other = format!("{}-other", words[1]);
    run_ok(&mut server.local(&["store", "copy", &words[0], &other]));
}

#[tokio::test]
async fn what_others_left_in_the_folder_is_left_out_and_told() {
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("one.img", disks::raw(1, 1))).await;
    assert_eq!(server.terminate().code(), Some(0));
    let (live, copy) = (server.objects(), server.data().join("copy"));
    let words = [&live, &copy].map(|path| path.display().to_string());
    let copied = ["store", "copy", &words[0], &words[1]];
    std::fs::write(live.join("p/.DS_Store"), "foreign").expect("writes");
    let told = run_ok(&mut server.local(&copied));
    assert!(
        told.contains("`p/.DS_Store` at the source is not the store's"),
        "{told}"
    );
    std::fs::write(live.join("j/a b"), "foreign").expect("writes");
    let told = run_ok(&mut server.local(&copied));
    assert!(told.contains("`j/a b` and 1 more at the source"), "{told}");
    let told = document(&mut server.local(&copied));
    assert_eq!(
        (&told["copy"]["foreign"], &told["copy"]["objects"]),
        (&2.into(), &0.into()),
        "{told}"
    );
    assert_eq!(files_below(&copy).len() + 2, files_below(&live).len());
}
