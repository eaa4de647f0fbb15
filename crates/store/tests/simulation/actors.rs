//! What servers do: imports, deletions, gc, verifications, reads. Each is one task, with numbers of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};
use store::gc::{Options, Progress};
use store::{Error, Ingest, Kind, Result, Session, Store, TreeRoot, VerifyProgress};

use crate::disks::{CHUNK, CHUNK_LENGTH, Disk, Model, content};
use crate::random::Rng;
use crate::scheduler::{Life, Sim};

/// What an actor works with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) sim: Sim,
    pub(crate) db: DatabaseConnection,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) store: Store,
    pub(crate) life: Life,
    pub(crate) seed: u64,
    /// Whether to look at nothing but what is read back.
    pub(crate) reads_only: bool,
}

/// Draws what a server does next.
pub(crate) fn draw(rng: &mut Rng) -> &'static str {
    const WEIGHTS: [(&str, u64); 7] = [
        ("import", 34),
        ("incremental", 16),
        ("delete", 16),
        ("gc", 22),
        ("verify", 4),
        ("read", 12),
        ("expire", 4),
    ];
    let mut at = rng.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
    for (what, weight) in WEIGHTS {
        if at < weight {
            return what;
        }
        at -= weight;
    }
    "import"
}

/// Does it. An end that should not be fails the run.
pub(crate) async fn act(server: Server, what: &'static str, mut rng: Rng) {
    let done = match what {
        "import" => server.import(&mut rng).await,
        "incremental" => server.incremental(&mut rng).await,
        "delete" => server.delete(&mut rng).await,
        "gc" => server.gc(&mut rng).await,
        "verify" => server.verify(&mut rng).await,
        "read" => server.read(&mut rng).await,
        _ => server.store.sessions_expire().await.map(drop),
    };
    let Err(error) = done else { return };
    let is_fine = match error.kind() {
        Kind::Unavailable | Kind::LeaseLost => true,
        // Its parent went before it began.
        Kind::NotFound => what == "incremental" && error.to_string().contains("the parent was deleted"),
        _ => false,
    };
    let text = format!("{what} of life {} ended: {}", server.life, chain(&error));
    if is_fine || server.reads_only {
        server.sim.lock().tell(&text);
    } else {
        server.sim.fail(text);
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Server {
    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction of the caller's, under one turn.
    async fn transaction(&self, what: &str) -> (store::Turn, DatabaseTransaction) {
        let turn = self.sim.turn(self.life, what).await;
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        (
            turn,
            self.db
                .begin_with_options(options)
                .await
                .expect("the simulated database answers"),
        )
    }

    async fn pause(&self, rng: &mut Rng) {
        if rng.chance(300) {
            let time = Duration::from_millis(1 + rng.below(90_000));
            self.sim.sleep(self.life, time).await;
        }
    }

    async fn import(&self, rng: &mut Rng) -> Result<()> {
        let disk = Disk::draw(self.seed, rng);
        let session = self.store.session_open("import").await?;
        let done = self.import_into(&session, disk, rng).await;
        end(session, done, rng).await
    }

    async fn import_into(&self, session: &Session, disk: Disk, rng: &mut Rng) -> Result<()> {
        let ingest = session.ingest(disk.bytes(), None).await?;
        let tree = feed(ingest, &disk, None, rng).await?;
        self.pause(rng).await;
        self.commit(session, vec![(tree, disk)]).await
    }

    async fn incremental(&self, rng: &mut Rng) -> Result<()> {
        let Some((_, parent, before)) = self.model().draw(rng) else {
            return Ok(());
        };
        let session = self.store.session_open("incremental").await?;
        let done = self.incremental_into(&session, parent, before, rng).await;
        end(session, done, rng).await
    }

    async fn incremental_into(
        &self,
        session: &Session,
        mut parent: TreeRoot,
        mut before: Disk,
        rng: &mut Rng,
    ) -> Result<()> {
        let mut disks = Vec::new();
        // Sometimes two, one upon the other.
        for _ in 0..=rng.below(2) {
            self.pause(rng).await;
            let mut disk = before.clone();
            disk.change(rng);
            let ingest = session.ingest(disk.bytes(), Some(parent)).await?;
            parent = feed(ingest, &disk, Some(&before), rng).await?;
            before = disk.clone();
            disks.push((parent, disk));
        }
        self.pause(rng).await;
        self.commit(session, disks).await
    }

    async fn commit(&self, session: &Session, disks: Vec<(TreeRoot, Disk)>) -> Result<()> {
        let (turn, tx) = self.transaction("commit").await;
        let named: Vec<(String, TreeRoot, Disk)> = disks
            .into_iter()
            .map(|(tree, disk)| (self.model().name(), tree, disk))
            .collect();
        let roots: Vec<_> = named
            .iter()
            .map(|(name, tree, _)| ("image", name.as_str(), *tree))
            .collect();
        let done = session.commit_all_in_tx(&tx, &roots).await;
        if done.is_err() {
            tx.rollback().await.expect("the simulated database answers");
            return done;
        }
        tx.commit().await.expect("the simulated database answers");
        for (name, tree, disk) in named {
            self.sim
                .lock()
                .tell(&format!("disk {name} is committed: {:?}", disk.at));
            self.model().roots.insert(name, (tree, disk));
        }
        drop(turn);
        Ok(())
    }

    async fn delete(&self, rng: &mut Rng) -> Result<()> {
        let Some((name, ..)) = self.model().draw(rng) else {
            return Ok(());
        };
        let (turn, tx) = self.transaction("delete").await;
        let was_there = self.store.root_delete_in_tx(&tx, "image", &name).await?;
        tx.commit().await.expect("the simulated database answers");
        let known = self.model().roots.remove(&name).is_some();
        drop(turn);
        self.sim.lock().tell(&format!("disk {name} is deleted"));
        if was_there != known {
            self.sim
                .fail(format!("disk {name} was there: {was_there}, should be: {known}"));
        }
        Ok(())
    }

    async fn gc(&self, rng: &mut Rng) -> Result<()> {
        let options = Options {
            now: rng.chance(500),
            repack_below: [0, 60, 90][rng.index(3)],
            dry_run: rng.chance(50),
            ..Options::new(std::env::temp_dir())
        };
        let progress = Progress::default();
        let done = self.store.gc(&options, &progress).await;
        let taken_back = progress.taken_back.load(std::sync::atomic::Ordering::Relaxed);
        if taken_back > 0 && !self.reads_only {
            self.sim
                .fail(format!("gc found {taken_back} condemned chunks that are needed"));
        }
        if let Ok(report) = &done {
            self.sim.lock().tell(&format!("gc has ended: {report:?}"));
        }
        done.map(drop)
    }

    async fn verify(&self, rng: &mut Rng) -> Result<()> {
        if self.reads_only {
            return Ok(());
        }
        let found = self
            .store
            .verify(rng.chance(500), &VerifyProgress::default())
            .await?;
        if !found.is_empty() {
            self.sim.fail(format!("verify finds {found:?}"));
        }
        Ok(())
    }

    /// Reads a disk, in parts and with rests. One that is deleted meanwhile may end in an error, never in wrong bytes.
    async fn read(&self, rng: &mut Rng) -> Result<()> {
        let Some((name, tree, disk)) = self.model().draw(rng) else {
            return Ok(());
        };
        let reader = self.store.disk_open(tree);
        let places = disk.places();
        let part = 1 + rng.index(places.len());
        for some in places.chunks(part) {
            match read_back(&reader, &disk, some).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) if error.kind() == Kind::Invalid => self.sim.fail(format!("disk {name}: {error}")),
                Err(error) if self.model().roots.contains_key(&name) => {
                    self.sim
                        .fail(format!("disk {name} cannot be read: {}", chain(&error)));
                }
                Err(_) => return Ok(()),
            }
            let rest = Duration::from_secs(1 + rng.below(60));
            self.sim.sleep(self.life, rest).await;
        }
        Ok(())
    }
}

