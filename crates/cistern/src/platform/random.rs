//! The only place that draws randomness.

use rand::RngExt;

/// `N` bytes from the operating system's generator (through a thread-local CSPRNG).
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::rng().fill(&mut out[..]);
    out
}

/// A new random UUID (version 4).
pub fn uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}

/// A number in `0.0..1.0`, to spread retries.
pub fn unit() -> f64 {
    rand::rng().random()
}
