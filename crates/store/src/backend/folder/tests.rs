//! The folder on a real file system.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;

use super::files::{BLOCK, DIRECT, link_new, write_direct};
use super::temporary::TEMPORARY_AGE;
use super::*;

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    (dir, folder)
}

#[tokio::test]
async fn what_goes_to_the_disk_directly_is_what_was_given() {
    let (dir, folder) = folder();
    let probe = OpenOptions::new()
        .write(true)
        .create(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(dir.path().join("probe"));
    // A mapping begins where a direct write may; what lies a byte further is written the usual way.
    let mut map = memmap2::MmapMut::map_anon(DIRECT + 3 * BLOCK).unwrap();
    blake3::Hasher::new().finalize_xof().fill(&mut map);
    let bytes = Bytes::from_owner(map);
    for (n, range) in [
        0..DIRECT,
        0..DIRECT + 1,
        0..DIRECT + 2 * BLOCK - 1,
        1..DIRECT + 2 * BLOCK,
        0..DIRECT - 1,
    ]
    .into_iter()
    .enumerate()
    {
        let (key, data) = (format!("p/ab/{n}"), bytes.slice(range.clone()));
        folder.put_new(&key, data.clone()).await.unwrap();
        assert!(folder.get(&key).await.unwrap() == data, "{range:?}");
        let file = crate::owner::file_new(&dir.path().join(format!("{n}"))).unwrap();
        let written = write_direct(&file, &data).unwrap();
        let wanted = if n < 3 { data.len() / BLOCK * BLOCK } else { 0 };
        // Some file systems have no direct writes.
        assert_eq!(written, if probe.is_ok() { wanted } else { 0 }, "{range:?}");
        // The file is an ordinary one again.
        (&file).write_all(b"x").unwrap();
    }
}

#[tokio::test]
async fn keys_are_exclusive_under_a_race() {
    let (dir, folder) = folder();
    let tries = (0..16_u8).map(|n| {
        let folder = folder.clone();
        tokio::spawn(async move { folder.put_new("p/ab/one", Bytes::from(vec![n; 1000])).await })
    });
    let results = futures::future::join_all(tries).await;
    let won = results
        .iter()
        .filter(|result| result.as_ref().unwrap().is_ok())
        .count();
    assert_eq!(won, 1);
    for lost in results.into_iter().filter_map(|result| result.unwrap().err()) {
        assert_eq!(lost.kind(), Kind::Exists);
    }
    assert_eq!(folder.get("p/ab/one").await.unwrap().len(), 1000);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_lies_where_the_disk_was_gets_nothing() {
    let (dir, folder) = folder();
    for is_there in [true, false] {
        let _ = std::fs::remove_dir(dir.path().join(TEMPORARY));
        if !is_there {
            std::fs::remove_dir(dir.path()).unwrap();
        }
        let put = folder.put_new("p/ab/one", Bytes::from_static(b"x")).await;
        assert_eq!(put.unwrap_err().kind(), Kind::NotFound);
        assert!(folder.put_begin("p/ab/one").await.is_err());
        assert_eq!(dir.path().exists(), is_there);
        assert!(!dir.path().join("p").exists());
    }
}

#[test]
fn the_fall_back_is_exclusive_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let within = Within::open(dir.path()).unwrap();
    let link = |from: &str| link_new((&within, OsStr::new(from)), (&within, OsStr::new("to")));
    link("a").unwrap();
    assert_eq!(link("b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), b"a");
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn what_replaces_an_object_takes_its_place_at_the_end_and_nothing_else_may() {
    let (dir, folder) = folder();
    folder
        .put_new("p/ab/one", Bytes::from_static(b"old"))
        .await
        .unwrap();
    let mut given_up = folder.put_replace("p/ab/one").await.unwrap();
    given_up.write(Bytes::from_static(b"never")).await.unwrap();
    given_up.abort().await.unwrap();
    let mut put = folder.put_replace("p/ab/one").await.unwrap();
    put.write(Bytes::from_static(b"newer")).await.unwrap();
    assert_eq!(folder.get("p/ab/one").await.unwrap(), "old");
    put.finish().await.unwrap();
    assert_eq!(folder.get("p/ab/one").await.unwrap(), "newer");
    let mut put = folder.put_begin("p/ab/one").await.unwrap();
    put.write(Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(put.finish().await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(folder.get("p/ab/one").await.unwrap(), "newer");
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn ranges_listing_and_deletion() {
    let (_dir, folder) = folder();
    folder
        .put_new("p/ab/one", Bytes::from_static(b"0123456789"))
        .await
        .unwrap();
    folder
        .put_new("p/cd/two", Bytes::from_static(b"x"))
        .await
        .unwrap();
    folder
        .put_new("h/00000000", Bytes::from_static(b"header"))
        .await
        .unwrap();
    assert_eq!(folder.get_range("p/ab/one", 2..5).await.unwrap(), "234");
    assert_eq!(
        folder.get_range("p/ab/one", 8..11).await.unwrap_err().kind(),
        Kind::Damaged
    );
    assert_eq!(
        folder.get_range("p/ab/none", 0..1).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let keys = |list: Vec<Result<Listed>>| {
        let mut keys: Vec<_> = list.into_iter().map(|item| item.unwrap().key).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(folder.list("p/").collect().await), ["p/ab/one", "p/cd/two"]);
    assert_eq!(
        keys(folder.list("").collect().await),
        ["h/00000000", "p/ab/one", "p/cd/two"]
    );
    assert_eq!(keys(folder.list("j/").collect().await), [""; 0]);
    for (after, wanted) in [
        ("p/ab", &["p/ab/one", "p/cd/two"][..]),
        ("p/ab/on", &["p/ab/one", "p/cd/two"]),
        ("p/ab/one", &["p/cd/two"]),
        ("p/ab~", &["p/cd/two"]),
        ("p/cd~", &[]),
    ] {
        assert_eq!(
            keys(folder.list_after("p/", after).collect().await),
            wanted,
            "{after}"
        );
    }
    folder.delete("p/ab/one").await.unwrap();
    folder.delete("p/ab/one").await.unwrap();
    assert_eq!(folder.stat("p/ab/one").await.unwrap(), None);
    assert_eq!(
        folder.put_new("../x", Bytes::new()).await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[test]
fn network_file_systems_are_refused_with_a_way_out() {
    assert_eq!(
        filesystem_kind(Path::new("/proc/none/such")).unwrap(),
        FilesystemKind::Local
    );
    let refusal = FilesystemKind::from_magic(0x6969)
        .database_refusal(Path::new("/mnt/x"))
        .unwrap();
    assert!(
        refusal.contains("NFS") && refusal.contains("--database"),
        "{refusal}"
    );
    assert_eq!(FilesystemKind::from_magic(0xef53), FilesystemKind::Local);
}

/// A command that root gives must not close the store to the server that runs as another user.
#[tokio::test]
async fn what_root_writes_into_a_store_is_its_owners() {
    let (dir, folder) = folder();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can write for another");
        return;
    }
    drop(folder);
    for path in [dir.path(), &dir.path().join(TEMPORARY)] {
        std::os::unix::fs::chown(path, Some(65534), Some(65533)).unwrap();
    }
    let folder = Folder::open(dir.path()).unwrap();
    folder
        .put_new("p/ab/one", Bytes::from_static(b"1"))
        .await
        .unwrap();
    let mut put = folder.put_replace("b/cd/two").await.unwrap();
    put.write(Bytes::from_static(b"2")).await.unwrap();
    put.finish().await.unwrap();
    for name in ["p", "p/ab", "p/ab/one", "b", "b/cd", "b/cd/two"] {
        let data = std::fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!((data.uid(), data.gid()), (65534, 65533), "{name}");
    }
}

const OTHER: (u32, u32) = (65534, 65533);

/// Whether this is root, who alone can write for another; says where not.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can write for another");
    }
    is_root
}

fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(OTHER.0), Some(OTHER.1)).unwrap();
}

fn whose(path: &Path) -> (u32, u32) {
    let data = std::fs::metadata(path).unwrap();
    (data.uid(), data.gid())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn nothing_that_root_has_behind_a_link_is_given_away() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, roots, disk) = (
        dir.path().join("store"),
        dir.path().join("roots"),
        dir.path().join("disk"),
    );
    for folder in [&root, &roots, &roots.join("ab"), &disk] {
        std::fs::create_dir(folder).unwrap();
    }
    give(&root);
    give(&disk);
    std::os::unix::fs::symlink(&roots, root.join("j")).unwrap();
    std::os::unix::fs::symlink(&roots, root.join("b")).unwrap();
    std::os::unix::fs::symlink(&disk, root.join("p")).unwrap();
    let folder = Folder::open(&root).unwrap();
    for key in ["j/ab/one", "j/cd/one", "p/ab/one"] {
        folder.put_new(key, Bytes::from_static(b"1")).await.unwrap();
    }
    let mut put = folder.put_begin("b/ab/two").await.unwrap();
    put.write(Bytes::from_static(b"2")).await.unwrap();
    put.finish().await.unwrap();
    for name in ["", "ab", "ab/one", "ab/two", "cd", "cd/one"] {
        assert_eq!(whose(&roots.join(name)), (0, 0), "{name}");
    }
    // A disk that is the store's owner's.
    for name in ["ab", "ab/one"] {
        assert_eq!(whose(&disk.join(name)), OTHER, "{name}");
    }
}

#[tokio::test]
async fn a_new_store_is_whose_who_makes_it_and_closed() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("bob");
    std::fs::create_dir_all(users.join("there")).unwrap();
    give(&users);
    give(&users.join("there"));
    for (name, owner) in [("new", (0, 0)), ("there", OTHER), ("new", (0, 0))] {
        let root = users.join(name);
        let folder = Folder::open(&root).unwrap();
        let key = format!("p/ab/{}", World::system().uuid());
        folder.put_new(&key, Bytes::from_static(b"1")).await.unwrap();
        for part in ["", "tmp", "p", "p/ab", &key] {
            assert_eq!(whose(&root.join(part)), owner, "{name} {part}");
        }
        for part in ["tmp", "p", "p/ab"] {
            assert_eq!(mode(&root.join(part)), 0o700, "{name} {part}");
        }
        assert_eq!(mode(&root.join(&key)), 0o600);
    }
    assert_eq!(mode(&users.join("new")), 0o700);
}

/// A file that was left long ago.
fn old_file(folder: &Path) -> PathBuf {
    let path = folder.join("old");
    age(&File::create(&path).unwrap());
    path
}

fn age(file: &File) {
    let long_ago = std::time::SystemTime::now() - 2 * TEMPORARY_AGE;
    file.set_modified(long_ago).unwrap();
}

#[tokio::test]
async fn what_is_being_written_is_left_however_old_it_looks() {
    let (dir, folder) = folder();
    let own = dir.path().join(TEMPORARY);
    let old = own.join("old");
    std::fs::write(&old, "cut off").unwrap();
    let mut put = folder.put_begin("b/ab/one").await.unwrap();
    put.write(Bytes::from_static(b"1")).await.unwrap();
    // As when the clock was days behind, and is set right in the middle of the write.
    for entry in std::fs::read_dir(&own).unwrap() {
        age(&File::open(entry.unwrap().path()).unwrap());
    }
    assert_eq!(folder.leftovers_clear().await.unwrap(), 7);
    assert!(!old.exists());
    put.finish().await.unwrap();
    assert_eq!(folder.get("b/ab/one").await.unwrap(), "1");
    assert_eq!(folder.leftovers_clear().await.unwrap(), 0);
}

#[tokio::test]
async fn only_what_is_in_the_stores_own_folder_is_cleared() {
    let (dir, folder) = folder();
    let [own, elsewhere] = [dir.path().join(TEMPORARY), dir.path().join("elsewhere")];
    std::fs::create_dir(&elsewhere).unwrap();
    let (old, theirs) = (old_file(&own), old_file(&elsewhere));
    let young = own.join("young");
    File::create(&young).unwrap();
    Folder::open(dir.path()).unwrap();
    assert!(!old.exists() && young.exists());

    std::fs::remove_file(&young).unwrap();
    std::fs::remove_dir(&own).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &own).unwrap();
    Folder::open(dir.path()).unwrap();
    assert!(theirs.exists());
    let mut said = vec![folder.put_new("p/ab/one", Bytes::new()).await.unwrap_err()];
    said.push(folder.put_begin("p/ab/one").await.map(drop).unwrap_err());
    for error in said {
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains("tmp` is no folder"), "{said}");
    }
}

#[tokio::test]
async fn root_clears_nothing_of_whom_the_store_is_not() {
    if !is_root() {
        return;
    }
    let (dir, _folder) = folder();
    let own = dir.path().join(TEMPORARY);
    let old = old_file(&own);
    give(dir.path());
    Folder::open(dir.path()).unwrap();
    assert!(old.exists());
    give(&own);
    Folder::open(dir.path()).unwrap();
    assert!(!old.exists());
}
