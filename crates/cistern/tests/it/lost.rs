//! Something of an installation is lost or damaged: whatever is tried names the way out.

use std::path::{Path, PathBuf};

use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::{reason, run, run_ok};
use crate::harness::server::{Server, Setup};
use crate::harness::{disks, files_below, until, world};

pub(crate) const PORTS: [&str; 2] = ["--listen-api=127.0.0.1:0", "--listen-registry=127.0.0.1:0"];

/// A folder that `cistern init` made, with its objects in it.
struct Made {
    setup: Setup,
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (setup, data) = (Setup::default(), dir.path().join("data"));
        run_ok(&mut setup.command(&data, &["init"]));
        // Which leaves everything in the database's file, and nothing in the log beside it.
        run_ok(&mut setup.command(&data, &["recover"]));
        Self {
            setup,
            data,
            _dir: dir,
        }
    }

    fn database(&self) -> PathBuf {
        self.data.join("cistern.sqlite")
    }

    /// What a command that has to fail says.
    fn fails(&self, words: &[&str]) -> String {
        let mut command = self.setup.command(&self.data, words);
        if matches!(words[0], "serve" | "doctor") {
            command.args(PORTS);
        }
        let output = run(&mut command);
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        said
    }

    fn all_say(&self, commands: &[&[&str]], part: &str) {
        for words in commands {
            let said = self.fails(words);
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }

    fn doctor_is_well(&self) {
        run_ok(self.setup.command(&self.data, &["doctor"]).args(PORTS));
    }
}

/// Only with SQLite and a folder the database and the objects are files that a test can spoil.
fn is_local() -> bool {
    world::name() == "sqlite+folder"
}

/// Overwrites a part of a file.
fn spoil(path: &Path, from: usize, to: usize) {
    let mut bytes = std::fs::read(path).expect("reads");
    let end = to.min(bytes.len());
    bytes[from..end].fill(0xa5);
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn a_database_that_is_missing_beside_its_store_leads_to_recover() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    std::fs::remove_file(made.database()).expect("is there");
    let recover = format!("cistern recover --data {}", made.data.display());
    let commands = [&["doctor"][..], &["token", "list"], &["gc"], &["store", "verify"]];
    made.all_say(&commands, &recover);
    made.all_say(&[&["serve"]], "cistern recover");
    run_ok(&mut made.setup.command(&made.data, &["recover"]));
    made.doctor_is_well();
    // Where there is no store either, the first start makes both.
    std::fs::remove_dir_all(&made.data).expect("is there");
    made.doctor_is_well();
    made.all_say(&[&["token", "list"]], "cistern serve --data");
}

/// The database's file is gone, and the log that a killed server left is not: what was committed last stands there
/// alone, and SQLite would apply it to whatever database comes to have that name.
#[tokio::test]
async fn a_log_without_its_database_is_neither_thrown_away_nor_applied_to_another() {
    if !is_local() {
        return;
    }
    let mut server = Server::start();
    let files = Files::start().await;
    for (name, seed) in [("one", 1), ("two", 2)] {
        imported(&server.api(), name, &files.put(name, disks::raw(4, seed))).await;
    }
    server.kill();
    let (database, log) = (
        server.data().join("cistern.sqlite"),
        server.data().join("cistern.sqlite-wal"),
    );
    let length = std::fs::metadata(&log).expect("was left").len();
    assert!(length > 0);
    let aside = database.with_extension("aside");
    std::fs::rename(&database, &aside).expect("is there");
    for words in [&["serve"][..], &["init"], &["doctor"], &["token", "list"]] {
        let mut command = server.local(words);
        if matches!(words[0], "serve" | "doctor") {
            command.args(PORTS);
        }
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        let left = std::fs::metadata(&log).expect("is still there").len();
        assert_eq!(left, length, "{words:?}");
    }
    let said = reason(&run(server.local(&["serve"]).args(PORTS)));
    assert!(
        said.contains("put that database back beside it") && said.contains("cistern recover"),
        "{said}"
    );
    // With its file it is the database again.
    std::fs::rename(&aside, &database).expect("is there");
    server.start_again();
    server.kill();

    std::fs::remove_file(&database).expect("is there");
    let told = run_ok(&mut server.local(&["recover"]));
    assert!(
        told.contains("2 images") && told.contains("before_recovery"),
        "{told}"
    );
    run_ok(server.local(&["doctor"]).args(PORTS));
    server.start_again();
    imported(&server.api(), "three", &files.put("three", disks::raw(4, 3))).await;
}

