//! Which job a worker takes next, so that no team is held up by another's work.
//!
//! - What a dead server left behind goes first: it was running already.
//! - Then the most important first job of all lines; among equals the team with the fewest running jobs in the
//!   installation; then the one that has waited longest.
//! - A team holds all workers of a server but one at most, where there are other teams and more than one worker. Jobs
//!   without a team, and those that only have to be told that they are cancelled, are not counted in.
//!
//! - Of a kind whose jobs run alone none is begun while one runs.
//!
//! The workers of a server claim one at a time, so that the rules hold exactly. Servers do not wait for each
//! other: two may choose by the same counts, and a team then has one job more for a while than its turn was, or a kind
//! two jobs, which have to bear that.

use std::collections::{HashMap, HashSet};

use tokio::sync::Mutex;

use super::engine::WAIT_MAX;
use super::rows::{self, Lease, Line, Running, Wanted};
use crate::app::App;
use crate::platform::accounts::service as accounts;
use crate::platform::clock::Time;
use crate::platform::error::Result;
use crate::platform::paging::Page;

/// The claims of one server's workers.
#[derive(Debug)]
pub(super) struct Claims {
    node: String,
    owner: String,
    workers: usize,
    /// Kinds of which only one job runs at a time.
    alone: Vec<&'static str>,
    turn: Mutex<()>,
}

impl Claims {
    pub(super) fn new(node: &str, owner: String, workers: usize, alone: Vec<&'static str>) -> Self {
        Self {
            node: node.to_owned(),
            owner,
            workers,
            alone,
            turn: Mutex::default(),
        }
    }

    /// Claims the next job of at least this priority, if there is one.
    pub(super) async fn next(&self, app: &App, least_priority: i32) -> Result<Option<rows::Model>> {
        let _turn = self.turn.lock().await;
        let running = rows::job_running(app.db.conn()).await?;
        let is_busy = |kind: &&str| running.iter().any(|job| job.kind == *kind);
        let busy: Vec<&str> = self.alone.iter().copied().filter(|kind| is_busy(kind)).collect();
        let wanted = Wanted {
            now: app.clock.now(),
            wait_max: WAIT_MAX,
            node: &self.node,
            least_priority,
            busy: &busy,
        };
        let full = self.full(app, &running).await?;
        for job in expired(&running, wanted, &full) {
            if let Some(row) = self.claim_expired(app, wanted.now, job).await? {
                return Ok(Some(row));
            }
        }
        let lines = rows::job_lines(app.db.conn(), wanted).await?;
        for team in turns(lines, &running, &full) {
            if let Some(row) = self.claim(app, wanted, team).await? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The teams that hold as many workers of this server as they may.
    async fn full(&self, app: &App, running: &[Running]) -> Result<HashSet<i64>> {
        if self.workers < 2 {
            return Ok(HashSet::new());
        }
        let here = running
            .iter()
            .filter(|job| job.lease_owner.as_ref() == Some(&self.owner));
        let held = count(here.filter_map(|job| job.team_id));
        let full = held.into_iter().filter(|(_, jobs)| *jobs >= self.workers - 1);
        let full: HashSet<i64> = full.map(|(team, _)| team).collect();
        if full.is_empty() || is_only_team(app).await? {
            return Ok(HashSet::new());
        }
        Ok(full)
    }

    async fn claim(&self, app: &App, wanted: Wanted<'_>, team: Option<i64>) -> Result<Option<rows::Model>> {
        let tx = app.db.write().await?;
        let row = rows::job_claim(&*tx, wanted, team, self.lease(app, wanted.now)).await?;
        tx.commit().await?;
        Ok(row)
    }

    async fn claim_expired(&self, app: &App, now: Time, id: i64) -> Result<Option<rows::Model>> {
        let tx = app.db.write().await?;
        let row = rows::job_claim_expired(&*tx, now, id, self.lease(app, now)).await?;
        tx.commit().await?;
        Ok(row)
    }

    fn lease(&self, app: &App, now: Time) -> Lease<'_> {
        Lease {
            owner: &self.owner,
            until: now + app.config.jobs.lease(),
        }
    }
}

/// Whether there is nobody to be fair to.
async fn is_only_team(app: &App) -> Result<bool> {
    let teams = accounts::team_list(app, Page { number: 1, size: 1 }).await?;
    Ok(teams.total < 2)
}

/// What a worker may take over because its lease is over, the most important first.
fn expired(running: &[Running], wanted: Wanted<'_>, full: &HashSet<i64>) -> Vec<i64> {
    let mut jobs: Vec<&Running> = running
        .iter()
        .filter(|job| !is_live(job, wanted.now))
        .filter(|job| job.node.as_deref().is_none_or(|node| node == wanted.node))
        .filter(|job| job.priority >= wanted.least_priority)
        .filter(|job| job.team_id.is_none_or(|team| !full.contains(&team)))
        .collect();
    jobs.sort_by_key(|job| (-i64::from(job.priority), job.id));
    jobs.iter().map(|job| job.id).collect()
}

fn is_live(job: &Running, now: Time) -> bool {
    job.lease_until.is_some_and(|until| until >= now)
}

/// The teams in the order in which they are to go on; the full ones are left out, unless the job is only to be told
/// that it is cancelled.
fn turns(mut lines: Vec<Line>, running: &[Running], full: &HashSet<i64>) -> Vec<Option<i64>> {
    let running = count(running.iter().filter_map(|job| job.team_id));
    let of = |line: &Line| {
        let jobs = line.team_id.and_then(|team| running.get(&team));
        jobs.copied().unwrap_or(0)
    };
    lines.retain(|line| line.cancel_requested || line.team_id.is_none_or(|team| !full.contains(&team)));
    lines.sort_by_key(|line| (-i64::from(line.priority), of(line), line.run_at));
    lines.iter().map(|line| line.team_id).collect()
}

fn count(teams: impl Iterator<Item = i64>) -> HashMap<i64, usize> {
    let mut counts = HashMap::new();
    for team in teams {
        *counts.entry(team).or_default() += 1;
    }
    counts
}
