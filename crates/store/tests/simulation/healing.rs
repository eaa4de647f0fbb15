//! A store loses packs, and rows of others, after gc has written anew what it held, and gets all of it back from a copy
//! that is older than that; while gc and deletions run, servers crash, and calls are late or lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use sea_orm::ConnectionTrait as _;
use store::gc::{Options, Progress};
use store::{Backend, Error, HealProgress, Kind, Listed, Put, Result};

use crate::actors::{Server, act};
use crate::random::Rng;
use crate::run::{AT_ONCE, Driver, SERVERS};
use crate::scheduler::Command;

/// What lay in the backend at some time.
#[derive(Debug)]
struct Backup(BTreeMap<String, Bytes>);

fn read_only() -> Error {
    Error::new(Kind::Invalid, "nobody writes to a copy")
}

#[async_trait]
impl Backend for Backup {
    async fn put_new(&self, _key: &str, _data: Bytes) -> Result<()> {
        Err(read_only())
    }

    async fn put_begin(&self, _key: &str) -> Result<Box<dyn Put>> {
        Err(read_only())
    }

    async fn put_replace(&self, _key: &str) -> Result<Box<dyn Put>> {
        Err(read_only())
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let data = self.0.get(key).cloned();
        data.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no `{key}`")))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let data = self.get(key).await?;
        let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        if to > data.len() {
            return Err(Error::new(Kind::Damaged, format!("`{key}` ends before {to}")));
        }
        Ok(data.slice(from..to))
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.0.get(key).map(|data| data.len() as u64))
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        let item = |(key, data): (&String, &Bytes)| {
            let (key, bytes) = (key.clone(), data.len() as u64);
            Ok(Listed {
                key,
                bytes,
                modified_us: 0,
            })
        };
        let of_prefix = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        let items: Vec<_> = of_prefix.map(item).collect();
        stream::iter(items).boxed()
    }

    async fn delete(&self, _key: &str) -> Result<()> {
        Err(read_only())
    }

    fn describe(&self) -> String {
        "a copy".into()
    }
}

impl Driver {
    /// To be called when all work is done; afterwards nothing is lost.
    pub(crate) async fn lose_and_heal(&mut self) {
        let mood = self.sim.lock().mood;
        let copy = self.lose().await;
        self.sim.lock().mood = mood;
        self.left = 6 + self.rng.below(8);
        loop {
            self.tasks.retain(|(_, task)| !task.is_finished());
            let more = self.left > 0 && self.tasks.len() < AT_ONCE;
            let (command, hold) = self.sim.command(more).await;
            match command {
                Command::Start => self.heal_start(&copy),
                Command::Crash => self.crash().await,
                Command::Cancel => self.cancel().await,
                // What is lost cannot be read.
                Command::Audit => {}
                Command::Stop => break,
            }
            drop(hold);
        }
        if self.sim.failure().is_none() {
            self.heal_last(copy).await;
        }
    }

    async fn lose(&mut self) -> Arc<Backup> {
        let hold = self.sim.hold();
        self.calm_down();
        self.sim.pass(6);
        for at in 0..SERVERS {
            self.servers[at] = self.server().await;
        }
        let copy = Arc::new(Backup(self.sim.lock().network.content()));
        for _ in 0..self.rng.below(4) {
            let rng = Rng::new(self.rng.next());
            act(self.servers[0].clone(), "delete", rng).await;
        }
        self.gc(&self.servers[0].store, true).await;
        let packs = self.sim.lock().network.keys("p/");
        for key in packs {
            let (is_gone, is_unknown) = (self.rng.chance(300), self.rng.chance(300));
            self.sim
                .lock()
                .tell(&format!("{key} is lost: {is_gone}, its rows are: {is_unknown}"));
            if is_gone {
                self.sim.lock().network.lose(&key);
            }
            if is_unknown {
                self.rows_lose(&key[5..].replace('-', "")).await;
            }
        }
        drop(hold);
        copy
    }

    async fn rows_lose(&self, id: &str) {
        let object = format!("(SELECT id FROM store_object WHERE lower(hex(key)) = '{id}')");
        for sql in [
            format!("DELETE FROM store_chunk WHERE object = {object}"),
            format!("DELETE FROM store_object WHERE id = {object}"),
        ] {
            self.db
                .execute_unprepared(&sql)
                .await
                .expect("the simulated database answers");
        }
    }

    fn heal_start(&mut self, copy: &Arc<Backup>) {
        self.left -= 1;
        let at = self.rng.index(SERVERS);
        let server = self.servers[at].clone();
        let what = ["heal", "heal", "heal", "gc", "gc", "gc", "delete", "expire"][self.rng.index(8)];
        let (rng, copy) = (Rng::new(self.rng.next()), Arc::clone(copy));
        server
            .sim
            .lock()
            .tell(&format!("{what} begins on server {at}, life {}", server.life));
        self.tasks
            .push((at, tokio::spawn(heal_act(server, what, rng, copy))));
    }

    async fn heal_last(&mut self, copy: Arc<Backup>) {
        let hold = self.sim.hold();
        self.calm_down();
        let store = self.server().await.store;
        match store.heal_from(copy, &HealProgress::default()).await {
            Ok(healed) if healed.lost == 0 => self.sim.lock().tell(&format!("{healed:?}")),
            healed => self.sim.fail(format!("the last heal: {healed:?}")),
        }
        drop(hold);
    }
}

async fn heal_act(server: Server, what: &'static str, mut rng: Rng, copy: Arc<Backup>) {
    let done = match what {
        "heal" => {
            let healed = server.store.heal_from(copy, &HealProgress::default()).await;
            if let Ok(healed) = &healed {
                server.sim.lock().tell(&format!("heal has ended: {healed:?}"));
            }
            healed.map(drop)
        }
        "gc" => {
            let options = Options {
                now: rng.chance(500),
                repack_below: [0, 60, 90][rng.index(3)],
                ..Options::new(std::env::temp_dir())
            };
            server.store.gc(&options, &Progress::default()).await.map(drop)
        }
        _ => return act(server, what, rng).await,
    };
    let Err(error) = done else { return };
    let is_fine = match error.kind() {
        Kind::Unavailable | Kind::LeaseLost => true,
        // It needs the trees, of which some are lost.
        Kind::Damaged | Kind::NotFound => what == "gc",
        _ => false,
    };
    let text = format!("{what} of life {} ended: {error}", server.life);
    if is_fine {
        server.sim.lock().tell(&text);
    } else {
        server.sim.fail(text);
    }
}
