//! A small VHDX with any changes in its headers, its log, its tables and its metadata, whose checksums are right again.
//! Whole images have megabytes of zeros between these, which no fuzzer gets through.
#![no_main]

mod check;
#[expect(dead_code, unused_imports, reason = "shared with the tests of the crate")]
#[path = "../../disk/src/fixture/mod.rs"]
mod fixture;

use disk::Format;
use fixture::{Change, LogEntry, Vhdx};
use libfuzzer_sys::fuzz_target;

/// Where changes may begin; a change says how far behind that.
const PLACES: [usize; 12] = [
    Vhdx::HEADERS_AT[0],
    Vhdx::HEADERS_AT[1],
    Vhdx::REGIONS_AT[0],
    Vhdx::REGIONS_AT[1],
    Vhdx::LOG_AT,
    Vhdx::LOG_AT + 4096,
    Vhdx::LOG_AT + 8192,
    Vhdx::TABLE_AT,
    Vhdx::METADATA_AT,
    Vhdx::METADATA_AT + 32,
    Vhdx::ITEMS_AT,
    Vhdx::DATA_AT,
];

/// The image that the first byte says: with a log in every second.
fn base(kind: u8) -> Vec<u8> {
    let mut image = Vhdx::dynamic();
    if kind & 1 == 1 {
        let page = vec![2; 4096];
        let changes = vec![Change::Page(Vhdx::DATA_AT as u64, page), Change::Zero(1 << 22, 8192)];
        image.log = vec![LogEntry {
            sequence: 3,
            tail: 0,
            at: 0,
            changes,
        }];
    }
    image.build()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, mut rest)) = input.split_first() else {
        return;
    };
    let mut image = base(*kind);
    // A place, an offset behind it, a length, and so many bytes.
    while let [place, low, high, length, after @ ..] = rest {
        let bytes = &after[..after.len().min(usize::from(*length))];
        let at = PLACES[usize::from(*place) % PLACES.len()] + usize::from(u16::from_le_bytes([*low, *high]));
        let end = (at + bytes.len()).min(image.len());
        image[at.min(end)..end].copy_from_slice(&bytes[..end - at.min(end)]);
        rest = &after[bytes.len()..];
    }
    fixture::vhdx_seal(&mut image);
    for at in [0, 4096, 8192] {
        fixture::vhdx_log_seal(&mut image, Vhdx::LOG_AT + at);
    }
    check::read(Format::Vhdx, &image);
});
