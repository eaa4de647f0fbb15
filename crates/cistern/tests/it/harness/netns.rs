//! Two networks in one machine: a switch with PostgreSQL, S3 and the test itself on it, and servers at the ends of
//! cables that can be pulled.
//!
//! The switch is a bridge in a network namespace of its own, which test threads move into; each server has a namespace
//! too, and a cable is a veth pair between both. Nothing of it is seen from outside, so that several runs on one
//! machine do not meet, and all of it goes when the test process ends, however it ends: a namespace is kept by a
//! process that reads our pipe.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::files::Files;
use super::process::{command, find, run, run_ok, skip};
use super::server::Setup;
use super::world::{self, Place, Postgres, S3};

/// The test's own address.
pub(crate) const HUB: &str = "10.77.0.1";
const BITS: &str = "16";
/// The address of the bridge is fixed: it would change with its ports, or be that of a pulled cable's end. What is sent
/// and not acknowledged is given up after 3 s, so that this end has forgotten a connection long before the other.
const SWITCH: &str = "ip link set lo up && ip link add hub address 02:00:00:00:00:01 type bridge forward_delay 0 && \
     ip addr add 10.77.0.1/16 dev hub && ip link set hub up && echo 3 > /proc/sys/net/ipv4/tcp_retries2";

/// The switch, and what is on it.
pub(crate) struct Hub {
    space: Space,
    postgres: Postgres,
    s3: S3,
    hosts: AtomicU32,
}

/// A network namespace.
struct Space {
    keeper: Child,
}

/// The place of a server, at the end of a cable of its own.
pub(crate) struct Host {
    space: Space,
    cable: String,
    pub(crate) ip: String,
}

/// Runs a test in the hub's namespace, in the world postgres+s3; where this machine cannot do that, says why.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce(&'static Hub) -> F + Send + 'static) {
    static STARTED: OnceLock<Hub> = OnceLock::new();
    if world::name() != "postgres+s3" {
        eprintln!("only in the world postgres+s3");
        return;
    }
    if let Some(why) = missing() {
        return skip(&why);
    }
    // A thread of its own, because it stays there.
    let thread = std::thread::spawn(move || {
        let hub = STARTED.get_or_init(Hub::start);
        hub.space.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test(hub));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn missing() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("network namespaces with cables between them need root".into());
    }
    let programs = ["ip", "unshare", "nsenter", "initdb", "versitygw"];
    if let Some(program) = programs.iter().find(|program| find(program).is_none()) {
        return Some(format!(
            "`{program}` is not there; tests/clients/install.sh apt versitygw"
        ));
    }
    let tried = run(command("unshare").args(["--net", "sh", "-c", SWITCH]));
    let said = String::from_utf8_lossy(&tried.stderr);
    (!tried.status.success()).then(|| format!("this machine lets nobody make network namespaces: {said}"))
}

impl Space {
    fn new(script: &str) -> Self {
        let script = format!("{script} && echo ready && exec cat");
        let mut unshare = command("unshare");
        unshare.args(["--net", "sh", "-c", &script]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = unshare.spawn().expect("unshare starts");
        let mut said = [0; 6];
        let stdout = keeper.stdout.as_mut().expect("is piped");
        stdout.read_exact(&mut said).expect("the namespace is made");
        Self { keeper }
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.keeper.id())
    }

    /// Moves the calling thread, and what it starts, there.
    fn enter(&self) {
        let file = std::fs::File::open(self.path()).expect("it is kept");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Hub {
    fn start() -> Self {
        let space = Space::new(SWITCH);
        space.enter();
        Self {
            space,
            postgres: Postgres::start(HUB),
            s3: S3::start(HUB),
            hosts: 2.into(),
        }
    }

    /// A new database and a new bucket.
    pub(crate) fn place(&self) -> Place {
        Place {
            database: Some(self.postgres.database()),
            objects: Some(self.s3.bucket()),
            env: world::s3_keys(),
        }
    }

    /// The S3 server.
    pub(crate) fn s3(&self) -> &S3 {
        &self.s3
    }

    /// A web server on the switch.
    pub(crate) async fn files(&self) -> Files {
        Files::start_at(HUB).await
    }

    /// A place for one more server, connected.
    pub(crate) fn host(&self) -> Host {
        let n = self.hosts.fetch_add(1, Ordering::Relaxed);
        let space = Space::new("ip link set lo up");
        let (cable, ip) = (format!("cable{n}"), format!("10.77.{}.{}", n / 250, n % 250));
        let keeper = space.keeper.id().to_string();
        let peer = ["peer", "name", "eth0", "netns", &keeper];
        ip_run(&[&["link", "add", &cable, "type", "veth"], &peer[..]].concat());
        ip_run(&["link", "set", &cable, "master", "hub", "up"]);
        let there = format!("ip addr add {ip}/{BITS} dev eth0 && ip link set eth0 up");
        let net = format!("--net={}", space.path());
        run_ok(command("nsenter").args([&net, "sh", "-c", &there]));
        Host { space, cable, ip }
    }
}

impl Host {
    /// The same server, at this place.
    pub(crate) fn with(&self, setup: Setup) -> Setup {
        let net = format!("--net={}", self.space.path());
        setup
            .wrapped(&["nsenter", &net, "--"])
            .listening(&self.ip)
            .arg("--fetch-allow=10.77.0.0/16")
    }

    /// Pulls the cable out of the switch: whatever is sent is lost on the way, and neither end is told.
    pub(crate) fn cut(&self) {
        ip_run(&["link", "set", &self.cable, "nomaster"]);
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self) {
        ip_run(&["link", "set", &self.cable, "master", "hub"]);
    }

    /// Its connections to PostgreSQL, as the other end knows them.
    pub(crate) fn known(&self, hub: &Hub) -> usize {
        let ip: std::net::Ipv4Addr = self.ip.parse().expect("an address");
        // The kernel writes it as a number that has these bytes in memory.
        let address = format!("{:08X}:", u32::from_ne_bytes(ip.octets()));
        let port = port_shown(hub);
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("Linux tells");
        let is_one = |line: &&str| column(line, 1).ends_with(&port) && column(line, 2).starts_with(&address);
        table.lines().filter(is_one).count()
    }

    /// Those that it takes for open itself. (One that it closed stays in the table for a minute.)
    pub(crate) fn believed(&self, hub: &Hub) -> usize {
        let net = format!("--net={}", self.space.path());
        let table = run_ok(command("nsenter").args([&net, "cat", "/proc/self/net/tcp"]));
        let port = port_shown(hub);
        let is_one = |line: &&str| column(line, 2).ends_with(&port) && column(line, 3) == OPEN;
        table.lines().filter(is_one).count()
    }
}

/// A state in the kernel's table of sockets.
const OPEN: &str = "01";

/// A column of that table: 1 is the near end, 2 the far one, 3 the state.
fn column(line: &str, n: usize) -> &str {
    line.split_whitespace().nth(n).unwrap_or_default()
}

/// PostgreSQL's port as that table has it behind an address.
fn port_shown(hub: &Hub) -> String {
    format!(":{:04X}", hub.postgres.port())
}

fn ip_run(words: &[&str]) {
    run_ok(command("ip").args(words));
}
