use std::io::Cursor;

use super::*;
use crate::error::ErrorKind;

const LIMITS: UnwrapLimits = UnwrapLimits {
    max_bytes: 4 << 20,
    max_memory_bytes: 128 << 20,
    max_ratio: 250,
    ratio_free_bytes: 1 << 20,
};

fn pack(wrapper: Wrapper, bytes: &[u8]) -> Vec<u8> {
    match wrapper {
        Wrapper::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Bzip2 => {
            let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::new(1));
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Zstd => {
            let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
    }
    .unwrap()
}

fn unpack(wrapper: Wrapper, packed: &[u8]) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    let produced = unwrap(wrapper, packed, &mut output, &LIMITS)?;
    assert_eq!(produced, output.len() as u64);
    Ok(output)
}

#[track_caller]
fn fails(wrapper: Wrapper, packed: &[u8], kind: ErrorKind, words: &str) {
    let mut output = Vec::new();
    let error = unwrap(wrapper, packed, &mut output, &LIMITS).unwrap_err();
    assert!(
        error.kind() == kind && error.message().contains(words),
        "{wrapper}: {error}"
    );
}

fn sample(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * at / 7) % 251).unwrap())
        .collect()
}

#[test]
fn one_part_and_several_come_out_whole() {
    for wrapper in Wrapper::ALL {
        for length in [1, 511, 512, 513, BUFFER_BYTES, 3 * BUFFER_BYTES + 1] {
            let (bytes, packed) = (sample(length), pack(wrapper, &sample(length)));
            assert!(unpack(wrapper, &packed).unwrap() == bytes, "{wrapper} {length}");
            let three = [packed.as_slice(), &pack(wrapper, b""), &pack(wrapper, b"end")].concat();
            assert!(
                unpack(wrapper, &three).unwrap() == [bytes.as_slice(), b"end"].concat(),
                "{wrapper} {length}"
            );
        }
    }
}

#[test]
fn bytes_that_come_one_at_a_time_do_as_well() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }
    for wrapper in Wrapper::ALL {
        let packed = [pack(wrapper, &sample(3000)), pack(wrapper, b"end")].concat();
        let mut output = Vec::new();
        assert_eq!(
            unwrap(wrapper, Slow(&packed), &mut output, &LIMITS).unwrap(),
            3003,
            "{wrapper}"
        );
    }
}

#[test]
fn skippable_frames_of_zstd_are_skipped() {
    let skippable = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let packed = [&skippable[..], &pack(Wrapper::Zstd, b"disk"), &skippable].concat();
    assert_eq!(unpack(Wrapper::Zstd, &packed).unwrap(), b"disk");
    fails(Wrapper::Zstd, &skippable, ErrorKind::Refused, "holds nothing");
}

#[test]
fn what_follows_the_last_part_is_refused() {
    for wrapper in Wrapper::ALL {
        for rest in [&b"rubbish behind"[..], b"\0"] {
            let packed = [&pack(wrapper, &sample(2000)), rest].concat();
            let error = unpack(wrapper, &packed).unwrap_err();
            assert_ne!(error.kind(), ErrorKind::Io, "{wrapper}: {error}");
        }
        let packed = [pack(wrapper, &sample(2000)), vec![b'x'; 100]].concat();
        fails(wrapper, &packed, ErrorKind::Refused, "Something follows");
    }
    let padded = [pack(Wrapper::Xz, b"disk"), vec![0; 8]].concat();
    assert_eq!(
        unpack(Wrapper::Xz, &padded).unwrap(),
        b"disk",
        "stream padding belongs to xz"
    );
}

#[test]
fn cut_off_or_changed_data_is_damage() {
    for wrapper in Wrapper::ALL {
        let packed = pack(wrapper, &sample(20_000));
        for length in [1, packed.len() / 2, packed.len() - 1] {
            fails(
                wrapper,
                &packed[..length],
                ErrorKind::Damaged,
                "damaged or cut off",
            );
        }
        fails(wrapper, b"", ErrorKind::Damaged, "damaged or cut off");
        // The last bytes hold or end with a checksum in each of them.
        let mut changed = packed.clone();
        let at = packed.len() - 5;
        changed[at] ^= 0x10;
        fails(wrapper, &changed, ErrorKind::Damaged, "damaged or cut off");
    }
}

#[test]
fn a_second_layer_or_an_archive_inside_is_refused_before_anything_is_written() {
    for wrapper in Wrapper::ALL {
        for inner in Wrapper::ALL {
            let packed = pack(wrapper, &pack(inner, b"disk"));
            let mut output = Vec::new();
            let error = unwrap(wrapper, packed.as_slice(), &mut output, &LIMITS).unwrap_err();
            assert!(
                error.message().contains(&format!("twice ({inner} in {wrapper})")),
                "{error}"
            );
            assert_eq!((error.kind(), output.len()), (ErrorKind::Refused, 0));
        }
        fails(
            wrapper,
            &pack(wrapper, b"PK\x03\x04 and so on"),
            ErrorKind::Refused,
            "multiple files",
        );
        fails(wrapper, &pack(wrapper, b""), ErrorKind::Refused, "holds nothing");
    }
}

