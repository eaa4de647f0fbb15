//! Encryption at rest, from outside: nothing of a canary image lies in clear in the objects, the database, the log, the
//! data folder or the temporary folder, however it came in and whenever the server died; without a key nothing opens;
//! keys are added, removed and recovered.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported, settled};
use crate::harness::process::{run, run_ok};
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until};
use crate::secrets::{dump, holds};

/// In the address of an import.
const PASSWORD: &str = "canary-url-password";
const SIGNATURE: &str = "canary-url-signature";
/// What a word to be searched for is cut to.
const WORD: usize = 24;

/// An encrypted installation that has been made and not started.
struct Case {
    server: Server,
    /// Keys, and where the server's temporary files go.
    dir: tempfile::TempDir,
    recovery: String,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(dir.path().join("tmp")).expect("makes");
        let setup = Setup::default()
            .env("CISTERN_KEY_FILE", &path("one.key"))
            .env("CISTERN_LOG__LEVEL", "trace")
            .env("TMPDIR", &path("tmp"));
        let mut server = setup.stopped();
        let said = run_ok(&mut server.local(&["init", "--encrypt", "--json"]));
        let made: Value = serde_json::from_str(&said).expect("one JSON document");
        server.token.push_str(made["token"].as_str().expect("a token"));
        let recovery = made["recovery_key"].as_str().expect("a recovery key").to_owned();
        Self {
            server,
            dir,
            recovery,
        }
    }

    fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A local command with the key in this file, or with none.
    fn with_key(&self, key: Option<&Path>, words: &[&str]) -> Command {
        let mut command = self.server.local(words);
        match key {
            Some(path) => command.env("CISTERN_KEY_FILE", path),
            None => command.env_remove("CISTERN_KEY_FILE"),
        };
        command
    }

    /// Where anything could be left.
    fn places(&self) -> Vec<PathBuf> {
        let tmp = self.dir.path().join("tmp");
        vec![self.server.data(), self.server.objects(), self.server.log(), tmp]
    }

    /// Fails where a word is in a file or in the database.
    async fn scan(&self, when: &str, words: &BTreeSet<Vec<u8>>) {
        let found = find(&self.places(), words);
        assert!(found.is_empty(), "{when}: {found:#?}");
        for (table, text) in dump(&self.server).await {
            for word in [PASSWORD, SIGNATURE] {
                assert!(!holds(&text, word), "{when}: {word} is in the table {table}");
            }
        }
    }
}

/// Which words are in which files below `places`.
fn find(places: &[PathBuf], words: &BTreeSet<Vec<u8>>) -> Vec<String> {
    let starts: BTreeSet<u16> = words
        .iter()
        .map(|word| u16::from_le_bytes([word[0], word[1]]))
        .collect();
    let mut is_start = vec![false; 1 << 16];
    for start in starts {
        is_start[usize::from(start)] = true;
    }
    let mut out = Vec::new();
    for path in places.iter().flat_map(|place| files(place)) {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let starts = bytes.windows(2).enumerate();
        for (at, _) in starts.filter(|(_, two)| is_start[usize::from(u16::from_le_bytes([two[0], two[1]]))]) {
            if let Some(word) = words.iter().find(|word| bytes[at..].starts_with(word)) {
                out.push(format!(
                    "{} at {at}: {:?}",
                    path.display(),
                    String::from_utf8_lossy(word)
                ));
                break;
            }
        }
    }
    out
}

fn files(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place) else {
        return vec![place.to_owned()];
    };
    entries
        .flat_map(|entry| files(&entry.expect("readable").path()))
        .collect()
}

fn words_of(bytes: &[u8], step: usize) -> BTreeSet<Vec<u8>> {
    let cut = bytes.chunks(step).filter(|part| part.len() >= 2 * WORD);
    let words = cut.map(|part| part[WORD..2 * WORD].to_vec());
    words
        .filter(|word| word.iter().any(|byte| *byte != word[0]))
        .collect()
}

