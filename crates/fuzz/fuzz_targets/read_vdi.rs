//! Any bytes, read as a VDI.
#![no_main]

mod check;

use disk::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| check::read(Format::Vdi, image));
