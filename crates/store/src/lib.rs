//! The content-addressed store: disks as trees of 64 KiB chunks, chunks in packs, packs in a folder or bucket.
//!
//! The bytes are specified in `docs/store-format.md`; this page is the protocol that keeps them safe.
//!
//! # Who may delete what, and why nothing that is needed goes
//!
//! Five rules; `docs/store-format.md` §8 has the argument step by step.
//!
//! 1. **No object key is used twice.** A delete that arrives late, or twice, hits nothing but its own object.
//! 2. **The row comes before the object** (state *intent*), so whatever a crash leaves is known by name.
//!    Chunk rows come after it, once, when the object is durable and every frame has been decoded again.
//! 3. **Every row has the epoch of the session that wrote it**, and the epoch rises at every session open and
//!    every gc. A gc condemns only rows older than itself and than every session open when it took its
//!    snapshot, so it never touches what an unfinished session wrote.
//! 4. **A hit on a row older than the session is pinned** in the transaction that sees the hit, one row a
//!    batch. Gc reads the newest pins in each transaction that condemns.
//! 5. **Every transaction of a writer holds the gate** (the store's row) shared; gc condemns holding it alone.
//!    So "looked up, then condemned, then pinned" cannot happen on PostgreSQL either (on SQLite an IMMEDIATE
//!    transaction is alone anyway).
//!
//! Pins replace the per-chunk `pin_epoch` update of the model in use elsewhere, and need one thing more than it:
//! a session that pins an old chunk **and commits** between a gc's snapshot and its condemning transaction
//! is in neither the snapshot's roots nor, were its pins dropped at commit, in the pins. Hence a commit that
//! finds a gc under way (`gc_fence` is set, read under the gate) leaves its pins; the end of that gc drops them.
//!
//! A writer's right to publish is the session row's state and fence, checked in the publishing transaction
//! with the row held; clocks only decide when a lease is taken away, never whether a write is safe.
#![forbid(unsafe_code)]

mod alone;
pub mod backend;
mod cache;
mod copy;
mod digest;
mod doubt;
mod error;
mod format;
pub mod gc;
mod group_commit;
mod header;
mod heal;
mod ingest;
mod journal;
mod keyring;
mod keys;
mod memory;
mod migration;
mod object;
pub mod owner;
pub mod pack;
mod reader;
mod rebuild;
pub mod room;
mod rows;
pub mod scrub;
pub mod seal;
mod session;
mod store;
mod tree;
mod verify;
mod walk;
mod world;
mod writers;

pub use backend::{
    Backend, Fault, Faulty, Folder, Listed, Probe, Put, Remote, Requests, Settings, backend_open,
    backend_open_existing, backend_open_to_read, backend_open_within, folder,
};
pub use cache::{CacheOptions, CacheStats};
pub use copy::{Copied, CopyOptions, CopyProgress, copy, copy_check};
pub use digest::{Digest, FrameKind};
pub use error::{Error, Kind, Result};
pub use format::FORMAT;
pub use header::{DedupDomain, Header};
pub use heal::{HealProgress, Healed};
pub use ingest::{Disk, Ingest, IngestStats, Progress};
pub use journal::{
    JOURNAL_DOCUMENT_LIMIT, Journal, JournalHead, JournalLink, JournalListed, JournalObject, JournalPart,
    JournalPlace, JournalSealed,
};
pub use keyring::KeyChange;
pub use keys::{KeyKind, RecoveryKey, WrappedKey, WrappingKey};
pub use migration::migrations;
pub use object::{Algorithm, ObjectIngest, ObjectName, ObjectRef};
pub use reader::decoded::MemoryStats;
pub use reader::{DiskReader, Piece};
pub use rebuild::{RebuildProgress, Rebuilt};
pub use rows::{POSTGRES_SETTINGS, database_away};
pub use session::{Expired, Session};
pub use store::{Options, Root, Stats, Store};
pub use tree::TreeRoot;
pub use verify::{Damage, VerifyProgress};
pub use world::{Schedule, Turn, World};
pub use writers::Writers;

/// Bytes of a chunk of a disk. One constant a store, and today one for all.
pub const CHUNK_BYTES: u32 = 64 * 1024;
