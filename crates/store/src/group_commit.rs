//! Group commit: what several writers of one session have to tell the database at the same time is told in one
//! transaction.
//!
//! A commit waits for the disk, and with it for all that the disk was given before: tens of milliseconds where packs
//! are written at the same time. On SQLite commits stand in line besides, so that one for each step would be what an
//! ingest takes.

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

/// Whoever waits for a step.
type Told = oneshot::Sender<Result<i64>>;

#[derive(Debug)]
struct Waiting {
    step: Step,
    done: Told,
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

    /// The steps that wait, and who waits for them.
    fn take(&self) -> (Vec<Step>, Vec<Told>) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().map(|one| (one.step, one.done)).unzip()
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
            if !self.group.waiting().is_empty() {
                self.steps().await;
            }
        }
        let stopped = |error| Error::new(Kind::Io, "a transaction was stopped").with_source(error);
        answer.await.map_err(stopped)?
    }

    /// Takes the steps that wait, and tells each what came of it.
    async fn steps(&self) {
        let mut told = Vec::new();
        match self.steps_try(&mut told).await {
            Ok(numbers) => {
                for (done, number) in told.into_iter().zip(numbers) {
                    // Nobody may be there any more to hear it.
                    let _ = done.send(Ok(number));
                }
            }
            Err(error) => {
                // Also whoever waits for a transaction that could not begin.
                told.extend(self.group.take().1);
                let (kind, error) = (error.kind(), Arc::new(error));
                for done in told {
                    let shared = Error::new(kind, "a transaction with several steps failed");
                    let _ = done.send(Err(shared.with_source(Arc::clone(&error))));
                }
            }
        }
    }

    async fn steps_try(&self, told: &mut Vec<Told>) -> Result<Vec<i64>> {
        let context = |error| Error::db("cannot announce or publish an object", error);
        let tx = rows::begin(&self.store.inner.db).await.map_err(context)?;
        // Only now: more came while this stood in line.
        let (steps, waiting) = self.group.take();
        told.extend(waiting);
        self.hold(&tx).await?;
        let (mut numbers, mut published) = (Vec::with_capacity(steps.len()), Vec::new());
        for step in steps {
            numbers.push(match step {
                Step::Announce {
                    kind,
                    id,
                    bytes,
                    frames,
                } => self.announce_in(&tx, kind, id, bytes, frames).await?,
                Step::Publish {
                    object,
                    bytes,
                    entries,
                } => {
                    self.publish_in(&tx, object, bytes).await?;
                    published.extend(entries.iter().map(|entry| (object, *entry)));
                    object
                }
            });
        }
        self.chunks_publish(&tx, &published).await?;
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

    async fn publish_in(&self, tx: &Tx, object: i64, bytes: u64) -> Result<()> {
        let now_us = self.store.inner.options.world.now_us();
        let published = rows::object_publish(tx, object, bytes, now_us).await;
        if published.map_err(|error| Error::db("cannot publish an object", error))? {
            return Ok(());
        }
        Err(lease_lost())
    }

    /// Writes the rows of what is in published objects.
    async fn chunks_publish(&self, tx: &Tx, entries: &[(i64, Entry)]) -> Result<()> {
        let context = |error| Error::db("cannot publish what is in an object", error);
        let (number, domain, epoch) = (self.store.inner.number, self.domain, self.start_epoch);
        let written = rows::chunks_insert(tx, number, domain, epoch, entries)
            .await
            .map_err(context)?;
        if written == entries.len() as u64 {
            return Ok(());
        }
        // Another session published some of these first. Their rows are now counted on: pin what is older.
        let digests: Vec<_> = entries.iter().map(|(_, entry)| entry.digest).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::pack_put::tests::store;
    use crate::rows::object_kind;

    #[tokio::test(flavor = "multi_thread")]
    async fn steps_that_wait_together_happen_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let session = store.session_open("test").await.unwrap();
        let inner = &session.inner;
        let announce = || inner.announce(object_kind::BLOB, Uuid::new_v4(), 1, 1);
        let first = announce().await.unwrap();

        // While the turn is taken, steps gather; one of them cannot be taken.
        let turn = inner.group.turn.lock().await;
        let gather = async {
            tokio::join!(
                announce(),
                announce(),
                inner.publish(first + 1000, 1, Arc::default())
            )
        };
        let release = async {
            while inner.group.waiting().len() < 3 {
                tokio::task::yield_now().await;
            }
            drop(turn);
        };
        let ((one, two, three), ()) = tokio::join!(gather, release);
        for error in [one.unwrap_err(), two.unwrap_err(), three.unwrap_err()] {
            assert_eq!(error.kind(), Kind::LeaseLost);
            assert!(std::error::Error::source(&error).is_some(), "it says why");
        }
        assert!(inner.group.waiting().is_empty());

        let (one, two, three) = tokio::join!(announce(), announce(), inner.publish(first, 1, Arc::default()));
        three.unwrap();
        let next = (one.unwrap().min(two.unwrap()), first);
        assert_eq!(next.0, next.1 + 1, "nothing of what failed is there");
        session.abort().await.unwrap();
    }
}
