//! Walks a table that stands in the file, a piece at a time: however long it claims to be, it costs no memory.

use crate::error::Result;
use crate::source::Source;

/// How much of a table is in memory.
const PIECE_BYTES: u64 = 64 << 10;

/// Gives the `entries` entries of `width` bytes from `at` on, one after the other, until `each` says that it has
/// enough. A table that ends behind the end of the file is damage.
pub(crate) fn walk(
    source: &mut Source<'_>,
    at: u64,
    entries: u64,
    width: usize,
    each: &mut dyn FnMut(&mut Source<'_>, &[u8]) -> Result<Walk>,
) -> Result<()> {
    let bytes = entries.saturating_mul(width as u64);
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(PIECE_BYTES);
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        source.read_at(at.saturating_add(done), &mut piece)?;
        for entry in piece.chunks_exact(width) {
            if each(source, entry)? == Walk::Enough {
                return Ok(());
            }
        }
        done += length;
    }
    Ok(())
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    On,
    Enough,
}
