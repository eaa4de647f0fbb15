//! Which world a check goes through: who is in it, what may happen to them, and what is wrong with the protocol.

use crate::state::{Digests, OBJECTS, SESSIONS, WRITERS};

/// The bounds of one check.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that may happen or not"
)]
pub struct Config {
    pub name: &'static str,
    /// What is there in the beginning: in object 0, named by root 0.
    pub stored: Digests,
    /// What else lies in object 0, and has no row any more.
    pub garbage: Digests,
    pub writers: &'static [Plan],
    /// Runs of gc. Each may begin at any time, and takes the fence from the one before.
    pub runs: usize,
    /// Whether writers crash, and leases end at any time.
    pub expiry: bool,
    /// Whether a PUT or DELETE is sent in one step, lands in another, and is acknowledged in a third, all as late as it
    /// may be. Else these are one step, which leaves room for more actors.
    pub delays: bool,
    /// How many times a PUT or DELETE lands that was sent once. More than once only with delays.
    pub copies: u8,
    /// Look-ups take one digest a transaction, not all.
    pub looks_one_by_one: bool,
    pub repack: bool,
    /// Whether runs look for orphans (else only the last ones do).
    pub orphans: bool,
    /// Whether chunks are found damaged, and found whole again.
    pub damage: bool,
    pub reader: bool,
    pub pins: Pins,
    pub flaw: Option<Flaw>,
}

/// What one writer stores: a tree, under the root of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The root whose tree is inherited without looking it up.
    pub parent: Option<u8>,
    /// What it brings, and looks up.
    pub brings: Digests,
}

/// How a sweep learns what is pinned as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// It reads all pins.
    All,
    /// It reads those with a higher number than the run's beginning has seen, alone at the gate. The rest is marked.
    SinceBegin,
}

/// What is wrong with the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A key is the digest of its content, so that it is used again.
    DigestKeys,
    /// The same, and [`Flaw::Unguarded`].
    DigestKeysUnguarded,
    /// Neither epochs nor pins keep what open sessions count on.
    Unguarded,
    /// Pins go with the commit, also while a gc runs.
    PinsDropped,
    /// An incremental keeps its parent by nothing.
    ParentUnpinned,
    /// A run reads sessions and pins first, and the roots in another transaction.
    SnapshotInTwo,
    /// A hit on a condemned chunk leaves it condemned.
    NotBroughtBack,
    /// A writer commits without asking whether it still has its session.
    CommitUnchecked,
    /// A repack takes the old pack away before the rows name the new one.
    OldPackFirst,
    /// A repack moves the rows without asking whether its session still holds the new pack.
    RepackUnchecked,
    /// A run goes on when another has taken the fence.
    TakeoverUnfenced,
    /// A sweep reads pins with a higher number than the snapshot has seen. A number is drawn before its transaction
    /// commits, so a snapshot may see a pin and miss one with a lower number.
    PinsSinceSnapshot,
    /// Who publishes a damaged chunk anew gives its row its own epoch, also where that is lower than the row's.
    EpochFalls,
    /// Nobody looks for objects without a row.
    OrphansKept,
    /// A reader that finds an object gone gives up.
    ReaderAsksOnce,
}

impl Config {
    /// What a root's tree reaches. Root 0 is the first one, root n + 1 that of writer n.
    pub fn tree(&self, root: usize) -> Digests {
        let Some(writer) = root.checked_sub(1) else {
            return self.stored;
        };
        let plan = &self.writers[writer];
        plan.brings | plan.parent.map_or(0, |parent| self.tree(usize::from(parent)))
    }

    pub fn roots(&self) -> usize {
        1 + self.writers.len()
    }

    pub fn repack_session(run: usize) -> usize {
        WRITERS + run
    }

    /// The object that a session writes: one key, used once.
    pub fn object_of(session: usize) -> usize {
        1 + session
    }

    /// Sessions that there can be.
    pub fn sessions(&self) -> impl Iterator<Item = usize> {
        let (writers, runs) = (self.writers.len(), if self.repack { self.runs } else { 0 });
        (0..SESSIONS).filter(move |n| *n < writers || (WRITERS..WRITERS + runs).contains(n))
    }

    /// Objects that there can be.
    pub fn objects(&self) -> impl Iterator<Item = usize> {
        std::iter::once(0)
            .chain(self.sessions().map(Self::object_of))
            .inspect(|object| debug_assert!(*object < OBJECTS))
    }

    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn has_digest_keys(&self) -> bool {
        self.has(Flaw::DigestKeys) || self.has(Flaw::DigestKeysUnguarded)
    }

    pub fn is_unguarded(&self) -> bool {
        self.has(Flaw::Unguarded) || self.has(Flaw::DigestKeysUnguarded)
    }

    /// Whether pins have numbers. Else they are read whole, and no number is kept.
    pub fn numbers_pins(&self) -> bool {
        self.pins == Pins::SinceBegin || self.has(Flaw::PinsSinceSnapshot)
    }
}