/// The link is somebody's choice of a disk: what takes the database's place does so there, and nothing beside the link.
#[test]
fn a_linked_database_is_recovered_where_it_is() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let (link, disk) = (made.database(), made.data.with_extension("disk"));
    let file = disk.join("db.sqlite");
    std::fs::create_dir(&disk).expect("makes it");
    std::fs::rename(&link, &file).expect("is there");
    std::os::unix::fs::symlink(&file, &link).expect("links");
    made.doctor_is_well();
    spoil(&file, 100, 40_960);
    let before = names(&made.data);
    let told = run_ok(&mut made.setup.command(&made.data, &["recover"]));
    let aside = format!("{}.before_recovery_", file.display());
    assert!(told.contains(&aside), "{told}");
    assert_eq!(std::fs::read_link(&link).expect("is a link still"), file);
    assert_eq!(names(&made.data), before);
    made.doctor_is_well();
    // With its disk away, nothing else is advised than to bring that back.
    std::fs::rename(&disk, disk.with_extension("away")).expect("is there");
    let commands = [&["serve"][..], &["doctor"], &["recover"], &["token", "list"]];
    made.all_say(
        &commands,
        "is a link to a database that is not there: mount its disk",
    );
}

/// What a damaged database lacks would be forgotten for good.
#[test]
fn a_damaged_database_is_not_kept() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let length = std::fs::metadata(made.database()).expect("is there").len();
    let length = usize::try_from(length).expect("small");
    spoil(&made.database(), length - 4 * 4096, length);
    let said = made.fails(&["recover", "--keep-database"]);
    assert!(
        said.contains("damaged") && said.contains("run `cistern recover --data"),
        "{said}"
    );
    run_ok(&mut made.setup.command(&made.data, &["recover"]));
    made.doctor_is_well();
}

#[test]
fn a_damaged_database_leads_to_recover_which_mends_it() {
    if !is_local() {
        return;
    }
    let commands = [
        &["doctor"][..],
        &["serve"],
        &["gc"],
        &["store", "verify"],
        &["store", "rebuild-index"],
        &["token", "list"],
    ];
    for (from, to) in [(0, 4096), (100, 40_960)] {
        let made = Made::new();
        spoil(&made.database(), from, to);
        made.all_say(&commands, "run `cistern recover --data");
        run_ok(&mut made.setup.command(&made.data, &["recover"]));
        made.doctor_is_well();
    }
}

#[test]
fn doctor_finds_damage_that_no_command_meets() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let length = std::fs::metadata(made.database()).expect("is there").len();
    let length = usize::try_from(length).expect("small");
    spoil(&made.database(), length - 4 * 4096, length);
    made.all_say(&[&["doctor"]], "run `cistern recover --data");
}

#[test]
fn doctor_tells_an_older_database_and_a_lost_key_to_secrets() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let older = made.data.with_extension("older");
    std::fs::copy(made.database(), &older).expect("copies");
    let key = made.data.join("secrets.key");
    let aside = made.data.with_extension("key");
    std::fs::rename(&key, &aside).expect("is there");
    made.all_say(&[&["doctor"], &["serve"]], "reset-secrets");
    std::fs::rename(&aside, &key).expect("is there");
    made.doctor_is_well();

    run_ok(&mut made.setup.command(&made.data, &["token", "create"]));
    run_ok(&mut made.setup.command(&made.data, &["gc"]));
    made.doctor_is_well();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", made.database().display()));
    }
    std::fs::copy(&older, made.database()).expect("copies");
    let said = made.fails(&["doctor"]);
    assert!(said.contains("older than the store"), "{said}");
    assert!(said.contains("cistern recover --data"), "{said}");
}

#[test]
fn headers_of_which_none_is_whole_are_named_wherever_they_are_met() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let headers = made.data.join("store/h");
    let copy = made.data.with_extension("copy");
    let copied = copy.display().to_string();
    run_ok(&mut made.setup.command(
        &made.data,
        &[
            "store",
            "copy",
            &made.data.join("store").display().to_string(),
            &copied,
        ],
    ));
    for entry in std::fs::read_dir(&headers).expect("lists") {
        spoil(&entry.expect("an entry").path(), 40, 60);
    }
    let commands = [
        &["doctor"][..],
        &["serve"],
        &["store", "verify"],
        &["store", "heal", &copied],
        &["recover"],
    ];
    made.all_say(&commands, "below `h/` back from a copy");
    for entry in std::fs::read_dir(copy.join("h")).expect("lists") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), headers.join(entry.file_name())).expect("copies");
    }
    made.doctor_is_well();
    let told = run_ok(&mut made.setup.command(&made.data, &["store", "verify", "--json"]));
    let told: serde_json::Value = serde_json::from_str(&told).expect("one document");
    assert_eq!(
        told["verification"]["report"]["damaged"]
            .as_array()
            .map_or(0, Vec::len),
        0,
        "{told:#}"
    );
}

