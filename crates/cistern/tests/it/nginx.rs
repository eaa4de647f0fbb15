//! Behind a real nginx: API, console and registry on one port by host name, TLS at the proxy, and who is believed about
//! addresses. The configuration under test is the one in `docs/running.md`, both of its blocks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::process::{
    Guarded, cistern, command, find_or_skip, free_port, run, run_ok, spawn_guarded,
};
use crate::harness::{Server, disks, server::Setup, until};

const API: &str = "api.example.com";
const CONSOLE: &str = "console.example.com";
const REGISTRY: &str = "registry.example.com";

/// A server with nginx before it.
struct Proxied {
    server: Server,
    /// Where nginx listens, for TLS.
    address: SocketAddr,
    /// Where the server listens, without.
    backend: SocketAddr,
    ca: reqwest::Certificate,
    _nginx: Guarded,
    dir: tempfile::TempDir,
}

impl Proxied {
    /// Starts both as `docs/running.md` says; nothing where nginx is missing.
    async fn start(setup: Setup) -> Option<Self> {
        let nginx = find_or_skip("nginx")?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ca = certificate_make(dir.path());
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, backend) = (loopback(free_port()), loopback(free_port()));

        let settings = dir.path().join("cistern.toml");
        std::fs::write(&settings, block("toml", "trusted_proxies")).expect("writes");
        let server = setup
            .one_port(&backend.to_string())
            .arg("--config")
            .arg(settings.to_str().expect("UTF-8"))
            .start();

        let conf = dir.path().join("nginx.conf");
        std::fs::write(&conf, nginx_conf(dir.path(), address, backend)).expect("writes");
        let words = [
            path(&nginx),
            "-c".into(),
            path(&conf),
            "-p".into(),
            path(dir.path()),
        ];
        // The helper's alone: it is removed with it.
        let folder = dir.path().join("nginx");
        std::fs::create_dir(&folder).expect("a folder");
        let log = folder.join("log");
        let guarded = spawn_guarded(&words, &folder);
        until("nginx to listen", 20, || async {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                !said.contains("[emerg]"),
                "nginx refused the documented block: {said}"
            );
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Some(Self {
            server,
            address,
            backend,
            ca,
            dir,
            _nginx: guarded,
        })
    }

    /// A client at this loopback address that finds the documented names at nginx and trusts its certificate.
    fn client(&self, from: [u8; 4]) -> reqwest::Client {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .local_address(IpAddr::from(from))
            .tls_certs_only([self.ca.clone()]);
        for name in [API, CONSOLE, REGISTRY] {
            builder = builder.resolve(name, self.address);
        }
        builder.build().expect("a client")
    }

    fn url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.address.port())
    }

    /// The API through nginx, for a client at this address.
    fn api(&self, from: [u8; 4]) -> Api {
        self.server.api().through(self.client(from), &self.url(API))
    }

    fn ca_path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

/// The first block of this language in `docs/running.md` that holds `word`.
fn block(language: &str, word: &str) -> String {
    let doc = include_str!("../../../../docs/running.md");
    let blocks = doc.split("\n```").filter_map(|part| part.strip_prefix(language));
    let found = blocks
        .filter_map(|part| part.strip_prefix('\n'))
        .find(|part| part.contains(word));
    found
        .unwrap_or_else(|| panic!("docs/running.md has no {language} block with `{word}`"))
        .to_owned()
}

/// The documented server with this machine's ports and certificate, in the least of a configuration around it.
fn nginx_conf(dir: &Path, address: SocketAddr, backend: SocketAddr) -> String {
    let dir = dir.display();
    let mut server = block("nginx", "proxy_pass");
    for (documented, here) in [
        ("listen 443 ssl", format!("listen {address} ssl")),
        (
            "/etc/letsencrypt/live/example.com/fullchain.pem",
            format!("{dir}/cert.pem"),
        ),
        (
            "/etc/letsencrypt/live/example.com/privkey.pem",
            format!("{dir}/cert.key"),
        ),
        ("http://127.0.0.1:8080", format!("http://{backend}")),
    ] {
        assert_eq!(
            server.matches(documented).count(),
            1,
            "`{documented}` in the documented block"
        );
        server = server.replace(documented, &here);
    }
    let user = if rustix::process::getuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .concat();
    format!(
        "daemon off; {user} worker_processes 1; pid {dir}/nginx.pid; error_log stderr warn;\n\
         events {{}}\n\
         http {{\naccess_log off;\n{temporary}{server}\n}}\n"
    )
}

