//! Runs the checker over a world, and says what it found.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _, Path};

use crate::config::Config;
use crate::protocol::Action;
use crate::state::{State, WriterPhase};

/// What happened, from the beginning, a line a step.
#[derive(Debug)]
pub struct Trace(Vec<String>);

/// What a whole world held.
#[derive(Debug)]
pub struct Explored {
    pub name: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps that led to them, or back to one that was known.
    pub steps: usize,
    /// Steps from the beginning to the farthest state.
    pub depth: usize,
    pub took: Duration,
    /// What must not be and is, with what leads to it.
    pub violated: Vec<(&'static str, Trace)>,
    /// What must be somewhere and is nowhere.
    pub never: Vec<&'static str>,
}

/// Goes through every state of a world, with two threads.
pub fn explore(config: Config) -> Explored {
    let since = Instant::now();
    let checker = config.checker().threads(2).spawn_bfs().join();
    let (mut violated, mut never) = (Vec::new(), Vec::new());
    for property in config.properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Sometimes, None) => never.push(property.name),
            (Expectation::Always, Some(path)) => violated.push((property.name, Trace::of(path))),
            _ => {}
        }
    }
    Explored {
        name: config.name,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: since.elapsed(),
        violated,
        never,
    }
}

/// A shortest way to break `property`, and the number of states looked at. `None` where nothing of at most `limit`
/// steps breaks it.
pub fn shortest(config: Config, property: &'static str, limit: usize) -> Option<(Trace, usize)> {
    (1..=limit).find_map(|steps| {
        // The checker looks at what lies nearer than its depth, and calls the beginning 1.
        let checker = config
            .checker()
            .target_max_depth(steps + 2)
            .finish_when(HasDiscoveries::AllOf([property].into()))
            .spawn_bfs()
            .join();
        let trace = Trace::of(checker.discovery(property)?);
        Some((trace, checker.unique_state_count()))
    })
}

impl Explored {
    /// Whether all is as it should be.
    pub fn holds(&self) -> bool {
        self.violated.is_empty() && self.never.is_empty()
    }
}

impl Display for Explored {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "{}: {} states, {} steps, depth {}, {seconds:.1} s",
            self.name, self.states, self.steps, self.depth
        )?;
        for (property, trace) in &self.violated {
            write!(f, "\n  {property}, {trace}")?;
        }
        for property in &self.never {
            write!(f, "\n  nowhere: {property}")?;
        }
        Ok(())
    }
}

impl Trace {
    fn of(path: Path<State, Action>) -> Self {
        let steps = path.into_vec().into_iter();
        let line = |(state, action): (State, Option<Action>)| Some(line(&state, action?));
        Self(steps.filter_map(line).collect())
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.0.len()
    }
}

impl Display for Trace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "in {} steps:", self.steps())?;
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

fn line(before: &State, action: Action) -> String {
    match action {
        Action::Write(writer) => match before.writers[writer].phase {
            WriterPhase::Idle => format!("writer {writer}: Open"),
            phase => format!("writer {writer}: {phase:?}"),
        },
        Action::WriterStop(writer) => format!("writer {writer}: crashes"),
        Action::Gc(run, step) => format!("gc run {run}: {step:?}"),
        Action::Event(event) => format!("{event:?}"),
        Action::Find(root, digest) => format!("reader: looks for chunk {digest} of root {root}"),
        Action::Get => "reader: reads".to_owned(),
    }
}
