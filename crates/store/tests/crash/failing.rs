//! The database's own file fails: a call that reads, writes or syncs it or its log gives an error, once, whichever. The
//! process says so and loses nothing; one that is started then finds everything as it was, and does the same work.

use std::path::Path;
use std::process::Output;

use store::{Kind, Result};

use crate::check;
use crate::place::{Clock, DATABASE, Place, START_US};
use crate::promises::Promises;
use crate::trace::{self, setting};
use crate::work::Voice;

const KEPT: &str = "2,4,6,101,0,8";
const OLD: &str = "2,4,50,52,54,56,58,60";
const FRESH: &str = "4,70,72,103,74";
const BLOB: &str = "30000:9";

/// A fault: calls that fail, and how.
struct Fault {
    calls: &'static str,
    error: &'static str,
    /// The kinds of error that tell it.
    kinds: &'static [Kind],
}

/// SQLite reports a read or a sync that fails as an I/O error, whatever the system said.
const FAULTS: [Fault; 5] = [
    Fault {
        calls: "pwrite64",
        error: "EIO",
        kinds: &[Kind::Io],
    },
    Fault {
        calls: "pwrite64",
        error: "ENOSPC",
        kinds: &[Kind::NoSpace, Kind::Io],
    },
    Fault {
        calls: "fdatasync,fsync",
        error: "EIO",
        kinds: &[Kind::Io],
    },
    Fault {
        calls: "fdatasync,fsync",
        error: "ENOSPC",
        kinds: &[Kind::NoSpace, Kind::Io],
    },
    Fault {
        calls: "pread64",
        error: "EIO",
        kinds: &[Kind::Io],
    },
];

const STEPS: [&str; 4] = ["disk fresh", "object blob", "delete-disk old", "gc all"];

async fn step(place: &Place, words: &str) -> Result<()> {
    match words {
        "disk fresh" => place.disk_import("fresh", FRESH, None).await,
        "object blob" => place.object_put("blob", BLOB).await,
        "delete-disk old" => place.delete("image", "old").await,
        _ => place.gc().await.map(drop),
    }
}

fn spec(words: &str) -> &'static str {
    match words {
        "disk fresh" => FRESH,
        "object blob" => BLOB,
        _ => "-",
    }
}

/// What the child does: each step, and once more where it fails. It says how each went.
pub(crate) async fn steps(folder: &Path, voice: &Voice) -> Result<()> {
    let clock = Clock::at(START_US + 1_000_000);
    let place = match Place::open(folder, 1, clock.clone()).await {
        Err(error) => {
            tell(voice, "open", &error);
            match Place::open(folder, 1, clock).await {
                Err(error) => {
                    tell(voice, "open", &error);
                    return Ok(());
                }
                Ok(place) => place,
            }
        }
        Ok(place) => place,
    };
    for words in STEPS {
        voice.say(&format!("begin {words} {}", spec(words)));
        let mut done = step(&place, words).await;
        if let Err(error) = &done {
            tell(voice, words, error);
            done = step(&place, words).await;
            if done.is_ok() {
                voice.say("again");
            }
        }
        if done.is_ok() {
            voice.say(&format!("done {words} {}", spec(words)));
        }
    }
    Ok(())
}

fn tell(voice: &Voice, words: &str, error: &store::Error) {
    voice.say(&format!("failed {:?} {words}: {error}", error.kind()));
}

/// What a child came to.
struct Ended {
    promises: Promises,
    failures: Vec<String>,
    /// Steps that were done by the second try of the same process.
    again: usize,
}

fn heard(voice: &Path) -> Ended {
    let mut ended = Ended {
        promises: before(),
        failures: Vec::new(),
        again: 0,
    };
    for line in std::fs::read_to_string(voice).expect("it spoke").lines() {
        match line.strip_prefix("failed ") {
            Some(failure) => ended.failures.push(failure.to_owned()),
            None if line == "again" => ended.again += 1,
            None => ended.promises.line(line),
        }
    }
    ended
}

fn before() -> Promises {
    let mut promises = Promises::default();
    promises.line(&format!("done disk kept {KEPT}"));
    promises.line(&format!("done disk old {OLD}"));
    promises
}

