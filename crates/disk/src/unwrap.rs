//! Opens one layer of compression: gzip, bzip2, xz or zstd, in one part or several.
//!
//! What comes out must be one disk image: a second compression inside (a bomb, or a mistake) and an archive that is no
//! OVA are refused by the first bytes that come out, before anything is written. Output is counted as it is
//! produced, never taken from a header (CVE-2013-4463), and what takes room (all but zeros, which become holes) may not
//! be out of all proportion to what was sent: a few kilobytes must not fill a disk. Zeros or anything else behind the
//! last part is refused, except the padding of xz, which belongs to its format.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::bufread::GzDecoder;
use liblzma::stream::{self as lzma, Action, Stream};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::bytes::human;
use crate::error::{Error, Result};
use crate::format::Wrapper;
use crate::probe;

const BUFFER_BYTES: usize = 128 << 10;
/// Enough of the output to know any of them by its magic.
const HEAD_BYTES: usize = 512;
/// `xz -9` needs 65 MiB: a dictionary of 64 MiB and what is around it.
const XZ_MEMORY_BYTES: u64 = 66 << 20;
/// `zstd --long=27`: a window of 128 MiB. Larger ones must be asked for in zstd as well, so they are rare.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How much unwrapping may produce and use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnwrapLimits {
    /// Bytes that may come out.
    pub max_bytes: u64,
    /// Memory for the decoder, in bytes. Never used beyond 66 MiB for xz (dictionaries up to 64 MiB) and 128 MiB
    /// for zstd (windows up to `--long=27`); gzip and bzip2 need less than 5 MiB.
    pub max_memory_bytes: u64,
    /// Bytes that may come out for each byte that goes in, in blocks of 4 KiB that are not all zeros.
    pub max_ratio: u64,
    /// How many such bytes may come out whatever went in.
    pub ratio_free_bytes: u64,
}

impl Default for UnwrapLimits {
    /// 101 GiB: the largest disk of [`crate::Limits`] and what a format adds around it. Memory as much as is ever used.
    /// A ratio of 250 beyond the first GiB: disks that are in use compress 2 to 10 times, zeros apart.
    fn default() -> Self {
        Self {
            max_bytes: 101 << 30,
            max_memory_bytes: 128 << 20,
            max_ratio: 250,
            ratio_free_bytes: 1 << 30,
        }
    }
}

/// Decompresses `input` into `output`; returns how many bytes came out.
pub fn unwrap(
    wrapper: Wrapper,
    mut input: impl Read,
    output: &mut impl Write,
    limits: &UnwrapLimits,
) -> Result<u64, Error> {
    let taken = Cell::new(0);
    let input = Input {
        inner: &mut input,
        failed: None,
        taken: &taken,
    };
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let mut output = Output {
        wrapper,
        inner: output,
        limits: *limits,
        head: Some(Vec::new()),
        produced: 0,
        dense: 0,
        taken: &taken,
    };
    match wrapper {
        Wrapper::Gzip => gzip(&mut input, &mut output),
        Wrapper::Bzip2 => bzip2(&mut input, &mut output),
        Wrapper::Xz => xz(&mut input, &mut output),
        Wrapper::Zstd => zstd(&mut input, &mut output),
    }?;
    output.finish()
}

/// The compressed side. Keeps a failure of the source, which decoders would mix up with their own.
struct Input<'a> {
    inner: &'a mut dyn Read,
    failed: Option<io::Error>,
    /// Bytes read so far.
    taken: &'a Cell<u64>,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind
        })?;
        self.taken.set(self.taken.get().saturating_add(read as u64));
        Ok(read)
    }
}

type Buffered<'a> = BufReader<Input<'a>>;

/// Fills the buffer; an empty one is the end.
fn fill(input: &mut Buffered<'_>) -> Result<bool> {
    loop {
        match input.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(input_failed(input.get_mut().failed.take().unwrap_or(error))),
        }
    }
}

fn input_failed(error: io::Error) -> Error {
    Error::io(
        "Reading the compressed image failed. Check where it comes from and try again.",
        error,
    )
}

fn damaged(wrapper: Wrapper) -> Error {
    Error::damaged(format!(
        "The {wrapper} compression is damaged or cut off. Test the file with `{} -t`, and download or compress it again.",
        wrapper.name()
    ))
}

fn trailing(wrapper: Wrapper) -> Error {
    Error::refused(format!(
        "Something follows the {wrapper} data that is not {wrapper}. One compressed disk image is taken, by itself: \
         decompress the file, compress the image again and import that."
    ))
}

fn too_much_memory(wrapper: Wrapper, allowed: &str) -> Error {
    Error::limit(format!(
        "Decompressing the image needs too much memory. {wrapper} is taken with {allowed}: \
         compress it again with fewer than the highest settings."
    ))
}

