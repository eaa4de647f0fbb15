//! Disks in and out by the `cistern` command: handed over, uploaded, cut off, cancelled, exported.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::files::Files;
use crate::harness::images::{downloaded, settled};
use crate::harness::process::{command, find, find_or_skip, run, run_ok, ticks_and_peak};
use crate::harness::{Server, disks, until};

/// A file in a folder that goes with it.
struct Source {
    path: PathBuf,
    dir: tempfile::TempDir,
}

fn source(bytes: &[u8]) -> Source {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, bytes).expect("writes");
    Source { path, dir }
}

impl Source {
    fn text(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

/// `cistern image import --json` of a file, and what it printed.
fn import(server: &Server, file: &Source, name: &str, more: &[&str]) -> (Output, Value) {
    let mut words = vec!["image", "import", file.text(), "--name", name, "--json"];
    words.extend_from_slice(more);
    let output = run(&mut server.remote(&words));
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

/// From now on the server cannot be handed files: they are uploaded.
fn without_socket(server: &Server) {
    let socket = server.data().join("cistern.sock");
    std::fs::remove_file(socket).expect("a server has a socket");
}

#[tokio::test]
async fn a_file_is_handed_over_here_and_uploaded_elsewhere_and_comes_out_equal() {
    let server = Server::start();
    let disk = disks::raw(24, 11);
    let file = source(&disk);
    for way in ["file", "upload"] {
        if way == "upload" {
            without_socket(&server);
        }
        let (output, json) = import(&server, &file, way, &["--tag", "a", "--tag", "b"]);
        assert!(output.status.success(), "{output:?}");
        let image = &json["image"];
        assert_eq!(
            (&image["status"], &image["source"]),
            (&json!("available"), &json!(way))
        );
        assert_eq!(image["tags"].as_array().map(Vec::len), Some(2), "{image}");
        let out = file.dir.path().join(way);
        let words = ["image", "export", way, "--format", "raw", "-o"];
        run_ok(server.remote(&words).arg(&out));
        assert!(std::fs::read(&out).expect("was written") == disk, "{way}");
    }
    let left = std::fs::read_dir(server.data().join("spool/uploads"))
        .expect("is there")
        .count();
    assert_eq!(left, 0, "an upload is removed when its image is available");
}

#[tokio::test]
async fn what_is_refused_ends_with_1_and_the_reason_as_the_last_line() {
    let server = Server::start();
    let (disk, text) = (source(&disks::raw(4, 1)), source(&b"no disk\n".repeat(2000)));
    for way in ["file", "upload"] {
        if way == "upload" {
            without_socket(&server);
        }
        let (output, json) = import(&server, &text, "text", &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(json["image"]["status"], "deleted");
        let reason = json["image"]["error_message"].as_str().expect("a reason");
        assert!(
            !reason.is_empty() && last_line(&output).ends_with(reason),
            "{output:?}"
        );

        let wrong = "0".repeat(64);
        let (output, _) = import(&server, &disk, "wrong", &["--expected-sha256", &wrong]);
        assert_eq!(output.status.code(), Some(1));
        assert!(last_line(&output).contains("SHA-256"), "{output:?}");
    }
    let nobody = run(&mut server.remote(&["image", "import", "/no/such/file", "--name", "x"]));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(last_line(&nobody).contains("/no/such/file"));
    let usage = run(&mut server.remote(&["image", "import"]));
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn an_upload_goes_on_after_the_server_was_killed() {
    let mut server = Server::start();
    let disk = disks::raw(8, 5);
    let tus = |method: Method, path: &str| {
        server
            .api()
            .request(method, path)
            .header("tus-resumable", "1.0.0")
    };
    let begun = tus(Method::POST, "/v2/uploads")
        .header("upload-length", disk.len())
        .send()
        .await
        .expect("answers");
    assert_eq!(begun.status(), StatusCode::CREATED);
    let path = begun.headers()["location"].to_str().expect("ASCII").to_owned();
    let half = disk.len() / 2;
    let append = |request: reqwest::RequestBuilder, from: usize, to: usize| {
        request
            .header("upload-offset", from)
            .header("content-type", "application/offset+octet-stream")
            .body(disk[from..to].to_vec())
            .send()
    };
    let first = append(tus(Method::PATCH, &path), 0, half).await.expect("answers");
    assert_eq!(first.headers()["upload-offset"], half.to_string().as_str());
    server.kill();
    // What a write that was never acknowledged may have left.
    let file = server
        .data()
        .join("spool/uploads")
        .join(path.rsplit('/').next().expect("an id"));
    let mut bytes = std::fs::read(&file).expect("is there");
    bytes.extend_from_slice(&[0xff; 5000]);
    std::fs::write(&file, bytes).expect("writes");
    server.start_again();

    let api = server.api();
    let tus = |method: Method, path: &str| api.request(method, path).header("tus-resumable", "1.0.0");
    let head = tus(Method::HEAD, &path).send().await.expect("answers");
    assert_eq!(head.headers()["upload-offset"], half.to_string().as_str());
    let id = path.rsplit('/').next().expect("an id");
    let body = json!({ "name": "resumed", "region": "nyc3", "upload": id });
    let early = api.post("/v2/images", &body).await.expect(422);
    assert!(
        early["message"]
            .as_str()
            .expect("a sentence")
            .contains("not complete"),
        "{early}"
    );
    assert_eq!(
        api.get("/v2/images?private=true").await.expect(200)["meta"]["total"],
        0
    );

    let rest = append(tus(Method::PATCH, &path), half, disk.len())
        .await
        .expect("answers");
    assert_eq!(rest.status(), StatusCode::NO_CONTENT);
    let made = api.post("/v2/images", &body).await.expect(202);
    let image = settled(&api, made["image"]["id"].as_i64().expect("an id")).await;
    assert_eq!(image["status"], "available", "{image}");
    assert!(downloaded(&api, image["id"].as_i64().expect("an id"), "raw").await == disk);
}

#[tokio::test]
async fn ctrl_c_cancels_the_import() {
    let server = Server::start();
    let api = server.api();
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/disk.img", silent.local_addr().expect("is bound"));
    let mut command = server.remote(&["image", "import", &url, "--name", "never"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    until("the import to begin", 60, || async {
        let images = api.get("/v2/images?private=true").await.expect(200);
        (images["images"][0]["status"] == "pending").then_some(())
    })
    .await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("is running");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(last_line(&output).contains("cancelled"), "{output:?}");
    let image = settled(&api, 1).await;
    assert_eq!(image["status"], "deleted");
    assert_eq!(
        api.get("/v2/images?private=true").await.expect(200)["meta"]["total"],
        0
    );
}

#[tokio::test]
async fn exports_are_checked_sparse_and_agree_with_qemu() {
    let server = Server::start();
    let disk = disks::raw(32, 9);
    let file = source(&disk);
    let (_, json) = import(&server, &file, "web", &[]);
    let id = json["image"]["id"].as_i64().expect("an id");
    let api = server.api();
    until("the checksums", 60, || async {
        let image = api.get(&format!("/v2/images/{id}")).await.expect(200);
        image["image"]["checksums"]["qcow2"].is_string().then_some(())
    })
    .await;
    for format in ["raw", "qcow2"] {
        let out = file.dir.path().join(format!("out.{format}"));
        let words = ["image", "export", "web", "--json", "--format", format, "-o"];
        let said: Value = serde_json::from_str(&run_ok(server.remote(&words).arg(&out))).expect("JSON");
        let bytes = std::fs::read(&out).expect("was written");
        let sha256 = hex_digest(&bytes);
        assert_eq!(said["export"]["sha256"], sha256, "{said}");
        assert_eq!(said["export"]["checked"], true);
    }
    let raw = file.dir.path().join("out.raw");
    assert!(std::fs::read(&raw).expect("was written") == disk);
    let piped = run(&mut server.remote(&["image", "export", "web", "-o", "-"]));
    assert!(piped.stdout == disk, "stdout has the disk and nothing else");
    judged_by_qemu(&file.path, &file.dir.path().join("out.qcow2"));

    let names: Vec<String> = std::fs::read_dir(file.dir.path())
        .expect("lists")
        .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().all(|n| !n.contains(".part-")), "{names:?}");
    let missing = run(&mut server.remote(&["image", "export", "no-such", "-o", "x"]));
    assert_eq!(missing.status.code(), Some(1));
}

/// A raw disk whose length is no multiple of anything but 512, and disks of zeros.
#[tokio::test]
async fn odd_and_empty_disks_come_out_as_they_went_in() {
    let server = Server::start();
    let mut odd = disks::raw(3, 17);
    odd.extend_from_slice(&[0x5a; 3 * 512]);
    let file = source(&odd);
    let (output, _) = import(&server, &file, "odd", &[]);
    assert!(output.status.success(), "{output:?}");
    exported(&server, "odd", &file.path, "raw", odd.len() as u64);
    let Some(qemu) = find("qemu-img") else {
        return judged_by_qemu(&file.path, &file.path);
    };
    for bytes in [1024, 197_120, 64 << 20, (100 << 30) + 512] {
        let empty = empty_qcow2(&qemu, bytes);
        let size = bytes.to_string();
        let (output, json) = import(&server, &empty, &size, &[]);
        if bytes > 100 << 30 {
            assert_eq!(output.status.code(), Some(1));
            assert!(last_line(&output).contains("limit is 100 GiB"), "{output:?}");
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        assert_eq!(json["image"]["status"], "available");
        exported(
            &server,
            &format!("{}", json["image"]["id"]),
            &empty.path,
            "qcow2",
            bytes,
        );
    }
}

/// A disk of `bytes` with nothing on it but its partition table.
fn empty_qcow2(qemu: &Path, bytes: u64) -> Source {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (raw, path) = (dir.path().join("empty.raw"), dir.path().join("empty.qcow2"));
    let mut first = [0; 512];
    let count = u32::try_from(bytes / 512 - 1).expect("below 2 TiB");
    (first[450], first[454]) = (0x83, 1);
    first[458..462].copy_from_slice(&count.to_le_bytes());
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&raw, first).expect("writes");
    let file = std::fs::File::options().write(true).open(&raw).expect("opens");
    file.set_len(bytes).expect("becomes sparse");
    let mut convert = command(qemu.to_str().expect("UTF-8"));
    convert.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]);
    run_ok(convert.arg(&raw).arg(&path));
    Source { path, dir }
}

/// Exports an image in both formats, and holds both against the file it was made of.
fn exported(server: &Server, image: &str, original: &Path, format: &str, bytes: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for to in ["raw", "qcow2"] {
        let out = dir.path().join(to);
        let words = ["image", "export", image, "--format", to, "-o"];
        run_ok(server.remote(&words).arg(&out));
        if let Some(qemu) = find("qemu-img") {
            let qemu = qemu.to_str().expect("UTF-8");
            let mut compare = command(qemu);
            run_ok(
                compare
                    .args(["compare", "-f", format, "-F", to])
                    .arg(original)
                    .arg(&out),
            );
            let mut info = command(qemu);
            let info = run_ok(info.args(["info", "--output=json", "-f", to]).arg(&out));
            let info: Value = serde_json::from_str(&info).expect("JSON");
            assert_eq!(
                info["virtual-size"], bytes,
                "compare takes zeros at the end for nothing"
            );
            if to == "qcow2" {
                run_ok(command(qemu).args(["check", "-f", "qcow2"]).arg(&out));
            }
        }
        if (to, format) == ("raw", "raw") {
            let (was, is) = (std::fs::read(original), std::fs::read(&out));
            assert!(was.expect("is there") == is.expect("was written"));
        }
    }
}

/// What becomes of a connection that has carried as many bytes as it may.
#[derive(Clone, Copy)]
enum After {
    /// It is closed.
    Cut,
    /// It stays open, and nothing comes any more.
    Hang,
}

/// A server in between that lets so many bytes of answers through a connection. Gives its URL, and what was asked.
async fn between(server: &Server, bytes: u64, after: After) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("is bound"));
    let target = server.api_url.trim_start_matches("http://").to_owned();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, seen) = (target.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let server = TcpStream::connect(target).await.expect("the server listens");
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 8192];
                    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                        seen.lock()
                            .expect("not poisoned")
                            .extend_from_slice(&buffer[..length]);
                        if to_server.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
                let _ = tokio::io::copy(&mut from_server.take(bytes), &mut to_client).await;
                if let After::Hang = after {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    (url, asked)
}

fn asked_for(asked: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&asked.lock().expect("not poisoned")).to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_after_every_cut() {
    let server = Server::start();
    let disk = disks::raw(16, 31);
    let file = source(&disk);
    import(&server, &file, "cut", &[]);
    let (url, asked) = between(&server, 7 << 20, After::Cut).await;
    let out = file.dir.path().join("out.raw");
    let mut export = server.remote(&["image", "export", "cut", "-o"]);
    export.arg(&out).env("CISTERN_URL", &url);
    let done = tokio::task::spawn_blocking(move || run_ok(&mut export));
    done.await.expect("ends");
    assert!(std::fs::read(&out).expect("was written") == disk);
    let asked = asked_for(&asked);
    assert_eq!(asked.matches("\r\nif-range: ").count(), 2, "{asked}");
    assert_eq!(asked.matches("\r\nrange: bytes=").count(), 2, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_killed_is_continued_by_the_next_one() {
    let server = Server::start();
    let disk = disks::raw(160, 32);
    let file = source(&disk);
    import(&server, &file, "long", &[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.raw");
    let names = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder.path()).expect("lists");
        entries.map(|entry| entry.expect("readable").path()).collect()
    };
    let (url, _) = between(&server, 150 << 20, After::Hang).await;
    let mut export = server.remote(&["image", "export", "long", "-o"]);
    export.arg(&out).env("CISTERN_URL", &url);
    let mut child = export
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    until("most of the disk", 120, || async {
        let part = names().pop()?;
        (std::fs::metadata(part).ok()?.len() > 140 << 20).then_some(())
    })
    .await;
    child.kill().expect("it runs");
    child.wait().expect("ends");
    assert!(!out.exists(), "nothing half is under the final name");
    assert_eq!(names().len(), 1);

    let (url, asked) = between(&server, u64::MAX, After::Cut).await;
    let mut export = server.remote(&["image", "export", "long", "-o"]);
    export.arg(&out).env("CISTERN_URL", &url);
    let done = tokio::task::spawn_blocking(move || run_ok(&mut export));
    done.await.expect("ends");
    assert!(std::fs::read(&out).expect("was written") == disk);
    assert_eq!(names(), [out], "the part is gone");
    let asked = asked_for(&asked);
    let from = asked
        .split("\r\nrange: bytes=")
        .nth(1)
        .and_then(|rest| rest.split('-').next());
    let from: u64 = from
        .and_then(|from| from.parse().ok())
        .unwrap_or_else(|| panic!("{asked}"));
    assert!(from >= 64 << 20, "what was synced was not sent again: {from}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_imports_at_once_do_not_mix() {
    let server = Server::start();
    let (api, files) = (server.api(), Files::start().await);
    let mut expected = Vec::new();
    for seed in 0..4 {
        let disk = disks::raw(8, 40 + seed);
        let url = files.put(&format!("{seed}.raw"), disk.clone());
        expected.push((
            crate::harness::images::import(&api, &format!("url-{seed}"), &url).await,
            disk,
        ));
    }
    // Meanwhile, three by upload.
    without_socket(&server);
    let disks: Vec<Vec<u8>> = (0..3).map(|seed| disks::raw(8, 50 + seed)).collect();
    let sources: Vec<Source> = disks.iter().map(|disk| source(disk)).collect();
    let uploads: Vec<Value> = std::thread::scope(|scope| {
        let running: Vec<_> = (sources.iter().zip(["up-0", "up-1", "up-2"]))
            .map(|(file, name)| scope.spawn(|| import(&server, file, name, &[]).1))
            .collect();
        running.into_iter().map(|one| one.join().expect("ends")).collect()
    });
    for (json, disk) in uploads.into_iter().zip(disks) {
        expected.push((json["image"]["id"].as_i64().expect("an id"), disk));
    }
    for (id, disk) in expected {
        assert_eq!(settled(&api, id).await["status"], "available");
        assert!(downloaded(&api, id, "raw").await == disk, "image {id}");
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// `qemu-img check` and `compare`, where it is installed; `CISTERN_REQUIRE_CLIENTS=1` insists.
fn judged_by_qemu(raw: &Path, qcow2: &Path) {
    let Some(qemu) = find_or_skip("qemu-img") else {
        return;
    };
    let qemu = qemu.to_str().expect("UTF-8");
    run_ok(command(qemu).arg("check").arg(qcow2));
    run_ok(
        command(qemu)
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(raw)
            .arg(qcow2),
    );
}

#[tokio::test]
async fn commands_on_images_do_what_they_say() {
    let server = Server::start();
    let file = source(&disks::raw(4, 2));
    for name in ["one", "twice", "twice"] {
        let (output, _) = import(&server, &file, name, &[]);
        assert!(output.status.success(), "{output:?}");
    }
    let json = |words: &[&str]| -> Value {
        let mut command = server.remote(words);
        serde_json::from_str(&run_ok(command.arg("--json"))).expect("one JSON document")
    };
    assert_eq!(
        json(&["image", "list"])["images"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(json(&["image", "get", "one"])["image"]["name"], "one");
    let table = run_ok(&mut server.remote(&["image", "list"]));
    assert!(
        table.contains("NAME") && table.contains("twice") && table.contains("4.0 MiB"),
        "{table}"
    );

    let ambiguous = run(&mut server.remote(&["image", "get", "twice"]));
    assert_eq!(ambiguous.status.code(), Some(1));
    assert!(
        last_line(&ambiguous).contains("2, 3") || last_line(&ambiguous).contains("3, 2"),
        "{ambiguous:?}"
    );

    assert_eq!(json(&["image", "delete", "one"])["image"]["status"], "deleted");
    assert_eq!(json(&["image", "restore", "1"])["image"]["status"], "available");
    json(&["image", "delete", "1", "--purge"]);
    assert_eq!(
        run(&mut server.remote(&["image", "restore", "1"])).status.code(),
        Some(1)
    );

    let clean = json(&["store", "verify", "--read-data"]);
    assert_eq!(clean["verify"]["damage"], json!([]));
    assert_eq!(json(&["store", "stats"])["roots"], 2);
}

#[tokio::test]
async fn who_reads_slowly_costs_the_server_no_memory() {
    let mut server = Server::start();
    let file = source(&disks::raw(384, 21));
    let (output, json) = import(&server, &file, "large", &[]);
    assert!(output.status.success(), "{output:?}");
    let id = &json["image"]["id"];
    // A new process: what the import took is not counted.
    assert!(server.terminate().success());
    server.start_again();
    let request = server
        .api()
        .request(Method::GET, &format!("/v2/images/{id}/download"));
    let mut response = request.send().await.expect("answers");
    response.chunk().await.expect("reads").expect("some of it");
    // From now on nothing is read; the server goes on until every buffer is full.
    let (mut last, mut still) = ((0, 0), 0);
    let peak = until("the server to wait for the client", 60, || {
        let now = ticks_and_peak(server.pid());
        still = if now == last { still + 1 } else { 0 };
        last = now;
        let is_waiting = still == 10;
        async move { is_waiting.then_some(now.1) }
    })
    .await;
    assert!(peak < 200 << 10, "the server took {} MiB", peak >> 10);
    drop(response);
}
