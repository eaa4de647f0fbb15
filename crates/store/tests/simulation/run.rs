//! One run: two servers on one database and one backend, what they do, how they crash, and what must hold in the end.

use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use store::gc::{Options as GcOptions, Progress};
use store::{KeyKind, Options, Store, VerifyProgress, WrappingKey};
use tokio::task::JoinHandle;

use crate::actors::{Server, act, draw, read_back};
use crate::broken::Variant;
use crate::disks::Model;
use crate::network::Wire;
use crate::random::Rng;
use crate::scheduler::{Command, Sim};

/// One seed in so many runs on an encrypted store.
const ENCRYPTED: u64 = 4;
pub(crate) const SERVERS: usize = 2;
/// Tasks at the same time.
pub(crate) const AT_ONCE: usize = 6;

/// What came of a run.
pub struct Outcome {
    /// What went wrong, if anything did.
    pub failure: Option<String>,
    /// Every step.
    pub trace: Vec<String>,
}

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        store::migrations()
    }
}

/// Runs a seed.
pub fn run(seed: u64, variant: Variant) -> Outcome {
    let sim = Sim::new(seed);
    let parked = sim.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .on_thread_park(move || parked.park())
        .build()
        .expect("a runtime needs nothing");
    runtime.block_on(drive(&sim, seed, variant));
    drop(runtime);
    Outcome {
        failure: sim.failure(),
        trace: sim.trace(),
    }
}

pub(crate) struct Driver {
    pub(crate) sim: Sim,
    pub(crate) db: DatabaseConnection,
    model: Arc<Mutex<Model>>,
    pub(crate) servers: Vec<Server>,
    pub(crate) tasks: Vec<(usize, JoinHandle<()>)>,
    pub(crate) rng: Rng,
    pub(crate) left: u64,
    seed: u64,
    variant: Variant,
}

async fn drive(sim: &Sim, seed: u64, variant: Variant) {
    let setup = sim.hold();
    let db = database().await;
    variant.break_it(sim, &db).await;
    let mut rng = Rng::new(seed.wrapping_mul(31) ^ 0x5151);
    let mut driver = Driver {
        sim: sim.clone(),
        db,
        model: Arc::default(),
        servers: Vec::new(),
        tasks: Vec::new(),
        left: 16 + rng.below(30),
        rng,
        seed,
        variant,
    };
    for _ in 0..SERVERS {
        let server = driver.server().await;
        driver.servers.push(server);
    }
    drop(setup);
    driver.work().await;
    if variant == Variant::Lost && driver.sim.failure().is_none() {
        driver.lose_and_heal().await;
    }
    if driver.sim.failure().is_none() {
        driver.end().await;
    }
}

async fn database() -> DatabaseConnection {
    let mut options = ConnectOptions::new("sqlite::memory:");
    // One connection: it is the database.
    options
        .max_connections(1)
        .min_connections(1)
        .test_before_acquire(false)
        .sqlx_logging(false);
    let db = Database::connect(options)
        .await
        .expect("the simulated database answers");
    Migrator::up(&db, None)
        .await
        .expect("the simulated database answers");
    db
}

impl Driver {
    pub(crate) async fn server(&self) -> Server {
        let (life, world) = self.sim.live();
        let encrypt = self.seed.is_multiple_of(ENCRYPTED);
        let key = WrappingKey::new(KeyKind::KeyFile, &[9; 32]).expect("a key's length");
        let options = Options {
            world,
            digest_key: Some([7; 32]),
            encrypt,
            key: encrypt.then_some(key),
            ..Options::default()
        };
        let store = Store::open_or_init(Wire::new(&self.sim, life), &self.db, options)
            .await
            .expect("the simulated database answers");
        Server {
            sim: self.sim.clone(),
            db: self.db.clone(),
            model: Arc::clone(&self.model),
            store,
            life,
            seed: self.seed,
            reads_only: self.variant.reads_only(),
        }
    }

    /// Everything that happens until nothing is left to do.
    async fn work(&mut self) {
        loop {
            self.tasks.retain(|(_, task)| !task.is_finished());
            let more = self.left > 0 && self.tasks.len() < AT_ONCE;
            let (command, hold) = self.sim.command(more).await;
            match command {
                Command::Start => self.start(),
                Command::Crash => self.crash().await,
                Command::Cancel => self.cancel().await,
                Command::Audit => self.audit().await,
                Command::Stop => return,
            }
            drop(hold);
        }
    }

    fn start(&mut self) {
        self.left -= 1;
        let at = self.rng.index(SERVERS);
        let server = self.servers[at].clone();
        let what = draw(&mut self.rng);
        let rng = Rng::new(self.rng.next());
        server
            .sim
            .lock()
            .tell(&format!("{what} begins on server {at}, life {}", server.life));
        self.tasks.push((at, tokio::spawn(act(server, what, rng))));
    }

