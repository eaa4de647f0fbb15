//! Finds damage and says what it hits.

/// A damaged part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Kind of the root.
    pub kind: String,
    /// Owner of the root.
    pub owner: String,
    /// The disk's bytes that cannot be read.
    pub range: std::ops::Range<u64>,
    /// Why.
    pub reason: String,
}

/// Counters of a running verification.
#[derive(Debug, Default)]
pub struct VerifyProgress {}
