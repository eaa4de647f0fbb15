//! How a child reads a working file that is encrypted: it asks the server for each piece over a socket, and never has a
//! key. A file in clear it is given as an open descriptor.
//!
//! A question is 12 bytes: an offset (`u64`) and a length (`u32`, at most [`PIECE_BYTES`]); the answer is a length
//! (`u32`) and so many bytes, fewer than were asked for only at the file's end, or [`FAILED`] alone. Numbers are
//! little-endian. The server believes nothing of what it is asked: more than a piece ends the conversation.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use crate::images::workfile::WorkFile;

/// The largest piece, and what is asked for at once.
const PIECE_BYTES: usize = 256 << 10;
/// In place of a length: the file cannot be read.
const FAILED: u32 = u32::MAX;

/// What a child is given to read: a descriptor, and, where it has to ask on that, the file's length.
pub fn input_of(file: &WorkFile) -> io::Result<(Option<u64>, File)> {
    if let Some(clear) = file.as_clear() {
        return Ok((None, clear.try_clone()?));
    }
    let length = file.length()?;
    let (ours, theirs) = UnixStream::pair()?;
    let file = file.clone();
    // Ends with the child, whose end of the pair is the only one.
    std::thread::Builder::new().name("served".into()).spawn(move || {
        if let Err(error) = serve(&file, ours) {
            tracing::debug!(%error, "a parser stopped asking");
        }
    })?;
    Ok((Some(length), File::from(OwnedFd::from(theirs))))
}

fn serve(file: &WorkFile, mut socket: UnixStream) -> io::Result<()> {
    let mut piece = vec![0; 4 + PIECE_BYTES];
    loop {
        let mut question = [0; 12];
        match socket.read_exact(&mut question) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let (offset, length) = question.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        let Some(to) = piece[4..].get_mut(..length) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (got, told) = match file.read_at(to, offset) {
            Ok(got) => (got, u32::try_from(got).unwrap_or(FAILED)),
            Err(error) => {
                tracing::error!(%error, "could not read a working file for its parser");
                (0, FAILED)
            }
        };
        piece[..4].copy_from_slice(&told.to_le_bytes());
        socket.write_all(&piece[..4 + got])?;
    }
}

/// The child's file, with a position of its own: the server reads the same open file meanwhile, and they share the
/// kernel's.
pub struct Positioned {
    file: File,
    /// What was read last, where the server is asked for it.
    asked: Option<Asked>,
    at: u64,
    length: u64,
}

/// A piece of the file.
#[derive(Default)]
struct Asked {
    first: u64,
    bytes: Vec<u8>,
}

impl Positioned {
    /// `asked` is the file's length, where `file` is a socket to ask on.
    pub fn new(file: File, asked: Option<u64>) -> io::Result<Self> {
        let length = match asked {
            Some(length) => length,
            None => file.metadata()?.len(),
        };
        Ok(Self {
            file,
            asked: asked.map(|_| Asked::default()),
            at: 0,
            length,
        })
    }
}

impl Asked {
    /// Bytes at `at`, as many as there are of the piece that it is in.
    fn read(&mut self, socket: &mut File, to: &mut [u8], at: u64) -> io::Result<usize> {
        let first = at - at % PIECE_BYTES as u64;
        if first != self.first || self.bytes.is_empty() {
            self.ask(socket, first)?;
        }
        let within = usize::try_from(at - first).unwrap_or_default();
        let found = self.bytes.get(within..).unwrap_or_default();
        let count = found.len().min(to.len());
        to[..count].copy_from_slice(&found[..count]);
        Ok(count)
    }

    fn ask(&mut self, socket: &mut File, first: u64) -> io::Result<()> {
        self.bytes.clear();
        let mut question = [0; 12];
        question[..8].copy_from_slice(&first.to_le_bytes());
        question[8..].copy_from_slice(&u32::try_from(PIECE_BYTES).unwrap_or_default().to_le_bytes());
        socket.write_all(&question)?;
        let mut told = [0; 4];
        socket.read_exact(&mut told)?;
        let told = u32::from_le_bytes(told);
        if told == FAILED {
            return Err(io::Error::other("the server cannot read the file"));
        }
        self.bytes.resize((told as usize).min(PIECE_BYTES), 0);
        socket.read_exact(&mut self.bytes)?;
        self.first = first;
        Ok(())
    }
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match &mut self.asked {
            None => self.file.read_at(buffer, self.at)?,
            Some(asked) => asked.read(&mut self.file, buffer, self.at)?,
        };
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Positioned {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::workfile::tests::key;

    #[test]
    fn what_is_asked_for_is_what_is_in_the_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let plain: Vec<u8> = (0..PIECE_BYTES * 2 + 333)
            .map(|i| u8::try_from(i % 253).expect("fits"))
            .collect();
        let file = WorkFile::create(&dir.path().join("f"), Some(&key(1))).expect("is made");
        file.write_all_at(&plain, 0).expect("writes");
        let (length, socket) = input_of(&file).expect("is served");
        assert_eq!(length, Some(plain.len() as u64));
        let mut asking = Positioned::new(socket, length).expect("is there");
        let mut all = Vec::new();
        asking.read_to_end(&mut all).expect("reads");
        assert!(all == plain);
        for at in [0, PIECE_BYTES - 1, PIECE_BYTES * 2 + 300, PIECE_BYTES] {
            asking.seek(SeekFrom::Start(at as u64)).expect("seeks");
            let mut part = vec![0; 30];
            asking.read_exact(&mut part).expect("reads");
            assert_eq!(part, plain[at..at + 30]);
        }
        asking.seek(SeekFrom::End(-3)).expect("seeks");
        assert_eq!(asking.read(&mut [0; 9]).expect("reads"), 3);
        assert_eq!(asking.read(&mut [0; 9]).expect("reads"), 0);
        asking.seek(SeekFrom::Start(1 << 40)).expect("seeks");
        assert_eq!(asking.read(&mut [0; 9]).expect("reads"), 0);
    }

    #[test]
    fn who_asks_for_more_than_a_piece_is_not_answered() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = WorkFile::create(&dir.path().join("f"), Some(&key(1))).expect("is made");
        let (_, mut socket) = input_of(&file).expect("is served");
        socket.write_all(&[0xff; 12]).expect("writes");
        assert_eq!(socket.read(&mut [0; 9]).expect("ends"), 0);
    }
}
