//! The pipe between the sandboxed child that parses an image and the service that stores it.
//!
//! A record is a kind (one byte), the length of its body (32 bits, little endian) and the body. The child may be in
//! the hands of whoever made the image, so [`Reader`] trusts nothing: lengths are capped before memory is taken,
//! extents must follow one another and lie inside the disk and the source, text is plain, and a pipe that ends
//! before the closing record is an error.
//!
//! A conversation is an optional [`Record::Probe`], then one of
//! - [`Record::Info`], [`Record::Extent`]…, [`Record::Done`]: a disk was read,
//! - [`Record::Bytes`]…, [`Record::Unwrapped`]: a wrapper was opened,
//!
//! where a [`Record::Failure`] may take the place of any record and ends it.

mod body;

use std::io::{self, Read, Write};

use crate::bytes::human;
use crate::error::{Error, ErrorKind, Result};
use crate::extents::{Content, Extent, MAX_DATA_BYTES};
use crate::format::{Info, Probe};

/// The longest body: the largest data and its offset.
const MAX_BODY_BYTES: usize = MAX_DATA_BYTES + 16;

/// One message of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the file is.
    Probe(Probe),
    /// The disk that follows.
    Info(Info),
    /// A piece of the disk.
    Extent(Extent<'a>),
    /// The disk is complete. The same disk as in [`Record::Info`], now with every warning.
    Done(Info),
    /// Bytes that came out of a wrapper, at most [`MAX_DATA_BYTES`].
    Bytes(&'a [u8]),
    /// The wrapper is opened to its end; so many bytes came out.
    Unwrapped(u64),
    /// It did not work.
    Failure(Failure),
}

/// What an [`Error`] becomes on the pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The sentence for the user.
    pub message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}

/// Appends `record` to `out`. Text that is longer than the reader takes is cut. Data that is longer than
/// [`MAX_DATA_BYTES`] is a mistake of the caller, which the reader will report.
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    body::encode(record, out);
}

