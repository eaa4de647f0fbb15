//! The oracle for readers: whatever the input, extents follow one another, lie inside the source, are no longer
//! than promised, and cover the disk exactly when reading succeeds.

use std::io::Cursor;

use disk::{Content, Extent, Format, Limits, MAX_DATA_BYTES};

/// Small, so that an input costs little; the rules are the same.
pub const LIMITS: Limits = Limits {
    max_virtual_bytes: 4 << 20,
    max_table_bytes: 1 << 20,
};

/// Reads `image` and checks what comes out.
pub fn read(format: Format, image: &[u8]) {
    let mut end = 0;
    let result = disk::read(format, &mut Cursor::new(image), &LIMITS, &mut |extent: Extent<
        '_,
    >| {
        assert_eq!(extent.offset, end);
        assert!(extent.length > 0);
        end += extent.length;
        assert!(end <= LIMITS.max_virtual_bytes);
        match extent.content {
            Content::Zero => {}
            Content::Source(at) => assert!(at + extent.length <= image.len() as u64),
            Content::Data(bytes) => {
                assert_eq!(bytes.len() as u64, extent.length);
                assert!(bytes.len() <= MAX_DATA_BYTES);
            }
        }
        Ok(())
    });
    if let Err(error) = disk::table_check(format, &mut Cursor::new(image), &LIMITS) {
        assert!(error.message().ends_with('.'), "{error}");
    }
    let info = disk::info(format, &mut Cursor::new(image), &LIMITS);
    match result {
        Ok(read) => {
            assert_eq!(end, read.virtual_bytes);
            assert_eq!(info.expect("what can be read has an info").virtual_bytes, end);
        }
        Err(error) => assert!(error.message().ends_with('.'), "{error}"),
    }
}
