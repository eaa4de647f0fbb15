//! Runs the checker over a world, and says what it found.

use std::time::{Duration, Instant};

use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

use crate::config::Config;
use crate::model::Action;

/// What a whole world held.
#[derive(Debug)]
pub(crate) struct Explored {
    /// Different states.
    pub(crate) states: usize,
    /// Steps tried from them.
    pub(crate) steps: usize,
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// What must not be and is, with what leads to it.
    pub(crate) violated: Vec<(&'static str, Vec<Action>)>,
    /// What must be somewhere and is nowhere.
    pub(crate) never: Vec<&'static str>,
}

/// Goes through every state of a world.
pub(crate) fn explore(config: Config) -> Explored {
    let since = Instant::now();
    let checker = config.checker().threads(2).spawn_bfs().join();
    let (mut violated, mut never) = (Vec::new(), Vec::new());
    for property in config.properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Sometimes, None) => never.push(property.name),
            (Expectation::Always, Some(path)) => violated.push((property.name, path.into_actions())),
            _ => {}
        }
    }
    Explored {
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
pub(crate) fn shortest(
    config: Config,
    property: &'static str,
    limit: usize,
) -> Option<(Vec<Action>, usize)> {
    (1..=limit).find_map(|steps| {
        // The checker looks at states that are nearer than its depth, and the first state is at depth 1.
        let checker = config
            .checker()
            .threads(1)
            .target_max_depth(steps + 2)
            .finish_when(HasDiscoveries::AllOf([property].into()))
            .spawn_bfs()
            .join();
        let path = checker.discovery(property)?;
        Some((path.into_actions(), checker.unique_state_count()))
    })
}
