//! Two servers on PostgreSQL and S3, in networks of their own, share the work; then one of them is killed, cut off or
//! paused in the middle of an import and of a gc, and the other goes on without it. What the first one had sent arrives
//! later, or it comes back itself and goes on: nothing that was acknowledged is lost, nothing is done twice, nothing is
//! left over.
//!
//! Leases are as short as they may be, so that seconds do for what takes minutes elsewhere; with
//! `CISTERN_TWO_MINUTES=1` (`make soak`) they are the usual ones, and whoever is cut off or asleep stays so until its
//! store session is taken, too.

use rustix::process::Signal;
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, TransactionTrait as _};
use serde_json::{Value, json};

use crate::gc::gc;
use crate::harness::api::Api;
use crate::harness::disks;
use crate::harness::files::{Files, Held};
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::netns::{HUB, Host, Hub, inside};
use crate::harness::process::{run_ok, variable};
use crate::harness::proxy::{Fault, Method, Proxy};
use crate::harness::server::{Server, Setup};
use crate::harness::world::Place;
use crate::harness::{files_below, until};
use crate::jobs::{held, held_up, job_of};
use crate::migrate::{database, execute, texts};

/// The shortest lease that a server takes. The others wait longer than that for one that is silent.
const LEASE: &str = "--jobs-lease-seconds=3";
/// MiB of a disk here: one pack of data, and one of nodes.
const MIB: usize = 8;

/// The servers, their places, and what was done so far.
struct Two {
    hub: &'static Hub,
    hosts: [Host; 2],
    place: Place,
    /// Between the first server and S3.
    proxy: Proxy,
    files: Files,
    first: Server,
    second: Option<Server>,
    /// Images that were acknowledged, with their disks.
    kept: Vec<(i64, Vec<u8>)>,
    /// Images that were deleted for good.
    gone: Vec<i64>,
}

fn is_long() -> bool {
    variable("CISTERN_TWO_MINUTES").is_some()
}

fn setup(place: Place) -> Setup {
    let setup = Setup::strict_at(place);
    let setup = if is_long() { setup } else { setup.arg(LEASE) };
    // What is due by itself would meet what is done here.
    setup.arg("--gc-every-minutes=0").arg("--scrub-every-days=0")
}

