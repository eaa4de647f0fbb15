//! Events: who did what, from where, under which request, and how it ended.
//!
//! An event of a change is written in the transaction of that change ([`record_in_tx`]); a refusal, which changes
//! nothing, by itself and within bounds ([`record_refusal`]). No secret is ever part of one: `detail` holds names and
//! numbers only.

pub mod api;
pub mod cli;
mod refusals;
pub mod rows;
pub mod service;
pub mod tally;

use std::sync::{Arc, OnceLock};

use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};

use super::clock::Time;
use super::error::Result;
pub use refusals::{Refusals, reason_shown, record_refusal, refusals_flush};

/// Who acts, and from where. The system itself is [`Who::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The team it happens in.
    pub team_id: Option<i64>,
    /// The user, where one is known.
    pub user_id: Option<i64>,
    /// The API token, where one was used.
    pub token_id: Option<i64>,
    /// The client's address, `None` for the system and local commands.
    pub address: Option<String>,
    /// The request.
    pub request_id: Option<String>,
}

impl Who {
    /// Who it is, without where this request comes from.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self {
            address: None,
            request_id: None,
            ..self.clone()
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was not allowed.
    Refused,
    /// It was tried and failed.
    Failed,
}

impl Outcome {
    /// Its name in the database, the API and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One thing that happened: `what` is `resource.verb`, as in `image.create`.
#[derive(Clone, Debug)]
pub struct Event {
    /// `resource.verb`.
    pub what: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What it happened to, such as `image`.
    pub resource_type: Option<&'static str>,
    /// Its id or name.
    pub resource_id: Option<String>,
    /// Names and numbers that help to understand it; never a secret.
    pub detail: Option<serde_json::Value>,
}

impl Event {
    /// Something that was done to a resource.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and names are given as they are"
    )]
    pub fn done(what: &'static str, resource_type: &'static str, resource_id: impl ToString) -> Self {
        Self {
            what,
            outcome: Outcome::Ok,
            resource_type: Some(resource_type),
            resource_id: Some(resource_id.to_string()),
            detail: None,
        }
    }

    /// Something that was not allowed.
    pub fn refused(what: &'static str) -> Self {
        Self {
            what,
            outcome: Outcome::Refused,
            resource_type: None,
            resource_id: None,
            detail: None,
        }
    }

    /// The same event with `detail`.
    pub fn with(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The same event with another outcome.
    pub fn ended(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
}

/// Writes `event` on `conn`, which is the transaction of the change it tells of.
pub async fn record_in_tx(conn: &impl ConnectionTrait, now: Time, who: &Who, event: Event) -> Result<()> {
    rows::event_insert(conn, now, who, event).await?;
    Ok(())
}

/// Put into a request's extensions; whoever authenticates the request says here who it was, so that a refusal further
/// out can name them.
#[derive(Clone, Debug, Default)]
pub struct Acting(Arc<OnceLock<Who>>);

impl Acting {
    /// Says who it is.
    pub fn set(&self, who: &Who) {
        let _ = self.0.set(who.clone());
    }

    /// Who it was, if anybody authenticated.
    pub fn get(&self) -> Option<&Who> {
        self.0.get()
    }
}
