//! Measures garbage collection:
//! `cargo run --release -p cistern-store --example measure -- gc DISKS GIB FOLDER FILE [POSTGRES-URL]`.
//!
//! Takes DISKS disks of GIB GiB in, of which each chunk is another (and compresses to next to nothing), into a fresh
//! store on SQLite and a folder under FOLDER, or on an empty PostgreSQL database. Then it collects with nothing to
//! free, imports FILE three times alone and three times while gc runs without a pause, each time with its data freed
//! before, deletes every second disk, and collects again. The two collections that are measured have a process each.
//! Prints `WHAT: FIGURES`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::common::{Failure, begin, database, peak_kib};
use bytes::Bytes;
use sea_orm::DatabaseConnection;
use store::gc::{Options, Progress};
use store::{Settings, Store, backend_open};

const CHUNK: usize = 65536;

pub(crate) async fn run(args: &[String]) -> Result<(), Failure> {
    let [disks, gib, folder, file, ..] = args else {
        return Err("usage: gc DISKS GIB FOLDER FILE [POSTGRES-URL]".into());
    };
    let (disks, gib): (u32, u64) = (disks.parse()?, gib.parse()?);
    let file = Arc::new(File::open(file)?);
    let dir = tempfile::tempdir_in(PathBuf::from(folder))?;
    let sqlite = format!("sqlite://{}?mode=rwc", dir.path().join("db.sqlite").display());
    let url = args.get(4).unwrap_or(&sqlite);
    let db = database(url).await?;
    let store = open(dir.path(), &db).await?;
    for number in 0..disks {
        fill(&store, &db, number, gib << 30).await?;
    }
    println!(
        "taken in: {disks} disks of {gib} GiB, peak {} MiB",
        peak_kib() / 1024
    );
    in_its_own_process("nothing to free", dir.path(), url)?;
    beside(&store, &db, &file, dir.path()).await?;
    let tx = begin(&db).await?;
    for number in (0..disks).step_by(2) {
        store.root_delete_in_tx(&tx, "image", &number.to_string()).await?;
    }
    tx.commit().await?;
    in_its_own_process("half to free", dir.path(), url)
}

async fn open(folder: &Path, db: &DatabaseConnection) -> Result<Store, Failure> {
    let objects = folder.join("objects");
    let backend = backend_open(&objects.to_string_lossy(), &Settings::new())?;
    Ok(Store::open_or_init(backend, db, store::Options::default()).await?)
}

/// Collects in a process that does nothing else, so that its peak of memory is gc's.
#[expect(clippy::disallowed_methods, reason = "ourselves, and no tool of the system's")]
fn in_its_own_process(what: &str, folder: &Path, url: &str) -> Result<(), Failure> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let status = command.args(["collect", what]).arg(folder).arg(url).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`collect {what}` ended with {status}").into())
}

/// That process: `collect WHAT FOLDER URL`.
pub(crate) async fn collect_alone(args: &[String]) -> Result<(), Failure> {
    let [what, folder, url] = args else {
        return Err("usage: collect WHAT FOLDER URL".into());
    };
    let folder = Path::new(folder);
    let db = database(url).await?;
    let store = open(folder, &db).await?;
    let before = peak_kib() / 1024;
    collect(what, &store, folder).await?;
    println!(
        "gc, {what}, memory: peak {} MiB, {before} MiB before it began",
        peak_kib() / 1024
    );
    Ok(())
}

/// What an import takes alone, and while gc runs again and again.
async fn beside(
    store: &Store,
    db: &DatabaseConnection,
    file: &Arc<File>,
    folder: &Path,
) -> Result<(), Failure> {
    let (mut alone, mut with_gc, mut runs) = (Vec::new(), Vec::new(), 0);
    for _ in 0..3 {
        alone.push(timed(store, db, file, folder).await?);
        let running = tokio::spawn(collect_on_and_on(store.clone(), folder.to_owned()));
        with_gc.push(timed_import(store, db, file).await?);
        running.abort();
        runs += usize::from(running.await.is_err());
        forget(store, db, folder).await?;
    }
    let (alone, with_gc) = (median(alone), median(with_gc));
    println!(
        "an import beside gc: {alone:.2} s alone, {with_gc:.2} s beside it, {:.2} of the rate, {runs} times",
        alone / with_gc
    );
    Ok(())
}

async fn timed(
    store: &Store,
    db: &DatabaseConnection,
    file: &Arc<File>,
    folder: &Path,
) -> Result<f64, Failure> {
    let seconds = timed_import(store, db, file).await?;
    forget(store, db, folder).await?;
    Ok(seconds)
}

async fn timed_import(store: &Store, db: &DatabaseConnection, file: &Arc<File>) -> Result<f64, Failure> {
    let start = Instant::now();
    crate::common::import(store, db, file, "beside").await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Frees what was taken in, so that it is new again.
async fn forget(store: &Store, db: &DatabaseConnection, folder: &Path) -> Result<(), Failure> {
    let tx = begin(db).await?;
    store.root_delete_in_tx(&tx, "image", "beside").await?;
    tx.commit().await?;
    let options = Options {
        now: true,
        ..Options::new(folder)
    };
    store.gc(&options, &Progress::default()).await?;
    Ok(())
}

async fn collect_on_and_on(store: Store, folder: PathBuf) -> store::Result<()> {
    loop {
        store.gc(&Options::new(&folder), &Progress::default()).await?;
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn collect(what: &str, store: &Store, folder: &std::path::Path) -> Result<(), Failure> {
    let options = Options {
        now: true,
        ..Options::new(folder)
    };
    let progress = Progress::default();
    let start = Instant::now();
    let marked = store.gc_mark(&options, &progress).await?;
    let mark = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let report = marked.finish(&options, &progress).await?;
    let rest = start.elapsed().as_secs_f64();
    let (entries, chunks) = (progress.entries.load(Relaxed), progress.chunks.load(Relaxed));
    println!(
        "gc, {what}: marked {entries} entries in {mark:.2} s ({:.2} M/s); the rest, with {chunks} rows, took {rest:.2} s; \
         condemned {}, freed {} objects",
        rate(entries, mark),
        report.condemned,
        report.objects,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds / 1e6
}

/// Takes a disk in of which each chunk is another.
async fn fill(store: &Store, db: &DatabaseConnection, number: u32, bytes: u64) -> Result<(), Failure> {
    let session = store.session_open(&number.to_string()).await?;
    let mut ingest = session.ingest(bytes, None).await?;
    let chunks = bytes / CHUNK as u64;
    for first in (0..chunks).step_by(64) {
        let mut data = vec![0_u8; 64 * CHUNK];
        for (at, chunk) in (first..).zip(data.chunks_exact_mut(CHUNK)) {
            chunk[..8].copy_from_slice(&at.to_le_bytes());
            chunk[8..12].copy_from_slice(&(number + 1).to_le_bytes());
        }
        ingest.extent_data(Bytes::from(data)).await?;
    }
    let disk = ingest.finish().await?;
    let tx = begin(db).await?;
    session
        .commit_in_tx(&tx, "image", &number.to_string(), disk.root)
        .await?;
    tx.commit().await?;
    Ok(())
}
