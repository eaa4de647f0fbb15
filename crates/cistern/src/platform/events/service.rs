//! Reading events, forgetting them, and writing one that belongs to no transaction of a change.

use chrono::TimeDelta;

use super::rows::{self, Filter};
use super::{Event, Who, record_in_tx};
use crate::app::App;
use crate::platform::accounts::{Caller, service as accounts};
use crate::platform::error::{Error, Result};

pub use rows::Filter as EventFilter;

/// Rows that one statement forgets, so that no writer waits for long.
const FORGET_BATCH: u64 = 2_000;
/// Events of one page at most.
pub const PAGE_MAX: u64 = 200;

/// An event with its user's address.
pub struct EventView {
    /// As it was written.
    pub row: rows::Model,
    /// The user's address, where one acted.
    pub email: Option<String>,
}

/// Writes an event of what was done elsewhere than in the database, by who has the machine.
pub async fn event_record_local(app: &App, event: Event) -> Result<()> {
    let tx = app.db.write().await?;
    record_in_tx(&*tx, app.clock.now(), &Who::default(), event).await?;
    tx.commit().await
}

/// The caller's team's events; an operator may ask for all teams'.
pub async fn event_list(
    app: &App,
    caller: &Caller,
    filter: &Filter,
    all: bool,
    limit: u64,
) -> Result<Vec<EventView>> {
    caller.require("event:read")?;
    if all && !caller.is_operator {
        return Err(Error::forbidden(
            "Only operators see every team's events; ask without all=true for your team's.",
        ));
    }
    let filter = Filter {
        team_id: (!all).then_some(caller.team_id),
        ..filter.clone()
    };
    event_list_local(app, &filter, limit).await
}

/// Any events, for the installation's own command.
pub async fn event_list_local(app: &App, filter: &Filter, limit: u64) -> Result<Vec<EventView>> {
    let rows = rows::event_list(app.db.conn(), filter, limit.min(PAGE_MAX)).await?;
    let mut ids: Vec<i64> = rows.iter().filter_map(|e| e.user_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let emails = accounts::user_emails(app, &ids).await?;
    let view = |row: rows::Model| EventView {
        email: row.user_id.and_then(|id| emails.get(&id).cloned()),
        row,
    };
    Ok(rows.into_iter().map(view).collect())
}

/// Forgets what is older than `events.retention_days`, in small steps; returns how many.
pub async fn event_forget(app: &App) -> Result<u64> {
    let days = i64::from(app.config.events.retention_days);
    let before = app.clock.now() - TimeDelta::days(days);
    let mut sum = 0;
    loop {
        let tx = app.db.write().await?;
        let gone = rows::event_forget(&*tx, before, FORGET_BATCH).await?;
        tx.commit().await?;
        sum += gone;
        if gone < FORGET_BATCH {
            return Ok(sum);
        }
    }
}
