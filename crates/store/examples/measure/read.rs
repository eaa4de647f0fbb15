//! Measures reading: `cargo run --release -p cistern-store --example measure -- read FILE FOLDER [BUCKET-URL]`.
//!
//! Takes FILE into a fresh store (SQLite, and a folder under FOLDER or the bucket, whose key is in
//! `CISTERN_OBJECTS_ACCESS_KEY` and `CISTERN_OBJECTS_SECRET_KEY`), opens it again, and reads it: in order as a download
//! does, in order by reads of 1 MiB, and 4 KiB at a time at random places that are not zero, each the first time and
//! once more. Prints `WHAT: FIGURES`.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::common::{Failure, cpu_seconds, database, gb, import, peak_kib};
use futures::TryStreamExt as _;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use store::{Backend, CacheOptions, DiskReader, Options, Piece, Settings, Store, TreeRoot, backend_open};

const READS: usize = 5000;
const READ_BYTES: usize = 4096;
const HOT_BYTES: usize = 24 << 20;

pub(crate) async fn run(args: &[String]) -> Result<(), Failure> {
    let [file, folder, ..] = args else {
        return Err("usage: read FILE FOLDER [BUCKET-URL]".into());
    };
    let dir = tempfile::tempdir_in(PathBuf::from(folder))?;
    let db = database(&format!(
        "sqlite://{}?mode=rwc",
        dir.path().join("db.sqlite").display()
    ))
    .await?;
    let backend = backend(args.get(2), &dir.path().join("objects").to_string_lossy())?;
    let store = Store::open_or_init(Arc::clone(&backend), &db, Options::default()).await?;
    let (root, stats) = import(&store, &db, &Arc::new(File::open(file)?), "1").await?;
    requests("written", &store, stats.stored_bytes);

    let bucket = args.get(2).is_some();
    let open = async || -> Result<Store, Failure> {
        let store = Store::open(Arc::clone(&backend), &db, Options::default()).await?;
        if bucket {
            let folder = dir.path().join("cache");
            let limit_bytes = 4 << 30;
            store.cache_use(&CacheOptions { folder, limit_bytes })?;
        }
        Ok(store)
    };
    let data = places(&open().await?.disk_open(root)).await?;
    for time in ["first", "again"] {
        if bucket && time == "first" {
            std::fs::remove_dir_all(dir.path().join("cache"))?;
        }
        random(&format!("4 KiB at random, {time}"), &open().await?, root, &data).await?;
    }
    hot(&open().await?, root, &data).await?;
    in_order("1 MiB reads in order", &open().await?, root, stats.stored_bytes).await?;
    in_order(
        "1 MiB reads in order, again",
        &open().await?,
        root,
        stats.stored_bytes,
    )
    .await?;
    stream("a download", &open().await?, root).await?;
    println!("peak of memory: {} MiB", peak_kib() / 1024);
    Ok(())
}

fn backend(bucket: Option<&String>, folder: &str) -> Result<Arc<dyn Backend>, Failure> {
    let Some(url) = bucket else {
        return Ok(backend_open(folder, &Settings::new())?);
    };
    let get = |name: &str| {
        let mut vars = std::env::vars();
        let found = vars.find_map(|(key, value)| (key == name).then_some(value));
        found.ok_or_else(|| format!("{name} is not set"))
    };
    let settings = [
        ("access_key_id".to_owned(), get("CISTERN_OBJECTS_ACCESS_KEY")?),
        ("secret_access_key".to_owned(), get("CISTERN_OBJECTS_SECRET_KEY")?),
    ];
    Ok(backend_open(url, &Settings::from(settings))?)
}

/// Pages of 4 KiB that are not zero.
async fn places(disk: &DiskReader) -> Result<Vec<u64>, Failure> {
    let runs = disk.allocated(0..disk.virtual_bytes()).await?;
    let pages = |run: std::ops::Range<u64>| (run.start..run.end).step_by(READ_BYTES);
    Ok(runs.into_iter().flat_map(pages).collect())
}

/// Within as much as the store keeps decoded, by one reader where another has read it.
async fn hot(store: &Store, root: TreeRoot, places: &[u64]) -> Result<(), Failure> {
    let (disk, places) = (
        store.disk_open(root),
        &places[..places.len().min(HOT_BYTES / READ_BYTES)],
    );
    let mut buffer = [0; READ_BYTES];
    for place in places {
        disk.read_at(*place, &mut buffer).await?;
    }
    random(
        "4 KiB at random in 24 MiB that were read lately",
        store,
        root,
        places,
    )
    .await
}

async fn random(what: &str, store: &Store, root: TreeRoot, places: &[u64]) -> Result<(), Failure> {
    let (disk, mut random) = (store.disk_open(root), SmallRng::seed_from_u64(7));
    let mut buffer = [0; READ_BYTES];
    let mut times = Vec::with_capacity(READS);
    let cpu = cpu_seconds();
    for _ in 0..READS {
        let place = places[random.random_range(0..places.len())];
        let start = Instant::now();
        disk.read_at(place, &mut buffer).await?;
        times.push(start.elapsed());
    }
    let cpu = (cpu_seconds() - cpu) * 1e6 / f64::from(u32::try_from(READS)?);
    times.sort();
    let of = |percent: usize| times[times.len() * percent / 100].as_micros();
    println!("{what}: p50 {} µs, p99 {} µs; {cpu:.0} CPU µs", of(50), of(99));
    Ok(())
}

async fn in_order(what: &str, store: &Store, root: TreeRoot, stored_bytes: u64) -> Result<(), Failure> {
    let disk = store.disk_open(root);
    let runs = disk.allocated(0..disk.virtual_bytes()).await?;
    let before = store
        .requests()
        .map(|requests| (requests.get, requests.read_bytes));
    let (start, cpu, mut bytes) = (Instant::now(), cpu_seconds(), 0);
    let mut buffer = vec![0; 1 << 20];
    for run in runs {
        for at in (run.start..run.end).step_by(1 << 20) {
            let length = usize::try_from((run.end - at).min(1 << 20))?;
            disk.read_at(at, &mut buffer[..length]).await?;
            bytes += length as u64;
        }
    }
    rate(what, bytes, start, cpu);
    if let (Some((get, read)), Some(after)) = (before, store.requests()) {
        let (get, read) = (after.get - get, after.read_bytes - read);
        let per_gib = (get << 30) / stored_bytes.max(1);
        println!(
            "{what}, requests: {get} for {} MiB, {per_gib} a GiB stored",
            read >> 20
        );
    }
    Ok(())
}

async fn stream(what: &str, store: &Store, root: TreeRoot) -> Result<(), Failure> {
    let disk = store.disk_open(root);
    let (start, cpu, mut bytes) = (Instant::now(), cpu_seconds(), 0);
    let mut pieces = disk.stream(0..disk.virtual_bytes());
    while let Some(piece) = pieces.try_next().await? {
        if let Piece::Data(data) = piece {
            bytes += data.len() as u64;
        }
    }
    rate(what, bytes, start, cpu);
    Ok(())
}

fn rate(what: &str, bytes: u64, start: Instant, cpu: f64) {
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{what}: {:.2} GB/s of data; {:.2} CPU s a GB",
        gb(bytes) / seconds,
        cpu / gb(bytes)
    );
}

fn requests(what: &str, store: &Store, bytes: u64) {
    if let Some(requests) = store.requests() {
        let all = requests.put + requests.head;
        println!(
            "{what}: {all} requests, {} a GiB stored",
            (all << 30) / bytes.max(1)
        );
    }
}
