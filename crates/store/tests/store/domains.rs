//! Whether a team can find out by the work that its requests make what another team holds.
//!
//! Time is not measured here, work is counted: every call to the backend, with its kind and its length, and every
//! statement, by its text. Where dedup domains are the teams' own, each request of a team makes the same work whatever
//! the others hold; where all share one domain, an import of what is there already makes less, which shows that this
//! test can tell.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use sha2::Digest as _;
use store::{Algorithm, Backend, Listed, ObjectName, Put, Result, Session, Store, TreeRoot};

use crate::support::{Place, noise, places};

const CHUNK: usize = 65536;

/// How often what was done.
type Work = BTreeMap<String, u64>;

/// What is done from now on.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Work>>);

impl Log {
    fn note(&self, what: String) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }

    /// A call to the backend. Names of objects are random: what is told apart is what kind of object it is.
    fn call(&self, call: &str, key: &str, bytes: u64) {
        let kind = key.split('/').next().unwrap_or_default();
        self.note(format!("{call} {kind}/ {bytes}"));
    }

    fn take(&self) -> Work {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Hands calls on and notes them. It has no folder, so that nothing is read past it.
#[derive(Debug, Clone)]
struct Watched {
    inner: Arc<dyn Backend>,
    log: Log,
}

struct WatchedPut {
    inner: Box<dyn Put>,
    log: Log,
}

#[async_trait]
impl Put for WatchedPut {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.log.note(format!("write {}", data.len()));
        self.inner.write(data).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.log.note("finish".into());
        self.inner.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.log.note("abort".into());
        self.inner.abort().await
    }
}

#[async_trait]
impl Backend for Watched {
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
        self.log.call("put", key, data.len() as u64);
        self.inner.put_new(key, data).await
    }

    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
        self.log.call("begin", key, 0);
        let (inner, log) = (self.inner.put_begin(key).await?, self.log.clone());
        Ok(Box::new(WatchedPut { inner, log }))
    }

    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
        self.log.call("replace", key, 0);
        let (inner, log) = (self.inner.put_replace(key).await?, self.log.clone());
        Ok(Box::new(WatchedPut { inner, log }))
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let data = self.inner.get(key).await?;
        self.log.call("get", key, data.len() as u64);
        Ok(data)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.log.call("get", key, range.end - range.start);
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<Option<u64>> {
        self.log.call("stat", key, 0);
        self.inner.stat(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
        self.log.call("list", prefix, 0);
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.log.call("delete", key, 0);
        self.inner.delete(key).await
    }

    async fn leftovers_clear(&self) -> Result<u64> {
        self.inner.leftovers_clear().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A team that works on a store.
struct Team<'a> {
    store: &'a Store,
    place: &'a Place,
    domain: i64,
}

impl Team<'_> {
    async fn session(&self) -> Session {
        self.store.session_open_in("team", self.domain).await.unwrap()
    }

    /// Takes a disk in; with a parent, only its second half is given.
    async fn import(&self, owner: &str, data: &[u8], parent: Option<TreeRoot>) -> TreeRoot {
        let session = self.session().await;
        let mut ingest = session.ingest(data.len() as u64, parent).await.unwrap();
        let half = data.len() / 2;
        match parent {
            Some(_) => ingest.extent_parent(half as u64).await.unwrap(),
            None => ingest
                .extent_data(Bytes::copy_from_slice(&data[..half]))
                .await
                .unwrap(),
        }
        ingest
            .extent_data(Bytes::copy_from_slice(&data[half..]))
            .await
            .unwrap();
        let root = ingest.finish().await.unwrap().root;
        let tx = self.place.begin().await;
        session.commit_in_tx(&tx, "image", owner, root).await.unwrap();
        tx.commit().await.unwrap();
        root
    }

    /// Takes a whole object in, unless it has it.
    async fn object(&self, owner: &str, data: &[u8]) {
        let digest = hex::encode(sha2::Sha256::digest(data));
        let name: ObjectName = format!("sha256:{digest}").parse().unwrap();
        let session = self.session().await;
        let stored = if let Some(found) = session.object_find(&name).await.unwrap() {
            found
        } else {
            let mut ingest = session.object_begin(Algorithm::Sha256);
            ingest.write(Bytes::copy_from_slice(data)).await.unwrap();
            ingest.finish(&name).await.unwrap()
        };
        let tx = self.place.begin().await;
        let kept = [("blob", owner, stored)];
        session.commit_objects_in_tx(&tx, &kept).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn read(&self, root: TreeRoot, data: &[u8]) {
        let mut out = vec![0; data.len()];
        let disk = self.store.disk_open(root);
        disk.read_at(0, &mut out).await.unwrap();
        assert!(out == data);
    }

    async fn restorable(&self, owner: &str, restorable: bool) {
        let tx = self.place.begin().await;
        let done = self.store.root_restorable_in_tx(&tx, "image", owner, restorable);
        assert!(done.await.unwrap());
        tx.commit().await.unwrap();
    }

    async fn delete(&self, owner: &str) {
        let tx = self.place.begin().await;
        assert!(self.store.root_delete_in_tx(&tx, "image", owner).await.unwrap());
        tx.commit().await.unwrap();
    }
}

/// A disk that fits into one pack, so that nothing of what is counted depends on what happens at the same time.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = noise(seed, 64 * CHUNK);
    for chunk in disk.chunks_mut(CHUNK).step_by(3) {
        chunk.fill(0);
    }
    disk
}

