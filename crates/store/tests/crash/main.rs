//! Power loss. A process works on a store, SQLite and a folder, as the service does, under `strace`. From what it
//! called the file systems are computed that a power loss at any moment may leave behind (`filesystem.rs` says by which
//! rules), and each is opened as at a start: everything that was acknowledged reads back, and nothing is left.
//!
//! `CISTERN_CRASH_SEED`, `CISTERN_CRASH_SINGLE`, `CISTERN_CRASH_DRAWN` and `CISTERN_CRASH_ONE_IN` make it look at more
//! (`states::Plan`); a failure names its moment and lot.

mod broken;
mod check;
mod content;
mod events;
mod failing;
mod filesystem;
mod place;
mod promises;
mod states;
mod trace;
mod work;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use broken::Forgotten;
use events::{Change, History};
use states::{Found, Plan, States};
use trace::setting;

/// Not a test: what the others start as a process of its own.
#[test]
fn child() {
    let Some(words) = trace::asked() else { return };
    let [what, folder, voice] = &words[..] else {
        panic!("`{words:?}` is not understood");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs nothing");
    let voice = work::Voice::to(Path::new(voice));
    let done = match what.as_str() {
        "work" => runtime.block_on(work::work(Path::new(folder), &voice)),
        "steps" => runtime.block_on(failing::steps(Path::new(folder), &voice)),
        _ => panic!("`{what}` is not known"),
    };
    done.expect("works");
    // Killed, as it were: nothing is closed.
    std::process::exit(0);
}

/// In memory where there is such a folder: whether a state is on a disk makes no difference to it.
fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a folder can be made")
}

/// One history for all tests of this process.
fn history() -> &'static History {
    static HISTORY: OnceLock<History> = OnceLock::new();
    HISTORY.get_or_init(|| {
        let dir = scratch();
        let (root, voice) = (dir.path().join("root"), dir.path().join("voice"));
        std::fs::create_dir(&root).expect("is made");
        let words = ["work", &root.to_string_lossy(), &voice.to_string_lossy()];
        let calls = trace::traced(&dir.path().join("trace"), &words);
        History::of(calls, &root, &voice)
    })
}

fn plan() -> Plan {
    Plan {
        from: 0,
        seed: setting("CISTERN_CRASH_SEED", 1),
        single: usize::try_from(setting("CISTERN_CRASH_SINGLE", 6)).expect("fits"),
        drawn: setting("CISTERN_CRASH_DRAWN", 2),
        one_in: setting("CISTERN_CRASH_ONE_IN", 60),
    }
}

fn look(found: Found) -> Result<(), String> {
    let dir = scratch();
    check::lay_out(&found.state, dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing");
    let checked = runtime.block_on(check::check(dir.path(), found.promises));
    checked.map_err(|error| format!("after {} events, {:?}: {error}", found.moment, found.lot))
}

/// Looks at states on all processors until one is not as it should be. Gives how many were thought of and looked at.
fn first_failure(states: States<'_>) -> (Option<String>, u64, u64) {
    let shared = Mutex::new((states, None::<String>, 0));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || {
        let mut shared = lock();
        if shared.1.is_some() {
            return None;
        }
        shared.2 += 1;
        shared.0.next()
    };
    let work = || {
        while let Some(found) = next() {
            if let Err(error) = look(found) {
                lock().1.get_or_insert(error);
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    let (states, failure, looked) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    (failure, states.made, looked)
}

#[test]
fn everything_acknowledged_survives_a_power_loss() {
    if !trace::strace_or_skip() {
        return;
    }
    let (begun, history) = (Instant::now(), history());
    let syncs = history
        .events
        .iter()
        .filter(|event| matches!(event.change, Change::Sync(_)));
    let (syncs, events) = (syncs.count(), history.events.len());
    let (failure, made, looked) = first_failure(States::new(history, plan()));
    eprintln!(
        "{events} events, {syncs} of them syncs: {made} states, {looked} different, in {:?}",
        begun.elapsed()
    );
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    assert!(
        events > 500 && syncs > 100 && looked > 500,
        "too little to say anything"
    );
}

#[test]
fn what_forgets_to_sync_is_caught() {
    if !trace::strace_or_skip() {
        return;
    }
    for forgotten in Forgotten::ALL {
        let broken = forgotten.history(history());
        let mut plan = plan();
        if forgotten == Forgotten::Order {
            // Between a name and its sync there are few moments, and only the header's count: no row names it first.
            plan.one_in = 1;
        } else {
            plan.from = broken::begin(history());
        }
        let (failure, _, looked) = first_failure(States::new(&broken, plan));
        let failure = failure.unwrap_or_else(|| panic!("{forgotten:?} is not caught by {looked} states"));
        eprintln!("{forgotten:?} is caught by one of {looked} states: {failure:.200}");
    }
}
