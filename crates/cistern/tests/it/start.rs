//! The first start without any settings, and settings from file, environment and flags.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::process::{cistern, reason, run, run_ok};
use crate::harness::server::token_in;
use crate::harness::{Server, until};

/// The rows that `cistern config list --json` gives.
fn listed(command: &mut Command) -> Vec<Value> {
    let text = run_ok(command);
    let document: Value = serde_json::from_str(&text).expect("one JSON document");
    document["settings"].as_array().expect("a list").clone()
}

fn row<'a>(rows: &'a [Value], key: &str) -> &'a Value {
    let row = rows.iter().find(|row| row["setting"] == key);
    row.unwrap_or_else(|| panic!("{key} is listed"))
}

#[test]
fn without_settings_it_listens_on_loopback_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = listed(cistern().current_dir(&dir).args(["config", "list", "--json"]));
    for (key, value) in [
        ("data", "./cistern-data"),
        ("listen_api", "127.0.0.1:8080"),
        ("listen_registry", "127.0.0.1:5000"),
    ] {
        let row = row(&rows, key);
        assert_eq!(row["value"], value, "{row:#}");
        assert_eq!(row["from"], "default", "{row:#}");
    }
    let made = std::fs::read_dir(&dir).expect("lists").count();
    assert_eq!(made, 0, "looking changes nothing");
}

#[tokio::test]
async fn the_first_start_makes_its_folder_and_says_what_to_type_next() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Only the ports are given: the usual ones may be taken here.
    let mut serve = cistern();
    serve.current_dir(&dir).args([
        "serve",
        "--listen-api=127.0.0.1:0",
        "--listen-registry=127.0.0.1:0",
    ]);
    let mut child = serve
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let mut greeting = String::new();
    while !greeting.contains("listening registry ") {
        greeting += &lines.next().expect("more to come").expect("text");
        greeting.push('\n');
    }
    let data = dir.path().join("cistern-data");
    let mode = std::fs::metadata(&data)
        .expect("the folder is made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "for its owner alone");
    assert!(data.join("cistern.sqlite").is_file());
    for word in [
        "shown once",
        "/sign-in/",
        "export CISTERN_URL=",
        "cistern image import",
    ] {
        assert!(greeting.contains(word), "no `{word}` in:\n{greeting}");
    }
    assert_eq!(greeting.matches("/sign-in/").count(), 1);
    // What it says to type works as it is typed, with another command after it.
    let export = greeting
        .lines()
        .find(|line| line.trim_start().starts_with("export "))
        .expect("is there");
    let script = format!("{export}\n\"$0\" image list --json");
    let mut shell = crate::harness::process::command("sh");
    shell
        .args(["-c", &script, env!("CARGO_BIN_EXE_cistern")])
        .env_clear();
    let answer: Value = serde_json::from_str(&run_ok(&mut shell)).expect("JSON");
    assert!(answer["images"].is_array(), "{answer:#}");

    let url = export
        .split("CISTERN_URL=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("an address");
    let api = Api::new(url, &token_in(&greeting).expect("a token"));
    let user = api.get("/v2/account").await.expect(200);
    assert_eq!(user["account"]["status"], "active", "{user:#}");
    let link = greeting
        .split_whitespace()
        .find(|word| word.contains("/sign-in/"))
        .expect("a link");
    let path = link.strip_prefix(url).expect("under the same address");
    let use_link = async || {
        let request = api.with_token("").request(reqwest::Method::POST, path);
        let form = ("content-type", "application/x-www-form-urlencoded");
        let request = request.header("origin", url).header(form.0, form.1).body("");
        let answer = request.send().await;
        answer.expect("answers").status().as_u16()
    };
    assert_eq!(use_link().await, 303, "the link signs in");
    assert_ne!(use_link().await, 303, "once");
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
}

#[test]
fn a_flag_beats_the_environment_and_that_the_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("cistern.toml");
    std::fs::write(
        &file,
        "shutdown_seconds = 1\n[jobs]\nworkers = 1\n[http]\nidle_seconds = 1\n",
    )
    .expect("writes");
    let file = file.display().to_string();
    let mut command = cistern();
    command
        .env("CISTERN_JOBS__WORKERS", "2")
        .env("CISTERN_HTTP__IDLE_SECONDS", "2");
    let rows = listed(command.args([
        "config",
        "list",
        "--json",
        "--config",
        &file,
        "--http-idle-seconds=3",
    ]));
    for (key, value, from) in [
        ("shutdown_seconds", 1, file.as_str()),
        ("jobs.workers", 2, "CISTERN_JOBS__WORKERS"),
        ("http.idle_seconds", 3, "--http-idle-seconds"),
    ] {
        let row = row(&rows, key);
        assert_eq!(row["value"], value, "{row:#}");
        assert!(
            row["from"].as_str().is_some_and(|text| text.contains(from)),
            "{row:#}"
        );
    }
}

