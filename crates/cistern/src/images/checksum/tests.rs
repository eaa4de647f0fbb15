//! The two files of a disk, against their definitions, and the checksums against the files.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest, Sha256};
use store::TreeRoot;

use super::*;
use crate::app::tests::app;
use crate::images::download::{Export, etag};
use crate::platform::jobs::{Engine, Registry, rows as job_rows};

const CHUNK: usize = 64 << 10;

/// 40 MiB less 512 bytes: data at both ends, in the middle, and an island, zeros between; not a whole number of chunks.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; (40 << 20) - 512];
    let mut fill = |range: Range<usize>| {
        for (n, byte) in bytes[range].iter_mut().enumerate() {
            *byte = u8::try_from((n * 7 + n / 251) % 251).expect("small");
        }
    };
    fill(0..3 * CHUNK);
    fill(20 << 20..(20 << 20) + 5);
    fill((30 << 20) + 17..(33 << 20) + 1);
    let length = (40 << 20) - 512;
    fill(length - 100..length);
    bytes
}

/// Puts a disk into the store as image 7.
async fn stored(app: &App, bytes: &[u8]) -> TreeRoot {
    let session = app.store.session_open("a test").await.expect("opens");
    let mut ingest = session.ingest(bytes.len() as u64, None).await.expect("begins");
    for chunk in bytes.chunks(CHUNK) {
        if chunk.iter().all(|b| *b == 0) {
            ingest.extent_zero(chunk.len() as u64).await.expect("takes zeros");
        } else {
            ingest
                .extent_data(Bytes::copy_from_slice(chunk))
                .await
                .expect("takes data");
        }
    }
    let disk = ingest.finish().await.expect("finishes");
    publish(app, session, disk.root).await
}

/// A disk of nothing but zeros as image 7.
async fn stored_zeros(app: &App, length: u64) -> TreeRoot {
    let session = app.store.session_open("a test").await.expect("opens");
    let mut ingest = session.ingest(length, None).await.expect("begins");
    ingest.extent_zero(length).await.expect("takes zeros");
    let disk = ingest.finish().await.expect("finishes");
    publish(app, session, disk.root).await
}

async fn publish(app: &App, session: store::Session, root: TreeRoot) -> TreeRoot {
    let tx = app.db.write().await.expect("opens");
    session
        .commit_in_tx(&*tx, "image", "7", root)
        .await
        .expect("commits");
    tx.commit().await.expect("commits");
    root
}

async fn enqueued(app: &App, image_id: i64) -> i64 {
    let tx = app.db.write().await.expect("opens");
    let job = checksum_enqueue_in_tx(&*tx, app.clock.now(), 1, image_id)
        .await
        .expect("enqueues");
    tx.commit().await.expect("commits");
    job
}

async fn worker(app: &App) -> Engine {
    Engine::start(app, Registry::default().with(kind()), "n", 1)
        .await
        .expect("starts")
}

/// Waits until the job is as `is` says.
async fn job_until(app: &App, job: i64, is: impl Fn(&job_rows::Model) -> bool) -> job_rows::Model {
    let wait = async {
        loop {
            let row = job_rows::job_get(app.db.conn(), job).await.expect("reads");
            let row = row.expect("is there");
            if is(&row) {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), wait)
        .await
        .expect("comes in time")
}

async fn whole(export: &Export, range: Range<u64>) -> Vec<u8> {
    let bytes = export.bytes(Some(range)).expect("can be made");
    let parts: Vec<Bytes> = bytes.try_collect().await.expect("reads");
    parts.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_what_their_formats_say_and_checksums_are_of_the_files() {
    let (app, dir) = app().await;
    let bytes = disk();
    let root = stored(&app, &bytes).await;

    let job = enqueued(&app, 7).await;
    let engine = worker(&app).await;
    let row = job_until(&app, job, |row| row.finished_at.is_some()).await;
    assert_eq!(row.status, job_rows::DONE, "{:?}", row.error);
    engine.stop().await;

    for format in [Format::Raw, Format::Qcow2] {
        let export = Export::open(app.store.disk_open(root), &root, format)
            .await
            .expect("opens");
        let length = export.length().expect("is known");
        let file = whole(&export, 0..length).await;
        assert_eq!(file.len() as u64, length);
        let known = checksum_get(&app, 7, &etag(&root, format))
            .await
            .expect("reads")
            .expect("is known");
        assert_eq!(known.to_vec(), Sha256::digest(&file).to_vec(), "{format:?}");
        for range in [0..1, 65_530..65_545, 100_000..400_000, length - 700..length] {
            let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).expect("small"));
            assert!(
                whole(&export, range).await == file[from..to],
                "{format:?} {from}..{to}"
            );
        }
        if format == Format::Raw {
            assert!(file == bytes, "the raw file is the disk");
        } else {
            judged_by_qemu(dir.path(), &bytes, &file);
        }
    }
    let shown = checksum_list(&app, &[7, 8]).await.expect("reads");
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[&7].keys().collect::<Vec<_>>(), ["qcow2", "raw"]);
    assert_eq!(
        checksum_get(&app, 7, "\"other\"").await.expect("reads"),
        None,
        "never of other bytes"
    );

    checksum_forget_in_tx(app.db.conn(), 7).await.expect("forgets");
    assert!(checksum_list(&app, &[7]).await.expect("reads").is_empty());
}

