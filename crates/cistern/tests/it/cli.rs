//! The `cistern` command as scripts rely on it: help, exit codes, one JSON document, what lands on which stream.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use sea_orm::DbBackend;
use serde_json::{Value, json};

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{cistern, command, document, reason, run, run_ok, skip, stdout};
use crate::harness::server::wrapped;
use crate::harness::world::Place;
use crate::harness::{Server, disks, largest_spoil, server::Setup, until};
use crate::migrate::{database, execute, texts};

/// Commands that scripts rely on; more may be there, none of these may go.
const PROMISED: &[&str] = &[
    "completions",
    "config check",
    "config list",
    "doctor",
    "events",
    "gc",
    "image delete",
    "image export",
    "image get",
    "image import",
    "image list",
    "image restore",
    "image update",
    "init",
    "jobs cancel",
    "jobs list",
    "key add",
    "key list",
    "key remove",
    "serve",
    "store copy",
    "store heal",
    "store stats",
    "store verify",
    "team create",
    "team list",
    "token create",
    "token list",
    "token revoke",
    "user create",
    "user disable",
    "user passwd",
];

/// Every command below these words that has no further commands, as its help lists them.
fn leaves(words: &[String]) -> Vec<String> {
    let help = run_ok(cistern().args(words).arg("--help"));
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let names = list.lines().take_while(|line| !line.is_empty());
    let names = names
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    if names.is_empty() {
        return vec![words.join(" ")];
    }
    let deeper = names.into_iter().filter(|name| *name != "help");
    deeper
        .flat_map(|name| leaves(&[words, &[name.to_owned()]].concat()))
        .collect()
}

#[test]
fn every_command_has_an_example_and_2_for_wrong_usage() {
    let found = leaves(&[]);
    for promised in PROMISED {
        assert!(
            found.iter().any(|leaf| leaf == promised),
            "`cistern {promised}` is gone: {found:?}"
        );
    }
    for leaf in found {
        let words: Vec<&str> = leaf.split(' ').collect();
        let help = run_ok(cistern().args(&words).arg("--help"));
        assert!(help.contains("Usage: cistern"), "{leaf}: {help}");
        assert!(
            help.contains(&format!("  cistern {leaf}")) || leaf == "jobs list",
            "{leaf} has no example: {help}"
        );
        let wrong = run(cistern().args(&words).arg("--no-such-flag"));
        assert_eq!(wrong.status.code(), Some(2), "{leaf}");
        assert!(wrong.stdout.is_empty(), "{leaf}: {wrong:?}");
        assert!(
            String::from_utf8_lossy(&wrong.stderr).contains("--no-such-flag"),
            "{leaf}"
        );
    }
}

#[tokio::test]
async fn a_token_is_all_that_token_create_prints() {
    let server = Server::start();
    let text = run_ok(&mut server.local(&["token", "create", "--name", "narrow", "--scopes", "tag:read"]));
    let secret = text
        .strip_suffix('\n')
        .and_then(|line| line.strip_prefix("dop_v1_"));
    let secret = secret.unwrap_or_else(|| panic!("not one line with a token: {text:?}"));
    assert!(
        secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()),
        "{text:?}"
    );
    let api = server.api().with_token(text.trim());
    api.get("/v2/tags").await.expect(200);
    api.post("/v2/tags", &json!({ "name": "x" })).await.expect(403);

    let team = run(&mut server.local(&["token", "create", "--team", "Nobody"]));
    assert_eq!((team.status.code(), team.stdout.is_empty()), (Some(1), true));
    assert!(reason(&team).contains("Nobody"), "{team:?}");
    for (scopes, said) in [
        ("everything", "write `resource:verb`"),
        (
            "image:write",
            "the scopes of image are image:create, image:delete",
        ),
    ] {
        let refused = run(&mut server.local(&["token", "create", "--scopes", scopes]));
        assert_eq!(
            (refused.status.code(), refused.stdout.is_empty()),
            (Some(2), true)
        );
        assert!(reason(&refused).contains(said), "{refused:?}");
    }
    // What a role does not reach is made all the same, and told: the role may rise.
    run_ok(&mut server.local(&["user", "create", "v@example.com", "--role", "viewer"]));
    let viewers = [
        "token",
        "create",
        "--user",
        "v@example.com",
        "--scopes",
        "image:delete,droplet:read",
    ];
    let made = run(&mut server.local(&viewers));
    assert!(
        made.status.success() && made.stdout.starts_with(b"dop_v1_"),
        "{made:?}"
    );
    let told = "cistern: warning: The scope image:delete opens nothing for now: its user is viewer, and this needs member.";
    assert_eq!(String::from_utf8_lossy(&made.stderr).trim_end(), told);
}

