use proptest::prelude::*;

use super::*;
use crate::format::{Format, Wrapper};

const LIMITS: ReadLimits = ReadLimits {
    max_virtual_bytes: 1 << 20,
    source_bytes: 5000,
    max_unwrapped_bytes: 100,
};

fn info(virtual_bytes: u64) -> Info {
    let warnings = vec!["Something is odd.".to_owned(), "Schön.".to_owned()];
    Info {
        format: Format::Qcow2,
        variant: "qcow2 v3, zstd".to_owned(),
        virtual_bytes,
        warnings,
    }
}

fn extent(offset: u64, length: u64, content: Content<'_>) -> Record<'_> {
    Record::Extent(Extent {
        offset,
        length,
        content,
    })
}

fn pipe(records: &[Record<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for record in records {
        Writer::write(&mut writer, record).unwrap();
    }
    writer.output
}

/// Reads a pipe to its end; the records as text.
fn replay(bytes: &[u8]) -> Result<Vec<String>> {
    let mut reader = Reader::new(bytes, LIMITS);
    let mut seen = Vec::new();
    while let Some(record) = reader.next()? {
        seen.push(format!("{record:?}"));
    }
    Ok(seen)
}

#[track_caller]
fn breaks(records: &[Record<'_>], words: &str) {
    let error = replay(&pipe(records)).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Damaged && error.message().contains(words),
        "{error}"
    );
}

#[test]
fn a_disk_round_trips() {
    let records = [
        Record::Probe(Probe::Disk(Format::Qcow2)),
        Record::Info(info(2048)),
        extent(0, 512, Content::Zero),
        extent(512, 1024, Content::Source(3976)),
        extent(1536, 512, Content::Data(&[7; 512])),
        Record::Done(info(2048)),
    ];
    let expected: Vec<String> = records.iter().map(|record| format!("{record:?}")).collect();
    assert_eq!(replay(&pipe(&records)).unwrap(), expected);
}

#[test]
fn an_unwrapping_round_trips_through_the_writer() {
    let mut writer = Writer::new(Vec::new());
    Writer::write(&mut writer, &Record::Probe(Probe::Wrapped(Wrapper::Zstd))).unwrap();
    let packed = zstd::bulk::compress(b"a disk", 1).unwrap();
    let limits = crate::unwrap::UnwrapLimits::default();
    let total = crate::unwrap::unwrap(Wrapper::Zstd, packed.as_slice(), &mut writer, &limits).unwrap();
    Writer::write(&mut writer, &Record::Unwrapped(total)).unwrap();
    let seen = replay(&writer.output).unwrap();
    assert_eq!(seen[2..], [format!("{:?}", Record::Unwrapped(6))]);
}

#[test]
fn a_failure_may_come_at_any_time_and_ends_it() {
    let error = Error::refused("This is a\nVMDK.");
    let failure = Record::Failure(Failure::from(&error));
    for before in [vec![], vec![Record::Info(info(512))], vec![Record::Bytes(b"x")]] {
        let records: Vec<Record<'_>> = before.into_iter().chain([failure.clone()]).collect();
        let seen = replay(&pipe(&records)).unwrap();
        assert!(
            seen.last().unwrap().contains("This is a VMDK."),
            "control characters are gone: {seen:?}"
        );
    }
    breaks(&[failure.clone(), failure], "went on");
}

#[test]
fn the_pipe_must_not_end_early() {
    for begun in [vec![], vec![Record::Info(info(512))], vec![Record::Bytes(b"x")]] {
        let error = replay(&pipe(&begun)).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Io && error.message().contains("before it was done"),
            "not the same as a broken rule: {error}"
        );
    }
    assert_eq!(
        replay(&pipe(&[Record::Probe(Probe::Wrapped(Wrapper::Xz))]))
            .unwrap()
            .len(),
        1
    );
    let whole = pipe(&[
        Record::Info(info(512)),
        extent(0, 512, Content::Zero),
        Record::Done(info(512)),
    ]);
    for length in 0..whole.len() {
        assert!(replay(&whole[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn extents_are_contiguous_and_inside_the_disk_and_the_source() {
    let zero = |offset, length| extent(offset, length, Content::Zero);
    let after = |records: &[Record<'static>]| [&[Record::Info(info(1024))], records].concat();
    breaks(&after(&[zero(512, 512)]), "out of place");
    breaks(&after(&[zero(0, 512), zero(0, 512)]), "out of place");
    breaks(&after(&[zero(0, 0)]), "out of place");
    breaks(&after(&[zero(0, 1025)]), "out of place");
    breaks(&after(&[zero(0, u64::MAX)]), "out of place");
    breaks(
        &after(&[extent(0, 512, Content::Source(4489))]),
        "not in the file",
    );
    breaks(
        &after(&[extent(0, 512, Content::Source(u64::MAX))]),
        "not in the file",
    );
    breaks(&after(&[zero(0, 512), Record::Done(info(1024))]), "not complete");
    breaks(&after(&[zero(0, 1024), Record::Done(info(512))]), "not complete");
    breaks(
        &after(&[
            zero(0, 1024),
            Record::Done(Info {
                format: Format::Raw,
                ..info(1024)
            }),
        ]),
        "not complete",
    );
}

#[test]
fn records_come_in_order() {
    let probe = Record::Probe(Probe::Disk(Format::Raw));
    breaks(&[probe.clone(), probe.clone()], "out of order");
    breaks(&[extent(0, 512, Content::Zero)], "out of order");
    breaks(&[Record::Done(info(512))], "out of order");
    breaks(
        &[Record::Info(info(512)), Record::Info(info(512))],
        "out of order",
    );
    breaks(&[Record::Info(info(512)), Record::Bytes(b"x")], "out of order");
    breaks(&[Record::Bytes(b"x"), Record::Info(info(512))], "out of order");
    breaks(&[Record::Bytes(b"x"), Record::Unwrapped(2)], "out of order");
    breaks(&[Record::Unwrapped(0)], "out of order");
}

#[test]
fn sizes_are_capped() {
    breaks(&[Record::Info(info(0))], "not valid");
    breaks(&[Record::Info(info(1000))], "not valid");
    breaks(&[Record::Info(info((1 << 20) + 512))], "larger than 1 MiB");
    let many = vec![Record::Bytes(&[1; 60]), Record::Bytes(&[1; 41])];
    let error = replay(&pipe(&many)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    // A length that no record has is refused before memory is taken for it.
    let error = replay(&[5, 0xff, 0xff, 0xff, 0xff]).unwrap_err();
    assert!(error.message().contains("too long"), "{error}");
    let large = vec![0; MAX_DATA_BYTES + 1];
    breaks(&[Record::Bytes(&large)], "malformed");
}

#[test]
fn bodies_are_strict() {
    let with = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        replay(&[&[kind], &length[..], body].concat())
    };
    assert!(with(9, &[0, 2, 0, b'o', b'k']).is_ok());
    for (kind, body) in [
        (0, &[][..]),
        (10, &[]),
        (1, b"qed"),
        (7, b""),
        (8, &[0; 7]),
        (8, &[0; 9]),
        (9, &[4, 2, 0, b'o', b'k']),
        (9, &[0, 2, 0, b'o']),
        (9, &[0, 2, 0, b'o', b'k', b'!']),
        (9, &[0, 2, 0, 0xff, 0xff]),
        (9, &[0, 1, 0, 0x1b]),
    ] {
        let error = with(kind, body).unwrap_err();
        assert!(error.message().contains("malformed"), "{kind} {body:?}: {error}");
    }
}

#[test]
fn no_more_warnings_than_are_sent_are_taken() {
    let body = |count: u8| {
        let mut body = vec![3, 0, b'r', b'a', b'w'];
        body.extend(512_u64.to_le_bytes());
        body.extend([0, 0, count]);
        body.extend(vec![0; 2 * usize::from(count)]);
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        [&[2], &length[..], &body].concat()
    };
    let message = |count| replay(&body(count)).unwrap_err().to_string();
    assert!(message(32).contains("before it was done"), "32 are taken");
    assert!(message(33).contains("malformed"));
}

#[test]
fn long_text_is_cut_at_a_character() {
    let failure = Failure {
        kind: ErrorKind::Io,
        message: "ü".repeat(5000),
    };
    let bytes = pipe(&[Record::Failure(failure)]);
    let mut reader = Reader::new(bytes.as_slice(), LIMITS);
    let Ok(Some(Record::Failure(failure))) = reader.next() else {
        panic!("a failure");
    };
    assert_eq!((failure.kind, failure.message.len()), (ErrorKind::Io, 2048));
    let many = Info {
        warnings: vec!["w".to_owned(); 100],
        ..info(512)
    };
    let records = [
        Record::Info(many.clone()),
        extent(0, 512, Content::Zero),
        Record::Done(many),
    ];
    assert!(replay(&pipe(&records)).unwrap()[0].matches("\"w\"").count() == 32);
}

proptest! {
    #[test]
    fn any_disk_round_trips(pieces in prop::collection::vec((0..3_u8, 1..3000_u64, any::<u8>()), 1..20)) {
        let datas: Vec<Vec<u8>> =
            pieces.iter().map(|(_, length, byte)| vec![*byte; usize::try_from(*length * 2).unwrap()]).collect();
        let mut records = Vec::new();
        let mut end = 0;
        for ((kind, length, _), data) in pieces.iter().zip(&datas) {
            let (length, content) = match kind {
                0 => (*length, Content::Zero),
                1 => (*length, Content::Source(*length)),
                _ => (data.len() as u64, Content::Data(data)),
            };
            if length + 3000 <= 5000 || !matches!(content, Content::Source(_)) {
                records.push(extent(end, length, content));
                end += length;
            }
        }
        let size = end.next_multiple_of(512).max(512);
        if end < size {
            records.push(extent(end, size - end, Content::Zero));
        }
        records.insert(0, Record::Info(info(size)));
        records.push(Record::Done(info(size)));
        let expected: Vec<String> = records.iter().map(|record| format!("{record:?}")).collect();
        prop_assert_eq!(replay(&pipe(&records)).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay(&bytes);
    }
}
