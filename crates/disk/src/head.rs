//! The beginning of the disk in an image, as bytes: where a partition table is.

use crate::error::Result;
use crate::extents::Content;
use crate::format::{Format, Info, Limits};
use crate::probe::HEAD_BYTES;
use crate::read_until;
use crate::source::Source;

/// Reads the first [`HEAD_BYTES`] of the disk, or all of a shorter one.
pub(crate) fn read(format: Format, source: &mut Source<'_>, limits: &Limits) -> Result<(Info, Vec<u8>)> {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut stored = Vec::new();
    let info = read_until(format, source, limits, HEAD_BYTES as u64, &mut |extent| {
        let begin = head.len();
        match extent.content {
            Content::Zero => {}
            Content::Source(at) => stored.push((begin..begin + place(extent.length), at)),
            Content::Data(bytes) => {
                head.extend_from_slice(bytes);
                return Ok(());
            }
        }
        head.resize(begin + place(extent.length), 0);
        Ok(())
    })?;
    for (range, at) in stored {
        if let Some(part) = head.get_mut(range) {
            source.read_at(at, part)?;
        }
    }
    Ok((info, head))
}
