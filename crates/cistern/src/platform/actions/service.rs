//! Reading actions, with how far their jobs are.

use std::collections::HashMap;

use super::{IN_PROGRESS, rows};
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::paging::{Listed, Page};

/// An action, and what its job last said of its progress while it runs.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The action.
    pub row: rows::Model,
    /// The job's own words; `None` before the first and after the end.
    pub progress: Option<serde_json::Value>,
}

/// An action of the team.
pub async fn action_get(app: &App, caller: &Caller, id: i64) -> Result<Followed> {
    let Some(row) = rows::action_get(app.db.conn(), caller.team_id, id).await? else {
        return Err(Error::NotFound);
    };
    let mut followed = followed(app, vec![row]).await?;
    followed.pop().ok_or(Error::NotFound)
}

/// The team's actions, newest first; `resource` (`image`, 7) narrows to one thing.
pub async fn action_list(
    app: &App,
    caller: &Caller,
    resource: Option<(&str, i64)>,
    page: Page,
) -> Result<Listed<Followed>> {
    let (conn, team) = (app.db.conn(), caller.team_id);
    let listed = match resource {
        Some(resource) => rows::action_list_of(conn, team, resource, page).await?,
        None => rows::action_list(conn, team, page).await?,
    };
    Ok(Listed {
        rows: followed(app, listed.rows).await?,
        total: listed.total,
    })
}

/// Puts actions in order that were brought back from the journal: none goes on.
pub async fn actions_settle_in_tx(app: &App, tx: &Tx) -> Result<u64> {
    const LOST: &str = "The server's database was lost before this had ended. Start it again.";
    rows::action_end_all(&**tx, app.clock.now(), LOST).await?;
    rows::action_count_all(&**tx).await?;
    Ok(0)
}

async fn followed(app: &App, actions: Vec<rows::Model>) -> Result<Vec<Followed>> {
    let open: Vec<i64> = actions
        .iter()
        .filter(|a| a.status == IN_PROGRESS)
        .map(|a| a.id)
        .collect();
    let mut progress = if open.is_empty() {
        HashMap::new()
    } else {
        rows::progress_of(app.db.conn(), &open).await?
    };
    Ok(actions
        .into_iter()
        .map(|row| Followed {
            progress: progress.remove(&row.id),
            row,
        })
        .collect())
}
