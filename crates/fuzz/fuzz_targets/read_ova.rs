//! Any bytes, read as an OVA. Checksums would stop almost every mutation, so each bit of the first byte says whether
//! that of the header at so many KiB is made right again.
#![no_main]

mod check;
#[expect(dead_code, unused_imports, reason = "shared with the tests of the crate")]
#[path = "../../disk/src/fixture/mod.rs"]
mod fixture;

use disk::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seal, archive)) = input.split_first() else {
        return;
    };
    let mut archive = archive.to_vec();
    for number in 0..8 {
        if let Some(header) = archive.get_mut(number << 10..(number << 10) + 512)
            && seal >> number & 1 == 1
        {
            fixture::tar_seal(header);
        }
    }
    check::read(Format::Ova, &archive);
});