/// `qemu-img check` and `compare`, where it is installed; `CISTERN_REQUIRE_CLIENTS=1` insists.
#[expect(
    clippy::disallowed_methods,
    reason = "a test asks another program, and whether it must be there"
)]
fn judged_by_qemu(dir: &std::path::Path, raw: &[u8], qcow2: &[u8]) {
    let qemu = |args: &[&str]| {
        let done = std::process::Command::new("qemu-img")
            .current_dir(dir)
            .args(args)
            .output();
        match done {
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stdout).into_owned()
                    + &String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "qemu-img {args:?}: {said}");
                true
            }
            Err(error) => {
                let is_required = std::env::var("CISTERN_REQUIRE_CLIENTS").is_ok_and(|v| v == "1");
                assert!(!is_required, "qemu-img: {error}");
                eprintln!("skipped: qemu-img is not installed ({error})");
                false
            }
        }
    };
    std::fs::write(dir.join("d.raw"), raw).expect("writes");
    std::fs::write(dir.join("d.qcow2"), qcow2).expect("writes");
    let _ = qemu(&["check", "d.qcow2"]) && qemu(&["compare", "-f", "raw", "-F", "qcow2", "d.raw", "d.qcow2"]);
}

#[tokio::test]
async fn an_image_that_is_gone_is_no_failure() {
    let (app, _dir) = app().await;
    let job = enqueued(&app, 99).await;
    let engine = worker(&app).await;
    let row = job_until(&app, job, |row| row.finished_at.is_some()).await;
    assert_eq!(row.status, job_rows::DONE);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_zeros_shows_how_far_it_is_and_is_left_when_asked() {
    let (app, _dir) = app().await;
    // Takes far longer than this test.
    let length = 1 << 40;
    stored_zeros(&app, length).await;
    let job = enqueued(&app, 7).await;
    let engine = worker(&app).await;
    let done = |row: &job_rows::Model| row.progress.as_ref().and_then(|p| p["done_bytes"].as_u64());
    let first = job_until(&app, job, |row| done(row).is_some()).await;
    let second = job_until(&app, job, |row| done(row) > done(&first)).await;
    assert!(done(&second) < Some(length / 2), "{:?}", second.progress);

    // A stop of the server hands it back, ...
    let stop = tokio::time::timeout(Duration::from_secs(20), engine.stop());
    stop.await.expect("a stop does not wait for the end of the disk");
    let row = job_until(&app, job, |_| true).await;
    assert_eq!((row.status.as_str(), row.attempts), (job_rows::QUEUED, 0));
    // ... and a cancel ends it.
    let engine = worker(&app).await;
    job_until(&app, job, |row| row.status == job_rows::RUNNING).await;
    assert!(job_rows::job_cancel(app.db.conn(), job).await.expect("updates"));
    let row = job_until(&app, job, |row| row.finished_at.is_some()).await;
    assert_eq!(row.status, job_rows::CANCELLED);
    engine.stop().await;
}