/// The child's end: writes records.
pub struct Writer<W> {
    output: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`, one `write_all` a record and without a buffer of its own.
    pub const fn new(output: W) -> Self {
        Self {
            output,
            buffer: Vec::new(),
        }
    }

    /// Writes one record.
    pub fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.buffer.clear();
        encode(record, &mut self.buffer);
        self.output.write_all(&self.buffer)
    }

    /// Flushes the output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Lets [`crate::unwrap::unwrap`] write its output as [`Record::Bytes`].
impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(MAX_DATA_BYTES);
        if let Some(bytes) = bytes.get(..length).filter(|bytes| !bytes.is_empty()) {
            Self::write(self, &Record::Bytes(bytes))?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// What the service allows the child to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// The largest disk, in bytes.
    pub max_virtual_bytes: u64,
    /// The length of the source file: extents must not refer to what lies behind it.
    pub source_bytes: u64,
    /// How much may come out of a wrapper, in bytes.
    pub max_unwrapped_bytes: u64,
}

enum State {
    Start,
    Probed,
    Disk { info: Info, end: u64 },
    Bytes(u64),
    Over,
}

/// The service's end: reads records and holds the child to the rules.
pub struct Reader<R> {
    input: R,
    limits: ReadLimits,
    state: State,
    body: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, which should be buffered or a pipe.
    pub const fn new(input: R, limits: ReadLimits) -> Self {
        Self {
            input,
            limits,
            state: State::Start,
            body: Vec::new(),
        }
    }

    /// The next record; nothing after the closing one, or where the pipe ends behind a [`Record::Probe`].
    ///
    /// The memory used stays below 3 MiB. A child that breaks a rule gives [`ErrorKind::Damaged`], one that stops
    /// before it is done [`ErrorKind::Io`].
    #[expect(
        clippy::should_implement_trait,
        reason = "the record borrows from the reader, which no iterator can"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let Some(kind) = self.start()? else {
            return match self.state {
                State::Over | State::Probed => Ok(None),
                _ => Err(cut_off()),
            };
        };
        let record = body::decode(kind, &self.body).ok_or_else(|| broken("a record is malformed"))?;
        check(&mut self.state, &self.limits, &record)?;
        Ok(Some(record))
    }

    /// Reads a whole record into the buffer; gives its kind.
    fn start(&mut self) -> Result<Option<u8>> {
        let mut start = [0; 5];
        let got = read_full(&mut self.input, &mut start)?;
        if got == 0 {
            return Ok(None);
        }
        if matches!(self.state, State::Over) {
            return Err(broken("it went on after it was done"));
        }
        let [kind, length @ ..] = start;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if got < start.len() {
            return Err(cut_off());
        }
        if length > MAX_BODY_BYTES {
            return Err(broken("a record is too long"));
        }
        self.body.resize(length, 0);
        if read_full(&mut self.input, &mut self.body)? < length {
            return Err(cut_off());
        }
        Ok(Some(kind))
    }
}

fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(length) => got += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("Reading from the image's parser failed.", error)),
        }
    }
    Ok(got)
}

fn broken(reason: &str) -> Error {
    Error::damaged(sentence(reason))
}

/// The pipe ended too early: the child died, of whatever reason.
fn cut_off() -> Error {
    Error::new(ErrorKind::Io, sentence("it stopped before it was done"))
}

fn sentence(reason: &str) -> String {
    format!(
        "The image could not be read: its parser broke off ({reason}). The image is probably damaged or hostile: \
         see what `qemu-img check` says about it, or make it anew."
    )
}

/// Holds one record against what may come now, and moves on.
fn check(state: &mut State, limits: &ReadLimits, record: &Record<'_>) -> Result<()> {
    let next = match (&mut *state, record) {
        (_, Record::Failure(_)) => State::Over,
        (State::Start, Record::Probe(_)) => State::Probed,
        (State::Start | State::Probed, Record::Info(info)) => {
            if info.virtual_bytes == 0 || info.virtual_bytes % 512 != 0 {
                return Err(broken("the disk's size is not valid"));
            }
            if info.virtual_bytes > limits.max_virtual_bytes {
                return Err(broken(&format!(
                    "the disk is larger than {}",
                    human(limits.max_virtual_bytes)
                )));
            }
            State::Disk {
                info: info.clone(),
                end: 0,
            }
        }
        (State::Disk { info, end }, Record::Extent(extent)) => {
            *end = extent_end(extent, *end, info.virtual_bytes, limits.source_bytes)?;
            return Ok(());
        }
        (State::Disk { info, end }, Record::Done(done)) => {
            if *end != info.virtual_bytes
                || (done.virtual_bytes, done.format) != (info.virtual_bytes, info.format)
            {
                return Err(broken("the disk is not complete"));
            }
            State::Over
        }
        (State::Start | State::Probed, Record::Bytes(bytes)) => State::Bytes(capped(0, bytes, limits)?),
        (State::Bytes(total), Record::Bytes(bytes)) => State::Bytes(capped(*total, bytes, limits)?),
        (State::Bytes(total), Record::Unwrapped(given)) if total == given => State::Over,
        _ => return Err(broken("a record came out of order")),
    };
    *state = next;
    Ok(())
}

fn extent_end(extent: &Extent<'_>, end: u64, virtual_bytes: u64, source_bytes: u64) -> Result<u64> {
    let next = extent
        .offset
        .checked_add(extent.length)
        .filter(|next| *next <= virtual_bytes);
    let Some(next) = next.filter(|_| extent.offset == end && extent.length > 0) else {
        return Err(broken("an extent is out of place"));
    };
    if let Content::Source(at) = extent.content
        && at
            .checked_add(extent.length)
            .is_none_or(|last| last > source_bytes)
    {
        return Err(broken("an extent refers to what is not in the file"));
    }
    Ok(next)
}

fn capped(total: u64, bytes: &[u8], limits: &ReadLimits) -> Result<u64> {
    let total = total.saturating_add(bytes.len() as u64);
    if total > limits.max_unwrapped_bytes {
        return Err(Error::limit(format!(
            "The image becomes larger than {} when it is decompressed, which is the limit.",
            human(limits.max_unwrapped_bytes)
        )));
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
