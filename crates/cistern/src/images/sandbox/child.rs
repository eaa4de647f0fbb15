//! The child's side: gives everything up, then parses its standard input and writes records to its standard output.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use disk::record::{Failure, Record, Writer};
use disk::unwrap::{UnwrapLimits, unwrap};
use disk::{Error, Format, Limits, Probe};

use super::served::Positioned;
use super::{attempt, lockdown};

/// Processor time of a child, in seconds: what 100 GB of bzip2 take, and some.
const CPU_SECONDS: u64 = 8 * 3600;
/// Exit code: the sandbox could not be closed, so nothing was parsed.
pub const CODE_NOT_LOCKED: u8 = 11;
/// Exit code: the arguments make no sense.
const CODE_USAGE: u8 = 2;

/// What a child is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Say what the file is, and open it where it is compressed.
    Open {
        /// How many bytes may come out.
        max_bytes: u64,
    },
    /// Read the disk in it.
    Read {
        /// As what.
        format: Format,
        /// The largest disk.
        max_virtual_bytes: u64,
    },
}

impl Task {
    /// The arguments after the subcommand.
    #[cfg_attr(test, expect(dead_code, reason = "unit tests start no process"))]
    pub fn args(self) -> Vec<String> {
        match self {
            Self::Open { max_bytes } => vec!["open".into(), max_bytes.to_string()],
            Self::Read {
                format,
                max_virtual_bytes,
            } => {
                vec!["read".into(), format.name().into(), max_virtual_bytes.to_string()]
            }
        }
    }

    /// The task, and the file's length where the standard input is a socket to ask on.
    fn parse(args: &[String]) -> Option<(Self, Option<u64>)> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (task, asked) = match args.as_slice() {
            ["open", max, asked @ ..] => {
                let max_bytes = max.parse().ok()?;
                (Self::Open { max_bytes }, asked)
            }
            ["read", format, max, asked @ ..] => {
                let task = Self::Read {
                    format: format.parse().ok()?,
                    max_virtual_bytes: max.parse().ok()?,
                };
                (task, asked)
            }
            _ => return None,
        };
        match asked {
            [] => Some((task, None)),
            [length] => Some((task, Some(length.parse().ok()?))),
            _ => None,
        }
    }
}

/// The hidden subcommand; `args` are those after its name. To be called first of all, before any thread starts.
pub fn main(args: &[String]) -> ExitCode {
    match args {
        [word] if word == "self-test" => return attempt::all(),
        [word, name] if word == "attempt" => return attempt::one(name),
        _ => {}
    }
    let Some((task, asked)) = Task::parse(args) else {
        return CODE_USAGE.into();
    };
    let (Ok(input), Ok(output)) = (
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
    ) else {
        return CODE_NOT_LOCKED.into();
    };
    let question = asked.map(|_| input.as_raw_fd());
    let Ok(input) = Positioned::new(File::from(input), asked) else {
        return CODE_NOT_LOCKED.into();
    };
    if lockdown::all(CPU_SECONDS, output.as_raw_fd(), question).is_err() {
        return CODE_NOT_LOCKED.into();
    }
    match serve_positioned(task, input, File::from(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Does the task without giving anything up, as unit tests need it.
#[cfg(test)]
pub fn serve(task: Task, asked: Option<u64>, input: File, output: impl Write) -> io::Result<()> {
    serve_positioned(task, Positioned::new(input, asked)?, output)
}

/// Does the task. An error means that nobody reads the output any more.
fn serve_positioned(task: Task, input: Positioned, output: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(output);
    let done = match task {
        Task::Open { max_bytes } => open(input, &mut writer, max_bytes),
        Task::Read {
            format,
            max_virtual_bytes,
        } => read(format, input, &mut writer, max_virtual_bytes),
    };
    if let Err(error) = done {
        writer.write(&Record::Failure(Failure::from(&error)))?;
    }
    writer.flush()
}

fn open<W: Write>(mut input: Positioned, writer: &mut Writer<W>, max_bytes: u64) -> Result<(), Error> {
    let probe = disk::probe(&mut input)?;
    writer.write(&Record::Probe(probe)).map_err(pipe)?;
    let Probe::Wrapped(wrapper) = probe else {
        return Ok(());
    };
    input.seek(SeekFrom::Start(0)).map_err(pipe)?;
    let limits = UnwrapLimits {
        max_bytes,
        ..UnwrapLimits::default()
    };
    let bytes = unwrap(wrapper, input, writer, &limits)?;
    writer.write(&Record::Unwrapped(bytes)).map_err(pipe)
}

fn read<W: Write>(
    format: Format,
    mut input: Positioned,
    writer: &mut Writer<W>,
    max_virtual_bytes: u64,
) -> Result<(), Error> {
    let limits = Limits {
        max_virtual_bytes,
        ..Limits::default()
    };
    let info = disk::info(format, &mut input, &limits)?;
    disk::table_check(format, &mut input, &limits)?;
    writer.write(&Record::Info(info)).map_err(pipe)?;
    let info = disk::read(format, &mut input, &limits, &mut |extent| {
        writer.write(&Record::Extent(extent))
    })?;
    writer.write(&Record::Done(info)).map_err(pipe)
}

fn pipe(_: io::Error) -> Error {
    Error::new(disk::ErrorKind::Io, "The parser lost its pipe.")
}
