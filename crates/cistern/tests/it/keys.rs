//! Keys are changed where there is no room for it: what a command says is what it did.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::process::{document, run, run_ok};
use crate::harness::server::{Setup, wrapped};
use crate::harness::small::SmallDisk;
use crate::harness::world::Place;
use crate::harness::{Server, until};

const PAGE: usize = 4096;

/// An encrypted installation whose objects lie on a small disk.
struct Case {
    server: Server,
    disk: SmallDisk,
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Option<Self> {
        let disk = SmallDisk::tmpfs(16)?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let words = disk.enter();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = Setup::default()
            .at(Place::default())
            .wrapped(&words)
            .env("CISTERN_OBJECTS", &shown(&disk.inside().join("objects")))
            .env("CISTERN_KEY_FILE", &shown(&dir.path().join("store.key")))
            .stopped();
        let case = Self { server, disk, dir };
        run_ok(&mut case.command(&["init", "--encrypt"]));
        Some(case)
    }

    fn command(&self, words: &[&str]) -> Command {
        wrapped(self.server.local(words), &self.disk.enter())
    }

    fn headers(&self) -> usize {
        let files = std::fs::read_dir(self.disk.root().join("objects/h"));
        files.expect("is there").count()
    }

    /// The ids of all keys, and how many of them are recovery keys.
    fn keys(&self) -> (Vec<String>, usize) {
        let listed = document(&mut self.command(&["key", "list"]));
        let keys = listed["keys"].as_array().expect("a list");
        let text = |key: &Value, field: &str| key[field].as_str().expect("text").to_owned();
        let recovery = keys.iter().filter(|key| text(key, "kind") == "recovery");
        (keys.iter().map(|key| text(key, "id")).collect(), recovery.count())
    }

    /// Leaves room for so many headers, also where older ones are deleted.
    fn room_for(&self, headers: usize) {
        let root = self.disk.root();
        let ballast = root.join("ballast-of-ours");
        std::fs::write(&ballast, vec![1; headers * PAGE]).expect("there is room");
        let kept = root.join("kept");
        std::fs::create_dir_all(&kept).expect("makes it");
        for file in std::fs::read_dir(root.join("objects/h")).expect("is there") {
            let file = file.expect("is there");
            std::fs::hard_link(file.path(), kept.join(file.file_name())).expect("links");
        }
        let _ = std::fs::remove_file(root.join("objects/reserve"));
        self.disk.fill();
        std::fs::remove_file(ballast).expect("is there");
    }

    fn make_room(&self) {
        self.disk.make_room();
        std::fs::remove_dir_all(self.disk.root().join("kept")).expect("is there");
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_change_that_finds_room_for_one_header_is_made_and_a_server_writes_the_second() {
    let Some(mut case) = Case::new() else { return };
    run_ok(&mut case.command(&[
        "key",
        "add",
        "--key-file",
        &shown(&case.dir.path().join("two.key")),
    ]));
    let (before, _) = case.keys();
    let last = before.last().expect("a key").clone();
    for words in [&["key", "remove", &last][..], &["key", "add", "--recovery"]] {
        case.room_for(1);
        let output = run(&mut case.command(words));
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert!(
            said(&output).contains("warning: the change is made"),
            "{output:?}"
        );
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            shown.contains("Removed the key") || shown.contains("The recovery key"),
            "{shown}"
        );
        assert_eq!(case.headers(), 1);
        // Neither is one that could not be made at all.
        let keys = case.keys();
        let output = run(&mut case.command(&["key", "add", "--recovery"]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            output.stdout.is_empty() && said(&output).contains("full"),
            "{output:?}"
        );
        assert_eq!(case.keys(), keys);
        case.make_room();
        case.server.start_again();
        until("the second header", 60, || async {
            (case.headers() == 2).then_some(())
        })
        .await;
        case.server.terminate();
    }
    let (after, recovery) = case.keys();
    assert!(!after.contains(&last) && recovery == 2, "{after:?}");
}

/// A store in clear takes no key, and no file with one is left that nothing opens.
#[test]
fn a_key_for_a_store_in_clear_is_not_even_made() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (data, key) = (dir.path().join("data"), dir.path().join("new.key"));
    let setup = Setup::default().at(Place::default());
    run_ok(&mut setup.command(&data, &["init"]));
    let words = ["key", "add", "--key-file", &shown(&key)];
    let output = run(&mut setup.command(&data, &words));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!key.exists());
}
