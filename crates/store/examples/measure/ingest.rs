//! Measures an ingest: `cargo run --release -p cistern-store --example measure -- ingest FILE [TIMES] [FOLDER]
//! [encrypt]`.
//!
//! Takes FILE into a fresh store (SQLite and a folder under FOLDER, durable as in service, encrypted where that is
//! asked for), then again, then reads it back. Prints rates over the bytes that are not zero, CPU seconds, the peak of
//! memory, what AES-256-GCM takes, and the limit: BLAKE3 twice, one encode and one decode of the new data, by their
//! one-core rates on this file, divided by the number of cores.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Failure, cpu_seconds, database, gb, import, peak_kib};
use futures::TryStreamExt as _;
use store::seal::{Purpose, StoreKey};
use store::{IngestStats, KeyKind, Options, Piece, Settings, Store, TreeRoot, WrappingKey, backend_open};

pub(crate) async fn run(args: &[String]) -> Result<(), Failure> {
    let mut args = args.iter();
    let file: PathBuf = args
        .next()
        .ok_or("usage: ingest FILE [TIMES] [FOLDER] [encrypt]")?
        .into();
    let times: usize = args.next().map_or(Ok(2), |times| times.parse())?;
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let options = options(args.next().map(String::as_str))?;
    let dir = tempfile::tempdir_in(folder)?;
    let db = database(&format!(
        "sqlite://{}?mode=rwc",
        dir.path().join("db.sqlite").display()
    ))
    .await?;
    let objects = dir.path().join("objects");
    let backend = backend_open(&objects.to_string_lossy(), &Settings::new())?;
    let store = Store::open_or_init(backend, &db, options).await?;
    let file = Arc::new(File::open(file)?);
    let mut root = None;
    for time in 0..times {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let (tree, stats) = import(&store, &db, &file, &time.to_string()).await?;
        report("import", start.elapsed(), cpu_seconds() - cpu, stats);
        root = Some(tree);
    }
    if let Some(root) = root {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let bytes = read_back(&store, root, &file).await?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "read and compare: {:.3} GB/s, {seconds:.2} s, {:.2} CPU s",
            gb(bytes) / seconds,
            cpu_seconds() - cpu
        );
    }
    println!("peak memory: {} MiB", peak_kib() / 1024);
    limit(&file)?;
    println!("stats: {:?}", store.stats().await?);
    Ok(())
}

fn options(word: Option<&str>) -> Result<Options, Failure> {
    if word != Some("encrypt") {
        return Ok(Options::default());
    }
    Ok(Options {
        encrypt: true,
        key: Some(WrappingKey::new(KeyKind::KeyFile, &[b'k'; 44])?),
        ..Options::default()
    })
}

async fn read_back(store: &Store, root: TreeRoot, file: &Arc<File>) -> Result<u64, Failure> {
    let disk = store.disk_open(root);
    let mut pieces = disk.stream(0..disk.virtual_bytes());
    let (mut at, mut data_bytes) = (0, 0);
    while let Some(piece) = pieces.try_next().await? {
        match piece {
            Piece::Zero(length) => at += length,
            Piece::Data(data) => {
                let mut expected = vec![0; data.len()];
                file.read_exact_at(&mut expected, at)?;
                if expected != data {
                    return Err(format!("differs at byte {at}").into());
                }
                at += data.len() as u64;
                data_bytes += data.len() as u64;
            }
        }
    }
    Ok(data_bytes)
}

/// One-core rates on up to 256 MiB of the file's data, spread over it, and what follows from them.
fn limit(file: &File) -> Result<(), Failure> {
    let bytes = file.metadata()?.len();
    let mut chunks = Vec::new();
    let step = (bytes / 4096).max(65536) / 65536 * 65536;
    for at in (0..bytes.saturating_sub(65536)).step_by(usize::try_from(step)?) {
        let mut chunk = vec![0; 65536];
        file.read_exact_at(&mut chunk, at)?;
        if chunk.iter().any(|byte| *byte != 0) {
            chunks.push(chunk);
        }
    }
    let size = gb(chunks.len() as u64 * 65536);
    let start = thread_seconds();
    let digests: Vec<_> = chunks
        .iter()
        .map(|chunk| blake3::keyed_hash(&[1; 32], chunk))
        .collect();
    let hash = (thread_seconds() - start) / size;
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let start = thread_seconds();
    let frames = chunks
        .iter()
        .map(|chunk| compressor.compress(chunk))
        .collect::<Result<Vec<_>, _>>()?;
    let encode = (thread_seconds() - start) / size;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let start = thread_seconds();
    for frame in &frames {
        std::hint::black_box(decompressor.decompress(frame, 65536)?);
    }
    let decode = (thread_seconds() - start) / size;
    std::hint::black_box(digests);
    let (seal, open) = seal_rates(&chunks, size)?;
    println!("one core, s/GB: AES-256-GCM seal {seal:.3}, open {open:.3}");
    let cores = f64::from(u32::try_from(std::thread::available_parallelism()?.get())?);
    println!("one core, s/GB: blake3 {hash:.3}, zstd-1 encode {encode:.3}, decode {decode:.3}");
    let work = 2.0 * hash + encode + decode;
    println!(
        "limit for new data: {work:.3} CPU s/GB, {:.3} GB/s on {cores} cores",
        cores / work
    );
    Ok(())
}

/// What sealing and opening whole chunks take one core, in seconds a GB.
fn seal_rates(chunks: &[Vec<u8>], size: f64) -> Result<(f64, f64), Failure> {
    let key = StoreKey::new([1; 32]).object(Purpose::Object, [2; 16])?;
    let (mut sealed, mut plain) = (Vec::new(), Vec::new());
    let start = thread_seconds();
    for (number, chunk) in (0..).zip(chunks) {
        sealed.clear();
        key.segment_seal(number, false, chunk, &mut sealed)?;
    }
    let (seal, start) = (thread_seconds() - start, thread_seconds());
    let last = chunks.len().saturating_sub(1) as u64;
    for _ in chunks {
        key.segment_open(last, false, &sealed, &mut plain)?;
    }
    Ok((seal / size, (thread_seconds() - start) / size))
}

fn report(what: &str, wall: Duration, cpu: f64, stats: IngestStats) {
    let seconds = wall.as_secs_f64();
    let data = stats.new_bytes + stats.deduplicated_bytes;
    println!(
        "{what}: {:.3} GB/s of data, {seconds:.2} s, {cpu:.2} CPU s; data {} MiB, new {} MiB, stored {} MiB, zero {} MiB",
        gb(data) / seconds,
        data >> 20,
        stats.new_bytes >> 20,
        stats.stored_bytes >> 20,
        stats.zero_bytes >> 20,
    );
}

/// Time that this thread had a processor, from `/proc/thread-self/schedstat` (nanoseconds): what other
/// programs do on the machine counts less than in wall time.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default()).as_secs_f64()
}