impl Two {
    /// The first of them runs.
    async fn new(hub: &'static Hub) -> Self {
        let (hosts, place) = ([hub.host(), hub.host()], hub.place());
        let mut behind = place.clone();
        let proxy = Proxy::before(&hub.s3().address(), HUB, &mut behind);
        let first = hosts[0].with(setup(behind)).start();
        Self {
            hub,
            hosts,
            place,
            proxy,
            files: hub.files().await,
            first,
            second: None,
            kept: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// The second comes, straight before S3.
    fn second_starts(&mut self) -> Api {
        let setup = self.hosts[1].with(setup(self.place.clone()));
        let second = setup.start_sharing(&self.first);
        let api = second.api();
        self.second = Some(second);
        api
    }

    fn second(&self) -> &Server {
        self.second.as_ref().expect("it runs")
    }

    fn url(&self, seed: u64, disk: &[u8]) -> String {
        self.files.put(&format!("{seed}.img"), disk.to_vec())
    }

    /// Imports a disk by this server.
    async fn import(&mut self, api: &Api, seed: u64) -> i64 {
        let disk = disks::raw(MIB, seed);
        let image = imported(api, &format!("disk {seed}"), &self.url(seed, &disk)).await;
        let id = image["id"].as_i64().expect("an id");
        self.kept.push((id, disk));
        id
    }

    /// Deletes an image for good by this server.
    async fn purge(&mut self, api: &Api, id: i64) {
        let path = format!("/v2/images/{id}?purge=true");
        api.delete(&path).await.expect(204);
        self.kept.retain(|(kept, _)| *kept != id);
        self.gone.push(id);
    }

    /// Garbage for a gc: a disk that was imported and deleted. Gives its seed.
    async fn garbage(&mut self, seed: u64) {
        let api = self.first.api();
        self.import(&api, seed + 1).await;
        let id = self.import(&api, seed).await;
        idle(&api).await;
        self.purge(&api, id).await;
    }

    /// Begins an import at the first server that comes to where it writes its pack, and no further.
    async fn import_held(&mut self, seed: u64) -> i64 {
        self.proxy.set(Fault::Hold);
        let disk = disks::raw(MIB, seed);
        let id = import(&self.first.api(), &format!("disk {seed}"), &self.url(seed, &disk)).await;
        self.kept.push((id, disk));
        self.comes_to(Method::Put).await;
        id
    }

    /// Begins a gc there that comes to where it deletes a pack. Gives its job.
    async fn gc_held(&self) -> i64 {
        self.proxy.set(Fault::Hold);
        let begun = self
            .first
            .api()
            .post("/v2/store/gc", &json!({ "now": true }))
            .await;
        let id = begun.expect(202)["gc"]["id"].as_i64().expect("an id");
        self.comes_to(Method::Delete).await;
        id
    }

    /// A gc that comes to where it deletes a pack; begun at the first server, so that the proxy holds it.
    async fn gc_held_at_first(&mut self, api: &Api) -> i64 {
        // The other is busy for the moment, so that it is the first one's.
        self.second().signal(Signal::STOP);
        let run = self.gc_held().await;
        self.second().signal(Signal::CONT);
        idle_but(api, run).await;
        run
    }

    /// An import settles although the packs of the first server are held: those are let through.
    async fn lands_while_settling(&self, id: i64) {
        let api = self.second().api();
        let image = until("an upload to become an image", 60, || async {
            self.proxy.release(Method::Put);
            let image = api.get(&format!("/v2/images/{id}")).await.expect(200)["image"].take();
            matches!(image["status"].as_str(), Some("available" | "deleted")).then_some(image)
        })
        .await;
        assert_eq!(image["status"], "available", "{image:#}");
    }

    async fn comes_to(&self, method: Method) {
        until(&format!("{method:?} of a pack"), 30, || async {
            (!self.proxy.held(method).is_empty()).then_some(())
        })
        .await;
    }

    /// What is late arrives now.
    async fn lands(&self, method: Method) -> Vec<String> {
        let held = self.proxy.held(method);
        let wanted = self.proxy.landed() + held.len() as u64;
        self.proxy.release(method);
        until("what was held to arrive", 30, || async {
            (self.proxy.landed() >= wanted).then_some(())
        })
        .await;
        held
    }

    /// Nothing is held any more.
    fn let_through(&self) {
        self.proxy.set(Fault::None);
        self.proxy.release(Method::Put);
        self.proxy.release(Method::Delete);
    }

    /// Everything that this second server took over has ended.
    async fn taken_over(&self, image: i64, run: i64) {
        let api = self.second().api();
        let settled = settled(&api, image).await;
        assert_eq!(settled["status"], "available", "{settled:#}");
        until("the gc to be taken over", 60, || async {
            let job = job_by_id(&api, run).await;
            assert_ne!(job["status"], "failed", "{job:#}");
            (job["status"] == "done").then_some(())
        })
        .await;
        idle(&api).await;
        for job in [job_of(&api, image).await, job_by_id(&api, run).await] {
            assert_eq!(job["attempts"], 2, "one attempt of each server: {job:#}");
        }
    }

    /// In the long run: waits until the first server's session is over as well, and is taken from it.
    async fn session_taken(&self) {
        if !is_long() {
            return;
        }
        let db = database(self.second()).await;
        let sql = "SELECT id::text FROM store_session \
                   WHERE state = 1 AND lease_until_us > extract(epoch FROM now()) * 1000000";
        until("the session's lease to be over", 240, || async {
            texts(&db, sql).await.is_empty().then_some(())
        })
        .await;
        gc(&self.second().api(), json!({ "now": true })).await;
        let open = texts(&db, "SELECT id::text FROM store_session WHERE state = 1").await;
        assert!(open.is_empty(), "{open:?}");
    }

    /// The first server has noticed that so many of its jobs are another's by now.
    async fn first_has_lost(&self, jobs: usize) {
        until("it to see that its leases are over", 60, || async {
            let lost = self.first.log_text().matches("lost the lease of a job").count();
            (lost >= jobs).then_some(())
        })
        .await;
    }

    /// The first server has noticed that it lost both of its jobs, and serves as before.
    async fn first_goes_on(&mut self, seed: u64) {
        self.first_has_lost(2).await;
        let api = self.first.api();
        self.import(&api, seed).await;
        let held = self.disk_held(seed + 1);
        let id = import(&api, "by both", &held.0.url).await;
        held_up(&api, id).await;
        held.0.release();
        assert_eq!(settled(&api, id).await["status"], "available");
        self.kept.push((id, held.1));
        idle(&api).await;
    }

    fn disk_held(&self, seed: u64) -> (Held, Vec<u8>) {
        held(&self.files, &format!("held-{seed}.img"), seed)
    }

    /// As if the waiting times for dead writers, and for what nobody knows, were over; then frees all there is.
    async fn cleaned_up(&self) {
        let db = database(self.second()).await;
        let api = self.second().api();
        let all = json!({ "now": true, "purge": true });
        execute(&db, "UPDATE store_session SET lease_until_us = 1 WHERE state = 1").await;
        gc(&api, all.clone()).await;
        execute(&db, "UPDATE store_session SET ended_us = 1 WHERE state <> 1").await;
        gc(&api, all.clone()).await;
        execute(&db, "UPDATE store_orphan SET seen_us = 1").await;
        gc(&api, all.clone()).await;
        gc(&api, all).await;
    }

    /// The keys of the packs in the bucket, and of those that rows name.
    async fn packs(&self) -> (Vec<String>, Vec<String>) {
        let folder = self
            .hub
            .s3()
            .folder(self.place.objects.as_deref().expect("a bucket"));
        let mut there: Vec<String> = files_below(&folder.join("p"))
            .iter()
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        let db = database(self.second()).await;
        let mut named = texts(&db, "SELECT key::text FROM store_object").await;
        there.sort();
        named.sort();
        (there, named)
    }

    /// What must hold in the end.
    async fn sound(&self) {
        let servers = [self.first.api(), self.second().api()];
        for api in &servers {
            idle(api).await;
        }
        self.cleaned_up().await;
        let (there, named) = self.packs().await;
        assert_eq!(there, named, "in the bucket, and in the rows");
        for api in &servers {
            for (id, disk) in &self.kept {
                assert!(
                    downloaded(api, *id, "raw").await == *disk,
                    "image {id} reads back wrong"
                );
            }
            for id in &self.gone {
                let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
                assert_eq!(image["image"]["status"], "deleted", "{image:#}");
            }
            let listed = api.get("/v2/images?private=true&per_page=200").await.expect(200);
            assert_eq!(listed["meta"]["total"], self.kept.len(), "{listed:#}");
        }
        self.nothing_twice(&servers[1]).await;
        let wished = gc(
            &servers[1],
            json!({ "now": true, "purge": true, "dry_run": true }),
        )
        .await;
        assert_eq!(wished["report"]["condemned"], 0, "{wished:#}");
        run_ok(&mut self.second().local(&["store", "verify", "--read-data"]));
        let text = format!("{}{}", self.first.log_text(), self.second().log_text());
        assert!(!text.contains("panicked"), "{text}");
    }

    /// One import is one action, one job, one event and one tree.
    async fn nothing_twice(&self, api: &Api) {
        let events = api
            .get("/v2/events?what=image.import&per_page=200")
            .await
            .expect(200);
        let events = events["events"].as_array().expect("a list").clone();
        let all = self
            .kept
            .iter()
            .map(|(id, _)| *id)
            .chain(self.gone.iter().copied());
        for id in all {
            let named = json!(id.to_string());
            let actions = api.get(&format!("/v2/images/{id}/actions")).await.expect(200);
            assert_eq!(actions["meta"]["total"], 1, "{actions:#}");
            assert_eq!(actions["actions"][0]["status"], "completed", "{actions:#}");
            let of_it = events.iter().filter(|event| event["resource_id"] == named);
            assert_eq!(of_it.count(), 1, "image {id}: {events:#?}");
        }
        let db = database(self.second()).await;
        let sql = "SELECT owner FROM store_root WHERE kind = 'image' ORDER BY owner::int";
        let mut kept: Vec<i64> = self.kept.iter().map(|(id, _)| *id).collect();
        kept.sort_unstable();
        let roots: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(texts(&db, sql).await, roots);
        let sql = "SELECT action_id::text FROM job WHERE action_id IS NOT NULL GROUP BY action_id HAVING count(*) > 1";
        assert_eq!(texts(&db, sql).await, Vec::<String>::new());
    }

    /// Has the first server stand in a transaction in which it publishes a pack, and so holds the gate that each gc has
    /// to take alone: its session's row is locked, until what is given is dropped.
    async fn publishing(&self) -> DatabaseTransaction {
        let db = database(&self.first).await;
        let lock = db.begin_with_config(None, None).await.expect("begins");
        let rows = lock.execute_unprepared("SELECT id FROM store_session WHERE state = 1 FOR UPDATE");
        rows.await.expect("locks");
        self.proxy.release(Method::Put);
        // Not the heartbeat, which may wait for the same row and is alone in its transaction.
        self.first_is("wait_event_type = 'Lock' AND query LIKE 'SELECT%FOR SHARE%'")
            .await;
        lock
    }

    /// Waits until a connection of the first server is seen like this.
    async fn first_is(&self, how: &str) {
        let db = database(&self.first).await;
        let ip = &self.hosts[0].ip;
        let sql = format!(
            "SELECT pid::text FROM pg_stat_activity \
             WHERE datname = current_database() AND client_addr = '{ip}' AND {how}"
        );
        until(how, 30, || async {
            (!texts(&db, &sql).await.is_empty()).then_some(())
        })
        .await;
    }
}

async fn job_by_id(api: &Api, id: i64) -> Value {
    api.get(&format!("/v2/jobs/{id}")).await.expect(200)["job"].take()
}

/// Waits until nothing waits or runs.
async fn idle(api: &Api) {
    until("all jobs to end", 60, || async {
        let jobs = api.get("/v2/jobs").await.expect(200);
        (jobs["jobs"].as_array().map(Vec::len) == Some(0)).then_some(())
    })
    .await;
}

/// An upload to this server that becomes an image there.
async fn uploaded(api: &Api, disk: &[u8]) -> i64 {
    let sent = api
        .request(reqwest::Method::POST, "/v2/uploads")
        .header("tus-resumable", "1.0.0")
        .header("upload-length", disk.len())
        .header("content-type", "application/offset+octet-stream")
        .body(disk.to_vec());
    let sent = sent.send().await.expect("answers");
    assert_eq!(sent.status(), 201);
    let path = sent.headers()["location"].to_str().expect("ASCII").to_owned();
    let id = path.rsplit('/').next().expect("an id");
    let body = json!({ "name": "sent", "region": "nyc3", "upload": id });
    let made = api.post("/v2/images", &body).await.expect(202);
    made["image"]["id"].as_i64().expect("an id")
}

#[test]
fn two_servers_share_jobs_and_one_gc_runs_at_a_time() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        two.garbage(100).await;
        let api = two.second_starts();
        let first = two.first.api();
        let started = |server: &Server| server.log_text().matches("job started").count();
        let before = started(&two.first);

        // More imports than one server has workers, all told to the first: what it cannot take the other does.
        let mut begun = Vec::new();
        for seed in 110..118 {
            let (held, disk) = two.disk_held(seed);
            let id = import(&first, &format!("shared {seed}"), &held.url).await;
            begun.push((id, held, disk));
        }
        for (id, _, _) in &begun {
            held_up(&first, *id).await;
        }
        assert_eq!((started(&two.first) - before, started(two.second())), (4, 4));
        for (id, held, disk) in begun {
            held.release();
            assert_eq!(settled(&api, id).await["status"], "available");
            two.kept.push((id, disk));
        }
        idle(&api).await;

        // The gc of one is in the middle; that of the other waits for it, and nothing else does.
        let run = two.gc_held_at_first(&api).await;
        let second = api
            .post("/v2/store/gc", &json!({ "now": true }))
            .await
            .expect(202);
        let second = second["gc"]["id"].as_i64().expect("an id");
        for (api, seed) in [(&first, 120), (&api, 121)] {
            let disk = disks::raw(MIB, seed);
            let id = uploaded(api, &disk).await;
            two.lands_while_settling(id).await;
            two.kept.push((id, disk));
            assert_eq!(job_by_id(api, second).await["status"], "queued");
            assert_eq!(job_by_id(api, run).await["status"], "running");
        }
        two.proxy.set(Fault::None);
        two.lands(Method::Delete).await;
        idle(&api).await;
        for id in [run, second] {
            let job = job_by_id(&first, id).await;
            assert_eq!(
                (&job["status"], &job["attempts"]),
                (&json!("done"), &json!(1)),
                "{job:#}"
            );
        }
        two.sound().await;
    });
}