/// Words of the disk as it is, and as a store in clear would hold it: its frames are the same there. Finds them there.
async fn canaries(files_served: &Files, disk: &[u8]) -> BTreeSet<Vec<u8>> {
    let clear = Server::start();
    imported(
        &clear.api(),
        "canary",
        &files_served.put("clear.img", disk.to_vec()),
    )
    .await;
    let mut words = words_of(disk, 4096);
    let packs = files(&clear.objects().join("p"));
    // What is compressed has a word of its own in each frame, whose header comes every few hundred bytes.
    let mut frames = 0;
    for pack in &packs {
        let bytes = std::fs::read(pack).expect("reads");
        let mut at = 64;
        while bytes[at..at + 4] == [1, 0, 1, 0] || bytes[at..at + 4] == [0, 0, 1, 0] {
            let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four")) as usize;
            if bytes[at] == 1 && length > 2 * WORD {
                words.insert(bytes[at + 16 + WORD..at + 16 + 2 * WORD].to_vec());
                frames += 1;
            }
            at += 16 + length;
        }
    }
    assert!(frames >= 16, "{frames} compressed frames");
    let places = packs.clone();
    assert_eq!(
        find(&places, &words).len(),
        packs.len(),
        "the search finds what is there"
    );
    words
}

#[tokio::test]
async fn nothing_of_a_canary_lies_anywhere_in_clear() {
    let files = Files::start().await;
    let disk = disks::raw(8, 4242);
    let mut words = canaries(&files, &disk).await;
    words.extend([PASSWORD, SIGNATURE].map(|word| word.as_bytes().to_vec()));
    let mut case = Case::new();
    case.server.start_again();

    // By URL, with credentials, cut off in the middle by the server's death.
    let held = files.put_held("held.img", disk.clone(), 5 << 20);
    let url = held
        .url
        .replace("http://", &format!("http://someone:{PASSWORD}@"))
        + "?signature="
        + SIGNATURE;
    let by_url = crate::harness::images::import(&case.server.api(), "by url", &url).await;
    let spool = case.server.data().join("spool");
    until("half a download", 60, || async {
        let bytes = self::files(&spool)
            .iter()
            .map(|path| path.metadata().map_or(0, |m| m.len()))
            .max();
        bytes.filter(|bytes| *bytes > 4 << 20)
    })
    .await;
    case.scan("in the middle of a download", &words).await;
    case.server.kill();
    case.scan("after it", &words).await;
    case.server.start_again();
    held.release();
    let api = case.server.api();
    assert_eq!(settled(&api, by_url).await["status"], "available");
    assert!(
        held.asked().len() > 1 && held.asked()[1] > 0,
        "it went on: {:?}",
        held.asked()
    );

    // By upload, the same.
    let half = disk.len() / 2 + 77;
    let path = upload_begin(&case.server, disk.len()).await;
    assert_eq!(upload(&case.server, &path, &disk, 0, half).await, half);
    case.scan("in the middle of an upload", &words).await;
    case.server.kill();
    case.server.start_again();
    assert_eq!(
        upload(&case.server, &path, &disk, half, disk.len()).await,
        disk.len()
    );
    case.scan("after an upload", &words).await;
    let api = case.server.api();
    let id = path.rsplit('/').next().expect("an id");
    let body = json!({ "name": "by upload", "upload": id, "region": "nyc3" });
    let made = api.post("/v2/images", &body).await.expect(202);
    let by_upload = made["image"]["id"].as_i64().expect("an id");
    assert_eq!(settled(&api, by_upload).await["status"], "available");

    // Compressed, and from a file of this machine.
    let source = case.key("source.img");
    std::fs::write(&source, &disk).expect("writes");
    let wrapped = files.put("canary.img.gz", gzip(&source));
    let unwrapped = imported(&api, "unwrapped", &wrapped).await["id"]
        .as_i64()
        .expect("an id");
    let said = run_ok(
        case.server
            .remote(&["image", "import", "--name", "handed", "--json"])
            .arg(&source),
    );
    let handed: Value = serde_json::from_str(&said).expect("one JSON document");
    let handed = handed["image"]["id"].as_i64().expect("an id");
    for id in [by_url, by_upload, unwrapped, handed] {
        assert!(downloaded(&api, id, "raw").await == disk, "image {id}");
    }
    assert_eq!(downloaded(&api, by_url, "qcow2").await[..4], *b"QFI\xfb");
    run_ok(&mut case.server.local(&["store", "verify", "--read-data"]));
    case.scan("when all is done", &words).await;
    case.server.terminate();
    case.scan("when it has stopped", &words).await;
    assert!(files_of_spool(&case.server).is_empty(), "no working file is left");
}