/// Compares these chunks with what they should be; [`Kind::Invalid`] where they differ.
pub(crate) async fn read_back(reader: &store::DiskReader, disk: &Disk, chunks: &[u64]) -> Result<()> {
    for run in chunks.chunk_by(|one, next| one + 1 == *next) {
        let mut found = vec![0; run.len() * CHUNK_LENGTH];
        reader.read_at(run[0] * CHUNK, &mut found).await?;
        for (at, found) in run.iter().zip(found.chunks(CHUNK_LENGTH)) {
            let expected = disk.at.get(at).copied().unwrap_or(0);
            if found != content(expected) {
                return Err(Error::new(Kind::Invalid, format!("chunk {at} has other bytes")));
            }
        }
    }
    Ok(())
}

/// A session's end after what was done: given up where that failed, or just left.
async fn end(session: Session, done: Result<()>, rng: &mut Rng) -> Result<()> {
    if done.is_err() && rng.chance(600) {
        session.abort().await?;
    }
    done
}

/// Gives a disk to an ingest, chunk by chunk; what is as in the parent sometimes as such.
async fn feed(mut ingest: Ingest, disk: &Disk, parent: Option<&Disk>, rng: &mut Rng) -> Result<TreeRoot> {
    let mut at = 0;
    for place in disk.places() {
        let gap = (place - at) * CHUNK;
        if gap > 0 {
            ingest.extent_zero(gap).await?;
        }
        at = place + 1;
        let of = disk.at.get(&place).copied().unwrap_or(0);
        let before = parent.map(|parent| parent.at.get(&place).copied().unwrap_or(0));
        if before == Some(of) && rng.chance(800) {
            ingest.extent_parent(CHUNK).await?;
        } else if of == 0 && rng.chance(500) {
            ingest.extent_zero(CHUNK).await?;
        } else {
            let data: Bytes = content(of);
            ingest.extent_data(data).await?;
        }
    }
    Ok(ingest.finish().await?.root)
}
