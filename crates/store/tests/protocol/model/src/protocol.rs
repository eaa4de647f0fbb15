//! The protocol as a model: where it begins, what can happen next, and what must hold in every state.

use stateright::{Model, Property};

use crate::backend::Event;
use crate::config::Config;
use crate::gc::{Step, is_fence_of};
use crate::state::{
    DIGESTS, Digests, OBJECTS, Object, ObjectState, RUNS, Reader, ReaderPhase, Row, RowState, Run, RunPhase,
    SESSIONS, Session, SessionState, State, WRITERS, Writer, members,
};

/// Every chunk of a root has a row, which names a published object that is in the backend.
pub const LOST: &str = "a chunk of a root is lost";
/// No key is used for two objects.
pub const KEY_USED: &str = "a key is used again";
/// Nothing condemned is needed, so that marking never has to bring anything back.
pub const CONDEMNED: &str = "a needed chunk is condemned";
/// Who reads a root that stays gets its bytes.
pub const UNREAD: &str = "a reader fails";
/// When everybody has stopped, two runs leave what roots name, and nothing else.
pub const LEAKED: &str = "garbage stays";

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A writer's next step.
    Write(usize),
    WriterStop(usize),
    Gc(usize, Step),
    Event(Event),
    /// A reader looks for this chunk of this root.
    Find(usize, usize),
    /// A reader reads what it found.
    Get,
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.beginning()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.actions_of_writers(actions);
        self.actions_of_runs(state, actions);
        self.events(actions);
        if self.reader {
            let chunks =
                (0..self.roots()).flat_map(|root| members(self.tree(root)).map(move |one| (root, one)));
            actions.extend(chunks.map(|(root, digest)| Action::Find(root, digest)));
            actions.push(Action::Get);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Write(writer) => self.writer_step(&mut state, writer),
            Action::WriterStop(writer) => self.writer_stop(&mut state, writer),
            Action::Gc(run, step) => self.run_step(&mut state, run, step),
            Action::Event(event) => self.event(&mut state, event),
            Action::Find(root, digest) => self.reader_find(&mut state, root, digest),
            Action::Get => self.reader_get(&mut state),
        }?;
        self.canonical(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(LOST, |config: &Self, state| !config.is_lost(state)),
            Property::always(CONDEMNED, |config: &Self, state| !config.needs_condemned(state)),
            Property::always(KEY_USED, |config: &Self, state| !config.uses_key_again(state)),
            Property::always(UNREAD, |_, state: &State| {
                state.reader.phase != ReaderPhase::Failed
            }),
            Property::always(LEAKED, |config: &Self, state| !config.leaks(state)),
        ];
        all.extend(self.witnesses());
        all
    }
}

impl Config {
    fn beginning(&self) -> State {
        let stored = Row {
            state: RowState::Live,
            object: 0,
            epoch: 1,
        };
        let mut state = State {
            epoch: 1,
            fence: 0,
            roots: u8::from(self.stored != 0),
            present: 0,
            sessions: [Session::default(); SESSIONS],
            objects: [Object::default(); OBJECTS],
            rows: [Row::default(); DIGESTS],
            writers: [Writer::default(); WRITERS],
            runs: [Run::default(); RUNS],
            reader: Reader::default(),
            pin_number: 0,
        };
        if self.stored == 0 {
            return state;
        }
        members(self.stored).for_each(|digest| state.rows[digest] = stored);
        state.objects[0].state = ObjectState::Live;
        state.objects[0].content = self.stored | self.garbage;
        state.present = 1 << self.key(&state, 0);
        state
    }

    fn actions_of_writers(&self, actions: &mut Vec<Action>) {
        for writer in 0..self.writers.len() {
            actions.push(Action::Write(writer));
            if self.expiry {
                actions.push(Action::WriterStop(writer));
            }
        }
    }