// The file server must answer while the commands run.
#[tokio::test(flavor = "multi_thread")]
async fn with_json_there_is_one_document_on_stdout() {
    let (server, files) = (Server::start(), Files::start().await);
    let url = files.put("disk.img", disks::raw(4, 3));
    let out = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| out.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(file("disk.raw"), disks::raw(4, 4)).expect("writes");
    let remote = |words: &[&str]| document(&mut server.remote(words));
    let local = |words: &[&str]| document(&mut server.local(words));

    let image = remote(&[
        "image", "import", &url, "--name", "by-url", "--region", "lon1", "--tag", "t",
    ]);
    let image = &image["image"];
    assert_eq!(
        json!([
            image["id"],
            image["status"],
            image["regions"],
            image["tags"],
            image["source"]
        ]),
        json!([1, "available", ["lon1"], ["t"], url])
    );
    let handed = remote(&["image", "import", &file("disk.raw"), "--name", "file"]);
    assert_eq!(handed["image"]["source"], "file", "handed over, not uploaded");
    assert_eq!(remote(&["image", "list"])["meta"]["total"], 2);
    let tagged = remote(&["image", "list", "--tag", "t"]);
    assert_eq!(tagged["images"][0]["name"], "by-url");
    assert_eq!(remote(&["image", "get", "by-url"])["image"]["id"], 1);
    let export = remote(&["image", "export", "1", "--format", "qcow2", "-o", &file("x")]);
    assert_eq!(export["export"]["format"], "qcow2");
    let by_name = remote(&["image", "export", "1", "-o", &file("by-name.qcow2")]);
    assert_eq!(by_name["export"]["format"], "qcow2");
    let again = run(&mut server.remote(&["image", "export", "1", "--format", "raw", "-o", &file("x")]));
    assert!(again.status.success(), "{again:?}");
    assert!(reason(&again).contains("replaced the file"), "{again:?}");
    assert_eq!(remote(&["image", "delete", "1"])["image"]["status"], "deleted");
    assert_eq!(remote(&["image", "restore", "1"])["image"]["status"], "available");
    assert_eq!(
        remote(&["image", "delete", "1", "--purge"])["image"]["status"],
        "deleted"
    );

    for store in [remote(&["store", "stats"]), local(&["store", "stats"])] {
        assert_eq!(store["roots"], 1, "{store}");
    }
    for verify in [
        remote(&["store", "verify"]),
        local(&["store", "verify", "--read-data"]),
    ] {
        assert_eq!(verify["verify"]["damage"], json!([]), "{verify}");
    }
    assert_eq!(remote(&["jobs"])["jobs"], json!([]));
    for jobs in [
        remote(&["jobs", "list", "--all"]),
        local(&["jobs", "list", "--all"]),
    ] {
        let kinds: Vec<&str> = jobs["jobs"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|j| j["kind"].as_str())
            .collect();
        assert!(kinds.contains(&"image.import"), "{kinds:?}");
    }
    for events in [
        remote(&["events", "--what", "image.delete"]),
        local(&["events", "--what", "image.delete"]),
    ] {
        assert_eq!(events["events"].as_array().map(Vec::len), Some(2), "{events}");
    }
    assert_eq!(local(&["config", "check"])["ok"], true);
    local(&["config", "list"]);
    let script = document(cistern().args(["completions", "bash"]));
    assert_eq!(script["shell"], "bash");
}

