//! Any bytes, probed and read as qcow2.
#![no_main]

mod check;

use std::io::Cursor;

use disk::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    let _ = disk::probe(&mut Cursor::new(image));
    check::read(Format::Qcow2, image);
});
