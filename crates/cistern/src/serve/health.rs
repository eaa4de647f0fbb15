//! What watches the server asks: `/healthz` (the process answers), `/readyz` (requests can be served) and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use store::room::Space;
use tokio::sync::Mutex;

use crate::app::App;
use crate::platform::api::origin::{Peer, is_local};
use crate::platform::error::{Error, Result};
use crate::platform::storage::space;
use crate::telemetry;

/// How long the database, or the objects' place, may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a finding holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the server is in its life; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Phase(Arc<AtomicU8>);

/// What a start is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its turn, the connection, the migrations.
    Database,
    /// The store's header.
    Objects,
    /// Whether the objects' place does what the store relies on.
    ObjectsTest,
    /// The first owner, made by one server of an installation.
    Owner,
    /// The jobs that the last stop left.
    Engine,
}

const STEPS: [(Step, &str); 5] = [
    (Step::Database, "starting: the database is being opened"),
    (Step::Objects, "starting: the objects' place is being opened"),
    (Step::ObjectsTest, "starting: the objects' place is being tested"),
    (
        Step::Owner,
        "starting: the installation's owner is being looked up",
    ),
    (Step::Engine, "starting: the jobs are being taken up"),
];
const READY: u8 = 100;
const DRAINING: u8 = 101;

impl Phase {
    /// From now on the start is at this.
    pub fn start(&self, step: Step) {
        self.0.store(step as u8, Ordering::Release);
    }

    /// From now on it serves.
    pub fn ready(&self) {
        self.0.store(READY, Ordering::Release);
    }

    /// From now on it ends.
    pub fn drain(&self) {
        self.0.store(DRAINING, Ordering::Release);
    }

    /// Why it does not serve now, if so.
    fn obstacle(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Acquire) {
            READY => None,
            DRAINING => Some("stopping: requests under way are being finished"),
            at => Some(
                STEPS
                    .iter()
                    .find(|(step, _)| *step as u8 == at)
                    .map_or("starting", |(_, text)| text),
            ),
        }
    }
}

/// What `/readyz` says where no more images can be taken in.
const FULL: &str = "ready, but the disk is full, or nearly so: images can be read and deleted, not imported; free or add space\n";
/// The same where the database's reserve is used up too.
const SPENT: &str = "ready, but the database's disk is full to the last byte: images can be read, and nothing can be changed or deleted until there is room; free or add space\n";

/// `/healthz`.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz` of a running server.
pub async fn readyz(State(readiness): State<Readiness>) -> Response {
    match readiness.obstacle().await {
        // No 503: on a full disk images can be read and, above all, deleted, which nobody could do here any more if
        // the server were taken out of service.
        // Images can be read, and whoever mends it needs to see what there is.
        None if readiness.app.db.refusal().is_some() => {
            let why = readiness.app.db.refusal().unwrap_or_default();
            format!("ready, but for reading only: {why}\n").into_response()
        }
        None if readiness.app.db.is_out_of_room() => SPENT.into_response(),
        None if readiness.is_full() => FULL.into_response(),
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Anything but `/healthz` while the server starts.
pub async fn starting(State(phase): State<Phase>) -> Error {
    Error::Unavailable(phase.obstacle().unwrap_or("starting").to_owned())
}

/// Why requests could not be served, if so, when it was last looked at.
struct Finding {
    at: Instant,
    reason: Option<String>,
}

/// What `/readyz` looks at; clones share it.
#[derive(Clone)]
pub struct Readiness {
    app: App,
    phase: Phase,
    /// The last finding. Nobody needs a token to ask, so that asking often must cost nothing.
    last: Arc<Mutex<Option<Finding>>>,
}

impl Readiness {
    /// Looks at `app` from now on.
    pub fn new(app: App, phase: Phase) -> Self {
        Self {
            app,
            phase,
            last: Arc::default(),
        }
    }

    /// Whether a disk has too little left for anything new: working files, objects, or the database.
    fn is_full(&self) -> bool {
        let mut spaces = space::disks(&self.app).into_iter().map(|disk| disk.space);
        let is_full = |space: Space| space.usable() == 0;
        space::low(&self.app).is_some() || spaces.any(is_full) || self.app.db.space().is_some_and(is_full)
    }

    /// Why requests cannot be served now, if so.
    async fn obstacle(&self) -> Option<String> {
        if let Some(reason) = self.phase.obstacle() {
            return Some(reason.to_owned());
        }
        let mut last = self.last.lock().await;
        if let Some(finding) = &*last
            && finding.at.elapsed() < LOOK_EVERY
        {
            return finding.reason.clone();
        }
        let database = answer("the database", self.app.db.ping()).await;
        let reason = match database {
            None => {
                answer("the objects' place", async {
                    Ok(self.app.store.header_check().await?)
                })
                .await
            }
            found => found,
        };
        *last = Some(Finding {
            at: Instant::now(),
            reason: reason.clone(),
        });
        reason
    }
}

/// Whether `work` ends well and in time; else a sentence for everyone, and the cause for the log.
async fn answer(what: &str, work: impl Future<Output = Result<()>>) -> Option<String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = error.chain(), "not ready");
            Some(format!("{what} does not answer; the server's log says why"))
        }
        Err(_) => Some(format!(
            "{what} did not answer within {} seconds",
            PATIENCE.as_secs()
        )),
    }
}

/// `/metrics`, for programs on this machine only.
pub async fn metrics(Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    if !is_local(&peer, &headers) {
        return Error::NotFound.into_response();
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], telemetry::metrics_render()).into_response()
}