/// Working files, without their key.
fn files_of_spool(server: &Server) -> Vec<PathBuf> {
    let all = files(&server.data().join("spool")).into_iter();
    all.filter(|path| path.is_file() && path.file_name().is_some_and(|name| name != "key"))
        .collect()
}

fn gzip(file: &Path) -> Vec<u8> {
    let mut gzip = crate::harness::process::command("gzip");
    run(gzip.arg("-1c").arg(file)).stdout
}

async fn upload_begin(server: &Server, length: usize) -> String {
    let request = server.api().request(Method::POST, "/v2/uploads");
    let request = request
        .header("tus-resumable", "1.0.0")
        .header("upload-length", length);
    let answer = request.send().await.expect("answers");
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().expect("text");
    format!("/v2/uploads/{}", location.rsplit('/').next().expect("an id"))
}

/// Sends a part of the file; gives how far the upload is then.
async fn upload(server: &Server, path: &str, disk: &[u8], from: usize, to: usize) -> usize {
    let request = server.api().request(Method::PATCH, path);
    let request = request
        .header("tus-resumable", "1.0.0")
        .header("upload-offset", from);
    let request = request.header("content-type", "application/offset+octet-stream");
    let answer = request
        .body(disk[from..to].to_vec())
        .send()
        .await
        .expect("answers");
    assert_eq!(answer.status(), 204, "{:?}", answer.text().await);
    let offset = answer.headers()["upload-offset"].to_str().expect("text");
    offset.parse().expect("a number")
}

/// What a command that fails says.
fn refusal(mut command: Command) -> String {
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SERVE: [&str; 5] = [
    "serve",
    "--listen-api",
    "127.0.0.1:0",
    "--listen-registry",
    "127.0.0.1:0",
];

#[tokio::test]
async fn without_a_key_or_with_another_nothing_opens_and_that_is_said() {
    let mut case = Case::new();
    let other = case.key("other.key");
    std::fs::write(&other, "another key that has more than 32 bytes").expect("writes");
    run_ok(crate::harness::process::command("chmod").arg("600").arg(&other));
    for words in [
        &SERVE[..],
        &["store", "stats"],
        &["store", "verify"],
        &["token", "list"],
    ] {
        let text = refusal(case.with_key(None, words));
        assert!(
            text.contains("is encrypted, and no key is given: set `key_file`"),
            "{words:?}: {text}"
        );
        let text = refusal(case.with_key(Some(&other), words));
        assert!(text.contains("is not one of the store"), "{words:?}: {text}");
    }
    let text = refusal(case.with_key(Some(&case.key("none.key")), &SERVE));
    assert!(
        text.contains("No such file") && text.contains("look at `key_file`"),
        "{text}"
    );
    run_ok(crate::harness::process::command("chmod").arg("644").arg(&other));
    let text = refusal(case.with_key(Some(&other), &SERVE));
    assert!(text.contains("chmod 600"), "{text}");
    let doctor = run(&mut case.with_key(Some(&other), &["doctor"]));
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("store key") && text.contains("chmod 600"), "{text}");
    case.server.start_again();
    assert_eq!(case.server.api().get("/v2/account").await.status, 200);
}

