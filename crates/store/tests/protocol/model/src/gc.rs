//! What runs of gc do. Each transaction is alone at the gate and asks whether the fence is still the run's.
//!
//! A run does its steps in any order once it has marked, and leaves out any: an order, a batch or a waiting time that
//! somebody chooses is among these.

use crate::config::{Config, Flaw, Pins};
use crate::state::{
    Digests, Object, ObjectState, Repack, Row, RowState, Run, RunPhase, SESSIONS, Session, SessionState,
    State, WriterPhase, members, small,
};
use crate::writer::gate_alone;

/// A step of a run of gc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin,
    Mark,
    Sweep(usize),
    Bury(usize),
    /// An object without a row goes from live to dead.
    Retire(usize),
    OrphanSee(usize),
    OrphanDelete(usize),
    RepackOpen,
    RepackCopy(usize),
    RepackPut,
    RepackSwitch,
    End,
    /// Its next transaction finds that the fence is another's.
    Lose,
}

impl Config {
    pub fn run_step(&self, state: &mut State, run: usize, step: Step) -> Option<()> {
        match step {
            Step::Begin => return self.begin(state, run),
            Step::Mark => return self.mark(state, run),
            Step::RepackPut => return self.repack_put(state, run),
            Step::Lose => return lose(state, run),
            Step::OrphanDelete(object) => return self.orphan_delete(state, run, object),
            _ => {}
        }
        self.alone(state, run)?;
        if step == Step::End {
            end(state, run);
            return Some(());
        }
        if state.runs[run].phase != RunPhase::Marked {
            return None;
        }
        match step {
            Step::Sweep(digest) => self.sweep(state, run, digest),
            Step::Bury(digest) => bury(state, run, digest),
            Step::Retire(object) => self.retire(state, object),
            Step::OrphanSee(object) => self.orphan_see(state, run, object),
            Step::RepackOpen => repack_open(state, run),
            Step::RepackCopy(object) => self.repack_copy(state, run, object),
            Step::RepackSwitch => self.repack_switch(state, run),
            _ => None,
        }
    }

    /// A transaction that is alone at the gate, for a run that holds the fence.
    fn alone(&self, state: &State, run: usize) -> Option<()> {
        gate_alone(state)?;
        let is_under_way = !matches!(state.runs[run].phase, RunPhase::Idle | RunPhase::Ended);
        let holds = is_fence_of(state, run) || self.has(Flaw::TakeoverUnfenced);
        (is_under_way && holds).then_some(())
    }

    fn begin(&self, state: &mut State, run: usize) -> Option<()> {
        // Runs are told apart by when they begin, and by nothing else.
        let is_next = run == 0 || state.runs[run - 1].phase != RunPhase::Idle;
        if state.runs[run].phase != RunPhase::Idle || !is_next {
            return None;
        }
        gate_alone(state)?;
        state.epoch += 1;
        state.fence = number(run);
        state.runs[run] = Run {
            phase: RunPhase::Begun,
            epoch: state.epoch,
            ..Run::default()
        };
        if self.pins == Pins::SinceBegin {
            state.runs[run].pins_seen = state.pin_number;
        }
        Some(())
    }

    /// One snapshot. It waits for nobody, and a writer may be in the middle of a transaction.
    fn mark(&self, state: &mut State, run: usize) -> Option<()> {
        let phase = state.runs[run].phase;
        if self.has(Flaw::SnapshotInTwo) && phase == RunPhase::Begun {
            self.mark_sessions(state, run);
            state.runs[run].phase = RunPhase::HalfMarked;
            return Some(());
        }
        if !matches!(phase, RunPhase::Begun | RunPhase::HalfMarked) {
            return None;
        }
        if phase == RunPhase::Begun {
            self.mark_sessions(state, run);
        }
        state.runs[run].marked |= self.reachable(state);
        state.runs[run].phase = RunPhase::Marked;
        Some(())
    }

