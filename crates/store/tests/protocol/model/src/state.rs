//! What the model's world consists of: the rows of the database, the keys of the backend, and how far each actor is.
//!
//! Everything is small and of a fixed size, as millions of these are kept and compared. What nobody can ask for any
//! more is set back to its default, so that states which differ in nothing that matters are one state.

/// A set of digests, a bit each. A tree is the set of what it reaches.
pub type Digests = u8;

pub const DIGESTS: usize = 3;
pub const WRITERS: usize = 3;
pub const RUNS: usize = 3;
/// A session for each writer, then one for the repack of each run of gc.
pub const SESSIONS: usize = WRITERS + RUNS;
/// What was there in the beginning, then one object for each session. An object's number is its key: used once.
pub const OBJECTS: usize = 1 + SESSIONS;

/// The members of a set.
pub fn members(set: Digests) -> impl Iterator<Item = usize> {
    (0..DIGESTS).filter(move |digest| set & 1 << digest != 0)
}

/// Numbers of actors, objects and the like: all far below 256.
pub fn small(number: impl TryInto<u8>) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `meta.epoch`.
    pub epoch: u8,
    /// `meta.gc_fence`: the number of the run that holds it, from 1; 0 for nobody.
    pub fence: u8,
    /// Roots that are there, a bit each: the first one, then one for each writer.
    pub roots: u8,
    /// Keys under which the backend has an object, a bit each.
    pub present: u8,
    pub sessions: [Session; SESSIONS],
    pub objects: [Object; OBJECTS],
    pub rows: [Row; DIGESTS],
    pub writers: [Writer; WRITERS],
    pub runs: [Run; RUNS],
    pub reader: Reader,
    /// The newest number of a row in `session_pin`; stays 0 where pins are read whole.
    pub pin_number: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    pub state: SessionState,
    pub start_epoch: u8,
    /// `session_pin`.
    pub pins: Digests,
    /// `session_root`: what the parent's tree reaches.
    pub root: Digests,
    /// Number of its pins' row; 0 where pins are read whole.
    pub pin_number: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionState {
    #[default]
    Absent,
    Open,
    /// Committed while a gc ran: what it pinned stays until that gc has ended.
    Ended,
    Expired,
}

/// A row of `object`, and the requests for its key that are still under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Object {
    pub state: ObjectState,
    pub content: Digests,
    /// PUTs that have not landed.
    pub puts: u8,
    /// DELETEs that have not landed.
    pub deletes: u8,
    /// The run that has seen it in the backend without a row, from 1; 0 for none.
    pub seen: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ObjectState {
    #[default]
    Absent,
    Intent,
    Live,
    Dead,
    /// Dead, and somebody has sent the DELETE.
    Deleting,
    /// It had a row.
    Removed,
}

/// A row of `chunk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    pub state: RowState,
    pub object: u8,
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowState {
    #[default]
    Absent,
    Live,
    Condemned,
    Damaged,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    pub phase: WriterPhase,
    /// What is still to be looked up.
    pub todo: Digests,
    /// What was looked up and has to be stored.
    pub missing: Digests,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriterPhase {
    #[default]
    Idle,
    /// Opened a session; takes hold of the parent next.
    Parent,
    LookUp,
    /// In the transaction of a look-up: its pins have a number, and nobody sees them (only where pins have numbers).
    Numbered,
    Intent,
    Put,
    Publish,
    Commit,
    /// Committed, failed, given up or crashed.
    Done,
}

/// A run of gc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    pub phase: RunPhase,
    pub epoch: u8,
    pub marked: Digests,
    /// T: rows that are not older may belong to a session that is not done.
    pub before: u8,
    /// Pins with a higher number are not among the marks; 0 where pins are read whole.
    pub pins_seen: u8,
    pub repack: Repack,
    /// The object that is repacked.
    pub from: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunPhase {
    #[default]
    Idle,
    Begun,
    /// Has read sessions and pins, not yet the roots (only where the snapshot is in two parts).
    HalfMarked,
    Marked,
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Repack {
    #[default]
    None,
    Opened,
    Copied,
    Put,
    Done,
}

/// Reads one chunk of a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    pub phase: ReaderPhase,
    pub root: u8,
    pub digest: u8,
    pub object: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReaderPhase {
    #[default]
    Idle,
    /// Knows the object, and has not read it yet.
    Found,
    /// Found an object gone and asked the index once more: the chunk had moved.
    FoundAgain,
    /// Could not read a chunk of a root that was there all the time.
    Failed,
    Done,
}

impl Object {
    /// A crash of whoever deletes leaves it so, and somebody else goes on.
    pub fn is_unpublished(self) -> bool {
        matches!(
            self.state,
            ObjectState::Intent | ObjectState::Dead | ObjectState::Deleting
        )
    }
}

impl State {
    /// What open sessions, and those that have ended or expired and are not removed yet, pin.
    pub fn pins(&self) -> Digests {
        self.sessions.iter().fold(0, |all, session| all | session.pins)
    }

    /// What the parents of running incrementals reach.
    pub fn session_roots(&self) -> Digests {
        self.sessions.iter().fold(0, |all, session| all | session.root)
    }

    /// Digests whose rows name the object.
    pub fn rows_of(&self, object: usize) -> Digests {
        let names = |row: &Row| row.state != RowState::Absent && usize::from(row.object) == object;
        (0..DIGESTS)
            .filter(|digest| names(&self.rows[*digest]))
            .fold(0, |all, digest| all | 1 << digest)
    }

    /// Removes a session that ended, unless there is something for a gc to see.
    pub fn session_end(&mut self, session: usize, keeps: bool) {
        let session = &mut self.sessions[session];
        let is_empty = session.pins == 0 && session.root == 0;
        if !keeps || is_empty {
            *session = Session::default();
            return;
        }
        session.state = SessionState::Ended;
        session.start_epoch = 0;
    }
}
