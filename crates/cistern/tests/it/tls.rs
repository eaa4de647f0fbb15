//! TLS by a certificate of one's own: a new one is taken while the server runs, a broken one is not.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;

use crate::harness::server::Setup;
use crate::harness::{Server, until};

/// Writes a certificate for 127.0.0.1 and gives a client that trusts nothing else.
fn pair(dir: &Path) -> reqwest::Certificate {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let cert = params.self_signed(&key).expect("signs");
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).expect("writes");
    std::fs::write(dir.join("cert.pem"), cert.pem()).expect("writes");
    reqwest::Certificate::from_pem(cert.pem().as_bytes()).expect("a certificate")
}

/// Whether a new connection shows this certificate.
async fn shows(server: &Server, certificate: &reqwest::Certificate) -> bool {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([certificate.clone()]);
    let client = client.build().expect("a client");
    let url = format!("{}/healthz", server.api_url);
    client
        .get(url)
        .send()
        .await
        .is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let first = pair(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let setup = Setup::default().arg(format!("--tls-cert={}", path("cert.pem")));
    let server = setup.arg(format!("--tls-key={}", path("key.pem"))).start();
    assert!(shows(&server, &first).await);

    let second = pair(dir.path());
    assert!(!shows(&server, &second).await, "not yet");
    until("the new certificate to be in use", 20, || async {
        shows(&server, &second).await.then_some(())
    })
    .await;
    assert!(!shows(&server, &first).await);

    std::fs::write(path("cert.pem"), "nonsense").expect("writes");
    server.signal(Signal::HUP);
    until("the broken certificate to be seen", 20, || async {
        server
            .log_text()
            .contains("the new certificate is unusable")
            .then_some(())
    })
    .await;
    assert!(shows(&server, &second).await, "the old one stays");

    let third = pair(dir.path());
    server.signal(Signal::HUP);
    until("a mended certificate to be in use", 20, || async {
        shows(&server, &third).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn our_own_authority_is_named_and_stays_the_same() {
    let mut server = Setup::default().arg("--tls-self-signed").start();
    let line = |server: &Server| {
        let line = server
            .greeting
            .lines()
            .find_map(|line| line.strip_prefix("certificate authority "));
        line.expect("the greeting names the authority").to_owned()
    };
    let path = line(&server);
    let ca = std::fs::read(&path).expect("the file is there");
    let trusted = reqwest::Certificate::from_pem(&ca).expect("a certificate");
    assert!(shows(&server, &trusted).await);
    server.terminate();
    server.start_again();
    assert_eq!(line(&server), path);
    assert!(shows(&server, &trusted).await, "who trusts it still does");
}