#[tokio::test]
async fn with_json_people_and_tokens_are_one_document_each() {
    let server = Server::start();
    let local = |words: &[&str]| document(&mut server.local(words));
    local(&["team", "create", "Web"]);
    assert_eq!(
        local(&["team", "list"])["teams"].as_array().map(Vec::len),
        Some(2)
    );
    local(&[
        "user",
        "create",
        "ann@example.com",
        "--team",
        "Web",
        "--role",
        "owner",
    ]);
    local(&["user", "create", "bob@example.com"]);
    local(&[
        "team",
        "member",
        "add",
        "bob@example.com",
        "--team",
        "Web",
        "--role",
        "viewer",
    ]);
    local(&[
        "team",
        "member",
        "set-role",
        "bob@example.com",
        "--team",
        "Web",
        "--role",
        "member",
    ]);
    let members = local(&["team", "member", "list", "--team", "Web"]).to_string();
    assert!(
        members.contains("bob@example.com") && members.contains("ann@example.com"),
        "{members}"
    );
    local(&["team", "member", "remove", "bob@example.com", "--team", "Web"]);
    assert!(
        local(&["user", "link", "ann@example.com"])
            .to_string()
            .contains("/sign-in/")
    );
    local(&["user", "disable", "ann@example.com"]);
    local(&["user", "enable", "ann@example.com"]);
    assert_eq!(
        local(&["user", "list"])["users"].as_array().map(Vec::len),
        Some(3)
    );

    let mut passwd = server.local(&["user", "passwd", "ann@example.com", "--password-stdin", "--json"]);
    let mut child = passwd
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(b"a long enough pass phrase\n").expect("is read");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).expect("one JSON document");

    let token = local(&["token", "create", "--team", "Web", "--name", "ci"])["token"].take();
    let api = server
        .api()
        .with_token(token["access_token"].as_str().expect("its text"));
    assert_eq!(
        api.get("/v2/account").await.expect(200)["account"]["team"]["name"],
        "Web"
    );
    let listed = local(&["token", "list", "--team", "Web"]);
    assert_eq!(listed["tokens"][0]["name"], "ci", "{listed}");
    local(&["token", "revoke", &token["id"].to_string()]);
    api.get("/v2/account").await.expect(401);
}

#[tokio::test]
async fn what_is_deleted_or_failed_is_shown_with_what_to_do() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let disk = files.put("d.img", disks::raw(4, 1));
    let id = imported(&api, "web", &disk).await["id"].to_string();
    run_ok(&mut server.remote(&["image", "delete", "web"]));
    let bad = import(&api, "db", &files.put("bad.img", vec![7; 4096])).await;
    settled(&api, bad).await;

    let shown = run_ok(&mut server.remote(&["image", "list", "--deleted"]));
    let lines: Vec<&str> = shown.lines().collect();
    let [_, failed, deleted] = lines[..] else {
        panic!("{shown}")
    };
    assert!(
        deleted.contains(&format!("cistern image restore {id}")),
        "{shown}"
    );
    let why = api.get(&format!("/v2/images/{bad}")).await.expect(200);
    let why = why["image"]["error_message"]
        .as_str()
        .expect("a sentence")
        .to_owned();
    assert!(failed.contains("db") && failed.contains(&why), "{shown}");
    run_ok(&mut server.remote(&["image", "restore", &id]));
    let left = document(&mut server.remote(&["image", "list", "--deleted"]));
    assert_eq!(left["meta"]["total"], 1, "{left}");
    api.get("/v2/images?deleted=true&tag_name=x").await.expect(422);
}

#[tokio::test]
async fn a_failure_is_1_with_its_reason_last_and_says_what_to_do() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let nowhere = dir.path().join("nothing").to_str().expect("UTF-8").to_owned();
    for (words, part) in [
        (vec!["image", "get", "nope"], "cistern image list"),
        (vec!["image", "get", "99"], "could not be found"),
        (vec!["image", "delete", "99"], "could not be found"),
        (vec!["image", "restore", "99"], "could not be found"),
        (
            vec!["image", "export", "99", "-o", "/nonexistent/x"],
            "could not be found",
        ),
        (
            vec!["image", "import", "http://169.254.169.254/x", "--name", "x"],
            "does not fetch",
        ),
        (
            vec!["image", "import", "/no/such/file", "--name", "x"],
            "/no/such/file",
        ),
        (
            vec!["image", "list", "--token", "dop_v1_wrong"],
            "Unable to authenticate you. Check --token",
        ),
        (
            vec!["image", "list", "--url", &server.registry_url],
            "not the address of a Cistern API",
        ),
        (
            vec!["image", "list", "--url", "http://127.0.0.1:1"],
            "is the server running",
        ),
        (vec!["jobs", "cancel", "99"], "could not be found"),
        (vec!["store", "stats", "--data", &nowhere], "nothing"),
        (vec!["token", "list", "--data", &nowhere], "nothing"),
    ] {
        for json in [false, true] {
            let mut command = server.remote(&words);
            if json {
                command.arg("--json");
            }
            let output = run(&mut command);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
            assert!(reason(&output).contains(part), "{words:?}: {output:?}");
            let is_empty = output.stdout.is_empty();
            let is_document = serde_json::from_slice::<Value>(&output.stdout).is_ok();
            assert!(is_empty || (json && is_document), "{words:?}: {output:?}");
        }
    }
    assert!(!Path::new(&nowhere).exists(), "looking makes no folder");
}

