//! What writers and readers do. A transaction is one step; a PUT is sent in one step and lands in another.

use crate::config::{Config, Flaw};
use crate::state::{
    Digests, ObjectState, Reader, ReaderPhase, Row, RowState, Session, SessionState, State, Writer,
    WriterPhase, members, small,
};

impl Config {
    /// The next step of a writer, which its phase tells. `None` when there is none.
    pub fn writer_step(&self, state: &mut State, writer: usize) -> Option<()> {
        match state.writers[writer].phase {
            WriterPhase::Idle => return self.session_open(state, writer),
            WriterPhase::Parent => self.parent_pin(state, writer),
            WriterPhase::LookUp if self.numbers_pins() => {
                state.pin_number += 1;
                state.sessions[writer].pin_number = state.pin_number;
                state.writers[writer].phase = WriterPhase::Numbered;
            }
            WriterPhase::LookUp | WriterPhase::Numbered => self.look_up(state, writer),
            WriterPhase::Intent => intent(state, writer),
            WriterPhase::Put => {
                self.put_send(state, Self::object_of(writer));
                state.writers[writer].phase = WriterPhase::Publish;
            }
            WriterPhase::Publish => {
                // What has not landed is not acknowledged.
                if state.objects[Self::object_of(writer)].puts == self.copies {
                    return None;
                }
                self.publish(state, writer);
            }
            WriterPhase::Commit => self.commit(state, writer),
            WriterPhase::Done => return None,
        }
        Some(())
    }

    /// Gives up, or crashes, anywhere.
    pub fn writer_stop(&self, state: &mut State, writer: usize) -> Option<()> {
        let phase = state.writers[writer].phase;
        if !self.expiry || matches!(phase, WriterPhase::Idle | WriterPhase::Done) {
            return None;
        }
        // Whatever transaction it was in is undone.
        if phase == WriterPhase::Numbered && state.sessions[writer].pins == 0 {
            state.sessions[writer].pin_number = 0;
        }
        done(state, writer);
        Some(())
    }

    fn session_open(&self, state: &mut State, writer: usize) -> Option<()> {
        let plan = self.writers[writer];
        // Writers with one plan are told apart by when they begin, and by nothing else.
        let is_second = writer > 0 && self.writers[writer - 1] == plan;
        if is_second && state.writers[writer - 1].phase == WriterPhase::Idle {
            return None;
        }
        gate_alone(state)?;
        state.epoch += 1;
        state.sessions[writer] = Session {
            state: SessionState::Open,
            start_epoch: state.epoch,
            ..Session::default()
        };
        state.writers[writer] = Writer {
            phase: if plan.parent.is_some() {
                WriterPhase::Parent
            } else {
                WriterPhase::LookUp
            },
            todo: plan.brings,
            missing: 0,
        };
        Some(())
    }

    fn parent_pin(&self, state: &mut State, writer: usize) {
        let parent = self.writers[writer].parent.map_or(0, usize::from);
        let tree = self.tree(parent);
        let is_there = (0..self.roots()).any(|root| state.roots & 1 << root != 0 && self.tree(root) == tree);
        if !is_open(state, writer) || !is_there {
            return done(state, writer);
        }
        if !self.has(Flaw::ParentUnpinned) {
            state.sessions[writer].root = tree;
        }
        state.writers[writer].phase = WriterPhase::LookUp;
    }

    fn look_up(&self, state: &mut State, writer: usize) {
        if !is_open(state, writer) {
            return done(state, writer);
        }
        let todo = state.writers[writer].todo;
        let lowest = todo & todo.wrapping_neg();
        let batch = if self.looks_one_by_one { lowest } else { todo };
        let is_missing = |row: &Row| matches!(row.state, RowState::Absent | RowState::Damaged);
        let missing = members(batch)
            .filter(|digest| is_missing(&state.rows[*digest]))
            .fold(0, |all, digest| all | 1 << digest);
        self.hit(state, writer, batch & !missing);
        let next = &mut state.writers[writer];
        next.todo &= !batch;
        next.missing |= missing;
        next.phase = match (next.todo, next.missing) {
            (0, 0) => WriterPhase::Commit,
            (0, _) => WriterPhase::Intent,
            _ => WriterPhase::LookUp,
        };
    }

