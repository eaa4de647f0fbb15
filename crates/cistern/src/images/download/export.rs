//! A stored disk as a file of some format.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use disk::layout::{Layout, Segment};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use store::{DiskReader, Piece, TreeRoot};

use crate::platform::error::{Context, Error, Result};

/// Zeros are sent in pieces of this.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
/// Rises when the same disk would make other bytes; part of every entity tag.
const LAYOUT_VERSION: u32 = 1;

/// What a disk can come out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk itself.
    Raw,
    /// QEMU's format, version 3, not compressed; zeros take no room.
    Qcow2,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Qcow2];

    /// Its name, also a file's extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|f| f.as_str() == text);
        found.ok_or_else(|| Error::invalid("`format` is `raw` or `qcow2`"))
    }
}

/// The name of exactly these bytes: a strong entity tag (RFC 9110 §8.8.3), with its quotes.
pub fn etag(root: &TreeRoot, format: Format) -> String {
    format!(
        "\"{}-{LAYOUT_VERSION}-{}-{}\"",
        format.as_str(),
        root.digest,
        root.virtual_bytes
    )
}

/// An open disk with the plan of its file.
#[derive(Clone)]
pub struct Export {
    layout: Arc<Layout>,
    reader: DiskReader,
}

impl Export {
    /// Plans the file. Reads the disk's tree where the format must know what is zeros, never its data.
    pub async fn open(reader: DiskReader, format: Format) -> Result<Self> {
        let size = reader.virtual_bytes();
        let layout = match format {
            Format::Raw => Layout::raw(size),
            Format::Qcow2 => {
                let allocated = reader.allocated(0..size).await;
                let allocated = allocated.map_err(|error| error.context("could not read a disk's tree"))?;
                Layout::qcow2(size, allocated.into_iter()).context("could not plan a qcow2 file")?
            }
        };
        Ok(Self {
            layout: Arc::new(layout),
            reader,
        })
    }

    /// The file's bytes.
    pub fn length(&self) -> u64 {
        self.layout.len()
    }

    /// The disk's bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.reader.virtual_bytes()
    }

    /// The pieces of a range of the file, in order.
    pub fn segments(&self, range: Range<u64>) -> impl Iterator<Item = Segment> + Send + 'static {
        let layout = Arc::clone(&self.layout);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let segment = layout.segments(at..range.end).next()?;
            at += segment.length();
            Some(segment)
        })
    }

    /// The bytes of a range of the file. Reads ahead a little, and only while it is polled.
    pub fn bytes(&self, range: Range<u64>) -> BoxStream<'static, store::Result<Bytes>> {
        let reader = self.reader.clone();
        stream::iter(self.segments(range))
            .flat_map(move |segment| match segment {
                Segment::Bytes(bytes) => stream::iter([Ok(Bytes::from(bytes))]).boxed(),
                Segment::Zero { length } => zeros(length).boxed(),
                Segment::Disk { offset, length } => disk_bytes(&reader, offset, length),
            })
            .boxed()
    }
}

/// A part of the disk. A format may round the disk up; what lies behind its end is zeros.
fn disk_bytes(reader: &DiskReader, offset: u64, length: u64) -> BoxStream<'static, store::Result<Bytes>> {
    let size = reader.virtual_bytes();
    let end = (offset + length).min(size);
    let start = offset.min(end);
    let behind = length - (end - start);
    reader
        .stream(start..end)
        .map_ok(|piece| match piece {
            Piece::Zero(length) => zeros(length).boxed(),
            Piece::Data(bytes) => stream::iter([Ok(bytes)]).boxed(),
        })
        .try_flatten()
        .chain(zeros(behind))
        .boxed()
}

fn zeros(length: u64) -> impl futures::Stream<Item = store::Result<Bytes>> + Send + 'static {
    let mut left = length;
    stream::iter(std::iter::from_fn(move || {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        left -= now as u64;
        (now > 0).then(|| Ok(Bytes::from_static(&ZEROS[..now])))
    }))
}