#[tokio::test]
async fn wrong_usage_is_2_and_says_what_is_right() {
    let server = Server::start();
    for words in [
        vec!["image", "impot"],
        vec!["image", "import", "/no/such/file"],
        vec!["image", "import", "ftp://example.com/disk.img", "--name", "x"],
        vec!["token", "revoke", "ci"],
        vec!["image", "list", "--url", "nonsense"],
        vec!["image", "export", "1", "--format", "vhs", "-o", "x"],
        vec!["image", "export", "1", "-o", "-", "--json"],
        vec!["jobs", "cancel", "abc"],
    ] {
        let output = run(&mut server.remote(&words));
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !reason(&output).is_empty(),
            "{words:?}: {output:?}"
        );
    }
    for (words, part) in [
        (
            vec!["image", "list", "--url", "localhost:8080"],
            "http://host:port",
        ),
        (vec!["events", "--since", "yesterday"], "2026-01-31T08:00:00Z"),
    ] {
        let output = run(&mut server.remote(&words));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(part), "{words:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
    let output = run(&mut server.remote(&["image", "restore", "web"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        reason(&output).contains("cistern image list --deleted"),
        "{output:?}"
    );
    let mut nobody = server.remote(&["image", "list"]);
    let output = run(nobody.env_remove("CISTERN_TOKEN"));
    assert_eq!(output.status.code(), Some(2));
    assert!(reason(&output).contains("cistern token create"), "{output:?}");
}

#[tokio::test]
async fn a_cancelled_job_stops_and_its_image_is_gone() {
    let server = Server::start();
    let api = server.api();
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/disk.img", silent.local_addr().expect("is bound"));
    for way in ["remote", "local"] {
        let id = import(&api, way, &url).await;
        let list = || document(&mut server.remote(&["jobs", "list"]));
        let job = until("the import to run", 60, || async {
            let jobs = list();
            (jobs["jobs"][0]["status"] == "running").then(|| jobs["jobs"][0]["id"].to_string())
        })
        .await;
        let words = ["jobs", "cancel", job.as_str()];
        let said = run_ok(&mut if way == "local" {
            server.local(&words)
        } else {
            server.remote(&words)
        });
        assert!(said.contains("asked to stop"), "{said}");
        let image = settled(&api, id).await;
        assert_eq!(image["status"], "deleted");
        until("its job to end", 60, || async {
            (list()["jobs"] == json!([])).then_some(())
        })
        .await;
        let actions = api.get(&format!("/v2/images/{id}/actions")).await.expect(200);
        assert_eq!(actions["actions"][0]["status"], "errored");
        let again = run(&mut server.remote(&words));
        assert_eq!(again.status.code(), Some(1));
        assert!(reason(&again).contains("has ended already"), "{again:?}");
    }
}

#[tokio::test]
async fn an_import_is_watched_over_a_restart_of_its_server() {
    let (mut server, files) = (Server::start(), Files::start().await);
    server.keep_ports();
    let disk = disks::raw(2, 61);
    let held = files.put_held("held.img", disk.clone(), 1 << 20);
    let mut import = server.remote(&["image", "import", &held.url, "--name", "held", "--json"]);
    let import = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let import = import.expect("it starts");
    until("the download to begin", 60, || async {
        (!held.asked().is_empty()).then_some(())
    })
    .await;
    server.kill();
    held.release();
    server.start_again();
    // The files are served by this thread.
    let output = tokio::task::spawn_blocking(|| import.wait_with_output());
    let output = output.await.expect("waits").expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let id = answer["image"]["id"].as_i64().expect("an id");
    assert!(downloaded(&server.api(), id, "raw").await == disk);
}

#[tokio::test]
async fn a_file_is_uploaded_where_that_is_asked_for() {
    let server = Server::start();
    let file = server.data().join("disk.img");
    let disk = disks::raw(3, 62);
    std::fs::write(&file, &disk).expect("writes");
    let api = server.api();
    for (words, uploads) in [(vec![], 0), (vec!["--upload"], 1)] {
        let mut import = server.remote(&["image", "import", "--name", "disk", "--json"]);
        let text = run_ok(import.arg(&file).args(words));
        let answer: Value = serde_json::from_str(&text).expect("one JSON document");
        let id = answer["image"]["id"].as_i64().expect("an id");
        assert!(downloaded(&api, id, "raw").await == disk);
        let events = api.get("/v2/events?what=upload.complete").await.expect(200);
        assert_eq!(
            events["events"].as_array().map(Vec::len),
            Some(uploads),
            "{events:#}"
        );
    }
}

/// What is whole of image 1 can be saved: what is before its one damaged range, and what is behind it.
fn saved_around(server: &Server, hurt: &std::ops::Range<u64>, disk: &[u8], out: &Path) {
    for (part, wanted) in [
        (0..hurt.start, format!("0-{}", hurt.start - 1)),
        (hurt.end..disk.len() as u64, format!("{}-", hurt.end)),
    ] {
        let words = ["image", "export", "1", "--range", &wanted, "-o"];
        run_ok(server.remote(&words).arg(out));
        let [from, to] = [part.start, part.end].map(|at| usize::try_from(at).expect("small"));
        assert!(
            std::fs::read(out).expect("is there") == disk[from..to],
            "{wanted}"
        );
        std::fs::remove_file(out).expect("is ours");
    }
}

#[tokio::test]
async fn verify_names_each_damaged_image_and_range() {
    let server = Setup::default().uncached().start();
    let files = Files::start().await;
    let api = server.api();
    let (disk, url) = (disks::raw(4, 8), files.put("a.img", disks::raw(4, 8)));
    imported(&api, "hurt", &url).await;
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
    largest_spoil(&server.objects());

    let words = ["store", "verify", "--read-data"];
    let mut hurt = 0..0;
    for mut command in [server.local(&words), server.remote(&words)] {
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stdout(&output);
        let line = text.lines().next().expect("a line");
        let range = line
            .strip_prefix("image 1: bytes ")
            .unwrap_or_else(|| panic!("{text}"));
        let (from, to) = range
            .split(':')
            .next()
            .and_then(|r| r.split_once('-'))
            .expect("a range");
        let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
        assert!(from % 65536 == 0 && from < to && to < 4 << 20, "{line}");
        assert!(reason(&output).contains("damaged"), "{output:?}");
        let json = run(command.arg("--json"));
        assert_eq!(json.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&json.stdout).expect("one JSON document");
        assert_eq!(report["verify"]["damage"][0]["from"], from, "{report}");
        hurt = from..to + 1;
    }
    let shown = stdout(&run(&mut server.remote(&["image", "show", "1"])));
    assert!(shown.contains("Health") && shown.contains("damaged"), "{shown}");
    let image = server.api().get("/v2/images/1").await.expect(200);
    assert_eq!(image["image"]["health"], "damaged");
    assert_eq!(
        image["image"]["damage"],
        json!([{ "from": hurt.start, "to": hurt.end }]),
        "{image}"
    );
    let listed = stdout(&run(&mut server.remote(&["image", "list"])));
    assert!(listed.contains("available, damaged"), "{listed}");
    let listed = document(&mut server.remote(&["image", "list"]));
    assert_eq!(listed["images"][0]["health"], "damaged", "{listed}");
    // The range that is named is the one that cannot be read.
    let out = server.data().join("out.raw");
    let export = run(server.remote(&["image", "export", "1", "-o"]).arg(&out));
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    assert!(!out.exists(), "a damaged disk is not delivered");
    let said = String::from_utf8_lossy(&export.stderr).into_owned();
    let range = format!("bytes {}-{}", hurt.start, hurt.end - 1);
    for part in [&range, "import the same content again", "--range"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        !said.contains("given up") && said.matches("going on").count() <= 1,
        "{said}"
    );
    saved_around(&server, &hurt, &disk, &out);
    // What the command says to do helps, also the image that was hurt. The old client's connection is long over.
    let api = server.api();
    let again = imported(&api, "again", &url).await;
    for id in [1, again["id"].as_i64().expect("an id")] {
        assert!(downloaded(&api, id, "raw").await == disk, "image {id}");
    }
    let output = run(&mut server.local(&words));
    assert!(
        reason(&output).contains("no image needs"),
        "the pack is still there: {output:?}"
    );
    run_ok(&mut server.remote(&["gc", "--now"]));
    run_ok(&mut server.local(&words));
    assert!(
        downloaded(&api, 1, "raw").await == disk,
        "it lies in another pack"
    );
    assert_eq!(api.get("/v2/images/1").await.expect(200)["image"]["health"], "ok");
}

/// The words before a command for which a folder cannot be written. None, with the reason printed, where this machine
/// does not allow it.
fn unwritable(folder: &Path) -> Option<Vec<String>> {
    let flags = if rustix::process::getuid().is_root() {
        "-m"
    } else {
        "-Urm"
    };
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let folder = folder.display().to_string();
    let words = ["unshare", flags, "sh", "-c", script, &folder]
        .map(str::to_owned)
        .to_vec();
    let tried = run(&mut wrapped(command("true"), &words));
    if tried.status.success() {
        return Some(words);
    }
    skip(&format!("a folder cannot be mounted read-only here: {tried:?}"));
    None
}

#[tokio::test]
async fn a_store_on_read_only_media_is_verified_where_it_is() {
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("a.img", disks::raw(4, 8))).await;
    assert_eq!(server.terminate().code(), Some(0));
    let Some(words) = unwritable(&server.data()) else {
        return;
    };
    std::fs::remove_dir(server.objects().join("tmp")).expect("nothing is in it");
    let verify = || wrapped(server.local(&["store", "verify", "--read-data"]), &words);
    let text = run_ok(&mut verify());
    assert!(text.starts_with("No damage in 1 disk"), "{text}");
    largest_spoil(&server.objects());
    let output = run(&mut verify());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).starts_with("image 1: bytes "), "{output:?}");
    // Written last, and not in the file yet.
    std::fs::write(server.data().join("cistern.sqlite-wal"), "a page").expect("writes");
    let output = run(&mut verify());
    let reason = reason(&output);
    let next = "--database sqlite:FILE";
    assert!(
        reason.contains("copy both") && reason.contains(next),
        "{output:?}"
    );
    let copy = tempfile::tempdir().expect("a temporary folder");
    for name in ["cistern.sqlite", "cistern.sqlite-wal"] {
        std::fs::copy(server.data().join(name), copy.path().join(name)).expect("copies");
    }
    let database = format!("sqlite:{}", copy.path().join("cistern.sqlite").display());
    let by_copy = ["store", "verify", "--read-data", "--database", &database];
    let output = run(&mut wrapped(server.local(&by_copy), &words));
    assert!(stdout(&output).starts_with("image 1: bytes "), "{output:?}");
}

