//! Measures how cost grows with size: `cargo run --release -p cistern-store --example measure -- size GIB FOLDER`.
//!
//! Takes a disk of GIB GiB in, of which each chunk is another and none is zero, into a fresh store on SQLite and a
//! folder under FOLDER; then the same again, and reads it. What it holds is made in memory and compresses to next to
//! nothing, so that 100 GiB need no room: rates are those of hashing, rows and trees, and are to be compared with each
//! other alone. Prints one JSON object.

use std::path::PathBuf;
use std::time::Instant;

use crate::common::{Failure, begin, cpu_seconds, database, gb, peak_begin, peak_kib};
use bytes::Bytes;
use futures::TryStreamExt as _;
use sea_orm::DatabaseConnection;
use store::{Options, Settings, Store, TreeRoot, backend_open};

const CHUNK: usize = 65536;

pub(crate) async fn run(args: &[String]) -> Result<(), Failure> {
    let [gib, folder] = args else {
        return Err("usage: size GIB FOLDER".into());
    };
    let bytes = gib.parse::<u64>()? << 30;
    let dir = tempfile::tempdir_in(PathBuf::from(folder))?;
    let file = dir.path().join("db.sqlite");
    let db = database(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let backend = backend_open(&dir.path().join("objects").to_string_lossy(), &Settings::new())?;
    let store = Store::open_or_init(backend, &db, Options::default()).await?;
    let mut figures = vec![format!("\"gib\": {gib}")];
    let mut root = None;
    for what in ["new", "same"] {
        peak_begin()?;
        let (start, cpu) = (Instant::now(), cpu_seconds());
        root = Some(import(&store, &db, what, bytes).await?);
        figure(&mut figures, what, bytes, start, cpu);
    }
    peak_begin()?;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    if let Some(root) = root {
        let disk = store.disk_open(root);
        let mut pieces = disk.stream(0..bytes);
        while pieces.try_next().await?.is_some() {}
    }
    figure(&mut figures, "read", bytes, start, cpu);
    figures.push(format!("\"database_mib\": {}", file.metadata()?.len() >> 20));
    println!("{{{}}}", figures.join(", "));
    Ok(())
}

fn figure(figures: &mut Vec<String>, what: &str, bytes: u64, start: Instant, cpu: f64) {
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    figures.push(format!(
        "\"{what}\": {{\"gb_per_second\": {:.3}, \"cpu_seconds_per_gb\": {:.3}, \"memory_mib\": {}}}",
        gb(bytes) / seconds,
        cpu / gb(bytes),
        peak_kib() / 1024
    ));
}

async fn import(
    store: &Store,
    db: &DatabaseConnection,
    owner: &str,
    bytes: u64,
) -> Result<TreeRoot, Failure> {
    let session = store.session_open(owner).await?;
    let mut ingest = session.ingest(bytes, None).await?;
    for first in (0..bytes / CHUNK as u64).step_by(64) {
        let mut data = vec![0; 64 * CHUNK];
        for (at, chunk) in (first..).zip(data.chunks_exact_mut(CHUNK)) {
            chunk[..8].copy_from_slice(&(at + 1).to_le_bytes());
        }
        ingest.extent_data(Bytes::from(data)).await?;
    }
    let disk = ingest.finish().await?;
    let tx = begin(db).await?;
    session.commit_in_tx(&tx, "image", owner, disk.root).await?;
    tx.commit().await?;
    Ok(disk.root)
}
