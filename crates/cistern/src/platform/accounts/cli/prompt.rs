//! Reading a password: from the terminal without showing it, or from standard input for scripts.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::{Failure, Outcome};

/// Turns the terminal's echo on again, however reading ends.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> rustix::io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The first line of standard input.
pub fn from_stdin() -> Outcome<String> {
    let mut text = String::new();
    // A password has 1024 bytes at most; whatever else is there is not read.
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|e| Failure::Failed(format!("could not read a password from standard input: {e}")))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::Failed("standard input has no password in it".into()));
    }
    Ok(line.to_owned())
}

/// Asks twice on the terminal.
pub fn from_terminal(whose: &str) -> Outcome<String> {
    let failed = |e: std::io::Error| {
        Failure::Failed(format!(
            "there is no terminal to ask for a password on ({e}); give it on standard input with --password-stdin"
        ))
    };
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(failed)?;
    let quiet = Quiet::new(terminal.try_clone().map_err(failed)?).map_err(|e| failed(e.into()))?;
    let mut lines = BufReader::new(terminal.try_clone().map_err(failed)?).lines();
    let mut ask = |question: &str| -> Outcome<String> {
        let mut out = &terminal;
        out.write_all(question.as_bytes()).map_err(failed)?;
        lines
            .next()
            .unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))
            .map_err(failed)
    };
    let first = ask(&format!("New password for {whose}: "))?;
    let second = ask("Once more: ")?;
    drop(quiet);
    if first != second {
        return Err(Failure::Failed(
            "the two are not the same; nothing was changed".into(),
        ));
    }
    Ok(first)
}