/// What is committed last is in the log beside the real file: it is read where that can be written, and missed nowhere.
#[tokio::test]
async fn a_linked_database_on_read_only_media_is_judged_by_where_it_is() {
    let mut server = Setup::default().at(Place::default()).start();
    let files = Files::start().await;
    imported(&server.api(), "one", &files.put("a.img", disks::raw(4, 8))).await;
    server.kill();
    let Some(words) = unwritable(&server.data()) else {
        return;
    };
    let (elsewhere, inside) = (
        tempfile::tempdir().expect("a temporary folder"),
        server.data().join("rows"),
    );
    std::fs::create_dir(&inside).expect("makes it");
    let link = server.data().join("cistern.sqlite");
    for folder in [&inside, elsewhere.path()] {
        for suffix in ["", "-wal"] {
            let from = server.data().join(format!("cistern.sqlite{suffix}"));
            std::fs::copy(from, folder.join(format!("db.sqlite{suffix}"))).expect("copies");
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(server.data().join(format!("cistern.sqlite{suffix}"))).expect("was left");
    }
    let verify = || {
        run(&mut wrapped(
            server.local(&["store", "verify", "--read-data"]),
            &words,
        ))
    };

    symlink(elsewhere.path().join("db.sqlite"), &link).expect("links");
    let output = verify();
    assert!(stdout(&output).starts_with("No damage in 1 disk"), "{output:?}");
    std::fs::remove_file(&link).expect("is there");
    symlink(inside.join("db.sqlite"), &link).expect("links");
    let said = reason(&verify());
    let log = inside.join("db.sqlite-wal").display().to_string();
    assert!(said.contains(&log) && said.contains("copy both"), "{said}");
}

#[tokio::test]
async fn an_image_is_renamed_tagged_and_protected_by_command() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    imported(&api, "one", &files.put("a.img", disks::raw(4, 9))).await;
    let update = |words: &[&str]| {
        let words = [&["image", "update", "1"], words].concat();
        document(&mut server.remote(&words))["image"].clone()
    };
    let image = update(&["--name", "two", "--description", "d", "--distribution", "debian"]);
    let shown = (&image["name"], &image["description"], &image["distribution"]);
    assert_eq!(shown, (&json!("two"), &json!("d"), &json!("Debian")));
    update(&["--tag", "prod"]);
    let image = update(&["--tag", "prod", "--tag", "web"]);
    assert_eq!(image["tags"], json!(["prod", "web"]), "{image}");
    let image = update(&["--untag", "prod", "--protected", "true"]);
    let shown = (&image["tags"], &image["protected"], &image["name"]);
    assert_eq!(shown, (&json!(["web"]), &json!(true), &json!("two")));

    let refused = run(&mut server.remote(&["image", "delete", "two"]));
    assert_eq!(refused.status.code(), Some(1));
    let next = "cistern image update 1 --protected false";
    assert!(reason(&refused).contains(next), "{refused:?}");
    assert_eq!(update(&["--protected", "false"])["protected"], json!(false));
    run_ok(&mut server.remote(&["image", "delete", "two"]));

    for (words, part) in [
        (vec!["image", "update", "1"], "nothing to change"),
        (
            vec!["image", "update", "1", "--distribution", "Foo"],
            "Arch Linux, CentOS",
        ),
        (
            vec!["image", "import", "/x", "--name", "x", "--distribution", "Foo"],
            "Arch Linux, CentOS",
        ),
    ] {
        let wrong = run(&mut server.remote(&words));
        assert_eq!(wrong.status.code(), Some(2), "{words:?}: {wrong:?}");
        let said = String::from_utf8_lossy(&wrong.stderr);
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn people_read_sizes_ages_and_tables() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    imported(&api, "one", &files.put("a.img", disks::raw(4, 9))).await;
    for (words, parts) in [
        (
            vec!["image", "list"],
            vec!["NAME", "one", "4.0 MiB", "available", " s"],
        ),
        (vec!["image", "get", "one"], vec!["4.0 MiB", "raw", "nyc3", "ago"]),
        (vec!["store", "stats"], vec!["4.0 MiB", "1 disk", "1 pack"]),
        (vec!["store", "verify"], vec!["No damage", "1 disk"]),
        (
            vec!["jobs", "list", "--all"],
            vec!["KIND", "image.import", "done", "image 1"],
        ),
        (vec!["events"], vec!["image.create"]),
    ] {
        let text = run_ok(&mut server.remote(&words));
        for part in parts {
            assert!(text.contains(part), "{words:?} lacks `{part}`: {text}");
        }
        assert!(
            !text.contains('\u{1b}'),
            "{words:?}: no colour in a pipe: {text:?}"
        );
    }
}

#[tokio::test]
async fn serve_says_its_addresses_as_json_once_and_its_secrets_only_at_first() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::default();
    for is_first in [true, false] {
        let mut serve = setup.command(&dir.path().join("data"), &["serve", "--json"]);
        serve.args(["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"]);
        let mut child = serve
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("is piped"));
        stdout.read_line(&mut line).expect("reads");
        let said: Value = serde_json::from_str(&line).expect("one line, one document");
        let url = said["api"].as_str().expect("an address");
        assert!(
            url.starts_with("http://127.0.0.1:") && said["registry"].is_string(),
            "{said}"
        );
        assert_eq!(said["first_start"].is_null(), !is_first, "{said}");
        if is_first {
            let token = said["first_start"]["token"].as_str().expect("a token");
            let api = crate::harness::api::Api::new(url, token);
            api.get("/v2/account").await.expect(200);
            let sign_in = said["first_start"]["sign_in_link"].as_str().expect("a link");
            assert!(sign_in.starts_with(&format!("{url}/sign-in/")), "{sign_in}");
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is running");
        assert!(child.wait().expect("ends").success());
        let mut rest = String::new();
        stdout.read_line(&mut rest).expect("reads");
        assert_eq!(rest, "", "nothing else is on stdout");
    }
}