async fn prepare(folder: &Path) {
    let place = Place::open(folder, 1, Clock::at(START_US)).await.expect("opens");
    place.disk_import("kept", KEPT, None).await.expect("is taken");
    place.disk_import("old", OLD, None).await.expect("is taken");
    // Killed: the log is there when the others start.
    drop(place);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("is made");
    for entry in std::fs::read_dir(from).expect("is there") {
        let path = entry.expect("is there").path();
        let to = to.join(path.file_name().expect("has one"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("is copied");
        }
    }
}

/// Runs the child with one fault. Whether it was hit at all. Calls are counted for each thread, and a connection that
/// is given up is followed by another one, with a thread of its own: it may meet the fault again.
fn failed_child(fault: &Fault, number: u64, folder: &Path, dir: &Path) -> (Output, bool) {
    let database = folder.join(DATABASE).to_string_lossy().into_owned();
    let log = format!("{database}-wal");
    let trace = dir.join("trace").to_string_lossy().into_owned();
    let traced = format!("trace={}", fault.calls);
    let inject = format!("inject={}:error={}:when={number}", fault.calls, fault.error);
    let options = [
        "-P", &database, "-P", &log, "-e", &traced, "-e", &inject, "-o", &trace,
    ];
    let voice = dir.join("voice");
    let words = ["steps", &folder.to_string_lossy(), &voice.to_string_lossy()];
    let output = trace::child(&options, &words);
    let is_hit = std::fs::read_to_string(&trace)
        .expect("there is one")
        .contains("(INJECTED)");
    (output, is_hit)
}

/// One run; gives what the child said, or nothing where there was no such call any more.
async fn one(fault: &Fault, number: u64, prepared: &Path) -> Option<Ended> {
    let name = format!("{} number {number} fails with {}", fault.calls, fault.error);
    let dir = crate::scratch();
    let folder = dir.path().join("root");
    copy(prepared, &folder);
    let (output, is_hit) = failed_child(fault, number, &folder, dir.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !said.contains("panicked"),
        "{name}: {output:?}"
    );
    let mut ended = heard(&dir.path().join("voice"));
    for failure in &ended.failures {
        let is_told = fault
            .kinds
            .iter()
            .any(|kind| failure.starts_with(&format!("{kind:?} ")));
        assert!(is_told, "{name}: {failure}");
    }
    // A fault that nobody was told of is one that SQLite made good.
    let mut promises = ended.promises.clone();
    let checked = async {
        let place = Place::open(&folder, 2, Clock::at(START_US + 2_000_000)).await;
        let place = place.map_err(|error| format!("does not open: {error:?}"))?;
        promises.keep(&place).await?;
        for words in STEPS {
            let is_done = match words {
                "disk fresh" => place.disk_read("fresh").await.is_ok_and(|found| found.is_some()),
                "object blob" => place.object_read("blob").await.is_ok_and(|found| found.is_some()),
                _ => false,
            };
            if !is_done {
                let done = step(&place, words).await;
                done.map_err(|error| format!("`{words}` fails again: {error:?}"))?;
                promises.line(&format!("done {words} {}", spec(words)));
            }
        }
        promises.keep(&place).await?;
        place
            .close()
            .await
            .map_err(|error| format!("does not close: {error:?}"))?;
        check::check(&folder, promises.clone()).await
    };
    if let Err(error) = checked.await {
        panic!("{name}: {error}; the child said {:?}", ended.failures);
    }
    ended.promises = promises;
    is_hit.then_some(ended)
}

/// The next number: each of the first, then fewer. `CISTERN_CRASH_STEP` at 0 means each.
fn after(number: u64) -> u64 {
    match setting("CISTERN_CRASH_STEP", 4) {
        0 => number + 1,
        step => number + 1 + number / step,
    }
}

#[tokio::test]
async fn a_database_file_that_fails_costs_nothing_but_the_step() {
    if !trace::strace_or_skip() {
        return;
    }
    let prepared = crate::scratch();
    prepare(prepared.path()).await;
    for fault in FAULTS {
        let (mut runs, mut failures, mut again, mut number) = (0, 0, 0, 1);
        while let Some(ended) = one(&fault, number, prepared.path()).await {
            runs += 1;
            failures += ended.failures.len();
            again += ended.again;
            number = after(number);
        }
        let Fault { calls, error, .. } = fault;
        eprintln!(
            "{calls} with {error}: {runs} of up to {number} calls, {failures} failures told, {again} made good at once"
        );
        assert!(
            runs > 3 && failures > 1,
            "{calls} with {error}: the fault is not seen"
        );
    }
}