#[test]
fn settings_are_checked_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("cistern.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("writes");
        let output = run(cistern().args(["config", "check", "--config"]).arg(&file));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    assert_eq!(check("shutdown_seconds = 5\n").0, Some(0));
    for (text, words) in [
        ("listen_apy = \"127.0.0.1:0\"", ["listen_apy", "listen_api"]),
        ("[jobs]\nworker = 3", ["jobs.worker", "jobs.workers"]),
        ("[jobs]\nlease_seconds = 1", ["jobs.lease_seconds", "below 3"]),
        ("shutdown_seconds = \"soon\"", ["shutdown_seconds", "soon"]),
        ("listen_api = \"0.0.0.0:80\"", ["listen_api", "--insecure-http"]),
        ("listen_api = 8080", ["listen_api", "127.0.0.1:8080"]),
        ("log.level = \"loud\"", ["log.level", "`trace`"]),
        ("[fetch]\nallow = [\"10.0.0.5\"]", ["fetch.allow", "10.0.0.5/32"]),
        (
            "[tls]\ncert = \"/none.crt\"\nkey = \"/none.key\"",
            ["/none.crt", "TLS"],
        ),
        (
            "database = \"mysql://root@localhost/x\"",
            ["database", "postgres://"],
        ),
    ] {
        let (code, said) = check(text);
        assert_eq!(code, Some(1), "{text}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    let output = run(cistern()
        .env("CISTERN_JOBS__WORKER", "3")
        .args(["config", "check"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CISTERN_JOBS__WORKERS"), "{said}");
}

#[tokio::test]
async fn a_taken_port_is_refused_with_what_to_do() {
    let server = Server::start();
    let address = server.api_url.strip_prefix("http://").expect("plain HTTP");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = run(cistern().current_dir(&dir).args([
        "serve",
        "--listen-api",
        address,
        "--listen-registry=127.0.0.1:0",
    ]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(address) && said.contains("--listen-api"), "{said}");
    until("the first to answer still", 5, || async {
        (server.api().get("/healthz").await.status == 200).then_some(())
    })
    .await;
}

/// A first start that is cut off before its greeting is read has made a token that nobody knows.
#[tokio::test]
async fn a_later_start_tells_how_to_make_a_token_until_one_was_used() {
    let mut server = Server::start();
    let hint = "`cistern token create` makes another";
    let told = |server: &Server| server.log_text().matches(hint).count();
    assert_eq!(told(&server), 0, "the greeting has it");
    server.terminate();
    server.start_again();
    assert_eq!(told(&server), 1, "{}", server.log_text());
    server.api().get("/v2/account").await.expect(200);
    server.terminate();
    server.start_again();
    assert_eq!(told(&server), 1, "{}", server.log_text());
}

/// The names of what is in a folder, but for what says which process had it.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("lists");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.contains(".lock"));
    names.sort();
    names
}

#[test]
fn a_start_that_fails_leaves_neither_a_database_nor_a_key() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let key = |name: &str| at(&format!("{name}.key")).display().to_string();
    let made = |words: &[&str], data: &str| {
        let mut command = cistern();
        command.args(words).arg("--data").arg(at(data));
        run(&mut command)
    };
    let fails = |words: &[&str], data: &str, said: &str| {
        let output = made(words, data);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        assert!(reason(&output).contains(said), "{words:?}: {output:?}");
    };
    let init = ["init", "--encrypt", "--key-file"];
    let right = made(&[&init[..], &[&key("right")]].concat(), "first");
    assert!(right.status.success(), "{right:?}");
    let shown = String::from_utf8_lossy(&right.stdout).into_owned();
    let next = format!(
        "Next: cistern serve --data {} --key-file {}",
        at("first").display(),
        key("right")
    );
    assert!(shown.lines().any(|line| line == next), "{next}: {shown}");

    // A server with another key, or without one, on the same objects.
    std::fs::copy(key("right"), key("other")).expect("copies its mode");
    std::fs::write(key("other"), "Another secret of more than 32 bytes, at least.").expect("writes");
    let objects = at("first").join("store").display().to_string();
    let serve = [
        "serve",
        "--listen-api=127.0.0.1:0",
        "--listen-registry=127.0.0.1:0",
        "--objects",
        &objects,
    ];
    fails(
        &[&serve[..], &["--key-file", &key("other")]].concat(),
        "second",
        "(--key-file FILE)",
    );
    fails(&serve, "second", "no key is given");
    fails(
        &[&serve[..], &["--key-file", &key("right")]].concat(),
        "second",
        "cistern recover",
    );
    let left = names(&at("second"));
    assert!(
        !left
            .iter()
            .any(|name| name.contains("sqlite") || name == "node" || name == "secrets.key"),
        "{left:?}"
    );
    // What is there is not encrypted, or no empty place: no key is left that would open nothing.
    let plain = made(&["init"], "plain");
    assert!(plain.status.success(), "{plain:?}");
    fails(
        &[&init[..], &[&key("useless")]].concat(),
        "plain",
        "is not encrypted",
    );
    std::fs::create_dir(at("third")).expect("makes it");
    std::fs::rename(at("plain").join("store"), at("third").join("store")).expect("moves it");
    std::fs::remove_dir_all(at("third").join("store/h")).expect("was there");
    fails(&[&init[..], &[&key("useless")]].concat(), "third", "is not empty");
    assert!(!at("useless.key").exists());
    let left = names(&at("third"));
    assert_eq!(left, ["store"], "{left:?}");
    wrong_key_named(&at("first"), &key("other"));
}

/// Commands that are given a key which is not one of the store say how another is named to them.
fn wrong_key_named(data: &Path, wrong: &str) {
    for (words, part) in [
        (["key", "list", "--unlock-key-file"], "--unlock-key-file FILE"),
        (["store", "stats", "--key-file"], "(--key-file FILE)"),
        (
            ["doctor", "--listen-api=127.0.0.1:0", "--key-file"],
            "(--key-file FILE)",
        ),
    ] {
        let output = run(cistern().args(words).arg(wrong).arg("--data").arg(data));
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            !output.status.success() && said.contains(part),
            "{words:?}: {said}"
        );
        // Where only the printed key is left.
        let add = "`cistern key add --key-file NEW --recovery-key`";
        assert!(said.contains(add), "{words:?}: {said}");
    }
}
