//! What is left when everybody stops: from any state the requests under way land, leases end, two whole runs of gc
//! pass, and then rows and backend hold what roots name.

use crate::backend::Event;
use crate::config::Config;
use crate::gc::Step;
use crate::state::{DIGESTS, ObjectState, Reader, RowState, Run, SessionState, State, Writer, WriterPhase};

impl Config {
    /// Whether something stays that no root names.
    pub fn leaks(&self, state: &State) -> bool {
        let state = self.settled(state);
        let reachable = self.reachable(&state);
        let is_garbage =
            |digest: usize| state.rows[digest].state != RowState::Absent && reachable & 1 << digest == 0;
        let is_left = |object: usize| {
            let is_present = state.present & 1 << self.key(&state, object) != 0;
            let is_needed = state.rows_of(object) != 0;
            is_present != is_needed || is_needed != (state.objects[object].state == ObjectState::Live)
        };
        let sessions = state.sessions.iter().any(|one| one.state != SessionState::Absent);
        sessions || (0..DIGESTS).any(is_garbage) || self.objects().any(is_left)
    }

    fn settled(&self, state: &State) -> State {
        let mut state = *state;
        state.writers = [Writer {
            phase: WriterPhase::Done,
            ..Writer::default()
        }; _];
        state.reader = Reader::default();
        self.clean(&mut state);
        for run in 0..2 {
            // A run of its own, whatever that number's did before.
            state.runs = [Run::default(); _];
            state
                .runs
                .iter_mut()
                .take(run)
                .for_each(|one| one.phase = crate::state::RunPhase::Ended);
            self.run_whole(&mut state, run);
            self.clean(&mut state);
        }
        state
    }

    fn run_whole(&self, state: &mut State, run: usize) {
        let _ = self.run_step(state, run, Step::Begin);
        let _ = self.run_step(state, run, Step::Mark);
        let _ = self.run_step(state, run, Step::Mark);
        for digest in 0..DIGESTS {
            let _ = self.run_step(state, run, Step::Sweep(digest));
            let _ = self.run_step(state, run, Step::Bury(digest));
        }
        for object in self.objects() {
            let _ = self.run_step(state, run, Step::Retire(object));
        }
        self.clean(state);
        for object in self.objects() {
            let _ = self.run_step(state, run, Step::OrphanSee(object));
            let _ = self.run_step(state, run, Step::OrphanDelete(object));
        }
        let _ = self.run_step(state, run, Step::End);
    }

    /// What is done by whoever passes, to its end.
    fn clean(&self, state: &mut State) {
        for object in self.objects() {
            while self.event(state, Event::PutLands(object)).is_some() {}
        }
        for session in self.sessions() {
            let _ = self.event(state, Event::Expire(session));
            let _ = self.event(state, Event::Clear(session));
        }
        for object in self.objects() {
            let _ = self.event(state, Event::DeleteSend(object));
            while self.event(state, Event::DeleteLands(object)).is_some() {}
            let _ = self.event(state, Event::Forget(object));
        }
        for session in self.sessions() {
            let _ = self.event(state, Event::SessionRemove(session));
        }
    }
}