/// An image whose packs are all gone, and a copy of the store that was made before it.
#[tokio::test]
async fn gc_and_a_copy_name_what_is_missing_and_what_helps() {
    if !is_local() {
        return;
    }
    let mut server = Server::start();
    let (dir, files) = (
        tempfile::tempdir().expect("a temporary folder"),
        Files::start().await,
    );
    let (objects, copy) = (server.objects(), dir.path().join("copy"));
    let (from, to) = (objects.display().to_string(), copy.display().to_string());
    run_ok(&mut server.local(&["store", "copy", &from, &to]));
    imported(&server.api(), "one", &files.put("one.img", disks::raw(8, 1))).await;
    server.terminate();
    std::fs::remove_dir_all(objects.join("p")).expect("holds the image");

    let fails = |words: &[&str], parts: &[&str]| {
        let output = run(&mut server.local(words));
        let said = reason(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        for part in parts {
            assert!(said.contains(part), "{words:?}: no `{part}` in {said}");
        }
    };
    let helps = [
        "`p/",
        "cistern store verify",
        "cistern store heal COPY",
        "image delete ID --purge",
    ];
    fails(&["gc"], &helps);
    let helps = [
        "the copy does not have it",
        "imported after the copy was made",
        "import them again, or heal from another copy",
    ];
    fails(&["store", "heal", &to], &helps);
    let made = Made::new();
    let other = made.data.join("store").display().to_string();
    fails(&["store", "heal", &other], &["is a copy of another store ("]);
}

impl Made {
    fn objects(&self) -> PathBuf {
        self.data.join("store")
    }

    fn doctor_says(&self, name: &str) -> String {
        let mut doctor = self.setup.command(&self.data, &["doctor", "--json"]);
        line_of(&run(doctor.args(PORTS)).stdout, name)
    }
}

/// What `doctor --json` says by this name, with its state.
pub(crate) fn line_of(stdout: &[u8], name: &str) -> String {
    let told: serde_json::Value = serde_json::from_slice(stdout).expect("one document");
    let checks = told["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name} in {told:#}"));
    format!(
        "{} {}",
        check["state"].as_str().expect("text"),
        check["text"].as_str().expect("text")
    )
}

/// The names in a folder, without the files that go away with the last that has the database open.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("lists");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

/// Copies all files below a folder.
fn copy_all(from: &Path, to: &Path) {
    for path in files_below(from) {
        let name = to.join(path.strip_prefix(from).expect("below it"));
        std::fs::create_dir_all(name.parent().expect("a folder")).expect("makes it");
        std::fs::copy(&path, name).expect("copies");
    }
}

