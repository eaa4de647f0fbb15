//! Counting what a service is asked: each request takes a round trip, and most services bill them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that were sent, with those that were sent again, and the bytes that went with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects or parts of objects that were read.
    pub get: u64,
    /// Objects, and parts of large ones, that were written, with what begins and ends a large one.
    pub put: u64,
    /// Objects whose size was asked for.
    pub head: u64,
    /// Pages of listings, of 1000 keys each.
    pub list: u64,
    /// Objects that were deleted.
    pub delete: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Get,
    Put,
    Head,
    List,
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    operations: [AtomicU64; 5],
    read: AtomicU64,
    written: AtomicU64,
}

impl Counters {
    pub(super) fn sent(&self, operation: Operation) {
        self.operations[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Requests {
        let of = |operation: Operation| self.operations[operation as usize].load(Ordering::Relaxed);
        Requests {
            get: of(Operation::Get),
            put: of(Operation::Put),
            head: of(Operation::Head),
            list: of(Operation::List),
            delete: of(Operation::Delete),
            read_bytes: self.read.load(Ordering::Relaxed),
            written_bytes: self.written.load(Ordering::Relaxed),
        }
    }
}