    fn mark_sessions(&self, state: &mut State, run: usize) {
        let open = |session: &&Session| session.state == SessionState::Open;
        let oldest = state.sessions.iter().filter(open).map(|one| one.start_epoch);
        let before = oldest.min().unwrap_or(u8::MAX).min(state.runs[run].epoch);
        let seen = pins_newest(state);
        let (pins, roots) = (state.pins(), state.session_roots());
        let this = &mut state.runs[run];
        this.before = before;
        this.marked = pins | roots;
        if self.is_unguarded() {
            this.before = u8::MAX;
            this.marked = roots;
        }
        if self.has(Flaw::PinsSinceSnapshot) {
            this.pins_seen = seen;
        }
    }

    /// What roots reach.
    pub fn reachable(&self, state: &State) -> Digests {
        let roots = (0..self.roots()).filter(|root| state.roots & 1 << root != 0);
        roots.fold(0, |all, root| all | self.tree(root))
    }

    fn sweep(&self, state: &mut State, run: usize, digest: usize) -> Option<()> {
        let Run {
            epoch,
            before,
            marked,
            pins_seen,
            ..
        } = state.runs[run];
        let numbered = |one: &&Session| !self.numbers_pins() || one.pin_number > pins_seen;
        let sessions = state.sessions.iter().filter(numbered);
        let pins = sessions.fold(0, |all, session| all | session.pins);
        let kept = if self.is_unguarded() {
            marked
        } else {
            marked | pins
        };
        let row = &mut state.rows[digest];
        if kept & 1 << digest != 0 || row.epoch >= before {
            return None;
        }
        match row.state {
            RowState::Live => {
                row.state = RowState::Condemned;
                row.epoch = epoch;
            }
            RowState::Damaged => *row = Row::default(),
            RowState::Absent | RowState::Condemned => return None,
        }
        Some(())
    }

    fn retire(&self, state: &mut State, object: usize) -> Option<()> {
        let is_left = |run: &Run| run.repack == Repack::Put && usize::from(run.from) == object;
        let early = self.has(Flaw::OldPackFirst) && state.runs.iter().any(is_left);
        if state.objects[object].state != ObjectState::Live || (state.rows_of(object) != 0 && !early) {
            return None;
        }
        state.objects[object].state = ObjectState::Dead;
        Some(())
    }

    /// A listing shows an object that has no row. A stale one, which does not show it, is this step left out; one
    /// that shows what is gone leads to a DELETE that does nothing.
    fn orphan_see(&self, state: &mut State, run: usize, object: usize) -> Option<()> {
        let is_known = state.objects[object].seen != 0;
        if !self.is_orphan(state, object) || is_known || self.has(Flaw::OrphansKept) {
            return None;
        }
        state.objects[object].seen = number(run);
        Some(())
    }

    /// Deletes what an earlier run has seen.
    fn orphan_delete(&self, state: &mut State, run: usize, object: usize) -> Option<()> {
        self.alone(state, run)?;
        let Object { seen, deletes, .. } = state.objects[object];
        let is_seen = seen != 0 && seen != number(run);
        if state.runs[run].phase != RunPhase::Marked || !is_seen || deletes != 0 {
            return None;
        }
        if !self.is_orphan(state, object) {
            return None;
        }
        state.objects[object].deletes = self.copies;
        Some(())
    }

    /// Whether an object lies in the backend without a row.
    pub fn is_orphan(&self, state: &State, object: usize) -> bool {
        state.objects[object].state == ObjectState::Removed
            && state.present & 1 << self.key(state, object) != 0
    }

    /// Reads an object and announces the copy of what its rows still name.
    fn repack_copy(&self, state: &mut State, run: usize, from: usize) -> Option<()> {
        let session = Self::repack_session(run);
        let content = state.rows_of(from);
        let is_whole =
            state.objects[from].state == ObjectState::Live && state.present & 1 << self.key(state, from) != 0;
        let has_garbage = content != 0 && content != state.objects[from].content;
        if state.runs[run].repack != Repack::Opened || !is_whole || !has_garbage {
            return None;
        }
        if state.sessions[session].state != SessionState::Open {
            return None;
        }
        state.objects[Self::object_of(session)] = Object {
            state: ObjectState::Intent,
            content,
            ..Object::default()
        };
        state.runs[run].repack = Repack::Copied;
        state.runs[run].from = small(from);
        Some(())
    }

