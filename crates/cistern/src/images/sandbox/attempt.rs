//! What a hostile parser would try: `cistern __sandbox self-test` runs each attempt in a child that gave everything
//! up, and says how it ended.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::{SUBCOMMAND, child, lockdown};
use crate::platform::command::{self, End};

/// The attempts; the first must succeed, all others must not.
const ATTEMPTS: [&str; 9] = [
    "nothing",
    "open",
    "create",
    "socket",
    "unix-socket",
    "exec",
    "fork",
    "memory",
    "landlock",
];
/// What an attempt exits with when it got through.
const GOT_THROUGH: i32 = 0;
/// What it exits with when it was told no.
const TOLD_NO: i32 = 10;
/// What it exits with when this kernel does not have what is tried.
const NOT_KNOWN: i32 = 12;
/// Linux's number of the signal for a forbidden system call.
const SIGSYS: i32 = 31;

/// Runs every attempt and writes a line about each; fails where one ended otherwise than it should.
pub fn all() -> ExitCode {
    let mut is_tight = true;
    for name in ATTEMPTS {
        let end = one_in_child(name);
        let verdict = match &end {
            Ok(End::Code(GOT_THROUGH)) => "allowed".to_owned(),
            Ok(End::Code(TOLD_NO)) => "denied".to_owned(),
            Ok(End::Code(NOT_KNOWN)) => "not known to this kernel".to_owned(),
            Ok(End::Signal(SIGSYS)) => "denied (killed)".to_owned(),
            other => format!("unclear: {other:?}"),
        };
        is_tight &= match name {
            "nothing" => verdict == "allowed",
            "landlock" => verdict != "allowed",
            _ => verdict.starts_with("denied"),
        };
        let _ = writeln!(io::stdout(), "{name}: {verdict}");
    }
    if is_tight {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one_in_child(name: &str) -> io::Result<End> {
    let args = [SUBCOMMAND, "attempt", name].map(str::to_owned);
    let (process, mut output) = command::own_start(&args, File::open("/dev/null")?)?;
    io::copy(&mut output, &mut io::sink())?;
    process.end()
}

/// The child: gives everything up, then tries.
pub fn one(name: &str) -> ExitCode {
    if name == "landlock" {
        // The second wall by itself.
        let is_known = lockdown::landlock();
        let is_denied = File::open("/etc/passwd").is_err();
        return code(match (is_known, is_denied) {
            (Ok(false), _) => NOT_KNOWN,
            (_, true) => TOLD_NO,
            (_, false) => GOT_THROUGH,
        });
    }
    if lockdown::all(60).is_err() {
        return child::CODE_NOT_LOCKED.into();
    }
    let through = match name {
        "nothing" => true,
        "open" => File::open("/etc/passwd").is_ok(),
        "create" => File::create("/tmp/cistern-sandbox-escaped").is_ok(),
        "socket" => TcpStream::connect("127.0.0.1:1").is_ok(),
        "unix-socket" => UnixStream::connect("/run/none").is_ok(),
        "exec" => {
            let _ = command::replace("/bin/true");
            false
        }
        "fork" => command::run("/bin/true").is_ok(),
        "memory" => Vec::<u8>::new().try_reserve_exact(1 << 30).is_ok(),
        _ => false,
    };
    code(if through { GOT_THROUGH } else { TOLD_NO })
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
