//! Storage that fails: a bucket that answers wrongly or not at all, a full disk, a disk that cannot be written. The
//! error is a sentence, what was there stays as it is, and the same works once the fault is gone.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{command, run, run_ok, skip};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until};
use crate::jobs::job_of;

/// The whole image, or `None` where the answer was an error or was cut off. What came of it is never wrong.
async fn try_download(api: &Api, id: i64, disk: &[u8]) -> Option<()> {
    let path = format!("/v2/images/{id}/download?format=raw");
    let mut response = api.request(Method::GET, &path).send().await.ok()?;
    if response.status() != 200 {
        assert!(response.status().is_server_error(), "{response:?}");
        return None;
    }
    let mut at = 0;
    while let Some(chunk) = response.chunk().await.ok()? {
        assert!(
            disk[at..].starts_with(&chunk),
            "wrong bytes after byte {at} of a download"
        );
        at += chunk.len();
    }
    (at == disk.len()).then_some(())
}

/// Waits until an attempt of the import has failed, and gives the job as an operator sees it.
async fn tried_again(api: &Api, image: i64) -> Value {
    until("an attempt to fail and to be tried again", 60, || async {
        let job = job_of(api, image).await;
        (job["error"].is_string() && job["finished_at"].is_null()).then_some(job)
    })
    .await
}

async fn a_bucket_with(fault: Fault) {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    let (old, new) = (disks::raw(8, 21), disks::raw(8, 22));
    let old_id = imported(&api, "old", &files.put("old.img", old.clone())).await["id"]
        .as_i64()
        .expect("an id");

    proxy.set(fault);
    let id = import(&api, "new", &files.put("new.img", new.clone())).await;
    let job = tried_again(&api, id).await;
    let reason = job["error"].as_str().expect("a reason");
    assert!(reason.contains("store does not answer"), "{fault:?}: {job:#}");
    assert_eq!(job["attempts"], 0, "an outage does not count: {job:#}");
    assert!(
        job["run_at"].as_str() > job["created_at"].as_str(),
        "the wait is shown: {job:#}"
    );
    assert!(proxy.hit() >= 2, "the store itself tries more than once");
    let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
    assert_eq!(image["image"]["status"], "pending", "{image:#}");
    assert_eq!(
        try_download(&api, old_id, &old).await,
        None,
        "{fault:?} hits reading too"
    );

    proxy.set(Fault::None);
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{fault:?}: {image:#}");
    for (id, disk) in [(old_id, &old), (id, &new)] {
        assert!(downloaded(&api, id, "raw").await == *disk);
    }
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn a_bucket_that_answers_500() {
    a_bucket_with(Fault::Status500).await;
}

#[tokio::test]
async fn a_bucket_that_resets_connections() {
    a_bucket_with(Fault::Reset).await;
}

#[tokio::test]
async fn a_bucket_whose_answers_are_cut_off() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(8, 23);
    let url = files.put("disk.img", disk.clone());
    let id = imported(&api, "whole", &url).await["id"].as_i64().expect("an id");
    proxy.set(Fault::Truncated);
    assert_eq!(
        try_download(&api, id, &disk).await,
        None,
        "half of an object is no object"
    );
    proxy.set(Fault::None);
    assert!(
        downloaded(&api, id, "raw").await == disk,
        "the object is not taken for damaged"
    );
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn a_bucket_whose_answers_are_lost() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(8, 24);
    proxy.set(Fault::AnswerLost);
    let id = import(&api, "lost", &files.put("lost.img", disk.clone())).await;
    until("a written object whose answer is lost", 30, || async {
        (proxy.hit() >= 2).then_some(())
    })
    .await;
    proxy.set(Fault::None);
    assert_eq!(settled(&api, id).await["status"], "available");
    assert!(downloaded(&api, id, "raw").await == disk);
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn a_bucket_that_is_slow() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(8, 25);
    proxy.set(Fault::Slow(1500));
    let id = import(&api, "slow", &files.put("slow.img", disk.clone())).await;
    assert_eq!(settled(&api, id).await["status"], "available");
    assert!(proxy.hit() > 0);
    assert_eq!(job_of(&api, id).await["attempts"], 1, "slow is no failure");
    assert_eq!(try_download(&api, id, &disk).await, Some(()));
}

#[tokio::test]
async fn a_bucket_that_stays_away_uses_up_none_of_an_imports_attempts() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).start();
    let (api, files) = (server.api(), Files::start().await);
    proxy.set(Fault::Reset);
    let id = import(&api, "gone", &files.put("gone.img", disks::raw(1, 26))).await;
    until("it to be tried again and again", 90, || async {
        let tried = server.log_text().matches("job will be tried again").count();
        (tried >= 3).then_some(())
    })
    .await;
    let job = job_of(&api, id).await;
    let attempts = job["attempts"].as_i64().expect("a number");
    assert!(attempts <= 1, "an outage is nobody's fault: {job:#}");
    let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
    assert_eq!(image["image"]["status"], "pending", "{image:#}");
    proxy.set(Fault::None);
    assert_eq!(settled(&api, id).await["status"], "available");
}

