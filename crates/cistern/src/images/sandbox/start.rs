//! How a child is started, and what its death means.

#[cfg(test)]
pub use in_thread::{Pipe, Running, start};
#[cfg(not(test))]
pub use process::{Pipe, Running, start};

#[cfg(not(test))]
mod process {
    use std::fs::File;
    use std::io;
    use std::process::ChildStdout;

    use crate::images::sandbox::child::{CODE_NOT_LOCKED, Task};
    use crate::images::sandbox::{SUBCOMMAND, SandboxError};
    use crate::platform::command::{self, End, OwnProcess};

    /// What the child writes to.
    pub type Pipe = ChildStdout;

    /// A running child; ends when this is dropped.
    pub struct Running(OwnProcess);

    /// Starts a child on `input`, which is a socket to ask on where `asked` says how long the file is.
    pub fn start(task: Task, asked: Option<u64>, input: File) -> io::Result<(Running, Pipe)> {
        let mut args = vec![SUBCOMMAND.to_owned()];
        args.extend(task.args());
        args.extend(asked.map(|length| length.to_string()));
        let (process, output) = command::own_start(&args, input)?;
        Ok((Running(process), output))
    }

    impl Running {
        /// Ends it now.
        pub fn kill(&self) {
            self.0.kill();
        }

        /// The reason for the user, when the child's output ended or broke the rules.
        pub fn death(&self, error: &disk::Error) -> SandboxError {
            let end = self.0.end();
            tracing::warn!(?end, error = error.message(), "a parser broke off");
            end.map_or_else(
                |_| SandboxError::Image(error.message().to_owned()),
                |end| reason(end, error),
            )
        }
    }

    /// What an unexpected end means.
    fn reason(end: End, error: &disk::Error) -> SandboxError {
        // Otherwise it was we who killed it, for what it said.
        let is_cut_off = error.kind() == disk::ErrorKind::Io;
        let text = match end {
            End::Code(code) if code == i32::from(CODE_NOT_LOCKED) => {
                return SandboxError::Local(
                    "The server could not close the sandbox for the image's parser, so it was not parsed; images need \
                     Linux with seccomp."
                        .into(),
                );
            }
            End::Signal(libc::SIGABRT) => {
                "Reading the image takes more memory than is allowed. Make it with smaller tables or lower compression."
            }
            End::Signal(libc::SIGXCPU) => {
                "Reading the image takes too much processor time. Make it with lower compression."
            }
            End::Signal(libc::SIGSYS) => {
                "Reading the image made its parser do something forbidden, so it was stopped. The image is probably \
                 damaged or hostile: make it anew."
            }
            // Nothing of ours sends it to a child that speaks: the kernel does when memory runs out.
            End::Signal(libc::SIGKILL) if is_cut_off => {
                return SandboxError::Local(
                    "The image's parser was killed from outside, perhaps because the server ran out of memory. Give the \
                     server more memory, then import the image again."
                        .into(),
                );
            }
            _ => error.message(),
        };
        SandboxError::Image(text.to_owned())
    }
}

/// In unit tests there is no executable of ours to start: the same code runs in a thread. `tests/it` runs the real
/// one.
#[cfg(test)]
mod in_thread {
    use std::fs::File;
    use std::io;

    use crate::images::sandbox::SandboxError;
    use crate::images::sandbox::child::{self, Task};

    pub type Pipe = io::PipeReader;

    pub struct Running;

    pub fn start(task: Task, asked: Option<u64>, input: File) -> io::Result<(Running, Pipe)> {
        let (reader, writer) = io::pipe()?;
        std::thread::spawn(move || child::serve(task, asked, input, writer));
        Ok((Running, reader))
    }

    #[expect(clippy::unused_self, reason = "as the real one")]
    impl Running {
        pub fn kill(&self) {}

        pub fn death(&self, error: &disk::Error) -> SandboxError {
            SandboxError::Image(error.message().to_owned())
        }
    }
}
