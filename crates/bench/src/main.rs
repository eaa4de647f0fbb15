//! Figures that the store's own work is held against.
//!
//! `cistern-bench dedup FILE…` tells, for each size of chunk, what each file adds to those before it: one JSON object
//! a line with `chunk_bytes`, `new_bytes` (of each file, after zstd level 1, what does not shrink kept as it is) and
//! `entries`.
//!
//! `cistern-bench FILE` gives the one-core rates of the work that an import cannot do without. It takes up to 512 MiB
//! of the 64 KiB chunks of FILE that are not zero, spread over it, and measures on one thread what BLAKE3 (keyed), zstd
//! level 1 and its decoder take for them, one chunk at a time as the store has them. Prints one JSON object:
//! `data_bytes` of the whole file, and seconds of processor time a GB (10^9 bytes) for each.

use std::collections::HashSet;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read as _};

const CHUNK: usize = 64 << 10;
/// Chunks that are measured at most.
const SAMPLE: usize = (512 << 20) / CHUNK;

/// Sizes of chunks that are compared.
const SIZES: [usize; 8] = [
    4 << 10,
    16 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    4 << 20,
];

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [word, files @ ..] if word == "dedup" && !files.is_empty() => {
            SIZES.into_iter().try_for_each(|size| dedup(size, files))
        }
        [path] => rates(path),
        _ => {
            eprintln!("usage: cistern-bench FILE | cistern-bench dedup FILE…");
            std::process::exit(2);
        }
    }
}

fn dedup(size: usize, files: &[String]) -> io::Result<()> {
    let mut seen = HashSet::new();
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut frame = vec![0; size];
    let mut new_bytes = Vec::new();
    for file in files {
        let mut new = 0;
        each_chunk(file, size, |_, chunk| {
            if seen.insert(*blake3::hash(chunk).as_bytes()) {
                new += compressor
                    .compress_to_buffer(chunk, &mut frame[..size - 1])
                    .unwrap_or(size);
            }
        })?;
        new_bytes.push(new.to_string());
    }
    println!(
        "{{\"chunk_bytes\": {size}, \"new_bytes\": [{}], \"entries\": {}}}",
        new_bytes.join(", "),
        seen.len()
    );
    Ok(())
}

fn rates(path: &str) -> io::Result<()> {
    let (data, sample) = sample(path)?;
    if sample.is_empty() {
        return Err(io::Error::other(format!("`{path}` holds nothing but zeros")));
    }
    let gb = sample.len() as f64 * CHUNK as f64 / 1e9;
    let blake3 = seconds(|| {
        for chunk in &sample {
            black_box(blake3::keyed_hash(&[1; 32], chunk));
        }
        Ok(())
    })?;
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut frame = vec![0; CHUNK - 1];
    let mut frames = Vec::with_capacity(sample.len());
    // What does not shrink is kept as it is, and costs nothing to decode.
    let encode = seconds(|| {
        for chunk in &sample {
            if let Ok(length) = compressor.compress_to_buffer(chunk, &mut frame[..]) {
                frames.push(frame[..length].to_vec());
            }
        }
        Ok(())
    })?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let mut plain = vec![0; CHUNK];
    let decode = seconds(|| {
        for frame in &frames {
            black_box(decompressor.decompress_to_buffer(frame, &mut plain[..])?);
        }
        Ok(())
    })?;
    println!(
        "{{\"data_bytes\": {}, \"blake3\": {:.4}, \"encode\": {:.4}, \"decode\": {:.4}}}",
        data * CHUNK as u64,
        blake3 / gb,
        encode / gb,
        decode / gb
    );
    Ok(())
}

/// How many chunks are not zero, and some of them, evenly spread.
fn sample(path: &str) -> io::Result<(u64, Vec<Vec<u8>>)> {
    let mut places = Vec::new();
    each_chunk(path, CHUNK, |number, _| places.push(number))?;
    let step = places.len().div_ceil(SAMPLE).max(1);
    let mut wanted = places.iter().copied().step_by(step).peekable();
    let mut out = Vec::new();
    each_chunk(path, CHUNK, |number, chunk| {
        if wanted.next_if_eq(&number).is_some() {
            out.push(chunk.to_vec());
        }
    })?;
    Ok((places.len() as u64, out))
}

/// Calls `with` for the chunks of `size` bytes that are not zero.
fn each_chunk(path: &str, size: usize, mut with: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; size];
    for number in 0.. {
        let mut filled = 0;
        while filled < size {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        chunk[filled..].fill(0);
        if chunk.iter().any(|byte| *byte != 0) {
            with(number, &chunk);
        }
    }
    Ok(())
}

/// Time that this thread had a processor while it did `work`: what others do on the machine does not count.
fn seconds(work: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let before = thread_nanoseconds()?;
    work()?;
    Ok((thread_nanoseconds()? - before) as f64 / 1e9)
}

/// The first field of `/proc/thread-self/schedstat` (proc_pid_schedstat): nanoseconds on a processor.
fn thread_nanoseconds() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = stat.split_whitespace().next().and_then(|text| text.parse().ok());
    first.ok_or_else(|| io::Error::other("the kernel does not count the time of threads (CONFIG_SCHEDSTATS)"))
}