fn gzip(input: &mut Buffered<'_>, output: &mut Output<'_>) -> Result<()> {
    // One buffer for all parts: there may be millions of empty ones.
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut first = true;
    while fill(input)? {
        if !first && input.buffer().first() != Some(&0x1f) {
            return Err(trailing(Wrapper::Gzip));
        }
        first = false;
        let mut decoder = GzDecoder::new(&mut *input);
        let copied = copy(&mut decoder, &mut buffer, output);
        settle(Wrapper::Gzip, copied, input)?;
    }
    if first {
        Err(damaged(Wrapper::Gzip))
    } else {
        Ok(())
    }
}

fn bzip2(input: &mut Buffered<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut first = true;
    while fill(input)? {
        if !first && input.buffer().first() != Some(&b'B') {
            return Err(trailing(Wrapper::Bzip2));
        }
        first = false;
        let mut decoder = ::bzip2::bufread::BzDecoder::new(&mut *input);
        let copied = copy(&mut decoder, &mut buffer, output);
        settle(Wrapper::Bzip2, copied, input)?;
    }
    if first {
        Err(damaged(Wrapper::Bzip2))
    } else {
        Ok(())
    }
}

enum Copy {
    Decoder,
    Output(Error),
}

fn copy(decoder: &mut dyn Read, buffer: &mut [u8], output: &mut Output<'_>) -> Result<(), Copy> {
    loop {
        match decoder.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => output
                .push(buffer.get(..length).unwrap_or_default())
                .map_err(Copy::Output)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Copy::Decoder),
        }
    }
}

/// Tells a failed source from damaged data.
fn settle(wrapper: Wrapper, copied: Result<(), Copy>, input: &mut Buffered<'_>) -> Result<()> {
    match copied {
        Ok(()) => Ok(()),
        Err(Copy::Output(error)) => Err(error),
        Err(Copy::Decoder) => Err(match input.get_mut().failed.take() {
            Some(error) => input_failed(error),
            None => damaged(wrapper),
        }),
    }
}

fn xz(input: &mut Buffered<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut first = true;
    while fill(input)? {
        if !first && !xz_padding(input)? {
            break;
        }
        first = false;
        xz_stream(input, &mut buffer, output)?;
    }
    if first { Err(damaged(Wrapper::Xz)) } else { Ok(()) }
}

/// Skips the padding between streams: zeros, four at a time, says the format. Gives whether a stream follows.
fn xz_padding(input: &mut Buffered<'_>) -> Result<bool> {
    let mut zeros = 0;
    let follows = loop {
        if !fill(input)? {
            break false;
        }
        let here = input.buffer().iter().take_while(|byte| **byte == 0).count();
        zeros = (zeros + here) % 4;
        match input.buffer().get(here) {
            None => input.consume(here),
            Some(0xfd) => {
                input.consume(here);
                break true;
            }
            Some(_) => return Err(trailing(Wrapper::Xz)),
        }
    };
    if zeros == 0 {
        Ok(follows)
    } else {
        Err(trailing(Wrapper::Xz))
    }
}

fn xz_stream(input: &mut Buffered<'_>, buffer: &mut [u8], output: &mut Output<'_>) -> Result<()> {
    let memory = output.limits.max_memory_bytes.min(XZ_MEMORY_BYTES);
    let mut decoder = Stream::new_stream_decoder(memory, lzma::TELL_UNSUPPORTED_CHECK)
        .map_err(|error| Error::io("Setting up the xz decoder failed.", error.into()))?;
    let mut idle = false;
    loop {
        let action = if fill(input)? { Action::Run } else { Action::Finish };
        let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
        let status = decoder.process(input.buffer(), buffer, action);
        let read = usize::try_from(decoder.total_in() - before_in).unwrap_or(0);
        let written = usize::try_from(decoder.total_out() - before_out).unwrap_or(0);
        input.consume(read);
        output.push(buffer.get(..written).unwrap_or_default())?;
        match status {
            Ok(lzma::Status::StreamEnd) => return Ok(()),
            Ok(_) if read == 0 && written == 0 && idle => return Err(damaged(Wrapper::Xz)),
            Ok(_) => idle = read == 0 && written == 0,
            Err(lzma::Error::MemLimit | lzma::Error::Mem) => {
                return Err(too_much_memory(
                    Wrapper::Xz,
                    "dictionaries up to 64 MiB (`xz -9`)",
                ));
            }
            Err(_) => return Err(damaged(Wrapper::Xz)),
        }
    }
}

