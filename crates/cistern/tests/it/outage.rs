//! What the server stands on is away for a while: the database, the objects, or the server itself as its clients see
//! it. Nobody's work ends for it, and what is said names who does not answer.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::files::Files;
use crate::harness::gate::Gate;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{free_port, run};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::server::Setup;
use crate::harness::world::{Place, place_if_there};
use crate::harness::{Server, disks, until};
use crate::jobs::{held, held_up, job_of};

/// Far longer than a request waits for the database, and shorter than it did once.
const SOON: Duration = Duration::from_secs(20);

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_upload_becomes_an_image_whichever_server_is_told_to_make_it() {
    let Some(place) = place_if_there("postgres+s3") else {
        return;
    };
    let first = Setup::default().at(place).start();
    let second = Setup::default().start_beside(&first);
    let disk = disks::raw(4, 81);
    let sent = first.api().request(Method::POST, "/v2/uploads");
    let sent = sent
        .header("tus-resumable", "1.0.0")
        .header("upload-length", disk.len())
        .header("content-type", "application/offset+octet-stream")
        .body(disk.clone());
    let sent = sent.send().await.expect("answers");
    assert_eq!(sent.status(), 201);
    let path = sent.headers()["location"].to_str().expect("ASCII").to_owned();
    let id = path.rsplit('/').next().expect("an id");
    let body = json!({ "name": "elsewhere", "region": "nyc3", "upload": id });
    let made = second.api().post("/v2/images", &body).await.expect(202);
    let image = made["image"]["id"].as_i64().expect("an id");
    let settled = settled(&second.api(), image).await;
    assert_eq!(settled["status"], "available", "{settled:#}");
    assert!(downloaded(&second.api(), image, "raw").await == disk);
    assert!(
        !first.data().join("spool/uploads").join(id).exists(),
        "it is removed where it was"
    );
}

#[tokio::test]
async fn a_database_that_is_away_is_said_soon_and_nobody_else_is_blamed() {
    let Some((gate, place)) = Gate::start() else {
        return;
    };
    // A lease that outlasts all this, so that it is known whether an attempt was counted.
    let server = Setup::default().at(place).arg("--jobs-lease-seconds=300").start();
    let (api, files) = (server.api(), Files::start().await);
    let (held, disk) = held(&files, "held.img", 82);
    let id = import(&api, "held", &held.url).await;
    held_up(&api, id).await;

    gate.shut();
    // The import needs the database next.
    held.release();
    let started = Instant::now();
    let answer = api.get("/v2/account").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(answer.json["id"], "service_unavailable", "{answer:?}");
    let said = answer.json["message"].as_str().expect("a sentence");
    assert!(said.contains("database does not answer"), "{said}");
    until("the import to notice it too", 30, || async {
        server.log_text().contains("job attempt failed").then_some(())
    })
    .await;

    gate.open();
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    assert!(downloaded(&api, id, "raw").await == disk);
    assert_eq!(
        job_of(&api, id).await["attempts"],
        1,
        "nobody's fault is not counted"
    );
    assert!(!server.log_text().contains("store does not answer"));
}

/// Before the server; while the count lasts, whoever looks at an image gets another kind of trouble each time.
async fn stumbling(server: &Server, times: u32) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("is bound"));
    let target = server.api_url.trim_start_matches("http://").to_owned();
    let left = Arc::new(AtomicU32::new(times));
    let shared = Arc::clone(&left);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, left) = (target.clone(), Arc::clone(&shared));
            // What goes wrong on the way is for the client to notice.
            tokio::spawn(async move { stumble(client, &target, &left).await.ok() });
        }
    });
    (url, left)
}

