//! A stored disk as a file of some format.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use disk::layout::{Id, Layout, Segment};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use store::{DiskReader, Piece, TreeRoot};

use super::vmdk;
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
    /// VMware's format as a stream (`streamOptimized`), compressed.
    Vmdk,
    /// Hyper-V's format, dynamic.
    Vhdx,
    /// The format of Virtual PC, Xen and Azure, dynamic.
    Vhd,
    /// VirtualBox's format, dynamic.
    Vdi,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vmdk,
        Self::Vhdx,
        Self::Vhd,
        Self::Vdi,
    ];

    /// Its name, also a file's extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
        }
    }

    /// The one that a file's ending names.
    pub fn of_file(path: &std::path::Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ALL.into_iter().find(|format| format.as_str() == ending)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|f| f.as_str() == text);
        found.ok_or_else(|| Error::invalid("`format` is `raw`, `qcow2`, `vmdk`, `vhdx`, `vhd` or `vdi`"))
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
    plan: Plan,
    reader: DiskReader,
}

/// How the file is made.
#[derive(Clone)]
enum Plan {
    /// Any part of it by itself.
    Layout(Arc<Layout>),
    /// From its beginning to its end; its length is not known before.
    Stream(Id),
}

impl Export {
    /// Plans the file. Reads the disk's tree where the format must know what is zeros, never its data.
    pub async fn open(reader: DiskReader, root: &TreeRoot, format: Format) -> Result<Self> {
        let (size, id) = (reader.virtual_bytes(), identity(root));
        let layout = match format {
            Format::Vmdk => {
                let plan = Plan::Stream(id);
                return Ok(Self { plan, reader });
            }
            Format::Raw => Ok(Layout::raw(size)),
            Format::Qcow2 => Layout::qcow2(size, allocated(&reader).await?),
            Format::Vhdx => Layout::vhdx(size, allocated(&reader).await?, id),
            Format::Vhd => Layout::vhd(size, allocated(&reader).await?, id),
            Format::Vdi => Layout::vdi(size, allocated(&reader).await?, id),
        };
        let layout = layout.map_err(|error| Error::invalid(error.to_string()))?;
        let plan = Plan::Layout(Arc::new(layout));
        Ok(Self { plan, reader })
    }

    /// The file's bytes, where they are known before the file is made: any part of such a file can be had.
    pub fn length(&self) -> Option<u64> {
        match &self.plan {
            Plan::Layout(layout) => Some(layout.len()),
            Plan::Stream(_) => None,
        }
    }

    /// The disk's bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.reader.virtual_bytes()
    }

    /// The bytes of a range of the file, or of all of it. Reads ahead a little, and only while it is polled. A file
    /// whose length is not known comes whole.
    pub fn bytes(&self, range: Option<Range<u64>>) -> Result<BoxStream<'static, store::Result<Bytes>>> {
        match &self.plan {
            Plan::Layout(layout) => Ok(self.part(layout, range.unwrap_or(0..layout.len()))),
            Plan::Stream(id) => vmdk::bytes(&self.reader, *id),
        }
    }

    fn part(&self, layout: &Arc<Layout>, range: Range<u64>) -> BoxStream<'static, store::Result<Bytes>> {
        let reader = self.reader.clone();
        stream::iter(segments(Arc::clone(layout), range))
            .flat_map(move |segment| match segment {
                Segment::Bytes(bytes) => stream::iter([Ok(Bytes::from(bytes))]).boxed(),
                Segment::Zero { length } => zeros(length).boxed(),
                Segment::Disk { offset, length } => disk_bytes(&reader, offset, length),
            })
            .boxed()
    }
}

/// A stored disk as a qcow2 file: its pieces, in order, and how long it is.
pub async fn qcow2_segments(
    reader: &DiskReader,
) -> Result<(impl Iterator<Item = Segment> + Send + 'static, u64)> {
    let layout = Layout::qcow2(reader.virtual_bytes(), allocated(reader).await?);
    let layout = layout.context("could not plan a qcow2 file")?;
    let length = layout.len();
    Ok((segments(Arc::new(layout), 0..length), length))
}

/// The pieces of a range of the file, in order.
fn segments(layout: Arc<Layout>, range: Range<u64>) -> impl Iterator<Item = Segment> + Send + 'static {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let segment = layout.segments(at..range.end).next()?;
        at += segment.length();
        Some(segment)
    })
}

/// What of a disk is not zeros, by its tree.
async fn allocated(reader: &DiskReader) -> Result<std::vec::IntoIter<Range<u64>>> {
    let allocated = reader.allocated(0..reader.virtual_bytes()).await;
    let allocated = allocated.map_err(|error| error.context("could not read a disk's tree"))?;
    Ok(allocated.into_iter())
}

/// What the file says it is, in the formats that say it: the same for the same disk, and of no use for telling anything
/// else about it.
fn identity(root: &TreeRoot) -> Id {
    let hash = Sha256::digest(format!(
        "cistern disk identity\0{}\0{}",
        root.digest, root.virtual_bytes
    ));
    let mut id: Id = std::array::from_fn(|at| hash[at]);
    // A random UUID by its form (RFC 9562 §5.4): some tools look at it.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
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
