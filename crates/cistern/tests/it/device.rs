//! The database's own file fails while the server runs (`strace` makes calls to it fail): requests are refused with a
//! sentence, nothing is half done, and the server goes on by itself when the fault is over.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::api::{Answer, Api};
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{command, find_or_skip, skip};
use crate::harness::server::Setup;
use crate::harness::world::Place;
use crate::harness::{Server, disks, until};

/// Calls of a server to its database that fail, until this is dropped.
struct Failing(Child);

impl Failing {
    /// None where this machine does not let one process trace another.
    fn begin(server: &Server, calls: &str, error: &str) -> Option<Self> {
        let mut strace = command("strace");
        let pid = server.pid().to_string();
        strace.args(["-f", "-o", "/dev/null", "-p", &pid, "-e"]);
        strace.args([
            format!("trace={calls}"),
            "-e".into(),
            format!("inject={calls}:error={error}"),
        ]);
        for end in ["", "-wal"] {
            strace
                .arg("-P")
                .arg(server.data().join(format!("cistern.sqlite{end}")));
        }
        let mut child = strace.stderr(Stdio::piped()).spawn().expect("strace starts");
        let mut said = BufReader::new(child.stderr.take().expect("is piped")).lines();
        let line = said.find_map(|line| line.ok().filter(|line| line.contains("ttach")));
        // Whatever else it says has to go somewhere.
        std::thread::spawn(move || said.for_each(drop));
        let failing = Self(child);
        match line {
            Some(line) if line.contains("attached") => Some(failing),
            line => {
                skip(&format!("a server cannot be traced here: {line:?}"));
                None
            }
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // The system lets go of whoever it traced; strace itself, asked to end, was seen to leave a busy server
        // stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sentence for those who use the server, and no more than that.
fn refused(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let sentence = answer.json["message"].as_str().expect("a sentence");
    for inner in ["SQL", "sqlite", "I/O", "code:", "database or disk"] {
        assert!(!sentence.contains(inner), "{sentence}");
    }
    assert!(
        sentence.contains("The database's disk") && sentence.contains("its operator"),
        "{sentence}"
    );
}

async fn rename(api: &Api, id: i64, name: &str) -> Answer {
    api.put(&format!("/v2/images/{id}"), &json!({ "name": name }))
        .await
}

#[tokio::test]
async fn a_database_file_that_fails_is_told_and_all_goes_on_when_it_works_again() {
    if find_or_skip("strace").is_none() {
        return;
    }
    let server = Setup::default().at(Place::default()).start();
    let (api, files) = (server.api(), Files::start().await);
    let (kept, new) = (disks::raw(4, 91), disks::raw(4, 92));
    let id = imported(&api, "kept", &files.put("kept.img", kept.clone())).await["id"]
        .as_i64()
        .expect("an id");
    let url = files.put("new.img", new.clone());
    for (round, (calls, error)) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fdatasync,fsync", "EIO"),
        ("pread64,pwrite64,fdatasync,fsync", "EIO"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("round {round}");
        let Some(failing) = Failing::begin(&server, calls, error) else {
            return;
        };
        for _ in 0..3 {
            refused(&rename(&api, id, &name).await);
        }
        let body = json!({ "name": "x", "url": url, "region": "nyc3" });
        refused(&api.post("/v2/images", &body).await);
        assert_eq!(api.get("/healthz").await.status, StatusCode::OK);
        drop(failing);

        let answer = rename(&api, id, &name).await;
        assert_eq!(answer.status, StatusCode::OK, "{calls} {error}: {answer:?}");
        until("the server to be ready", 30, || async {
            (api.get("/readyz").await.status == StatusCode::OK).then_some(())
        })
        .await;
        let again = imported(&api, "again", &url).await["id"].as_i64().expect("an id");
        assert!(downloaded(&api, again, "raw").await == new);
        assert!(downloaded(&api, id, "raw").await == kept);
        let path = format!("/v2/images/{again}");
        assert_eq!(api.delete(&path).await.status, StatusCode::NO_CONTENT);
        let list = api.get("/v2/images?private=true").await.expect(200);
        let listed = list["images"].as_array().expect("a list");
        assert!(listed.iter().all(|image| image["name"] != "x"), "{list:#}");
    }
    assert!(!server.log_text().contains("panicked"));
}
