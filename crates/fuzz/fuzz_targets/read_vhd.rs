//! Any bytes, read as a VHD. Checksums would stop almost every mutation, so the first byte says whether they are made
//! right again.
#![no_main]

mod check;
#[expect(dead_code, unused_imports, reason = "shared with the tests of the crate")]
#[path = "../../disk/src/fixture/mod.rs"]
mod fixture;

use disk::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seal, image)) = input.split_first() else {
        return;
    };
    let mut image = image.to_vec();
    if seal & 1 != 0 {
        fixture::vhd_seal(&mut image);
    }
    check::read(Format::Vhd, &image);
});
