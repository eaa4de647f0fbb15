//! What is written to a store: disks and objects that can be made again from a few words.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use store::ObjectName;

pub(crate) const CHUNK: usize = 64 * 1024;

/// The bytes of a disk: one number a chunk. 0 is zeros, an odd one does not compress, an even one does.
pub(crate) fn disk(spec: &str) -> Bytes {
    made(spec, || {
        let chunks: Vec<_> = spec
            .split(',')
            .map(|token| chunk(token.parse().expect("a number")))
            .collect();
        chunks.concat()
    })
}

fn chunk(seed: u64) -> Vec<u8> {
    match seed {
        0 => vec![0; CHUNK],
        odd if odd % 2 == 1 => noise(odd, CHUNK),
        even => noise(even, 512).repeat(CHUNK / 512),
    }
}

/// The bytes of an object: `LENGTH:SEED`.
pub(crate) fn object(spec: &str) -> Bytes {
    made(spec, || {
        let (length, seed) = spec.split_once(':').expect("two numbers");
        let length = length.parse().expect("a number");
        noise(seed.parse().expect("a number"), length)
    })
}

/// Each is made once: every state is compared with the same few.
fn made(spec: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
    static MADE: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);
    let mut all = MADE.lock().expect("nobody panics");
    let found = all.entry(spec.to_owned()).or_insert_with(|| Bytes::from(make()));
    found.clone()
}

/// The name of these bytes.
pub(crate) fn name(data: &[u8]) -> ObjectName {
    use sha2::Digest as _;
    let digest = hex::encode(sha2::Sha256::digest(data));
    format!("sha256:{digest}").parse().expect("is one")
}

/// Bytes that do not compress and are the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A number for a place: the same for the same words.
pub(crate) fn draw(words: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"))
}

/// Bytes with their hash, so that equal states are found without reading them again.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: blake3::Hash,
}

impl Content {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        let hash = blake3::hash(&bytes);
        Arc::new(Self { bytes, hash })
    }
}
