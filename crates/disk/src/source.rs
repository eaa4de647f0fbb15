//! The file an image is read from: positioned reads inside a known length.

use std::io::{self, Read, Seek, SeekFrom};

use crate::bytes::human;
use crate::error::{Error, Result};

pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

pub(crate) struct Source<'a> {
    inner: &'a mut dyn ReadSeek,
    /// Where it begins in the file.
    base: u64,
    len: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(inner: &'a mut dyn ReadSeek) -> Result<Self> {
        let len = inner.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { inner, base: 0, len })
    }

    /// A part of it as a file by itself; it must lie inside.
    pub(crate) fn window(&mut self, at: u64, len: u64) -> Source<'_> {
        Source {
            inner: &mut *self.inner,
            base: self.base.saturating_add(at),
            len: len.min(self.len.saturating_sub(at)),
        }
    }

    /// The length of the file in bytes, as it was when reading began.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset`; what lies past the end of the file is damage.
    pub(crate) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::damaged(format!(
                "The image is cut off: it refers to byte {offset}, but the file has only {}. \
                 Download or copy it again and compare its checksum.",
                human(self.len)
            )));
        }
        self.inner
            .seek(SeekFrom::Start(self.base.saturating_add(offset)))
            .map_err(failed)?;
        self.inner.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(
                "The image became shorter while it was read. Leave the file alone and try again.",
            ),
            _ => failed(error),
        })
    }

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    pub(crate) fn read_up_to(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let available = self.len.saturating_sub(offset).min(length as u64);
        let mut buffer = vec![0; usize::try_from(available).unwrap_or(length)];
        if !buffer.is_empty() {
            self.read_at(offset, &mut buffer)?;
        }
        Ok(buffer)
    }
}

fn failed(error: io::Error) -> Error {
    Error::io(
        "Reading the image failed. Check the disk or the connection it is on and try again.",
        error,
    )
}