#[tokio::test]
async fn init_makes_a_folder_once_and_doctor_judges_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (data, setup) = (dir.path().join("data"), Setup::default());
    let made = document(&mut setup.command(&data, &["init"]));
    assert_eq!(made["created"], true);
    assert!(
        made["token"].as_str().is_some_and(|t| t.starts_with("dop_v1_")),
        "{made}"
    );
    let again = document(&mut setup.command(&data, &["init"]));
    assert_eq!(json!([again["created"], again["token"]]), json!([false, null]));

    let ports = ["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"];
    let fine = run_ok(setup.command(&data, &["doctor"]).args(ports));
    assert!(
        fine.contains("data folder") && fine.contains("database"),
        "{fine}"
    );
    document(setup.command(&data, &["doctor"]).args(ports));
    let no_folder = dir.path().join("file");
    std::fs::write(&no_folder, "x").expect("writes");
    let bad = run(setup.command(&no_folder, &["doctor"]).args(ports));
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(reason(&bad).contains("failed"), "{bad:?}");
}

/// The database's tables, and where it is a file, its bytes.
async fn database_state(server: &Server) -> (Vec<String>, Option<Vec<u8>>) {
    let file = std::fs::read(server.data().join("cistern.sqlite")).ok();
    let db = database(server).await;
    let tables = match db.get_database_backend() {
        DbBackend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
        _ => "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
    };
    (texts(&db, tables).await, file)
}