/// Waits until nothing waits or runs but this job.
async fn idle_but(api: &Api, id: i64) {
    until("all other jobs to end", 60, || async {
        let jobs = api.get("/v2/jobs").await.expect(200);
        let jobs = jobs["jobs"].as_array().expect("a list");
        jobs.iter().all(|job| job["id"] == id).then_some(())
    })
    .await;
}

#[test]
fn what_a_killed_server_was_at_is_ended_by_the_other() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        two.garbage(200).await;
        let image = two.import_held(210).await;
        let run = two.gc_held().await;
        two.first.kill();
        let api = two.second_starts();
        two.import(&api, 220).await;
        two.taken_over(image, run).await;
        // What the dead server had sent arrives only now.
        two.lands(Method::Put).await;
        two.lands(Method::Delete).await;
        two.let_through();
        two.first.start_again();
        let first = two.first.api();
        let id = two.import(&first, 221).await;
        two.purge(&api, id).await;
        two.sound().await;
    });
}

#[test]
fn a_server_that_was_cut_off_in_a_transaction_holds_nobody_up_and_goes_on_when_it_is_back() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        two.garbage(300).await;
        let image = two.import_held(310).await;
        let run = two.gc_held().await;
        let lock = two.publishing().await;
        two.hosts[0].cut();
        lock.rollback().await.expect("ends");
        two.first_is("state = 'idle in transaction'").await;

        let api = two.second_starts();
        let id = two.import(&api, 320).await;
        two.purge(&api, id).await;
        two.import(&api, 321).await;
        two.taken_over(image, run).await;
        two.session_taken().await;
        until("the switch to have forgotten all connections", 60, || async {
            (two.hosts[0].known(hub) == 0).then_some(())
        })
        .await;

        // It is told of none of that: it asks into connections that nobody knows any more.
        two.hosts[0].mend();
        two.let_through();
        two.first_goes_on(330).await;
        until("it to wait for no answer that was lost", 30, || async {
            (two.hosts[0].believed(hub) <= two.hosts[0].known(hub)).then_some(())
        })
        .await;
        two.sound().await;
    });
}

