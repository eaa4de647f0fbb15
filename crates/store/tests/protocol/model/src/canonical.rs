//! One state for all states that nobody can ever tell apart.

use crate::config::{Config, Flaw};
use crate::gc::is_fence_of;
use crate::state::{RowState, Run, RunPhase, State, small};

impl Config {
    pub fn canonical(&self, state: &mut State) {
        if !self.has(Flaw::TakeoverUnfenced) {
            lost_forget(state);
        }
        // Without the guard, T is no epoch.
        if !self.is_unguarded() {
            epochs_rank(state);
        }
    }
}

/// A run that has lost the fence never gets it back, and so never uses what it has marked.
fn lost_forget(state: &mut State) {
    for run in 0..state.runs.len() {
        let is_under_way = !matches!(state.runs[run].phase, RunPhase::Idle | RunPhase::Ended);
        if is_under_way && !is_fence_of(state, run) {
            let Run { repack, from, .. } = state.runs[run];
            state.runs[run] = Run {
                phase: RunPhase::Marked,
                repack,
                from,
                ..Run::default()
            };
        }
    }
}

/// Epochs are only compared, those of rows only with those of sessions and runs, and new ones are higher than all. So
/// the epochs of sessions and runs become 2, 4, 6, … in their order, and those of rows which lie between two of them
/// the odd number between.
fn epochs_rank(state: &mut State) {
    let mut known = 0_u32;
    for session in &state.sessions {
        known |= 1 << session.start_epoch;
    }
    for run in &state.runs {
        known |= 1 << run.epoch | 1 << run.before;
    }
    known &= !1;
    let rank = |epoch: &mut u8| {
        if *epoch != 0 {
            let below = (known & ((1 << *epoch) - 1)).count_ones();
            let is_known = known >> *epoch & 1;
            *epoch = small(2 * below + 1 + is_known);
        }
    };
    state
        .sessions
        .iter_mut()
        .for_each(|session| rank(&mut session.start_epoch));
    for run in &mut state.runs {
        rank(&mut run.epoch);
        rank(&mut run.before);
    }
    for row in state.rows.iter_mut().filter(|row| row.state != RowState::Absent) {
        rank(&mut row.epoch);
    }
    state.epoch = small(2 * known.count_ones() + 1);
}
