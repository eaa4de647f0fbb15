//! How a child is started, and what its death means.

use std::fs::File;
use std::io;

use super::SandboxError;
use super::child::Task;

#[cfg(not(test))]
pub use real::{Pipe, Running, start};
#[cfg(test)]
pub use threaded::{Pipe, Running, start};

#[cfg(not(test))]
mod real {
    use std::process::ChildStdout;

    use super::*;
    use crate::images::sandbox::SUBCOMMAND;
    use crate::platform::command::{self, OwnProcess};

    /// What the child writes to.
    pub type Pipe = ChildStdout;

    /// A running child; ends when this is dropped.
    pub struct Running(OwnProcess);

    /// Starts a child on `input`.
    pub fn start(task: Task, input: File) -> io::Result<(Running, Pipe)> {
        let mut args = vec![SUBCOMMAND.to_owned()];
        args.extend(task.args());
        let (process, output) = command::own_start(&args, input)?;
        Ok((Running(process), output))
    }

    impl Running {
        pub fn kill(&self) {
            self.0.kill();
        }

        /// The reason for the user, when the child's output ended or broke the rules.
        pub fn death(&self, error: &disk::Error) -> SandboxError {
            let end = self.0.end();
            tracing::warn!(?end, error = error.message(), "a parser broke off");
            match end {
                Ok(end) => super::death(end, error),
                Err(_) => SandboxError::Image(error.message().to_owned()),
            }
        }
    }
}

/// In unit tests there is no executable of ours to start: the same code runs in a thread. `tests/it` runs the real
/// one.
#[cfg(test)]
mod threaded {
    use super::*;
    use crate::images::sandbox::child;

    pub type Pipe = io::PipeReader;

    pub struct Running;

    pub fn start(task: Task, input: File) -> io::Result<(Running, Pipe)> {
        let (reader, writer) = io::pipe()?;
        std::thread::spawn(move || child::serve(task, input, writer));
        Ok((Running, reader))
    }

    impl Running {
        pub fn kill(&self) {}

        pub fn death(&self, error: &disk::Error) -> SandboxError {
            SandboxError::Image(error.message().to_owned())
        }
    }
}

/// What an unexpected end means.
#[cfg_attr(test, expect(dead_code, reason = "unit tests start no process"))]
fn death(end: crate::platform::command::End, error: &disk::Error) -> SandboxError {
    use crate::platform::command::End;
    let image = |text: &str| SandboxError::Image(text.to_owned());
    match end {
        End::Code(code) if code == i32::from(super::child::CODE_NOT_LOCKED) => SandboxError::Local(
            "The server could not close the sandbox for the image's parser, so it was not parsed; images need Linux \
             with seccomp."
                .into(),
        ),
        End::Signal(6) => image(
            "Reading the image takes more memory than is allowed. Make it with smaller tables or lower compression.",
        ),
        End::Signal(24) => image("Reading the image takes too much processor time. Make it with lower compression."),
        End::Signal(31) => image(
            "Reading the image made its parser do something forbidden, so it was stopped. The image is probably \
             damaged or hostile: make it anew.",
        ),
        _ => SandboxError::Image(error.message().to_owned()),
    }
}