/// A server whose objects are in a file system of its own, which only it sees and which ends with it.
struct Mounted {
    server: Server,
    /// The file system's root, as seen from here.
    root: PathBuf,
    _dir: tempfile::TempDir,
}

/// The mount is in a name space of the server's; without root in one of users too. None, with the reason printed,
/// where this machine does not allow it.
fn mounted(prepare: &str) -> Option<Mounted> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mount = dir.path().join("mount");
    std::fs::create_dir(&mount).expect("makes it");
    let text = mount.display().to_string();
    let script = format!("m=$0; {prepare} && exec \"$@\"");
    let root = rustix::process::getuid().is_root();
    let flags: &[&str] = if root { &["-m"] } else { &["-Urm"] };
    let words: Vec<&str> = ["unshare"]
        .iter()
        .chain(flags)
        .chain(&["sh", "-c", &script, &text])
        .copied()
        .collect();
    let probe = run(command(words[0]).args(&words[1..]).arg("true"));
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr);
        skip(&format!("a file system for a test cannot be mounted here: {why}"));
        return None;
    }
    let server = Setup::default()
        .at(crate::harness::world::Place::default())
        .arg(format!("--objects={text}/store"))
        // What is met here is a disk that is full, and not what is refused before.
        .arg("--disk-refuse-below-percent=0")
        .wrapped(&words)
        .start();
    let root = PathBuf::from(format!("/proc/{}/root{text}", server.pid()));
    Some(Mounted {
        server,
        root,
        _dir: dir,
    })
}

#[tokio::test]
async fn a_full_disk_is_said_and_what_is_there_stays() {
    let Some(Mounted { server, root, _dir }) = mounted("mount -t tmpfs -o size=32m tmpfs $m") else {
        return;
    };
    let (api, files) = (server.api(), Files::start().await);
    let (old, new) = (disks::raw(8, 31), disks::raw(24, 32));
    let old_id = imported(&api, "old", &files.put("old.img", old.clone())).await["id"]
        .as_i64()
        .expect("an id");
    let ballast = root.join("ballast");
    std::fs::write(&ballast, vec![1; 24 << 20]).expect("there is room for it");

    let id = import(&api, "new", &files.put("new.img", new.clone())).await;
    let job = tried_again(&api, id).await;
    assert!(
        job["error"]
            .as_str()
            .is_some_and(|e| e.contains("store is full") && e.contains("cistern gc --now --purge")),
        "{job:#}"
    );
    assert_eq!(
        try_download(&api, old_id, &old).await,
        Some(()),
        "reading goes on"
    );

    std::fs::remove_file(&ballast).expect("it is there");
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id, "raw").await == new);
    assert_eq!(verified(&api).await, json!([]));
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_said_and_never_guessed_at() {
    // The file system's device is a file; where that was cut short, the kernel answers reads with EIO.
    let prepare = "mkdir -p $m-device && mount -t tmpfs tmpfs $m-device && truncate -s 64M $m-device/disk && \
                   mkfs.ext4 -q -O ^has_journal $m-device/disk && mount -o loop $m-device/disk $m";
    let Some(Mounted { server, root, _dir }) = mounted(prepare) else {
        return;
    };
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(16, 33);
    let id = imported(&api, "old", &files.put("old.img", disk.clone())).await["id"]
        .as_i64()
        .expect("an id");
    until("the checksum, which reads the disk too", 30, || async {
        let jobs = api.get("/v2/jobs").await.expect(200);
        (jobs["jobs"].as_array().map(Vec::len) == Some(0)).then_some(())
    })
    .await;

    let device = root.with_file_name("mount-device").join("disk");
    let whole = std::fs::read(&device).expect("reads");
    let packs = forget_cached(&root.join("store"));
    assert!(packs > 0, "there are packs");
    let file = std::fs::File::options().write(true).open(&device).expect("opens");
    file.set_len(0).expect("is cut short");
    assert_eq!(try_download(&api, id, &disk).await, None);
    assert!(
        server.log_text().contains("Input/output error"),
        "the log tells the cause"
    );
    let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
    assert_eq!(image["image"]["status"], "available", "the rows are elsewhere");

    std::fs::write(&device, whole).expect("mends it");
    assert_eq!(try_download(&api, id, &disk).await, Some(()));
    assert_eq!(verified(&api).await, json!([]));
}