#[tokio::test]
async fn a_database_that_is_newer_than_the_store_is_not_replaced_unasked() {
    if !is_local() {
        return;
    }
    let mut server = Server::start();
    let (dir, files) = (
        tempfile::tempdir().expect("a temporary folder"),
        Files::start().await,
    );
    imported(&server.api(), "old", &files.put("old.img", disks::raw(4, 1))).await;
    server.terminate();
    let (objects, copy) = (server.objects(), dir.path().join("copy"));
    copy_all(&objects, &copy);
    server.start_again();
    for (name, seed) in [("new", 2), ("newer", 3)] {
        imported(&server.api(), name, &files.put(name, disks::raw(4, seed))).await;
    }
    server.terminate();
    std::fs::remove_dir_all(&objects).expect("is there");
    copy_all(&copy, &objects);

    let keep = format!("recover --keep-database --data {}", server.data().display());
    let output = run(server.local(&["doctor", "--json"]).args(PORTS));
    let said = line_of(&output.stdout, "journal");
    assert!(said.starts_with("failed") && said.contains(&keep), "{said}");
    let before = names(&server.data());
    let output = run(&mut server.local(&["recover"]));
    let said = reason(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["(2 images", "--keep-database", "--replace-database"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!(names(&server.data()), before, "nothing is left or moved");
    let told = run_ok(&mut server.local(&["recover", "--replace-database"]));
    assert!(
        told.contains(": 1 image,") && told.contains("before_recovery"),
        "{told}"
    );
    let output = run(server.local(&["doctor", "--json"]).args(PORTS));
    let said = line_of(&output.stdout, "stored data");
    assert!(said.starts_with("ok not all of it was read since"), "{said}");
    assert!(said.contains("the scrub is due"), "{said}");
    let stats = run_ok(&mut server.local(&["store", "stats"]));
    assert!(!stats.contains("1970"), "{stats}");
}

#[test]
fn a_database_of_another_store_or_with_changes_of_its_own_is_not_replaced_unasked() {
    if !is_local() {
        return;
    }
    let (made, other) = (Made::new(), Made::new());
    run_ok(&mut made.setup.command(&made.data, &["token", "create"]));
    let before = names(&made.data);
    let said = made.fails(&["recover"]);
    assert!(said.contains("knows what the store's journal does not"), "{said}");
    std::fs::remove_dir_all(made.objects()).expect("is there");
    std::fs::rename(other.objects(), made.objects()).expect("is there");
    let said = made.fails(&["recover"]);
    assert!(said.contains("of another store ("), "{said}");
    assert_eq!(names(&made.data), before, "nothing is moved");
    run_ok(&mut made.setup.command(&made.data, &["recover", "--replace-database"]));
    made.doctor_is_well();
}

#[test]
fn nothing_is_made_in_the_place_of_a_store_that_is_away() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    let gone = made.data.join("store.gone");
    std::fs::rename(made.objects(), &gone).expect("is there");
    let commands = [
        &["doctor"][..],
        &["serve"],
        &["store", "verify"],
        &["store", "stats"],
        &["store", "rebuild-index"],
        &["gc"],
    ];
    let away = "does not hold the store";
    let said = made.doctor_says("objects");
    assert!(said.starts_with("failed") && said.contains(away), "{said}");
    made.all_say(&commands[..4], away);
    for words in commands {
        made.fails(words);
    }
    assert!(!made.objects().exists(), "it was made");
    // What a disk is mounted on that is not.
    std::fs::create_dir(made.objects()).expect("makes it");
    made.all_say(&commands[..4], away);
    drop(made.fails(&["recover"]));
    let left = std::fs::read_dir(made.objects()).expect("lists").count();
    assert_eq!(left, 0, "something was made in it");
    std::fs::remove_dir(made.objects()).expect("is empty");
    std::fs::rename(&gone, made.objects()).expect("is there");
    made.doctor_is_well();
}

#[test]
fn headers_that_are_missing_are_named_wherever_they_are_missed() {
    if !is_local() {
        return;
    }
    let made = Made::new();
    std::fs::rename(made.objects().join("h"), made.data.join("h")).expect("is there");
    let commands = [&["doctor"][..], &["serve"], &["store", "verify"], &["recover"]];
    made.all_say(
        &commands,
        "its headers (`h/`) are missing: put the objects below `h/` back",
    );
    std::fs::rename(made.data.join("h"), made.objects().join("h")).expect("is there");
    made.doctor_is_well();
}

#[tokio::test]
async fn doctor_tells_a_journal_that_is_gone_and_a_server_writes_it_anew() {
    if !is_local() {
        return;
    }
    let mut server = Server::start();
    server.terminate();
    let journal = server.objects().join("j");
    let said = |server: &Server| {
        let output = run(server.local(&["doctor", "--json"]).args(PORTS));
        line_of(&output.stdout, "journal")
    };
    assert!(said(&server).starts_with("ok"), "{}", said(&server));
    let newest = files_below(&journal).into_iter().max().expect("there is one");
    spoil(&newest, 40, 60);
    let damaged = said(&server);
    assert!(
        damaged.starts_with("failed") && damaged.contains("cannot be read"),
        "{damaged}"
    );
    std::fs::remove_dir_all(&journal).expect("is there");
    let gone = said(&server);
    assert!(
        gone.starts_with("failed") && gone.contains("(`j/`) is gone, all of it") && gone.contains("anew"),
        "{gone}"
    );
    server.start_again();
    until("the journal to be there", 30, async || {
        said(&server).starts_with("ok").then_some(())
    })
    .await;
}
