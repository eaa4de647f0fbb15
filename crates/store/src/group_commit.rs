//! Group commit: what several writers of one session have to tell the database at the same time is told in one transaction.
//!
//! A commit waits for the disk, and with it for all that the disk was given before: tens of milliseconds where packs are
//! written at the same time. On SQLite commits stand in line besides, so that one for each step would be what an ingest takes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::pack::Entry;
use crate::rows::{self, Tx};
use crate::session::{SessionInner, lease_lost};

#[derive(Debug)]
enum Step {
    Announce {
        kind: i16,
        id: Uuid,
        bytes: u64,
        frames: usize,
    },
    Publish {
        object: i64,
        bytes: u64,
        entries: Arc<Vec<Entry>>,
    },
}

#[derive(Debug)]
struct Waiting {
    step: Step,
    done: oneshot::Sender<Result<i64>>,
}

/// The steps of a session that wait for the transaction under way to end.
#[derive(Debug, Default)]
pub(crate) struct Group {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl Group {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionInner {
    /// Writes the row of an object that is about to be written; gives its number.
    pub(crate) async fn announce(&self, kind: i16, id: Uuid, bytes: u64, frames: usize) -> Result<i64> {
        let step = Step::Announce {
            kind,
            id,
            bytes,
            frames,
        };
        self.step(step).await
    }

    /// The object goes live, with its size, and what is in it gets its rows.
    pub(crate) async fn publish(&self, object: i64, bytes: u64, entries: Arc<Vec<Entry>>) -> Result<()> {
        let step = Step::Publish {
            object,
            bytes,
            entries,
        };
        self.step(step).await.map(drop)
    }

    /// Takes a step, together with those that wait when its turn comes: all of them happen, or none does.
    async fn step(&self, step: Step) -> Result<i64> {
        let (done, answer) = oneshot::channel();
        self.group.waiting().push(Waiting { step, done });
        {
            let _turn = self.group.turn.lock().await;
            // Who had the turn before may have taken this one along.
            let waiting = std::mem::take(&mut *self.group.waiting());
            if !waiting.is_empty() {
                self.steps(waiting).await;
            }
        }
        let stopped = |error| Error::new(Kind::Io, "a transaction was stopped").with_source(error);
        answer.await.map_err(stopped)?
    }

    async fn steps(&self, waiting: Vec<Waiting>) {
        let (steps, done): (Vec<_>, Vec<_>) = waiting.into_iter().map(|one| (one.step, one.done)).unzip();
        match self.steps_try(&steps).await {
            Ok(numbers) => {
                for (done, number) in done.into_iter().zip(numbers) {
                    // Nobody may be there any more to hear it.
                    let _ = done.send(Ok(number));
                }
            }
            Err(error) => {
                for done in done {
                    let _ = done.send(Err(Error::new(error.kind(), error.to_string())));
                }
            }
        }
    }

    async fn steps_try(&self, steps: &[Step]) -> Result<Vec<i64>> {
        let context = |error| Error::db("cannot announce or publish an object", error);
        let tx = rows::begin(&self.store.inner.db).await.map_err(context)?;
        self.hold(&tx).await?;
        let mut numbers = Vec::with_capacity(steps.len());
        for step in steps {
            numbers.push(match step {
                Step::Announce {
                    kind,
                    id,
                    bytes,
                    frames,
                } => self.announce_in(&tx, *kind, *id, *bytes, *frames).await?,
                Step::Publish {
                    object,
                    bytes,
                    entries,
                } => {
                    self.publish_in(&tx, *object, *bytes, entries).await?;
                    *object
                }
            });
        }
        tx.commit().await.map_err(context)?;
        Ok(numbers)
    }

    async fn announce_in(&self, tx: &Tx, kind: i16, id: Uuid, bytes: u64, frames: usize) -> Result<i64> {
        let store = &self.store.inner;
        let intent = rows::Intent {
            store: store.number,
            key: id,
            kind,
            session: self.id,
            bytes,
            frames,
            now_us: store.options.world.now_us(),
        };
        rows::object_insert(tx, &intent)
            .await
            .map_err(|error| Error::db("cannot announce an object", error))
    }

    async fn publish_in(&self, tx: &Tx, object: i64, bytes: u64, entries: &[Entry]) -> Result<()> {
        let context = |error| Error::db("cannot publish an object", error);
        let store = &self.store.inner;
        let (number, domain, now_us) = (store.number, self.domain, store.options.world.now_us());
        if !rows::object_publish(tx, object, bytes, now_us)
            .await
            .map_err(context)?
        {
            return Err(lease_lost());
        }
        let epoch = self.start_epoch;
        let written = rows::chunks_insert(tx, number, domain, object, epoch, entries)
            .await
            .map_err(context)?;
        if written == entries.len() as u64 {
            return Ok(());
        }
        // Another session published some of these first. Their rows are now counted on: pin what is older.
        let digests: Vec<_> = entries.iter().map(|entry| entry.digest).collect();
        let rows = rows::chunks_get(tx, number, domain, &digests)
            .await
            .map_err(context)?;
        let condemned: Vec<_> = rows
            .iter()
            .filter(|(_, hit)| hit.state == rows::chunk_state::CONDEMNED)
            .map(|(digest, _)| *digest)
            .collect();
        rows::chunks_resurrect(tx, number, domain, &condemned)
            .await
            .map_err(context)?;
        let mut theirs: Vec<_> = rows
            .into_iter()
            .filter(|(_, hit)| hit.epoch < epoch)
            .map(|(digest, _)| digest)
            .collect();
        theirs.sort_unstable();
        self.pin(tx, &theirs).await
    }
}