#[test]
fn a_server_that_slept_in_a_transaction_holds_nobody_up_and_changes_nothing() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        two.garbage(400).await;
        let image = two.import_held(410).await;
        let run = two.gc_held().await;
        let lock = two.publishing().await;
        two.first.signal(Signal::STOP);
        lock.rollback().await.expect("ends");
        two.first_is("state = 'idle in transaction'").await;

        let api = two.second_starts();
        let id = two.import(&api, 420).await;
        two.purge(&api, id).await;
        two.import(&api, 421).await;
        two.taken_over(image, run).await;
        two.session_taken().await;

        two.first.signal(Signal::CONT);
        two.let_through();
        two.first_goes_on(430).await;
        two.sound().await;
    });
}

#[test]
fn a_pack_that_arrives_after_its_writer_was_cleared_away_is_an_orphan_and_goes() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        let image = two.import_held(510).await;
        two.first.signal(Signal::STOP);
        let api = two.second_starts();
        assert_eq!(settled(&api, image).await["status"], "available");
        idle(&api).await;
        two.cleaned_up().await;
        let before = two.packs().await;
        assert_eq!(before.0, before.1, "the dead writer has left nothing");

        let late = two.lands(Method::Put).await;
        let (there, named) = two.packs().await;
        let id = |key: &String| key.rsplit('/').next().expect("a name").to_owned();
        let late: Vec<String> = late.iter().map(id).collect();
        assert!(
            !late.is_empty() && late.iter().all(|id| there.contains(id)),
            "{late:?}"
        );
        assert_eq!(named, before.1, "nothing refers to it");
        let seen = gc(&api, json!({ "now": true })).await;
        assert_eq!(seen["report"]["orphans"], late.len(), "{seen:#}");
        assert_eq!(two.packs().await.0, there, "its grace is not over");
        let db = database(two.second()).await;
        execute(&db, "UPDATE store_orphan SET seen_us = 1").await;
        let freed = gc(&api, json!({ "now": true })).await;
        assert_eq!(freed["report"]["objects"], late.len(), "{freed:#}");
        assert_eq!(two.packs().await, before);

        two.first.signal(Signal::CONT);
        two.let_through();
        two.first_has_lost(1).await;
        let first = two.first.api();
        two.import(&first, 511).await;
        two.sound().await;
    });
}

#[test]
fn a_delete_that_arrives_late_hits_nothing_that_came_back() {
    inside(|hub| async move {
        let mut two = Two::new(hub).await;
        two.garbage(600).await;
        let run = two.gc_held().await;
        two.first.signal(Signal::STOP);
        let api = two.second_starts();
        until("the gc to be taken over", 60, || async {
            (job_by_id(&api, run).await["status"] == "done").then_some(())
        })
        .await;
        // The same content again.
        let id = two.import(&api, 600).await;
        let before = two.packs().await;
        let late = two.lands(Method::Delete).await;
        assert!(!late.is_empty());
        for key in late {
            let id = key.rsplit('/').next().expect("a name").to_owned();
            assert!(!before.1.contains(&id), "{id} was condemned for good");
        }
        assert_eq!(two.packs().await, before);
        assert!(downloaded(&api, id, "raw").await == disks::raw(MIB, 600));

        two.first.signal(Signal::CONT);
        two.let_through();
        two.first_has_lost(1).await;
        let first = two.first.api();
        two.import(&first, 611).await;
        two.sound().await;
    });
}
