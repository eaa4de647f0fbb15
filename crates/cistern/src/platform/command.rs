//! The one place that starts processes (droplets' QEMU apart, which `vm` starts).

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// The running executable itself, also after its file was replaced by an upgrade: the link is followed in the new
/// process, which still is this one then.
const OWN: &str = "/proc/self/exe";

/// A process of our own executable. It is killed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct OwnProcess {
    child: Arc<Mutex<Guarded>>,
}

#[derive(Debug)]
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Starts our own executable with `args`: `input` as its standard input, its standard output to be read by us, its
/// standard error nowhere, and nothing of our environment, so that it holds no secret.
pub fn own_start(args: &[String], input: File) -> io::Result<(OwnProcess, ChildStdout)> {
    let mut child = own(args)
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let child = Arc::new(Mutex::new(Guarded(child)));
    Ok((OwnProcess { child }, stdout))
}

/// Runs a line of the operator's settings by `sh`, with our own environment and nothing on its standard input, and
/// gives what it prints, or why it failed.
pub fn shell(line: &str) -> io::Result<Vec<u8>> {
    let mut shell = command_as_is("sh");
    let shell = shell
        .args(["-c", line])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = shell.output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(io::Error::other(output.status.to_string()))
}

/// Replaces this process by another program. Returns only where that failed. For tests of what forbids it.
pub fn replace(program: &str) -> io::Error {
    command(program).exec()
}

/// Starts another program and waits for it. For tests of what forbids it.
pub fn run(program: &str) -> io::Result<ExitStatus> {
    command(program).status()
}

fn command(program: &str) -> Command {
    let mut command = command_as_is(program);
    command.env_clear();
    command
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn command_as_is(program: &str) -> Command {
    Command::new(program)
}

fn own(args: &[String]) -> Command {
    let mut command = command(OWN);
    // The allocator's own thread, which gives memory back, would be one that a sandbox forbids.
    command
        .arg0("cistern")
        .args(args)
        .env("_RJEM_MALLOC_CONF", "background_thread:false,narenas:1");
    command
}

impl OwnProcess {
    /// Ends it now. It may have ended before.
    #[cfg_attr(test, expect(dead_code, reason = "unit tests start no process"))]
    pub fn kill(&self) {
        let _ = self.lock().0.kill();
    }

    /// Ends it unless it ended by itself, and returns how. To be called when its output is at an end: a process on
    /// its way out keeps its own exit code.
    pub fn end(&self) -> io::Result<End> {
        let mut child = self.lock();
        let _ = child.0.kill();
        let status = child.0.wait()?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => End::Code(code),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Guarded> {
        self.child.lock().expect("never held over a panic")
    }
}

/// A word as a shell has to be given it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
