//! Any bytes, unwrapped: the first byte says as what. No more may come out than allowed or than is counted.
#![no_main]

use disk::Wrapper;
use disk::unwrap::{UnwrapLimits, unwrap};
use libfuzzer_sys::fuzz_target;

const LIMITS: UnwrapLimits = UnwrapLimits {
    max_bytes: 1 << 20,
    max_memory_bytes: 8 << 20,
    max_ratio: 250,
    ratio_free_bytes: 64 << 10,
};

fuzz_target!(|input: &[u8]| {
    let Some((kind, packed)) = input.split_first() else {
        return;
    };
    let wrapper = Wrapper::ALL[usize::from(*kind) % Wrapper::ALL.len()];
    let mut output = Vec::new();
    let result = unwrap(wrapper, packed, &mut output, &LIMITS);
    assert!(output.len() as u64 <= LIMITS.max_bytes);
    if output.iter().all(|byte| *byte != 0) {
        let allowed = packed.len() as u64 * LIMITS.max_ratio + LIMITS.ratio_free_bytes;
        assert!(output.len() as u64 <= allowed);
    }
    if let Ok(produced) = result {
        assert_eq!(produced, output.len() as u64);
        assert!(produced > 0);
    }
});
