//! The version of the bytes that the store writes (docs/store-format.md §7).

use crate::error::{Error, Kind, Result};

/// Format of the objects that this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Refuses what another version wrote and this one would misread. `what` has the format.
pub(crate) fn format_check(what: &str, format: u32) -> Result<()> {
    let advice = match format {
        0 => "which was a draft: make a new store and import into it",
        1..=FORMAT => return Ok(()),
        _ => "which is newer than this version: upgrade cistern",
    };
    let text = format!("{what} has format {format}, {advice}");
    Err(Error::new(Kind::Incompatible, text))
}