#[tokio::test]
async fn keys_rotate_and_the_printed_one_recovers() {
    let mut case = Case::new();
    let (one, two) = (case.key("one.key"), case.key("two.key"));
    let list = |case: &Case, key: &Path| -> Vec<(String, String)> {
        let said = run_ok(&mut case.with_key(Some(key), &["key", "list", "--json"]));
        let keys: Value = serde_json::from_str(&said).expect("one JSON document");
        let text = |key: &Value, field: &str| key[field].as_str().expect("text").to_owned();
        let keys = keys["keys"].as_array().expect("a list");
        keys.iter()
            .map(|key| (text(key, "id"), text(key, "kind")))
            .collect()
    };
    let first = list(&case, &one);
    let kinds: Vec<&str> = first.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["key-file", "recovery"]);
    let shown = run_ok(&mut case.with_key(Some(&one), &["key", "list"]));
    let own = shown
        .lines()
        .filter(|line| line.ends_with("used by this command"));
    assert_eq!(
        own.filter_map(|line| line.split(' ').next()).collect::<Vec<_>>(),
        [&first[0].0],
        "{shown}"
    );
    // Beside a running server, which goes on without noticing.
    case.server.start_again();
    let image = imported(
        &case.server.api(),
        "kept",
        &Files::start().await.put("k.img", disks::raw(2, 5)),
    )
    .await;
    let two_text = two.display().to_string();
    run_ok(&mut case.with_key(Some(&one), &["key", "add", "--key-file", &two_text]));
    let text = refusal(case.with_key(Some(&one), &["key", "add", "--key-file", &two_text]));
    assert!(text.contains("opens the store already"), "{text}");
    let text = refusal(case.with_key(Some(&one), &["key", "remove", &first[0].0]));
    assert!(text.contains("would not open any more"), "{text}");
    run_ok(&mut case.with_key(Some(&two), &["key", "remove", &first[0].0]));
    let text = refusal(case.with_key(Some(&two), &["key", "remove", &first[0].0]));
    assert!(text.contains("cistern key list"), "{text}");
    assert_eq!(case.server.api().get("/v2/account").await.status, 200);
    let events = run_ok(&mut case.with_key(Some(&two), &["events", "--what", "key", "--json"]));
    let events: Value = serde_json::from_str(&events).expect("one JSON document");
    let events = events["events"].as_array().expect("a list");
    let whats = events
        .iter()
        .map(|event| event["what"].as_str().unwrap_or_default());
    assert_eq!(whats.collect::<Vec<_>>(), ["key.add", "key.remove"], "{events:?}");
    case.server.terminate();
    let text = refusal(case.with_key(Some(&one), &SERVE));
    assert!(text.contains("is not one of the store"), "{text}");
    assert_eq!(list(&case, &two).len(), 2);
    // What a server prescribes where store and database are of different times.
    let kept = run_ok(&mut case.with_key(Some(&two), &["recover", "--keep-database"]));
    assert!(kept.contains("The database is the store's again"), "{kept}");

    // Both files are lost; the paper is not.
    std::fs::remove_file(&two).expect("removes");
    std::fs::remove_file(&one).expect("removes");
    let typed = case.recovery.to_lowercase();
    let mistyped = if typed.starts_with('7') { "8" } else { "7" }.to_owned() + &typed[1..];
    let one_text = one.display().to_string();
    let words = ["key", "add", "--key-file", &one_text, "--recovery-key"];
    let (done, said) = told(case.with_key(None, &words), &mistyped);
    assert!(!done && said.contains("typing mistake"), "{said}");
    assert!(!one.exists(), "no key is made that opens nothing");
    let (done, said) = told(case.with_key(None, &words), &typed);
    assert!(done, "{said}");
    case.server.start_again();
    let id = image["id"].as_i64().expect("an id");
    assert!(downloaded(&case.server.api(), id, "raw").await == disks::raw(2, 5));
    // A command can give it as well.
    let mut command = case.with_key(None, &["store", "stats"]);
    run_ok(command.env("CISTERN_KEY_COMMAND", format!("cat {one_text}")));
}

/// Runs a command with this on its standard input; whether it succeeded, and what it said.
fn told(mut command: Command, line: &str) -> (bool, String) {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("is piped");
    writeln!(stdin, "{line}").expect("writes");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn an_installation_is_what_it_was_made_as() {
    // In clear it stays in clear …
    let mut clear = Server::start();
    clear.terminate();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let key = dir.path().join("k").display().to_string();
    let mut command = clear.local(&["init", "--encrypt"]);
    command.args(["--key-file", &key]);
    let text = refusal(command);
    assert!(text.contains("is not encrypted"), "{text}");
    assert!(
        !dir.path().join("k").exists(),
        "the key that it made opens nothing"
    );
    std::fs::write(&key, "A secret of more than 32 bytes, it has to be.").expect("writes");
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, own).expect("is ours");
    let mut command = clear.local(&SERVE);
    let text = refusal({
        command.args(["--key-file", &key]);
        command
    });
    assert!(
        text.contains("take `key_file` or `key_command` out of the settings"),
        "{text}"
    );
    // … and nothing is made in clear by whoever has a key.
    let fresh = Setup::default().env("CISTERN_KEY_FILE", &key).stopped();
    let text = refusal(fresh.local(&SERVE));
    assert!(text.contains("cistern init --encrypt"), "{text}");
    assert!(!fresh.data().join("cistern.sqlite").exists());
    let output = run(&mut Setup::default().stopped().local(&["init", "--encrypt"]));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // What was begun without is finished with it; a second time changes nothing, and shows no key again.
    let again = || run_ok(&mut fresh.local(&["init", "--encrypt", "--json"]));
    let first: Value = serde_json::from_str(&again()).expect("one JSON document");
    assert!(first["recovery_key"].is_string() && first["token"].is_string());
    let second: Value = serde_json::from_str(&again()).expect("one JSON document");
    assert!(second["recovery_key"].is_null() && second["token"].is_null());
}