#[test]
fn what_is_produced_is_counted_and_capped() {
    for wrapper in Wrapper::ALL {
        let packed = pack(wrapper, &vec![0; 5 << 20]);
        let mut output = Vec::new();
        let error = unwrap(wrapper, packed.as_slice(), &mut output, &LIMITS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(output.len() <= 4 << 20);
        let exact = unpack(wrapper, &pack(wrapper, &vec![0; 4 << 20])).unwrap();
        assert_eq!(exact.len(), 4 << 20);
    }
}

#[test]
fn what_takes_room_may_not_be_out_of_proportion() {
    // The least of the four packs 0xff about a hundred times.
    let limits = UnwrapLimits {
        max_ratio: 20,
        ..LIMITS
    };
    let opened = |wrapper, packed: &[u8]| {
        let mut output = Vec::new();
        unwrap(wrapper, packed, &mut output, &limits).map(|_| output)
    };
    for wrapper in Wrapper::ALL {
        let error = opened(wrapper, &pack(wrapper, &vec![0xff; 3 << 20])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{wrapper}: {error}");
        assert!(error.message().contains("20 times"), "{wrapper}: {error}");
        // Zeros become holes, and the first bytes are free.
        for (byte, length) in [(0, 3 << 20), (0xff, 1 << 20)] {
            let output = opened(wrapper, &pack(wrapper, &vec![byte; length])).unwrap();
            assert_eq!(output.len(), length, "{wrapper}");
        }
        // What goes in counts all the time, so a disk that is dense here and there passes.
        let mut disk = vec![0xff; 2 << 20];
        let mut state = 1_u32;
        for byte in &mut disk[..100_000] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
        assert!(
            opened(wrapper, &pack(wrapper, &disk)).unwrap() == disk,
            "{wrapper}"
        );
    }
    let usual = UnwrapLimits::default();
    assert_eq!((usual.max_ratio, usual.ratio_free_bytes), (250, 1 << 30));
}

/// An xz stream that asks for a dictionary of this size. Made by hand: an encoder would take the memory first.
fn xz_with_dictionary(code: u8) -> Vec<u8> {
    let mut packed = pack(Wrapper::Xz, b"disk");
    // Stream header 12 bytes; block header: size, flags, filter id 0x21, size of properties 1, the dictionary.
    assert_eq!(packed[14..16], [0x21, 1]);
    packed[16] = code;
    let header = usize::from(packed[12]) * 4 + 4;
    let checksum = crc32fast::hash(&packed[12..12 + header - 4]).to_le_bytes();
    packed[12 + header - 4..12 + header].copy_from_slice(&checksum);
    packed
}

#[test]
fn xz_dictionaries_are_taken_up_to_64_mib() {
    // Code 28 is 64 MiB (`xz -9`), 29 is 96 MiB, 40 is 4 GiB.
    assert_eq!(unpack(Wrapper::Xz, &xz_with_dictionary(28)).unwrap(), b"disk");
    fails(Wrapper::Xz, &xz_with_dictionary(29), ErrorKind::Limit, "64 MiB");
    fails(Wrapper::Xz, &xz_with_dictionary(40), ErrorKind::Limit, "64 MiB");
}

/// A zstd frame with one raw block, whose header asks for a window of `2^log` bytes.
fn zstd_with_window(log: u8) -> Vec<u8> {
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    packed.extend([(4 << 3) | 1, 0, 0]);
    packed.extend(b"disk");
    packed
}

#[test]
fn zstd_windows_are_taken_up_to_128_mib() {
    assert_eq!(unpack(Wrapper::Zstd, &zstd_with_window(27)).unwrap(), b"disk");
    fails(
        Wrapper::Zstd,
        &zstd_with_window(28),
        ErrorKind::Limit,
        "--long=27",
    );
    fails(
        Wrapper::Zstd,
        &zstd_with_window(31),
        ErrorKind::Limit,
        "--long=27",
    );
    // However much memory is granted, larger ones stay out.
    let granted = UnwrapLimits {
        max_memory_bytes: 4 << 30,
        ..LIMITS
    };
    let result = unwrap(
        Wrapper::Zstd,
        zstd_with_window(28).as_slice(),
        &mut Vec::new(),
        &granted,
    );
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Limit);
    let limits = UnwrapLimits {
        max_memory_bytes: 8 << 20,
        ..LIMITS
    };
    let mut output = Vec::new();
    let result = unwrap(
        Wrapper::Zstd,
        zstd_with_window(24).as_slice(),
        &mut output,
        &limits,
    );
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn a_failing_source_or_target_is_told_from_damage() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable was pulled"))
        }
    }
    for wrapper in Wrapper::ALL {
        let packed = pack(wrapper, &sample(100_000));
        let cut = Cursor::new(&packed[..packed.len() / 2]).chain(Broken);
        let error = unwrap(wrapper, cut, &mut Vec::new(), &LIMITS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{wrapper}: {error}");
        let mut small = [0; 1000];
        let error = unwrap(wrapper, packed.as_slice(), &mut &mut small[..], &LIMITS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{wrapper}: {error}");
    }
}