async fn stumble(mut client: TcpStream, target: &str, left: &AtomicU32) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    if head.starts_with(b"GET /v2/images/")
        && let Ok(now) = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
    {
        let (status, body) = match now % 4 {
            0 => (
                "500 Internal Server Error",
                r#"{"id":"server_error","message":"planted","request_id":"x"}"#,
            ),
            1 => (
                "503 Service Unavailable",
                r#"{"id":"x","message":"planted","request_id":"x"}"#,
            ),
            2 => ("502 Bad Gateway", "<html>a proxy's</html>"),
            // Cut without an answer.
            _ => return Ok(()),
        };
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        return client.write_all(text.as_bytes()).await;
    }
    let mut server = TcpStream::connect(target).await?;
    let line = head.windows(2).position(|w| w == b"\r\n").unwrap_or(0);
    server.write_all(&head[..line]).await?;
    server.write_all(b"\r\nconnection: close").await?;
    server.write_all(&head[line..]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn an_import_is_watched_through_answers_that_are_none() {
    let (server, files) = (Server::start(), Files::start().await);
    let (url, left) = stumbling(&server, 8).await;
    let source = files.put("disk.img", disks::raw(2, 83));
    let mut command = server.remote(&["image", "import", &source, "--name", "seen"]);
    command.env("CISTERN_URL", &url);
    let output = tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .expect("ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(left.load(Ordering::SeqCst), 0, "all of them came");
}

#[tokio::test]
async fn an_export_says_that_the_store_is_away_and_goes_on_when_it_is_back() {
    let Some((proxy, place)) = Proxy::start() else {
        return;
    };
    let server = Setup::default().at(place).uncached().start();
    let (api, files) = (server.api(), Files::start().await);
    let disk = disks::raw(8, 84);
    let image = imported(&api, "web", &files.put("web.img", disk.clone())).await;
    let id = image["id"].as_i64().expect("an id");
    until("the checksum, which reads the disk too", 30, || async {
        let jobs = api.get("/v2/jobs").await.expect(200);
        (jobs["jobs"].as_array().map(Vec::len) == Some(0)).then_some(())
    })
    .await;

    proxy.set(Fault::Reset);
    for (format, range) in [("raw", None), ("raw", Some("bytes=1048576-")), ("qcow2", None)] {
        let path = format!("/v2/images/{id}/download?format={format}");
        let mut request = api.request(Method::GET, &path);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), 503, "{format} {range:?}");
        let said = answer.text().await.expect("a body");
        assert!(
            said.contains("store does not answer"),
            "{format} {range:?}: {said}"
        );
    }

    let dir = tempfile::tempdir().expect("a temporary folder");
    let (out, told) = (dir.path().join("web.raw"), dir.path().join("told"));
    let mut export = server.remote(&["image", "export", "web", "-o"]);
    let log = std::fs::File::create(&told).expect("makes a file");
    let mut child = export
        .arg(&out)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("starts");
    until("the command to say what it waits for", 30, || async {
        let told = std::fs::read_to_string(&told).expect("reads");
        told.contains("store does not answer").then_some(())
    })
    .await;
    proxy.set(Fault::None);
    let ended = tokio::task::spawn_blocking(move || child.wait()).await;
    assert!(ended.expect("ends").expect("can be waited for").success());
    assert!(std::fs::read(&out).expect("was written") == disk);
}

/// A bucket that nobody serves; nothing has to be installed for that.
#[test]
fn a_start_without_its_bucket_names_the_place_and_no_secret() {
    let port = free_port();
    let place = Place {
        objects: Some(format!(
            "s3://images/a?endpoint=http://me:opensesame@127.0.0.1:{port}&region=us-east-1"
        )),
        env: vec![
            ("CISTERN_OBJECTS_ACCESS_KEY".into(), "AKIDEXAMPLE".into()),
            ("CISTERN_OBJECTS_SECRET_KEY".into(), "opensesame".into()),
        ],
        ..Place::default()
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut serve = Setup::default()
        .at(place)
        .command(&dir.path().join("data"), &["serve"]);
    let output = run(serve.args(["--listen-api=127.0.0.1:0", "--listen-registry=127.0.0.1:0"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = last_line(&output);
    for word in ["s3://images/a", &format!("http://127.0.0.1:{port}"), "`objects`"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    let all = String::from_utf8_lossy(&output.stderr);
    assert!(
        !all.contains("opensesame") && !all.contains("AKIDEXAMPLE"),
        "{all}"
    );
}
