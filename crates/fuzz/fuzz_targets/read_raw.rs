//! Any bytes, read as a raw disk. Checksums would stop almost every mutation of a GPT, so the first byte says which
//! of its two headers are sealed again.
#![no_main]

mod check;
#[expect(dead_code, unused_imports, reason = "shared with the tests of the crate")]
#[path = "../../disk/src/fixture/mod.rs"]
mod fixture;

use disk::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seal, disk)) = input.split_first() else {
        return;
    };
    let mut disk = disk.to_vec();
    if seal & 1 != 0 && disk.len() >= 1024 {
        fixture::gpt_seal(&mut disk, 512);
    }
    if seal & 2 != 0 && disk.len() >= 1024 {
        let last = disk.len() - 512;
        fixture::gpt_seal(&mut disk, last);
    }
    check::read(Format::Raw, &disk);
});