#[tokio::test]
async fn a_lost_database_comes_back_with_a_key_and_not_without() {
    let mut case = Case::new();
    case.server.start_again();
    let (files, disk) = (Files::start().await, disks::raw(2, 77));
    let name = "a-canary-that-only-the-catalogue-knows";
    let image = imported(&case.server.api(), name, &files.put("c.img", disk.clone())).await;
    let id = image["id"].as_i64().expect("an id");
    case.server.terminate();
    let words = BTreeSet::from([name.as_bytes().to_vec()]);
    assert_eq!(
        find(&[case.server.objects()], &words),
        [""; 0],
        "the journal is sealed"
    );

    let recover = ["recover", "--replace-database"];
    let text = refusal(case.with_key(None, &recover));
    assert!(text.contains("is encrypted, and no key is given"), "{text}");
    let by_paper = [&recover[..], &["--recovery-key"]].concat();
    let (done, said) = told(case.with_key(None, &by_paper), &case.recovery);
    assert!(done && said.contains("1 image"), "{said}");
    // The key to the secrets may be lost with the machine.
    std::fs::remove_file(case.server.data().join("secrets.key")).expect("removes");
    let one = case.key("one.key");
    let said = run_ok(&mut case.with_key(Some(&one), &recover));
    assert!(said.contains("1 image"), "{said}");
    case.server.start_again();
    assert!(downloaded(&case.server.api(), id, "raw").await == disk);
    case.server.terminate();

    let text = refusal(case.with_key(None, &["store", "rebuild-index"]));
    assert!(text.contains("is encrypted, and no key is given"), "{text}");
    run_ok(&mut case.with_key(Some(&one), &["store", "rebuild-index"]));
    run_ok(&mut case.with_key(Some(&one), &["gc", "--now"]));
    run_ok(&mut case.with_key(Some(&one), &["store", "verify", "--read-data"]));
    case.server.start_again();
    assert!(downloaded(&case.server.api(), id, "raw").await == disk);
}

/// What a command says whose standard output takes nothing.
fn unwritten(mut command: Command) -> String {
    let full = std::fs::File::options().write(true).open("/dev/full");
    command.stdout(full.expect("is there"));
    refusal(command)
}

#[tokio::test]
async fn what_is_shown_once_and_cannot_be_written_is_a_failure_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let key = dir.path().join("k").display().to_string();
    let fresh = Setup::default().env("CISTERN_KEY_FILE", &key).stopped();
    let text = unwritten(fresh.local(&["init", "--encrypt"]));
    for part in [
        "No space left",
        "cistern key add --recovery",
        "cistern token create",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let keys = || {
        let said = run_ok(&mut fresh.local(&["key", "list", "--json"]));
        let keys: Value = serde_json::from_str(&said).expect("one JSON document");
        keys["keys"].as_array().expect("a list").clone()
    };
    assert_eq!(keys().len(), 2, "it was made all the same");
    let text = unwritten(fresh.local(&["key", "add", "--recovery"]));
    let id = keys()[2]["id"].as_str().expect("an id").to_owned();
    assert!(text.contains(&format!("cistern key remove {id}")), "{text}");
    run_ok(&mut fresh.local(&["key", "remove", &id]));
    let text = unwritten(fresh.local(&["key", "list"]));
    assert!(text.contains("No space left"), "{text}");
}