/// An authority and a certificate for the documented names and `localhost`, as files; returns the authority.
fn certificate_make(dir: &Path) -> reqwest::Certificate {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&authority_key).expect("an authority").pem();
    let names = [API, CONSOLE, REGISTRY, "localhost"].map(str::to_owned);
    let leaf_key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(names)
        .expect("names")
        .signed_by(&leaf_key, &Issuer::from_params(&authority, &authority_key))
        .expect("a certificate");
    for (name, text) in [
        ("ca.pem", &ca),
        ("cert.pem", &leaf.pem()),
        ("cert.key", &leaf_key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), text).expect("writes");
    }
    reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate")
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The newest event of this kind.
async fn event(api: &Api, what: &str) -> Value {
    let list = api
        .get(&format!("/v2/events?what={what}&per_page=1"))
        .await
        .expect(200);
    list["events"][0].clone()
}

#[tokio::test]
async fn one_port_serves_api_console_and_registry_by_name() {
    let Some(proxied) = Proxied::start(Setup::default()).await else {
        return;
    };
    let (server, client) = (&proxied.server, proxied.client([127, 0, 0, 1]));
    assert_eq!(server.api_url, server.registry_url, "they share a port");

    let api = proxied.api([127, 0, 0, 1]);
    let account = api.get("/v2/account").await.expect(200);
    assert_eq!(account["account"]["status"], "active");
    let no_registry = api.get("/v2/").await.expect(404);
    assert_eq!(no_registry["id"], "not_found", "`/v2/` is the registry's alone");

    let sign_in = client.get(proxied.url(CONSOLE)).send().await.expect("answers");
    assert_eq!(sign_in.status(), 200);
    let kind = sign_in.headers()["content-type"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(kind.starts_with("text/html"), "{kind}");
    for (name, path) in [(CONSOLE, "/v2/account"), (API, "/")] {
        let url = format!("{}{path}", proxied.url(name));
        let asked = client.get(url).bearer_auth(&server.token).send().await;
        assert_eq!(asked.expect("answers").status(), 404, "{name}{path}");
    }
    let link = api.post("/v2/users/1/sign_in_link", &json!({})).await.expect(201);
    let link = link["url"].as_str().expect("an address");
    assert!(link.starts_with(&proxied.url(CONSOLE)), "{link}");
    assert_eq!(client.get(link).send().await.expect("answers").status(), 200);

    let registry = format!("{}/v2/", proxied.url(REGISTRY));
    let stranger = client.get(&registry).send().await.expect("answers");
    assert_eq!(stranger.status(), 401);
    assert_eq!(
        stranger.headers()["docker-distribution-api-version"],
        "registry/2.0"
    );
    let user = client.get(&registry).basic_auth("any", Some(&server.token));
    assert_eq!(user.send().await.expect("answers").status(), 200);

    for name in [API, REGISTRY] {
        let health = client.get(format!("{}/healthz", proxied.url(name)));
        assert_eq!(health.send().await.expect("answers").status(), 200, "{name}");
        // nginx asks from this machine, its clients need not be here.
        let metrics = client.get(format!("{}/metrics", proxied.url(name)));
        let status = metrics.send().await.expect("answers").status();
        assert!(status.is_client_error(), "{name}: {status}");
    }
}

#[tokio::test]
async fn links_are_what_the_client_can_follow() {
    let Some(proxied) = Proxied::start(Setup::default()).await else {
        return;
    };
    let api = proxied.api([127, 0, 0, 1]);
    let page = api.get("/v2/regions?per_page=5&page=2").await.expect(200);
    for (rel, number) in [("first", 1), ("prev", 1), ("next", 3), ("last", 4)] {
        let link = page["links"]["pages"][rel].as_str().expect("a link");
        let expected = format!("{}/v2/regions?", proxied.url(API));
        assert!(link.starts_with(&expected), "{rel}: {link}");
        assert!(link.contains(&format!("page={number}")), "{rel}: {link}");
        let followed = proxied.client([127, 0, 0, 1]).get(link).bearer_auth(&api.token);
        assert_eq!(followed.send().await.expect("answers").status(), 200, "{link}");
    }
}

#[tokio::test]
async fn the_external_url_decides_links_whatever_the_request_says() {
    let setup = Setup::default()
        .arg("--external-url-api")
        .arg("https://cistern.example");
    let Some(proxied) = Proxied::start(setup).await else {
        return;
    };
    let greeting = &proxied.server.greeting;
    assert!(
        greeting.contains("CISTERN_URL=https://cistern.example "),
        "{greeting}"
    );
    let link = format!("https://{CONSOLE}/sign-in/");
    assert!(
        greeting.contains(&link),
        "the console has a name of its own: {greeting}"
    );
    for api in [proxied.api([127, 0, 0, 1]), proxied.server.api()] {
        let page = api.get("/v2/regions?per_page=5").await.expect(200);
        let next = page["links"]["pages"]["next"].as_str().expect("a link");
        assert!(next.starts_with("https://cistern.example/v2/regions?"), "{next}");
    }
}

#[tokio::test]
async fn a_clients_address_is_its_own_and_cannot_be_forged() {
    let Some(proxied) = Proxied::start(Setup::default()).await else {
        return;
    };
    let direct = reqwest::Client::builder()
        .no_proxy()
        .local_address(IpAddr::from([127, 0, 0, 9]))
        .build()
        .expect("a client");
    let backend = format!("http://{}", proxied.backend);
    let by_nginx = proxied.api([127, 0, 0, 8]);
    let by_itself = by_nginx.through(direct, &backend);
    // Only 127.0.0.1 is a trusted proxy in the documented settings: who comes straight from elsewhere is not believed.
    for (name, api, address, base) in [
        ("by-nginx", &by_nginx, "127.0.0.8", proxied.url(API)),
        ("by-itself", &by_itself, "127.0.0.9", backend.clone()),
    ] {
        let forged = |method, path: &str| {
            let request = api.request(method, path).header("x-forwarded-for", "203.0.113.6");
            request
                .header("x-real-ip", "203.0.113.6")
                .header("x-forwarded-proto", "gopher")
        };
        let made = forged(Method::POST, "/v2/tags").json(&json!({ "name": name }));
        let made = made.send().await.expect("answers");
        assert_eq!(made.status(), 201, "{name}");
        let id = made.headers()["x-request-id"].to_str().expect("text").to_owned();

        let event = event(&by_nginx, "tag.create").await;
        assert_eq!(event["request_id"], id.as_str(), "{name}");
        assert_eq!(event["address"], address, "{name}");
        let line = until("the request's line in the log", 10, || async {
            let text = proxied.server.log_text();
            text.lines()
                .find(|line| line.contains(&id) && line.contains("answered"))
                .map(str::to_owned)
        })
        .await;
        assert!(line.contains(&format!("address={address}")), "{name}: {line}");
        assert!(!line.contains("203.0.113.6"), "{name}: {line}");

        let page = forged(Method::GET, "/v2/regions?per_page=5")
            .send()
            .await
            .expect("answers");
        let page: Value = serde_json::from_slice(&page.bytes().await.expect("a body")).expect("JSON");
        let next = page["links"]["pages"]["next"].as_str().expect("a link");
        assert!(next.starts_with(&format!("{base}/v2/regions?")), "{name}: {next}");
    }
}

#[tokio::test]
async fn disks_go_in_and_out_through_it() {
    let Some(proxied) = Proxied::start(Setup::default()).await else {
        return;
    };
    // Larger than what nginx takes unless it is told otherwise, and than any of its buffers.
    let disk = disks::raw(24, 5);
    let file = proxied.dir.path().join("disk.img");
    std::fs::write(&file, &disk).expect("writes");
    let remote = |words: &[&str]| {
        let mut command = cistern();
        command.args(words).env("CISTERN_TOKEN", &proxied.server.token);
        command
            .env("CISTERN_URL", proxied.url("localhost"))
            .env("CISTERN_CA_FILE", proxied.ca_path());
        command
    };
    let said = run_ok(remote(&["image", "import", "--name", "through", "--json"]).arg(&file));
    let said: Value = serde_json::from_str(&said).expect("one JSON document");
    assert_eq!(
        (&said["image"]["status"], &said["image"]["source"]),
        (&json!("available"), &json!("upload"))
    );
    let out = proxied.dir.path().join("out.raw");
    run_ok(remote(&["image", "export", "through", "--format", "raw", "-o"]).arg(&out));
    assert!(
        std::fs::read(&out).expect("was written") == disk,
        "the export differs"
    );
}

#[tokio::test]
async fn doctl_works_through_it() {
    let Some(doctl) = find_or_skip("doctl") else {
        return;
    };
    let Some(proxied) = Proxied::start(Setup::default()).await else {
        return;
    };
    let doctl = |token: &str, words: &[&str]| {
        let mut command = command(&path(&doctl));
        command
            .env_clear()
            .env("HOME", proxied.dir.path())
            .env("SSL_CERT_FILE", proxied.ca_path());
        command.args([
            "--http-retry-max",
            "1",
            "--api-url",
            &proxied.url("localhost"),
            "--access-token",
            token,
        ]);
        command.args(words).args(["-o", "json"]);
        command
    };
    let token = proxied.server.token.as_str();
    let json = |words: &[&str]| -> Value {
        serde_json::from_str(&run_ok(&mut doctl(token, words))).expect("one JSON document")
    };
    assert_eq!(json(&["account", "get"])["status"], "active");
    // More than one of doctl's pages of 200: it follows the number in `links.pages.last`.
    let api = proxied.server.api();
    for n in 0..201 {
        api.post("/v2/tags", &json!({ "name": format!("t{n:03}") }))
            .await
            .expect(201);
    }
    let tags = json(&["compute", "tag", "list"]);
    assert_eq!(tags.as_array().map(Vec::len), Some(201));
    let refused = run(&mut doctl(
        &format!("dop_v1_{}", "0".repeat(64)),
        &["account", "get"],
    ));
    assert_eq!(refused.status.code(), Some(1));
    let said = [refused.stdout, refused.stderr].concat();
    assert!(
        String::from_utf8_lossy(&said).contains("401"),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
