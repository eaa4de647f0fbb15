//! Processes of a test: the executable under test, and servers beside it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A command; the suite is the one place besides `platform::command` that starts processes.
#[expect(
    clippy::disallowed_methods,
    reason = "tests drive the executable from outside"
)]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// The executable under test, without this machine's settings.
pub(crate) fn cistern() -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_cistern"));
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/nonexistent");
    command
}

/// Where `program` is on this machine: the cache of `tests/clients/install.sh`, then the usual folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let cache = variable("CISTERN_TEST_CACHE")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache/cistern-tests")))
        .map(|cache| cache.join("bin"));
    let usual = [
        "/usr/local/bin",
        "/usr/bin",
        "/usr/sbin",
        "/bin",
        "/sbin",
        "/usr/lib/postgresql/15/bin",
    ];
    cache
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|path| path.exists())
}

/// Where an outside program is. Where it is missing, that is said and the test is to be skipped;
/// `CISTERN_REQUIRE_CLIENTS=1` makes it a failure.
pub(crate) fn find_or_skip(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        skip(&format!(
            "{program} is not installed; tests/clients/install.sh does that"
        ));
    }
    found
}

/// Says why a test is skipped; with `CISTERN_REQUIRE_CLIENTS=1` it fails instead.
pub(crate) fn skip(why: &str) {
    let is_required = variable("CISTERN_REQUIRE_CLIENTS").as_deref() == Some("1");
    assert!(!is_required, "nothing may be skipped here: {why}");
    eprintln!("skipped: {why}");
}

/// An environment variable of the test run.
#[expect(clippy::disallowed_methods, reason = "the suite's own settings")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Starts a long-running helper that ends when this test process does, however it ends: a shell holds our pipe and
/// stops the helper when the pipe closes, then removes `folder`, which is the helper's alone.
pub(crate) fn spawn_guarded(words: &[String], folder: &std::path::Path) -> Guarded {
    let script = "dir=$1; shift; \"$@\" & pid=$!; cat >/dev/null; kill -INT $pid; wait $pid; rm -rf \"$dir\"";
    let log = std::fs::File::create(folder.join("log")).expect("a log file can be made");
    let mut sh = command("sh");
    sh.arg("-c").arg(script).arg("sh").arg(folder).args(words);
    sh.stdin(Stdio::piped())
        .stdout(log.try_clone().expect("clones"))
        .stderr(log);
    Guarded {
        child: sh.spawn().expect("sh starts"),
    }
}

/// A helper process; it stops when this is dropped or the test process ends.
pub(crate) struct Guarded {
    child: Child,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs to the end and returns what it said.
pub(crate) fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"))
}

/// Runs to the end and fails the test, with what it said, unless it succeeds. Returns its standard output.
pub(crate) fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// What it printed.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The reason of a failure, which is the last line on stderr.
pub(crate) fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

/// Runs with `--json`; fails the test unless it ends well with exactly one document on stdout.
pub(crate) fn document(command: &mut Command) -> Value {
    let text = run_ok(command.arg("--json"));
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{command:?} printed no single document ({e}): {text}"))
}

/// The folders in `/proc` of the parsers that a server has started. Between fork and exec a child is still a copy of
/// its parent, and no parser.
pub(crate) fn parsers_of(server: u32) -> Vec<PathBuf> {
    let is_ours = |folder: &PathBuf| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        read("status").contains(&format!("\nPPid:\t{server}\n")) && read("cmdline").contains("__sandbox")
    };
    let processes = std::fs::read_dir("/proc").expect("lists");
    processes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_ours)
        .collect()
}

/// A free port on loopback, for helpers that cannot use port 0. From below those that the system gives to connections
/// and to port 0, and by another one for each call and process, so that nobody takes it before it is used.
pub(crate) fn free_port() -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let next = || {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let port = std::process::id().wrapping_mul(61).wrapping_add(call) % COUNT;
        FIRST + u16::try_from(port).expect("is below the count")
    };
    std::iter::repeat_with(next)
        .take(1000)
        .find(is_free)
        .expect("loopback has a free port")
}

/// Processor time a process has used, in ticks, and the most memory it had, in KiB.
pub(crate) fn ticks_and_peak(pid: u32) -> (u64, u64) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name").split(' ').collect();
    let ticks = [11, 12]
        .iter()
        .map(|n| fields[*n].parse::<u64>().expect("a number"))
        .sum();
    let folder = PathBuf::from(format!("/proc/{pid}"));
    (ticks, peak_kib(&folder).expect("it runs"))
}

/// The most memory that a process had (`VmHWM`), in KiB, by its folder in `/proc`; none where it has ended.
pub(crate) fn peak_kib(process: &std::path::Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
