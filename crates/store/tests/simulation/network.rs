//! The objects, and what is on its way to them: late, twice, or never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use store::{Backend, Error, Kind, Listed, Put, Result};
use tokio::sync::oneshot;

use crate::random::Rng;
use crate::scheduler::{Life, Sim, State};

/// What was deleted, or put, so many changes ago a stale list may still hold, or not hold yet.
const STALE_CHANGES: u64 = 20;

#[derive(Default)]
pub(crate) struct Network {
    objects: BTreeMap<String, Object>,
    /// What lies where, when names are made of contents.
    names: Option<BTreeMap<String, Named>>,
    gone: VecDeque<(String, u64, u64)>,
    late: Vec<Late>,
    /// Keys that the store has put.
    put: BTreeSet<String>,
    changes: u64,
}

/// A pack in a store that names by contents: where it lies, and its own header around the common contents.
struct Named {
    name: String,
    data: Bytes,
    since: u64,
}

struct Object {
    data: Bytes,
    since: u64,
}

enum Change {
    Put(String, Bytes),
    Delete(String),
}

struct Late {
    change: Change,
    /// Whoever waits for the answer.
    answer: Option<Answer>,
}

pub(crate) type Answer = oneshot::Sender<Result<()>>;

/// What became of a late message.
pub(crate) struct Landed {
    pub(crate) what: String,
    pub(crate) answer: Option<(Answer, Result<()>)>,
}

impl Network {
    pub(crate) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// From now on two objects with the same contents have the same name, as in a store that names by digest.
    pub(crate) fn name_by_contents(&mut self) {
        self.names = Some(BTreeMap::new());
    }

    /// One of the late messages comes, gets lost, or loses its answer.
    pub(crate) fn land(&mut self, rng: &mut Rng) -> Landed {
        let Late { change, answer } = self.late.swap_remove(rng.index(self.late.len()));
        let Some(answer) = answer else {
            if rng.chance(100) {
                let what = format!("a late {change} is lost");
                return Landed { what, answer: None };
            }
            let what = format!("a late {change} lands");
            self.apply(change);
            return Landed { what, answer: None };
        };
        if rng.chance(150) {
            let what = format!("{change} is given up by its caller");
            self.late.push(Late { change, answer: None });
            let answer = Some((answer, Err(away())));
            return Landed { what, answer };
        }
        let what = format!("a slow {change} lands");
        self.apply(change);
        let done = if rng.chance(100) { Err(away()) } else { Ok(()) };
        let answer = Some((answer, done));
        Landed { what, answer }
    }

    fn apply(&mut self, change: Change) {
        self.changes += 1;
        let since = self.changes;
        match change {
            Change::Put(key, data) => {
                if let Some(names) = &mut self.names
                    && key.starts_with("p/")
                {
                    // The frames and what names them; the rest says which pack it is.
                    let name = blake3::hash(&data[64..data.len() - 64]).to_hex().to_string();
                    let data = data.clone();
                    names.insert(key.clone(), Named { name, data, since });
                }
                let key = self.name(&key);
                self.objects.insert(key, Object { data, since });
            }
            Change::Delete(key) => {
                let key = self.name(&key);
                if let Some(object) = self.objects.remove(&key) {
                    self.gone.push_back((key, object.data.len() as u64, since));
                    if self.gone.len() > 50 {
                        self.gone.pop_front();
                    }
                }
            }
        }
    }

    fn name(&self, key: &str) -> String {
        let named = self.names.as_ref().and_then(|names| names.get(key));
        named.map_or(key, |named| &named.name).to_owned()
    }

    fn get(&self, key: &str) -> Result<Bytes> {
        let found = self.objects.get(&self.name(key));
        let missing = || Error::new(Kind::NotFound, format!("there is no `{key}`"));
        let found = found.ok_or_else(missing)?;
        let named = self.names.as_ref().and_then(|names| names.get(key));
        Ok(named.map_or(&found.data, |named| &named.data).clone())
    }

    fn list(&self, prefix: &str, stale: Option<&mut Rng>) -> Vec<Listed> {
        let of_prefix = |key: &str| key.starts_with(prefix);
        let mut listed: BTreeMap<String, (u64, u64)> = self
            .objects
            .iter()
            .filter(|(key, _)| of_prefix(key))
            .map(|(key, object)| (key.clone(), (object.data.len() as u64, object.since)))
            .collect();
        if let Some(names) = &self.names {
            // Each object once, under the key that was last put there.
            let mut newest: BTreeMap<&str, (&str, &Named)> = BTreeMap::new();
            for (key, named) in names.iter().filter(|(key, _)| of_prefix(key)) {
                let known = newest.entry(&named.name).or_insert((key, named));
                if named.since > known.1.since {
                    *known = (key, named);
                }
            }
            newest.retain(|name, _| self.objects.contains_key(*name));
            let item =
                |(key, named): &(&str, &Named)| ((*key).to_owned(), (named.data.len() as u64, named.since));
            listed.extend(newest.values().map(item));
        }
        if let Some(rng) = stale {
            let young = self.changes.saturating_sub(STALE_CHANGES);
            listed.retain(|_, (_, since)| *since <= young || rng.chance(500));
            for (key, bytes, since) in &self.gone {
                if of_prefix(key) && *since > young && rng.chance(500) {
                    listed.insert(key.clone(), (*bytes, *since));
                }
            }
        }
        let item = |(key, (bytes, _))| Listed {
            key,
            bytes,
            modified_us: 0,
        };
        listed.into_iter().map(item).collect()
    }

    /// Everything that is there.
    pub(crate) fn content(&self) -> BTreeMap<String, Bytes> {
        let object = |(key, object): (&String, &Object)| (key.clone(), object.data.clone());
        self.objects.iter().map(object).collect()
    }