    fn actions_of_runs(&self, state: &State, actions: &mut Vec<Action>) {
        for run in 0..self.runs {
            let mut push = |step| actions.push(Action::Gc(run, step));
            match state.runs[run].phase {
                RunPhase::Idle => push(Step::Begin),
                RunPhase::Begun | RunPhase::HalfMarked => {
                    push(Step::Mark);
                    push(Step::End);
                    push(Step::Lose);
                }
                RunPhase::Marked => {
                    (0..DIGESTS).for_each(|digest| push(Step::Sweep(digest)));
                    (0..DIGESTS).for_each(|digest| push(Step::Bury(digest)));
                    self.objects().for_each(|object| push(Step::Retire(object)));
                    if self.orphans {
                        self.objects().for_each(|object| push(Step::OrphanSee(object)));
                        self.objects().for_each(|object| push(Step::OrphanDelete(object)));
                    }
                    if self.repack {
                        push(Step::RepackOpen);
                        push(Step::RepackPut);
                        push(Step::RepackSwitch);
                        self.objects().for_each(|object| push(Step::RepackCopy(object)));
                    }
                    push(Step::End);
                    push(Step::Lose);
                }
                RunPhase::Ended if self.repack => push(Step::RepackPut),
                RunPhase::Ended => {}
            }
        }
    }

    fn events(&self, actions: &mut Vec<Action>) {
        let mut push = |event| actions.push(Action::Event(event));
        (0..self.roots()).for_each(|root| push(Event::RootDelete(root)));
        for object in self.objects() {
            if self.delays {
                push(Event::PutLands(object));
                push(Event::DeleteSend(object));
                push(Event::DeleteLands(object));
                push(Event::Forget(object));
            } else {
                push(Event::Delete(object));
            }
        }
        for session in self.sessions() {
            push(Event::Clear(session));
            push(Event::SessionRemove(session));
            if self.expiry {
                push(Event::Expire(session));
            }
        }
        if self.damage {
            (0..DIGESTS).for_each(|digest| push(Event::Damage(digest)));
            (0..DIGESTS).for_each(|digest| push(Event::Mend(digest)));
        }
    }

    /// What is known to be damaged is not lost by gc, and still has to have its row: it heals by that.
    fn is_lost(&self, state: &State) -> bool {
        members(self.reachable(state)).any(|digest| {
            let row = state.rows[digest];
            let object = usize::from(row.object);
            match row.state {
                RowState::Absent => true,
                RowState::Damaged => false,
                RowState::Live | RowState::Condemned => {
                    let is_present = state.present & 1 << self.key(state, object) != 0;
                    state.objects[object].state != ObjectState::Live || !is_present
                }
            }
        })
    }

    fn needs_condemned(&self, state: &State) -> bool {
        let marking = (0..self.runs)
            .filter(|run| is_fence_of(state, *run) && state.runs[*run].phase == RunPhase::Marked)
            .fold(0, |all, run| all | state.runs[run].marked);
        let needed: Digests = self.reachable(state) | marking;
        members(needed).any(|digest| state.rows[digest].state == RowState::Condemned)
    }

    fn uses_key_again(&self, state: &State) -> bool {
        let used = |object: &usize| state.objects[*object].state != ObjectState::Absent;
        let mut keys = 0_u8;
        self.objects().filter(used).any(|object| {
            let key = 1 << self.key(state, object);
            let is_used = keys & key != 0;
            keys |= key;
            is_used
        })
    }

    /// Things that have to happen somewhere, so that a check cannot pass by going through nothing.
    fn witnesses(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::sometimes("every writer commits", |config: &Self, state: &State| {
                (0..config.writers.len()).all(|writer| state.roots & 1 << (writer + 1) != 0)
            }),
            Property::sometimes("a chunk is condemned", |_, state: &State| {
                state.rows.iter().any(|row| row.state == RowState::Condemned)
            }),
            Property::sometimes("pins outlive a commit", |_, state: &State| {
                state.sessions.iter().any(|one| one.state == SessionState::Ended)
            }),
            Property::sometimes("an object is deleted", |_, state: &State| {
                state.objects.iter().any(|one| one.state == ObjectState::Removed)
            }),
        ];
        if self.runs > 1 {
            all.push(Property::sometimes(
                "a run is taken over",
                |config: &Self, state: &State| {
                    (0..config.runs)
                        .any(|run| state.runs[run].phase == RunPhase::Marked && !is_fence_of(state, run))
                },
            ));
        }
        if self.repack {
            all.push(Property::sometimes("a chunk has moved", |_, state: &State| {
                state.rows.iter().any(|row| usize::from(row.object) > WRITERS)
            }));
        }
        if self.expiry && self.delays {
            all.push(Property::sometimes(
                "a late PUT leaves an orphan",
                |config: &Self, state: &State| config.objects().any(|object| config.is_orphan(state, object)),
            ));
        }
        if self.reader {
            all.push(Property::sometimes("a reader asks again", |_, state: &State| {
                state.reader.phase == ReaderPhase::FoundAgain
            }));
        }
        all
    }
}
