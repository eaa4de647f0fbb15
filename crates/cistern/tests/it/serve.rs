//! Starting, stopping, refusing to start.

use crate::harness::api::Api;
use crate::harness::process::{run, run_ok};
use crate::harness::{Server, server::Setup, server::token_in, until, world};

#[tokio::test]
async fn the_first_start_prints_what_is_needed_and_only_once() {
    let mut server = Server::start();
    assert!(server.greeting.contains("/sign-in/"), "{}", server.greeting);
    assert!(server.greeting.contains(&server.api_url), "{}", server.greeting);
    server.api().get("/v2/account").await.expect(200);
    assert!(server.terminate().success());
    server.start_again();
    assert_eq!(token_in(&server.greeting), None, "a token is printed once");
    assert!(!server.greeting.contains("/sign-in/"), "a link is printed once");
    server.api().get("/v2/account").await.expect(200);
}

#[tokio::test]
async fn a_start_tests_the_objects_place_and_leaves_nothing_there() {
    let server = Server::start();
    assert!(
        server
            .log_text()
            .contains("the objects' place does what it should")
    );
    let store = server.data().join("store");
    if store.exists() {
        let left = std::fs::read_dir(store.join("probe")).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn the_database_of_a_server_that_was_stopped_is_one_file() {
    let mut server = Setup::default().at(world::Place::default()).start();
    server.api().get("/v2/account").await.expect(200);
    assert!(server.terminate().success());
    let log = server.data().join("cistern.sqlite-wal");
    assert_eq!(log.metadata().map_or(0, |meta| meta.len()), 0);
    server.start_again();
    server.api().get("/v2/account").await.expect(200);
}

#[tokio::test]
async fn servers_that_start_at_once_make_one_installation() {
    // Each round on a new database: that they meet is a matter of luck.
    for _ in 0..5 {
        let Some(place) = world::place_if_there("postgres+s3") else {
            return;
        };
        let servers = Setup::default().at(place).start_at_once(3);
        let tokens: Vec<_> = servers
            .iter()
            .filter_map(|server| token_in(&server.greeting))
            .collect();
        let [token] = tokens.as_slice() else {
            panic!("one of them was the first: {tokens:?}");
        };
        for server in &servers {
            Api::new(&server.api_url, token)
                .get("/v2/account")
                .await
                .expect(200);
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start();
    let mut second = server.local(&["serve"]);
    let output = run(second.args(["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"]));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains(&server.pid().to_string()),
        "it names the other process: {text}"
    );
    server.api().get("/v2/account").await.expect(200);
}

#[tokio::test]
async fn a_listener_off_loopback_needs_tls() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data");
    let setup = Setup::default();
    let output = run(setup.command(&data, &["serve"]).args([
        "--listen-api",
        "0.0.0.0:0",
        "--listen-registry",
        "127.0.0.1:0",
    ]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--insecure-http"),
        "{output:?}"
    );
}

#[tokio::test]
async fn unknown_settings_are_refused_with_the_nearest_known_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "listen_apy = \"127.0.0.1:0\"\n").expect("writes");
    let setup = Setup::default();
    let output = run(setup
        .command(&dir.path().join("data"), &["serve"])
        .arg("--config")
        .arg(&file));
    assert_ne!(output.status.code(), Some(0));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("listen_api"),
        "{output:?}"
    );
}

#[tokio::test]
async fn health_is_for_everyone_and_metrics_for_loopback() {
    let server = Server::start();
    let nobody = server.api().with_token("");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
    let metrics = nobody.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(String::from_utf8_lossy(&metrics.bytes).contains("http_requests_total"));
    assert_eq!(nobody.get("/v2/nothing-here").await.status, 404);
}

#[tokio::test]
async fn tls_of_our_own_is_trusted_by_its_ca() {
    let server = Setup::default().arg("--tls-self-signed").start();
    assert!(server.api_url.starts_with("https://"), "{}", server.api_url);
    let ca = until("the CA file", 10, || async {
        std::fs::read(server.data().join("tls/ca.pem")).ok()
    })
    .await;
    let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([ca])
        .build()
        .expect("a client");
    let url = format!("{}/v2/account", server.api_url);
    let answer = client
        .get(url)
        .bearer_auth(&server.token)
        .send()
        .await
        .expect("the certificate is trusted");
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_stop_is_clean_and_quick() {
    let mut server = Server::start();
    let started = std::time::Instant::now();
    assert!(server.terminate().success(), "{}", server.log_text());
    assert!(started.elapsed().as_secs() < 12);
    run_ok(&mut server.local(&["store", "verify"]));
}