#[tokio::test]
async fn writes_that_fail_only_at_the_sync_are_said_and_not_believed() {
    // The file system's device is a sparse file: where no room is left for its blocks, only an fsync fails, and then
    // the kernel takes what it could not write for written. What was written once must not be relied on. Blocks are the
    // pages of the device's file: of a write that lies in two of them and has room for one, the loop driver says that
    // it was done.
    let prepare = "mkdir -p $m-device && mount -t tmpfs -o size=96m tmpfs $m-device && \
                   truncate -s 256M $m-device/disk && \
                   mkfs.ext4 -q -b 4096 -O ^has_journal -E lazy_itable_init=0 $m-device/disk && \
                   mount -o loop $m-device/disk $m";
    let Some(Mounted { server, root, _dir }) = mounted(prepare) else {
        return;
    };
    let (api, files) = (server.api(), Files::start().await);
    let (old, new) = (disks::raw(8, 34), disks::raw(64, 35));
    let old_id = imported(&api, "old", &files.put("old.img", old.clone())).await["id"]
        .as_i64()
        .expect("an id");
    let ballast = root.with_file_name("mount-device").join("ballast");
    let full = std::fs::write(&ballast, vec![1; 128 << 20]).expect_err("it fills the device");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    let id = import(&api, "new", &files.put("new.img", new.clone())).await;
    let job = tried_again(&api, id).await;
    assert!(
        job["error"].as_str().is_some_and(|e| e.contains("store is full")),
        "{job:#}"
    );
    std::fs::remove_file(&ballast).expect("it is there");
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    forget_cached(&root.join("store"));
    assert_eq!(try_download(&api, id, &new).await, Some(()));
    assert_eq!(try_download(&api, old_id, &old).await, Some(()));
    assert_eq!(verified(&api).await, json!([]));
}

/// Makes the kernel read every file below `folder` from its device the next time; returns how many there are.
fn forget_cached(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|e| e.expect("readable").path());
    paths
        .map(|path| {
            if path.is_dir() {
                return forget_cached(&path);
            }
            let file = std::fs::File::open(&path).expect("opens");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a regular file");
            1
        })
        .sum()
}

/// Verifies every byte that is stored, and gives what is damaged.
async fn verified(api: &Api) -> Value {
    let answer = api
        .post("/v2/store/verify", &json!({ "read_data": true }))
        .await
        .expect(202);
    let path = format!("/v2/store/verify/{}", answer["verification"]["id"]);
    until("the verification", 60, || async {
        let mut answer = api.get(&path).await.expect(200);
        let found = answer["verification"]["report"]["damage"].take();
        found.is_array().then_some(found)
    })
    .await
}