/// The work of each request of a team in a store where another one holds what is made of `held`, and has read it.
async fn works(mut place: Place, held: u64, domains: [i64; 2]) -> Vec<(&'static str, Work)> {
    let log = Log::default();
    let statements = log.clone();
    place
        .db
        .set_metric_callback(move |told| statements.note(told.statement.sql.clone()));
    let watched = Watched {
        inner: Arc::clone(&place.backend),
        log: log.clone(),
    };
    let store = place.store_on(Arc::new(watched)).await;
    let [theirs, ours] = domains.map(|domain| Team {
        store: &store,
        place: &place,
        domain,
    });
    let (first, second) = (disk(held), disk(held + 1));
    let whole = |seed| noise(seed + 2, 10 * CHUNK);
    let root = theirs.import("theirs", &first, None).await;
    theirs.read(root, &first).await;
    theirs.import("their second", &second, None).await;
    theirs.object("theirs", &whole(held)).await;
    log.take();

    let mut works = Vec::new();
    let mut done = |what| works.push((what, log.take()));
    let (first, second) = (disk(1), disk(2));
    let changed = [&first[..first.len() / 2], &second[second.len() / 2..]].concat();
    let root = ours.import("ours", &first, None).await;
    done("import");
    ours.read(root, &first).await;
    done("download, checksum");
    ours.read(root, &first).await;
    done("download again");
    let child = ours.import("our second", &changed, Some(root)).await;
    done("import with a parent");
    ours.read(child, &changed).await;
    done("download of what is in part the parent's");
    ours.object("ours", &whole(1)).await;
    done("whole object");
    ours.restorable("ours", true).await;
    done("delete");
    ours.restorable("ours", false).await;
    done("restore");
    ours.delete("ours").await;
    done("delete with purge");
    ours.import("again", &first, None).await;
    done("import of what it has itself");
    works
}

/// In every place that this run has: the work of each request where another team holds the same, and where it holds
/// other data.
async fn compared(domains: [i64; 2]) -> Vec<(&'static str, &'static str, Work, Work)> {
    let mut compared = Vec::new();
    for (one, two) in places().await.into_iter().zip(places().await) {
        let name = one.name;
        let (known, unknown) = (works(one, 1, domains).await, works(two, 1001, domains).await);
        for ((what, known), (_, unknown)) in known.into_iter().zip(unknown) {
            compared.push((name, what, known, unknown));
        }
    }
    compared
}

fn calls(work: &Work, call: &str) -> u64 {
    let of_it = work.iter().filter(|(what, _)| what.starts_with(call));
    of_it.map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_domain_of_its_own_a_team_makes_the_same_work_whatever_another_one_holds() {
    for (place, what, known, unknown) in compared([1, 2]).await {
        assert_eq!(known, unknown, "{place}: {what}");
        let (puts, statements) = (calls(&known, "put p/"), calls(&known, "INSERT"));
        match what {
            "import" => assert!(puts == 1 && statements > 0, "{place}: {known:#?}"),
            "download, checksum" => assert!(calls(&known, "get p/") > 0, "{place}: {known:#?}"),
            _ => {}
        }
    }
}

/// The control: where domains are not apart, the same count tells, so it would have told above.
#[tokio::test(flavor = "multi_thread")]
async fn in_one_domain_the_work_tells_what_another_team_holds() {
    for (place, what, known, unknown) in compared([0, 0]).await {
        let tells = matches!(what, "import" | "import with a parent" | "whole object");
        if tells {
            assert_ne!(known, unknown, "{place}: {what}");
        }
        if what == "import" {
            assert_eq!(
                (calls(&known, "put p/"), calls(&unknown, "put p/")),
                (0, 1),
                "{place}"
            );
        }
    }
}
