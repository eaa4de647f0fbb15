//! What a hostile parser would try: `cistern __sandbox self-test` runs each attempt in a child that gave everything
//! up, and says how it ended.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, getppid, pidfd_open, test_kill_process};

use super::{SUBCOMMAND, child, lockdown};
use crate::platform::command::{self, End};

/// The attempts, and how each must end.
const ATTEMPTS: [(&str, Wanted); 18] = [
    ("nothing", Wanted::Allowed),
    ("open", Wanted::Killed),
    ("create", Wanted::Killed),
    ("socket", Wanted::Killed),
    ("unix-socket", Wanted::Killed),
    ("exec", Wanted::Killed),
    ("fork", Wanted::Killed),
    ("thread", Wanted::Killed),
    ("signal", Wanted::Killed),
    ("other-process", Wanted::Killed),
    ("memory-file", Wanted::Killed),
    ("write-input", Wanted::Killed),
    ("write-pipe", Wanted::Allowed),
    ("memory", Wanted::Denied),
    ("loop", Wanted::OutOfTime),
    ("landlock", Wanted::Denied),
    // Kernels that lack one of the two walls.
    ("without-landlock", Wanted::Killed),
    ("without-seccomp", Wanted::NotLocked),
];

/// How an attempt must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// It gets through.
    Allowed,
    /// It is told no, or this kernel does not have what is tried.
    Denied,
    /// It is ended for a forbidden system call.
    Killed,
    /// It is ended for using too much processor time.
    OutOfTime,
    /// It refuses to begin.
    NotLocked,
}

/// What an attempt exits with when it got through.
const GOT_THROUGH: i32 = 0;
/// What it exits with when it was told no.
const TOLD_NO: i32 = 10;
/// What it exits with when this kernel does not have what is tried.
const NOT_KNOWN: i32 = 12;
/// Processor time of an attempt, in seconds.
const CPU_SECONDS: u64 = 1;

/// Runs every attempt and writes a line about each; fails where one ended otherwise than it should.
pub fn all() -> ExitCode {
    let mut is_tight = true;
    for (name, wanted) in ATTEMPTS {
        let end = one_in_child(name);
        let (found, text) = match &end {
            Ok(End::Code(GOT_THROUGH)) => (Some(Wanted::Allowed), "allowed"),
            Ok(End::Code(TOLD_NO)) => (Some(Wanted::Denied), "denied"),
            Ok(End::Code(NOT_KNOWN)) => (Some(Wanted::Denied), "not known to this kernel"),
            Ok(End::Code(code)) if *code == i32::from(child::CODE_NOT_LOCKED) => {
                (Some(Wanted::NotLocked), "refused to begin")
            }
            Ok(End::Signal(libc::SIGSYS)) => (Some(Wanted::Killed), "denied (killed)"),
            Ok(End::Signal(libc::SIGXCPU)) => (Some(Wanted::OutOfTime), "ended (out of time)"),
            _ => (None, "unclear"),
        };
        is_tight &= found == Some(wanted);
        let _ = match found {
            Some(_) => writeln!(io::stdout(), "{name}: {text}"),
            None => writeln!(io::stdout(), "{name}: {text}: {end:?}"),
        };
    }
    if is_tight {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one_in_child(name: &str) -> io::Result<End> {
    let args = [SUBCOMMAND, "attempt", name].map(str::to_owned);
    // Writable, so that it is the sandbox that forbids writing to it.
    let input = File::options().read(true).write(true).open("/dev/null")?;
    let (process, mut output) = command::own_start(&args, input)?;
    io::copy(&mut output, &mut io::sink())?;
    process.end()
}

/// The child: gives everything up, then tries.
pub fn one(name: &str) -> ExitCode {
    match name {
        // The second wall by itself.
        "landlock" => {
            let is_known = lockdown::landlock();
            let is_denied = File::open("/etc/passwd").is_err();
            return code(match (is_known, is_denied) {
                (Ok(false), _) => NOT_KNOWN,
                (_, true) => TOLD_NO,
                (_, false) => GOT_THROUGH,
            });
        }
        "without-landlock" => {
            let lacking = [
                libc::SYS_landlock_create_ruleset,
                libc::SYS_landlock_add_rule,
                libc::SYS_landlock_restrict_self,
            ];
            if lockdown::pretend_without(&lacking).is_err() || lockdown::landlock() != Ok(false) {
                return code(GOT_THROUGH);
            }
        }
        "without-seccomp" if lockdown::pretend_without(&[libc::SYS_seccomp]).is_err() => {
            return code(GOT_THROUGH);
        }
        _ => {}
    }
    let (Ok(input), Ok(output)) = (
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
    ) else {
        return code(TOLD_NO);
    };
    let parent = getppid();
    if lockdown::all(CPU_SECONDS, output.as_raw_fd(), None).is_err() {
        return child::CODE_NOT_LOCKED.into();
    }
    let (mut input, mut output) = (File::from(input), File::from(output));
    let through = match name {
        "nothing" | "without-seccomp" => true,
        "open" | "without-landlock" => File::open("/etc/passwd").is_ok(),
        "create" => File::create("/tmp/cistern-sandbox-escaped").is_ok(),
        "socket" => TcpStream::connect("127.0.0.1:1").is_ok(),
        "unix-socket" => UnixStream::connect("/run/none").is_ok(),
        "exec" => {
            let _ = command::replace("/bin/true");
            false
        }
        "fork" => command::run("/bin/true").is_ok(),
        "thread" => std::thread::Builder::new().spawn(|| ()).is_ok(),
        "signal" => parent.is_some_and(|parent| test_kill_process(parent).is_ok()),
        "other-process" => parent.is_some_and(|parent| pidfd_open(parent, PidfdFlags::empty()).is_ok()),
        "memory-file" => rustix::fs::memfd_create("escaped", MemfdFlags::empty()).is_ok(),
        "write-input" => input.write_all(b"escaped").is_ok(),
        "write-pipe" => output.write_all(b"allowed").is_ok(),
        "memory" => Vec::<u8>::new().try_reserve_exact(1 << 30).is_ok(),
        "loop" => spin(),
        _ => false,
    };
    code(if through { GOT_THROUGH } else { TOLD_NO })
}

/// Computes for longer than is allowed.
fn spin() -> bool {
    let mut state = 1_u64;
    for _ in 0..1_u64 << 40 {
        state = std::hint::black_box(state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (state >> 29));
    }
    state != 0
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