    /// No transaction, so that a run which has lost the fence does it too.
    fn repack_put(&self, state: &mut State, run: usize) -> Option<()> {
        if state.runs[run].repack != Repack::Copied {
            return None;
        }
        self.put_send(state, Self::object_of(Self::repack_session(run)));
        let has_ended = state.runs[run].phase == RunPhase::Ended;
        state.runs[run].repack = if has_ended { Repack::Done } else { Repack::Put };
        Some(())
    }

    fn repack_switch(&self, state: &mut State, run: usize) -> Option<()> {
        let session = Self::repack_session(run);
        let to = Self::object_of(session);
        if state.runs[run].repack != Repack::Put || state.objects[to].puts == self.copies {
            return None;
        }
        let holds = state.sessions[session].state == SessionState::Open
            && state.objects[to].state == ObjectState::Intent;
        if holds || self.has(Flaw::RepackUnchecked) {
            let from = state.runs[run].from;
            let moved = state.rows_of(usize::from(from)) & state.objects[to].content;
            for digest in members(moved) {
                state.rows[digest].object = small(to);
            }
            if holds {
                state.objects[to].state = ObjectState::Live;
                state.session_end(session, false);
            }
        }
        state.runs[run].repack = Repack::Done;
        state.runs[run].from = 0;
        Some(())
    }
}

/// The highest number among the pins that are committed.
fn pins_newest(state: &State) -> u8 {
    let is_hidden = |session: usize| {
        let writer = state.writers.get(session);
        writer.is_some_and(|writer| writer.phase == WriterPhase::Numbered)
    };
    let seen = (0..SESSIONS).filter(|session| !is_hidden(*session));
    let numbers = seen.map(|session| state.sessions[session].pin_number);
    numbers.max().unwrap_or(0)
}

fn number(run: usize) -> u8 {
    small(run + 1)
}

pub fn is_fence_of(state: &State, run: usize) -> bool {
    state.fence == number(run)
}

fn bury(state: &mut State, run: usize, digest: usize) -> Option<()> {
    let row = &mut state.rows[digest];
    if row.state != RowState::Condemned || row.epoch > state.runs[run].epoch {
        return None;
    }
    *row = Row::default();
    Some(())
}

fn repack_open(state: &mut State, run: usize) -> Option<()> {
    if state.runs[run].repack != Repack::None {
        return None;
    }
    state.epoch += 1;
    state.sessions[Config::repack_session(run)] = Session {
        state: SessionState::Open,
        start_epoch: state.epoch,
        ..Session::default()
    };
    state.runs[run].repack = Repack::Opened;
    Some(())
}

/// Ends a run, or gives it up: the fence is free, and what sessions left for it goes.
fn end(state: &mut State, run: usize) {
    state.fence = 0;
    for session in &mut state.sessions {
        if session.state == SessionState::Ended {
            *session = Session::default();
        }
    }
    let repack = &mut state.sessions[Config::repack_session(run)];
    if repack.state == SessionState::Open {
        repack.state = SessionState::Expired;
        repack.start_epoch = 0;
    }
    ended(state, run);
}

fn lose(state: &mut State, run: usize) -> Option<()> {
    let is_under_way = !matches!(state.runs[run].phase, RunPhase::Idle | RunPhase::Ended);
    if !is_under_way || is_fence_of(state, run) {
        return None;
    }
    ended(state, run);
    Some(())
}

/// What a run leaves: a copy that it has announced may still be sent.
fn ended(state: &mut State, run: usize) {
    let repack = state.runs[run].repack;
    state.runs[run] = Run {
        phase: RunPhase::Ended,
        repack: if repack == Repack::Copied {
            repack
        } else {
            Repack::Done
        },
        ..Run::default()
    };
}