#[tokio::test]
async fn doctor_changes_nothing_in_the_database() {
    let mut server = Server::start();
    let ports = ["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"];
    let doctor = |server: &Server| run_ok(server.local(&["doctor"]).args(ports));
    // What was committed last is not in the file yet.
    server.kill();
    let text = doctor(&server);
    assert!(text.contains("its schema is that of this program"), "{text}");
    assert!(
        text.contains("nothing is stored yet; no damage is known"),
        "{text}"
    );
    // As a version left it that knew no migrations.
    let db = database(&server).await;
    execute(&db, "DROP TABLE seaql_migrations").await;
    db.close().await.expect("closes");
    let before = database_state(&server).await;
    assert!(before.0.len() > 20, "{before:?}");
    let text = doctor(&server);
    assert!(text.contains("brings its schema up to date"), "{text}");
    let after = database_state(&server).await;
    assert_eq!(after.0, before.0);
    assert!(after.1 == before.1, "the file has changed");
    // An empty file is no database yet, and stays one.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("cistern.sqlite");
    std::fs::write(&file, "").expect("writes");
    let mut command = cistern();
    run(command.arg("doctor").arg("--data").arg(dir.path()).args(ports));
    assert_eq!(std::fs::read(&file).expect("reads"), b"");
}

#[test]
fn completions_know_the_commands_and_bear_a_reader_that_leaves() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run_ok(cistern().args(["completions", shell]));
        for word in ["image", "verify", "--expected-sha256"] {
            assert!(
                script.contains(word) || script.contains(word.trim_start_matches('-')),
                "{shell}: {word}"
            );
        }
    }
    let mut bash = command("bash");
    bash.args([
        "-c",
        "set -o pipefail; \"$0\" completions bash | head -n 1 >/dev/null",
    ]);
    run_ok(bash.arg(cistern().get_program()));
    // Bash itself takes the script, and offers the verbs of a noun.
    let ask = "eval \"$(\"$0\" completions bash)\"; COMP_WORDS=(cistern image im); COMP_CWORD=2; \
               _cistern cistern im image; echo \"${COMPREPLY[*]}\"";
    let mut bash = command("bash");
    bash.args(["-c", ask]).arg(cistern().get_program());
    assert_eq!(run_ok(&mut bash).trim(), "import");
}