    /// An object is gone, and nobody deleted it.
    pub(crate) fn lose(&mut self, key: &str) {
        self.objects.remove(key);
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.list(prefix, None).into_iter().map(|item| item.key).collect()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, _) => write!(f, "put {key}"),
            Self::Delete(key) => write!(f, "delete {key}"),
        }
    }
}

fn away() -> Error {
    Error::new(Kind::Unavailable, "503, or no answer")
}

/// A server's way to the objects.
#[derive(Clone)]
pub(crate) struct Wire {
    sim: Sim,
    life: Life,
}

impl Wire {
    pub(crate) fn new(sim: &Sim, life: Life) -> Arc<Self> {
        let sim = sim.clone();
        Arc::new(Self { sim, life })
    }

    /// A call that changes nothing: it works, or it does not.
    async fn ask<T>(&self, what: String, answer: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _turn = self.sim.turn(self.life, &what).await;
        let mut state = self.sim.lock();
        let faults = state.mood.faults;
        if !state.is_calm() && state.rng.chance(faults) {
            state.tell(&format!("{what}: no answer"));
            return Err(away());
        }
        answer(&mut state)
    }

    async fn change(&self, change: Change) -> Result<()> {
        let turn = self.sim.turn(self.life, &change.to_string()).await;
        let waits = self.sim.lock().change(change);
        drop(turn);
        match waits {
            Ok(answer) => answer.await.unwrap_or_else(|_| Err(away())),
            Err(done) => done,
        }
    }
}

impl State {
    /// What becomes of a put or a delete: its end, or where that will be told.
    fn change(&mut self, change: Change) -> std::result::Result<oneshot::Receiver<Result<()>>, Result<()>> {
        let faults = self.mood.faults;
        // Few calls change anything, so more of them go wrong.
        if self.is_calm() || !self.rng.chance(4 * faults) {
            self.network.apply(change);
            return Err(Ok(()));
        }
        let fate = self.rng.below(6);
        let fates = ["slow", "refused", "answer lost", "late", "twice", "slow"];
        self.tell(&format!(
            "{change}: {}",
            fates[usize::try_from(fate).unwrap_or_default()]
        ));
        let again = match &change {
            Change::Put(key, data) => Change::Put(key.clone(), data.clone()),
            Change::Delete(key) => Change::Delete(key.clone()),
        };
        match fate {
            1 => Err(Err(away())),
            2 => {
                self.network.apply(change);
                Err(Err(away()))
            }
            3 => {
                self.network.late.push(Late { change, answer: None });
                Err(Err(away()))
            }
            4 => {
                self.network.apply(change);
                self.network.late.push(Late {
                    change: again,
                    answer: None,
                });
                Err(Ok(()))
            }
            _ => {
                let (answer, told) = oneshot::channel();
                let answer = Some(answer);
                self.network.late.push(Late { change, answer });
                Ok(told)
            }
        }
    }
}

/// An object in parts: all of it is sent in the end.
struct Parts {
    wire: Wire,
    key: String,
    data: Vec<u8>,
    replaces: bool,
}

#[async_trait]
impl Put for Parts {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.data.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let data = Bytes::from(self.data);
        if self.replaces {
            return self.wire.change(Change::Put(self.key, data)).await;
        }
        self.wire.put_new(&self.key, data).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Backend for Wire {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        if !self.sim.lock().network.put.insert(key.to_owned()) {
            self.sim.fail(format!("`{key}` is put twice"));
        }
        self.change(Change::Put(key.to_owned(), data)).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        Ok(Box::new(Parts {
            wire: self.clone(),
            key: key.to_owned(),
            data: Vec::new(),
            replaces: false,
        }))
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        Ok(Box::new(Parts {
            wire: self.clone(),
            key: key.to_owned(),
            data: Vec::new(),
            replaces: true,
        }))
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.ask(format!("get {key}"), |state| state.network.get(key))
            .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let what = format!("get {key} {}..{}", range.start, range.end);
        let data = self.ask(what, |state| state.network.get(key)).await?;
        let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        if to > data.len() {
            return Err(Error::new(Kind::Damaged, format!("`{key}` ends before {to}")));
        }
        Ok(data.slice(from..to))
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        let found = self
            .ask(format!("stat {key}"), |state| state.network.get(key))
            .await;
        match found {
            Ok(data) => Ok(Some(data.len() as u64)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        let prefix = prefix.to_owned();
        let listed = async move {
            let done = self
                .ask(format!("list {prefix}"), |state| Ok(state.list(&prefix)))
                .await;
            match done {
                Ok(items) => items,
                Err(error) => vec![Err(error)],
            }
        };
        listed.map(stream::iter).flatten_stream().boxed()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.change(Change::Delete(key.to_owned())).await
    }

    fn describe(&self) -> String {
        "a simulated backend".into()
    }
}

impl State {
    /// A listing: right, stale, or one that breaks off.
    fn list(&mut self, prefix: &str) -> Vec<Result<Listed>> {
        let faults = self.mood.faults;
        if self.is_calm() || !self.rng.chance(3 * faults) {
            let listed = self.network.list(prefix, None);
            return listed.into_iter().map(Ok).collect();
        }
        self.tell(&format!("the list of {prefix} is stale"));
        let Self { rng, network, .. } = self;
        let mut listed: Vec<_> = network.list(prefix, Some(rng)).into_iter().map(Ok).collect();
        if rng.chance(200) {
            listed.truncate(rng.index(listed.len() + 1));
            listed.push(Err(away()));
        }
        listed
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire of life {}", self.life)
    }
}
