//! Which of the possible states after a power loss are looked at: for each moment of a history the one with nothing
//! that is uncertain, the one with all of it, those in which one of the latest changes is missing or torn, and some
//! drawn by lot.

use std::collections::HashSet;

use crate::content::draw;
use crate::events::History;
use crate::filesystem::{Doubt, Fate, FileSystem, State};
use crate::promises::Promises;

/// A change is late when so few events have come after it.
const LATE: usize = 60;

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Moments before this are not looked at.
    pub(crate) from: usize,
    pub(crate) seed: u64,
    /// Missing single changes for each moment, the latest first.
    pub(crate) single: usize,
    /// Lots drawn for each moment.
    pub(crate) drawn: u64,
    /// Of those two kinds one in so many is looked at.
    pub(crate) one_in: u64,
}

/// How the fate of a change is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lot {
    Nothing,
    Everything,
    Without(u64),
    Torn(u64, u64),
    Drawn(u64),
}

impl Lot {
    fn fate(self, of: Doubt, now: usize) -> Fate {
        let torn = |seed| if of.tears { Fate::Torn(seed) } else { Fate::Lost };
        match self {
            Self::Nothing => Fate::Lost,
            Self::Without(number) if number == of.number => Fate::Lost,
            Self::Torn(number, seed) if number == of.number => torn(seed),
            Self::Everything | Self::Without(_) | Self::Torn(..) => Fate::Kept,
            Self::Drawn(seed) => {
                let lot = draw(&[seed, of.number]);
                let is_late = now - of.event < LATE;
                // What is old is mostly there, or mostly not, or as the rest.
                let share = match seed % 4 {
                    0 if !is_late => 1,
                    1 if !is_late => 15,
                    _ => 7,
                };
                match lot % 16 {
                    n if n < share => Fate::Lost,
                    7 | 8 => torn(lot >> 8),
                    _ => Fate::Kept,
                }
            }
        }
    }
}

/// A state to look at.
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) promises: Promises,
    /// For whoever looks for the reason.
    pub(crate) moment: usize,
    pub(crate) lot: Lot,
}

/// Goes through a history.
pub(crate) struct States<'a> {
    history: &'a History,
    plan: Plan,
    system: FileSystem,
    promises: Promises,
    seen: HashSet<blake3::Hash>,
    lots: Vec<Lot>,
    /// States that were thought of, equal ones as well.
    pub(crate) made: u64,
}

impl<'a> States<'a> {
    pub(crate) fn new(history: &'a History, plan: Plan) -> Self {
        Self {
            history,
            plan,
            system: FileSystem::new(),
            promises: Promises::default(),
            seen: HashSet::new(),
            lots: vec![Lot::Nothing],
            made: 0,
        }
    }

    /// Lots of this moment, in reverse.
    fn lots(&mut self) -> Vec<Lot> {
        let (now, plan) = (self.system.done(), self.plan);
        if now < plan.from {
            return Vec::new();
        }
        let mut doubts = Vec::new();
        self.system.state(|of| {
            doubts.push(of);
            Fate::Kept
        });
        doubts.sort_by_key(|of| std::cmp::Reverse((of.event, of.number)));
        let mut rare = Vec::new();
        for of in doubts.iter().take(plan.single) {
            rare.push(Lot::Without(of.number));
            if of.tears {
                let seed = draw(&[plan.seed, now as u64, of.number]);
                rare.push(Lot::Torn(of.number, seed));
            }
        }
        for n in 0..plan.drawn {
            rare.push(Lot::Drawn(draw(&[plan.seed, now as u64, 1 << 40, n])));
        }
        let mut n = 0;
        rare.retain(|_| {
            n += 1;
            draw(&[plan.seed, now as u64, 1 << 41, n]).is_multiple_of(plan.one_in)
        });
        rare.extend([Lot::Everything, Lot::Nothing]);
        rare
    }
}

impl Iterator for States<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let Some(lot) = self.lots.pop() else {
                let event = self.history.events.get(self.system.done())?;
                self.promises.hear(event);
                self.system
                    .apply(event, |node| self.history.nodes[node].is_folder);
                self.lots = self.lots();
                continue;
            };
            let now = self.system.done();
            let state = self.system.state(|of| lot.fate(of, now));
            self.made += 1;
            let hash = blake3::hash(&[*state.hash().as_bytes(), *self.promises.hash().as_bytes()].concat());
            if self.seen.insert(hash) {
                return Some(Found {
                    state,
                    promises: self.promises.clone(),
                    moment: now,
                    lot,
                });
            }
        }
    }
}