fn zstd(input: &mut Buffered<'_>, output: &mut Output<'_>) -> Result<()> {
    let failed = |error| Error::io("Setting up the zstd decoder failed.", error);
    let log = output
        .limits
        .max_memory_bytes
        .max(1024)
        .ilog2()
        .min(ZSTD_WINDOW_LOG_MAX);
    let mut decoder = Decoder::new().map_err(failed)?;
    decoder
        .set_parameter(DParameter::WindowLogMax(log))
        .map_err(failed)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut frame_ended = false;
    loop {
        if !fill(input)? {
            return if frame_ended {
                Ok(())
            } else {
                Err(damaged(Wrapper::Zstd))
            };
        }
        let status = match decoder.run_on_buffers(input.buffer(), &mut buffer) {
            Ok(status) => status,
            // The binding gives the library's words only.
            Err(error) if error.to_string().contains("too much memory") => {
                return Err(too_much_memory(
                    Wrapper::Zstd,
                    "windows up to 128 MiB (`zstd --long=27`)",
                ));
            }
            Err(_) if frame_ended => return Err(trailing(Wrapper::Zstd)),
            Err(_) => return Err(damaged(Wrapper::Zstd)),
        };
        input.consume(status.bytes_read);
        output.push(buffer.get(..status.bytes_written).unwrap_or_default())?;
        frame_ended = status.remaining == 0;
        drain(
            &mut decoder,
            &mut buffer,
            &mut frame_ended,
            status.bytes_written,
            output,
        )?;
    }
}

/// A full output buffer may leave decoded bytes behind; they come out without new input.
fn drain(
    decoder: &mut Decoder<'static>,
    buffer: &mut [u8],
    frame_ended: &mut bool,
    mut written: usize,
    output: &mut Output<'_>,
) -> Result<()> {
    while !*frame_ended && written == buffer.len() {
        let status = decoder
            .run_on_buffers(&[], buffer)
            .map_err(|_| damaged(Wrapper::Zstd))?;
        written = status.bytes_written;
        output.push(buffer.get(..written).unwrap_or_default())?;
        *frame_ended = status.remaining == 0;
    }
    Ok(())
}

/// The unwrapped side: counts, caps, and looks at the first bytes before it lets any through.
struct Output<'a> {
    wrapper: Wrapper,
    inner: &'a mut dyn Write,
    limits: UnwrapLimits,
    /// The first bytes, held back until there are enough to judge by.
    head: Option<Vec<u8>>,
    produced: u64,
    /// Bytes produced in blocks that are not all zeros.
    dense: u64,
    /// Bytes that went in.
    taken: &'a Cell<u64>,
}

impl Output<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.produced = self.produced.saturating_add(bytes.len() as u64);
        if self.produced > self.limits.max_bytes {
            return Err(Error::limit(format!(
                "The image becomes larger than {} when it is decompressed, which is the limit.",
                human(self.limits.max_bytes)
            )));
        }
        self.check_ratio(bytes)?;
        let Some(head) = &mut self.head else {
            return self.inner.write_all(bytes).map_err(output_failed);
        };
        head.extend_from_slice(bytes);
        if head.len() < HEAD_BYTES {
            Ok(())
        } else {
            self.release()
        }
    }

    fn check_ratio(&mut self, bytes: &[u8]) -> Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        for block in bytes.chunks(ZEROS.len()) {
            if ZEROS.get(..block.len()) != Some(block) {
                self.dense = self.dense.saturating_add(block.len() as u64);
            }
        }
        let allowed = self.taken.get().saturating_mul(self.limits.max_ratio);
        if self.dense <= allowed.saturating_add(self.limits.ratio_free_bytes) {
            return Ok(());
        }
        Err(Error::limit(format!(
            "The image becomes more than {} times larger when it is decompressed, zeros not counted, which no disk in \
             use does. If it is one all the same, decompress it and import it as it is.",
            self.limits.max_ratio
        )))
    }

    fn release(&mut self) -> Result<()> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        if let Some(inner) = probe::wrapper(&head) {
            return Err(Error::refused(format!(
                "The image is compressed twice ({} in {}). Decompress it once and import the result.",
                inner, self.wrapper
            )));
        }
        if let Some(name) = probe::archive(&head) {
            return Err(Error::refused(format!(
                "Inside the {} compression is {name}, which may hold multiple files. Unpack it and import the one \
                 disk image in it, by itself or compressed.",
                self.wrapper
            )));
        }
        self.inner.write_all(&head).map_err(output_failed)
    }

    fn finish(mut self) -> Result<u64> {
        if self.produced == 0 {
            return Err(Error::refused(format!(
                "The {} file holds nothing. Check that the image was compressed.",
                self.wrapper
            )));
        }
        self.release()?;
        self.inner.flush().map_err(output_failed)?;
        Ok(self.produced)
    }
}

fn output_failed(error: io::Error) -> Error {
    Error::io("Writing the decompressed image failed.", error)
}

#[cfg(test)]
mod tests;