    /// A server loses everything that it has in memory, and starts again.
    pub(crate) async fn crash(&mut self) {
        let at = self.rng.index(SERVERS);
        self.sim.kill(self.servers[at].life);
        for (_, task) in self.tasks.extract_if(.., |(of, _)| *of == at) {
            task.abort();
            let _ = task.await;
        }
        self.servers[at] = self.server().await;
    }

    /// A job is cancelled: its future is dropped, and the server lives on.
    pub(crate) async fn cancel(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let at = self.rng.index(self.tasks.len());
        let (_, task) = self.tasks.swap_remove(at);
        task.abort();
        let _ = task.await;
    }

    /// Reads back everything that is committed.
    async fn audit(&self) {
        let store = self.server().await.store;
        let roots = {
            let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            model.roots.clone()
        };
        for (name, (tree, disk)) in roots {
            let reader = store.disk_open(tree);
            if let Err(error) = read_back(&reader, &disk, &disk.places()).await {
                self.sim.fail(format!("disk {name} is lost: {error}"));
            }
        }
    }

    /// Nothing happens any more, and nothing goes wrong.
    pub(crate) fn calm_down(&mut self) {
        self.sim.settle();
        for server in &self.servers {
            self.sim.kill(server.life);
        }
        for (_, task) in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// What is left in the store is what is needed.
    async fn end(&mut self) {
        let hold = self.sim.hold();
        self.calm_down();
        self.audit().await;
        let store = self.server().await.store;
        for now in [false, true] {
            self.sim.pass(6);
            self.gc(&store, now).await;
        }
        self.audit().await;
        if !self.variant.reads_only() {
            self.accounts(&store).await;
        }
        drop(hold);
    }

    pub(crate) async fn gc(&self, store: &Store, now: bool) {
        let options = GcOptions {
            now,
            ..GcOptions::new(std::env::temp_dir())
        };
        let progress = Progress::default();
        match store.gc(&options, &progress).await {
            Ok(report) if report.taken_back > 0 && !self.variant.reads_only() => {
                self.sim
                    .fail(format!("the last gc takes chunks back: {report:?}"));
            }
            Ok(report) => self.sim.lock().tell(&format!("{report:?}")),
            Err(error) if self.variant.reads_only() => self.sim.lock().tell(&error.to_string()),
            Err(error) => self.sim.fail(format!("the last gc failed: {error}")),
        }
    }

    /// Objects, rows and roots name the same.
    async fn accounts(&self, store: &Store) {
        match store.verify(true, &VerifyProgress::default()).await {
            Ok(found) if found.is_empty() => {}
            found => self.sim.fail(format!("verify finds in the end: {found:?}")),
        }
        let needed = {
            let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            model.needed().to_string()
        };
        let mut objects = self.sim.lock().network.keys("p/");
        objects.sort();
        let mut rows = self
            .texts("SELECT lower(hex(key)) FROM store_object WHERE state = 2")
            .await;
        rows.sort();
        let ids: Vec<String> = objects.iter().map(|key| key[5..].replace('-', "")).collect();
        if ids != rows {
            self.sim
                .fail(format!("there are the objects {ids:?} and the rows {rows:?}"));
        }
        for (what, sql, expected) in [
            (
                "chunks",
                "SELECT count(*) FROM store_chunk WHERE state = 1",
                needed.as_str(),
            ),
            (
                "chunks that are not live",
                "SELECT count(*) FROM store_chunk WHERE state <> 1",
                "0",
            ),
            (
                "objects that are not live",
                "SELECT count(*) FROM store_object WHERE state <> 2",
                "0",
            ),
            (
                "packs without a chunk",
                "SELECT count(*) FROM store_object WHERE id NOT IN (SELECT object FROM store_chunk)",
                "0",
            ),
            ("sessions", "SELECT count(*) FROM store_session", "0"),
            ("pins", "SELECT count(*) FROM store_session_pin", "0"),
            ("pinned trees", "SELECT count(*) FROM store_session_root", "0"),
            ("orphans", "SELECT count(*) FROM store_orphan", "0"),
            (
                "runs of gc",
                "SELECT count(*) FROM store_meta WHERE gc_fence IS NOT NULL",
                "0",
            ),
        ] {
            let found = self.texts(sql).await.concat();
            if found != expected {
                self.sim.fail(format!("{found} {what} are left, not {expected}"));
            }
        }
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = format!(
            "SELECT CAST(x.c AS text) FROM ({}) AS x",
            sql.replacen(" FROM", " AS c FROM", 1)
        );
        let statement = Statement::from_string(self.db.get_database_backend(), sql);
        let rows = self
            .db
            .query_all_raw(statement)
            .await
            .expect("the simulated database answers");
        rows.iter()
            .map(|row| row.try_get_by_index(0).expect("the simulated database answers"))
            .collect()
    }
}