#[test]
fn a_copy_with_a_wrong_key_leaves_nothing() {
    let case = Case::new();
    let other = case.key("other.key");
    std::fs::write(&other, "another key that has more than 32 bytes").expect("writes");
    run_ok(crate::harness::process::command("chmod").arg("600").arg(&other));
    let (from, to) = (case.server.objects(), case.dir.path().join("above/copy"));
    let words = [
        "store",
        "copy",
        &from.display().to_string(),
        &to.display().to_string(),
    ];
    let refused = run(&mut case.with_key(Some(&other), &words));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let by_paper = [&words[..], &["--recovery-key"]].concat();
    let (done, said) = told(case.with_key(None, &by_paper), &Case::new().recovery);
    assert!(!done && said.contains("is not one of the store"), "{said}");
    assert!(!case.dir.path().join("above").exists());
    run_ok(&mut case.with_key(Some(&case.key("one.key")), &words));
    assert!(to.join("h").exists());
    std::fs::remove_dir_all(&to).expect("is there");
    let (done, said) = told(case.with_key(None, &by_paper), &case.recovery);
    assert!(done && to.join("h").exists(), "{said}");
}

#[test]
fn doctor_opens_the_store() {
    let case = Case::new();
    let other = case.key("other.key");
    std::fs::write(&other, "another key that has more than 32 bytes").expect("writes");
    run_ok(crate::harness::process::command("chmod").arg("600").arg(&other));
    let ports = ["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"];
    let check = |key: Option<&Path>, name: &str| -> Value {
        let output = run(case.with_key(key, &["doctor", "--json"]).args(ports));
        let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let checks = told["checks"].as_array().expect("a list");
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("{told}")).clone()
    };
    let said = |key: Option<&Path>| check(key, "store key");
    let one = case.key("one.key");
    let said_of = |name: &str| check(Some(&one), name);
    assert_eq!(said(Some(&one))["state"], "ok");
    assert_eq!(said_of("store header")["state"], "ok");
    let header = files(&case.server.objects().join("h")).remove(0);
    let whole = std::fs::read(&header).expect("reads");
    std::fs::write(&header, "not a header").expect("writes");
    assert_eq!(said(Some(&one))["state"], "ok", "the other one opens it");
    let check = said_of("store header");
    assert_eq!(check["state"], "warning", "{check}");
    let text = check["text"].as_str().unwrap_or_default();
    assert!(
        text.contains("a server writes") && text.contains("h/0000000"),
        "{check}"
    );
    std::fs::write(&header, whole).expect("writes");
    for (key, part) in [
        (None, "is encrypted, and no key is given"),
        (Some(&*other), "is not one of the store"),
    ] {
        let check = said(key);
        assert_eq!(check["state"], "failed", "{check}");
        assert!(
            check["text"].as_str().is_some_and(|text| text.contains(part)),
            "{check}"
        );
    }
    for header in files(&case.server.objects().join("h")) {
        std::fs::write(&header, "not a header").expect("writes");
    }
    let check = said(Some(&one));
    assert_eq!(check["state"], "failed", "{check}");
    assert!(
        check["text"]
            .as_str()
            .is_some_and(|text| text.contains("damaged")),
        "{check}"
    );
}

#[test]
fn the_only_recovery_key_is_removed_only_by_force() {
    let case = Case::new();
    let ids = || -> Vec<String> {
        let said = run_ok(&mut case.server.local(&["key", "list", "--json"]));
        let keys: Value = serde_json::from_str(&said).expect("one JSON document");
        let keys = keys["keys"].as_array().expect("a list");
        let recovery = keys.iter().filter(|key| key["kind"] == "recovery");
        recovery
            .map(|key| key["id"].as_str().expect("text").to_owned())
            .collect()
    };
    let first = ids().remove(0);
    let text = refusal(case.server.local(&["key", "remove", &first]));
    assert!(text.contains("cistern key add --recovery"), "{text}");
    assert_eq!(ids(), [first.as_str()], "it is still there");
    run_ok(&mut case.server.local(&["key", "add", "--recovery"]));
    run_ok(&mut case.server.local(&["key", "remove", &first]));
    let second = ids().remove(0);
    refusal(case.server.local(&["key", "remove", &second]));
    run_ok(&mut case.server.local(&["key", "remove", &second, "--force"]));
    assert!(ids().is_empty());
}
