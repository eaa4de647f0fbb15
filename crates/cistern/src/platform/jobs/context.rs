//! What a running job is given.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::model::{Job, JobError};
use super::rows;
use crate::app::App;
use crate::platform::actions;
use crate::platform::db::Tx;
use crate::platform::error::Result;

/// A claimed job at work.
#[derive(Clone)]
pub struct JobContext {
    /// The service.
    pub app: App,
    /// The job as it was claimed.
    pub job: Job,
    /// Fires when the job should stop: cancelled, lease lost, or the server stops. Ask [`JobContext::check`] which.
    pub stop: CancellationToken,
    pub(super) shared: Arc<Shared>,
}

/// What the worker, the heartbeat and the job tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) why: Mutex<Option<Why>>,
    pub(super) progress: Mutex<Option<serde_json::Value>>,
}

/// Why a job has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Cancelled,
    LeaseLost,
    Stopping,
}

impl JobContext {
    /// An error when the job has to stop; call it between steps and after `stop` fired.
    pub fn check(&self) -> Result<(), JobError> {
        if !self.stop.is_cancelled() {
            return Ok(());
        }
        Err(match *self.shared.why.lock().expect("never held over a panic") {
            Some(Why::Cancelled) => JobError::Cancelled,
            Some(Why::LeaseLost) => JobError::LeaseLost,
            Some(Why::Stopping) | None => JobError::Stopped,
        })
    }

    /// What the user sees of the work so far; written with the next heartbeat.
    pub fn progress(&self, progress: serde_json::Value) {
        *self.shared.progress.lock().expect("never held over a panic") = Some(progress);
    }

    /// Keeps `state` for a later attempt, durably.
    pub async fn save_state(&self, state: serde_json::Value) -> Result<(), JobError> {
        let tx = self.write().await?;
        rows::job_save_state(&*tx, self.job.id, self.job.fence, state).await?;
        Ok(tx.commit().await?)
    }

    /// Opens a transaction in which this job may change things: the lease is still its own.
    pub async fn write(&self) -> Result<Tx, JobError> {
        let tx = self.app.db.write().await?;
        if !rows::job_is_held(&*tx, self.job.id, self.job.fence).await? {
            return Err(JobError::LeaseLost);
        }
        Ok(tx)
    }

    /// Ends the job (and its action) well, in the transaction of its last change.
    pub async fn complete_in_tx(&self, tx: &Tx) -> Result<(), JobError> {
        let now = self.app.clock.now();
        if !rows::job_end(&**tx, now, self.job.id, self.job.fence, rows::DONE, None).await? {
            return Err(JobError::LeaseLost);
        }
        if let Some(action) = self.job.action_id {
            actions::action_end_in_tx(&**tx, now, action, None).await?;
        }
        Ok(())
    }
}
