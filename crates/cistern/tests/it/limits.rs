//! More clients than files may be open: they wait, and nothing else does.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, settled};
use crate::harness::process::run_ok;
use crate::harness::server::Setup;
use crate::harness::{Server, until};
use crate::jobs::{held, held_up};
use crate::migrate::{database, texts};

/// Files that the server may have open.
const FILES: usize = 256;
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same with so few files: in `sh`, `ulimit -n` is the limit that nobody can raise again.
fn limited(setup: Setup) -> Setup {
    let script = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
    setup.wrapped(&["sh", "-c", &script])
}

async fn client(server: &Server) -> TcpStream {
    let address = server.api_url.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("the system takes it")
}

async fn answers(server: &Server) {
    let nobody = server.api().with_token("");
    let asked = tokio::time::timeout(PATIENCE, nobody.get("/healthz")).await;
    assert_eq!(asked.expect("it answers").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_every_connection_leave_an_import_its_files() {
    let server = limited(Setup::default().arg("--http-header-seconds=300")).start();
    assert!(
        server.log_text().contains("LimitNOFILE="),
        "a start says that there are too few: {}",
        server.log_text()
    );
    let files = Files::start().await;
    let (held, disk) = held(&files, "held.img", 91);
    let id = import(&server.api(), "held", &held.url).await;
    held_up(&server.api(), id).await;

    // More than there are files. Those that are not taken wait with the system, and some not even that: they knock
    // again and again.
    let mut clients = JoinSet::new();
    for _ in 0..2 * FILES {
        let address = server.api_url.trim_start_matches("http://").to_owned();
        clients.spawn(async move {
            let _held = TcpStream::connect(address).await;
            std::future::pending::<()>().await;
        });
    }
    until("the listener to be full", 60, || async {
        server.log_text().contains("further ones wait").then_some(())
    })
    .await;
    held.release();
    let db = database(&server).await;
    let status = format!("SELECT status FROM image WHERE id = {id}");
    until("the import to end while nobody gets in", 120, || async {
        (texts(&db, &status).await == ["available"]).then_some(())
    })
    .await;
    // Nor does a command on the machine need a connection.
    run_ok(&mut server.local(&["store", "stats"]));
    let log = server.log_text();
    assert!(!log.contains("could not accept"), "{log}");
    clients.shutdown().await;
    answers(&server).await;
    assert_eq!(settled(&server.api(), id).await["status"], "available");
    assert!(downloaded(&server.api(), id, "raw").await == disk);
}

/// How often a connection could not be accepted, by a connection that is open already.
async fn failures(api: &crate::harness::api::Api) -> u64 {
    let asked = tokio::time::timeout(PATIENCE, api.get("/metrics")).await;
    let text = String::from_utf8_lossy(&asked.expect("it answers").bytes).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with("http_accept_failures_total{"));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_files_pauses_says_so_once_and_goes_on() {
    let server = Server::start();
    let api = server.api().with_token("");
    assert_eq!(failures(&api).await, 0);
    let pid = Pid::from_raw(server.pid().cast_signed());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| {
        let limit = Rlimit { current, maximum };
        prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    };
    // Fewer than are open.
    limit(Some(4));
    let waiting = client(&server).await;
    until("some tries to fail", 30, || async {
        (failures(&api).await >= 5).then_some(())
    })
    .await;
    let log = server.log_text();
    let said = log.matches("could not accept a connection").count();
    assert!((1..5).contains(&said), "{said} times:\n{log}");
    assert!(log.contains("LimitNOFILE="), "{log}");
    limit(maximum);
    drop(waiting);
    answers(&server).await;
}

#[tokio::test]
async fn doctor_says_how_many_files_the_settings_need() {
    let server = Server::start();
    let ports = ["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"];
    let doctor = |connections: &str| {
        let script = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
        let mut inner = server.local(&["doctor", "--http-max-connections", connections]);
        inner.args(ports);
        let words = ["sh", "-c", &script].map(str::to_owned);
        run_ok(&mut crate::harness::server::wrapped(inner, &words))
    };
    let text = doctor("4096");
    let line = text
        .lines()
        .find(|line| line.contains("open files"))
        .expect("a line");
    assert!(
        line.contains("warning") && line.contains("`LimitNOFILE=") && line.contains("`http.max_connections`"),
        "{line}"
    );
    let text = doctor("1");
    let line = text
        .lines()
        .find(|line| line.contains("open files"))
        .expect("a line");
    assert!(line.starts_with("ok ") && line.contains("up to 256"), "{line}");
}
