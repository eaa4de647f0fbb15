//! For tests: an image read to its end, as the disk it holds.

use std::io::Cursor;

use crate::error::{ErrorKind, Result};
use crate::extents::Content;
use crate::format::{Format, Info, Limits};

/// The disk in `image`; what is said of it before reading must agree with what is said after.
pub(crate) fn whole(format: Format, image: &[u8]) -> Result<(Info, Vec<u8>)> {
    whole_within(format, image, &Limits::default())
}

/// As [`whole`], with limits of one's own.
pub(crate) fn whole_within(format: Format, image: &[u8], limits: &Limits) -> Result<(Info, Vec<u8>)> {
    let first = crate::info(format, &mut Cursor::new(image), limits)?;
    let mut disk: Vec<u8> = Vec::new();
    let info = crate::read(format, &mut Cursor::new(image), limits, &mut |extent| {
        assert_eq!(extent.offset, disk.len() as u64, "extents follow one another");
        let length = usize::try_from(extent.length).unwrap();
        match extent.content {
            Content::Zero => disk.resize(disk.len() + length, 0),
            Content::Data(bytes) => disk.extend_from_slice(bytes),
            Content::Source(at) => {
                let at = usize::try_from(at).unwrap();
                disk.extend_from_slice(&image[at..at + length]);
            }
        }
        Ok(())
    })?;
    assert_eq!(info.virtual_bytes, disk.len() as u64);
    assert_eq!(
        (&info.variant, info.virtual_bytes),
        (&first.variant, first.virtual_bytes)
    );
    Ok((info, disk))
}

/// Fails unless `image` is refused for this kind of reason, in these words, before it is read or while it is.
#[track_caller]
pub(crate) fn fails(format: Format, image: &[u8], kind: ErrorKind, words: &str) {
    match whole(format, image) {
        Ok((info, _)) => panic!("it is taken as {}, and should be refused: {words}", info.variant),
        Err(error) => {
            assert!(error.message().contains(words), "`{words}` is not in: {error}");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().ends_with('.'), "{error}");
        }
    }
}
