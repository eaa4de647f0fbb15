//! Any bytes as the child's end of the pipe: what passes the reader keeps every promise of the protocol, and each
//! record has one form only (it is encoded to the bytes it came from).
#![no_main]

use disk::record::{ReadLimits, Reader, Record, encode};
use disk::{Content, MAX_DATA_BYTES};
use libfuzzer_sys::fuzz_target;

const LIMITS: ReadLimits = ReadLimits {
    max_virtual_bytes: 1 << 30,
    source_bytes: 1 << 20,
    max_unwrapped_bytes: 4096,
};

fuzz_target!(|pipe: &[u8]| {
    let mut reader = Reader::new(pipe, LIMITS);
    let (mut size, mut end, mut unwrapped, mut again) = (0, 0, 0, Vec::new());
    while let Ok(Some(record)) = reader.next() {
        let start = again.len();
        encode(&record, &mut again);
        assert_eq!(pipe.get(start..again.len()), again.get(start..));
        match record {
            Record::Info(info) => {
                assert!(info.virtual_bytes <= LIMITS.max_virtual_bytes);
                size = info.virtual_bytes;
            }
            Record::Extent(extent) => {
                assert_eq!(extent.offset, end);
                end += extent.length;
                assert!(extent.length > 0 && end <= size);
                if let Content::Source(at) = extent.content {
                    assert!(at + extent.length <= LIMITS.source_bytes);
                }
            }
            Record::Done(info) => assert_eq!((info.virtual_bytes, end), (size, size)),
            Record::Bytes(bytes) => {
                assert!(bytes.len() <= MAX_DATA_BYTES);
                unwrapped += bytes.len() as u64;
                assert!(unwrapped <= LIMITS.max_unwrapped_bytes);
            }
            Record::Unwrapped(total) => assert_eq!(total, unwrapped),
            Record::Probe(_) | Record::Failure(_) => {}
        }
    }
});