    /// Counts on rows that others wrote: brings them back, and pins the older ones.
    fn hit(&self, state: &mut State, writer: usize, digests: Digests) {
        let start_epoch = state.sessions[writer].start_epoch;
        for digest in members(digests) {
            let row = &mut state.rows[digest];
            if row.state == RowState::Condemned && !self.has(Flaw::NotBroughtBack) {
                row.state = RowState::Live;
            }
            if row.epoch < start_epoch {
                state.sessions[writer].pins |= 1 << digest;
            }
        }
        if state.sessions[writer].pins == 0 {
            state.sessions[writer].pin_number = 0;
        }
    }

    fn publish(&self, state: &mut State, writer: usize) {
        let object = Self::object_of(writer);
        if !is_open(state, writer) || state.objects[object].state != ObjectState::Intent {
            return done(state, writer);
        }
        state.objects[object].state = ObjectState::Live;
        let mut hits = 0;
        for digest in members(state.writers[writer].missing) {
            if matches!(state.rows[digest].state, RowState::Live | RowState::Condemned) {
                hits |= 1 << digest;
                continue;
            }
            // Others may count on the epoch that a damaged row has, so it never falls.
            let older = if self.has(Flaw::EpochFalls) {
                0
            } else {
                state.rows[digest].epoch
            };
            state.rows[digest] = Row {
                state: RowState::Live,
                object: small(object),
                epoch: state.sessions[writer].start_epoch.max(older),
            };
        }
        if self.numbers_pins() && hits != 0 {
            state.pin_number += 1;
            state.sessions[writer].pin_number = state.pin_number;
        }
        self.hit(state, writer, hits);
        state.writers[writer].missing = 0;
        state.writers[writer].phase = WriterPhase::Commit;
    }

    fn commit(&self, state: &mut State, writer: usize) {
        if is_open(state, writer) || self.has(Flaw::CommitUnchecked) {
            state.roots |= 1 << (writer + 1);
            let keeps = state.fence != 0 && !self.has(Flaw::PinsDropped);
            if state.sessions[writer].state == SessionState::Open {
                state.session_end(writer, keeps);
            }
        }
        done(state, writer);
    }

    /// A reader finds the object of a chunk, in one transaction.
    pub fn reader_find(&self, state: &mut State, root: usize, digest: usize) -> Option<()> {
        let row = state.rows[digest];
        let is_named = state.roots & 1 << root != 0 && self.tree(root) & 1 << digest != 0;
        if state.reader.phase != ReaderPhase::Idle || !is_named || row.state == RowState::Damaged {
            return None;
        }
        state.reader = Reader {
            phase: ReaderPhase::Found,
            root: small(root),
            digest: small(digest),
            object: row.object,
        };
        Some(())
    }

    /// A reader reads what it found, maybe much later.
    pub fn reader_get(&self, state: &mut State) -> Option<()> {
        let reader = state.reader;
        if !matches!(reader.phase, ReaderPhase::Found | ReaderPhase::FoundAgain) {
            return None;
        }
        let row = state.rows[usize::from(reader.digest)];
        let is_unharmed = state.present & 1 << self.key(state, usize::from(reader.object)) != 0
            || state.roots & 1 << reader.root == 0
            || row.state == RowState::Damaged;
        if is_unharmed {
            state.reader = Reader {
                phase: ReaderPhase::Done,
                ..Reader::default()
            };
        } else if row.object == reader.object || self.has(Flaw::ReaderAsksOnce) {
            state.reader.phase = ReaderPhase::Failed;
        } else {
            state.reader.phase = ReaderPhase::FoundAgain;
            state.reader.object = row.object;
        }
        Some(())
    }
}

/// Whether the session is its writer's: open, and its lease is not over.
fn is_open(state: &State, writer: usize) -> bool {
    state.sessions[writer].state == SessionState::Open
}

fn intent(state: &mut State, writer: usize) {
    if !is_open(state, writer) {
        return done(state, writer);
    }
    let object = &mut state.objects[Config::object_of(writer)];
    object.state = ObjectState::Intent;
    object.content = state.writers[writer].missing;
    state.writers[writer].phase = WriterPhase::Put;
}

fn done(state: &mut State, writer: usize) {
    state.writers[writer] = Writer {
        phase: WriterPhase::Done,
        ..Writer::default()
    };
}

/// Whether nobody holds the gate shared over several steps.
pub fn gate_alone(state: &State) -> Option<()> {
    let held = |writer: &Writer| writer.phase == WriterPhase::Numbered;
    (!state.writers.iter().any(held)).then_some(())
}
