use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::format::Format;
use crate::whole::whole;

/// The bytes of `range` of the file, for a disk with these contents.
fn render(layout: &Layout, disk: &[u8], range: Range<u64>) -> Vec<u8> {
    let mut file = Vec::new();
    for segment in layout.segments(range) {
        assert!(segment.length() > 0);
        match segment {
            Segment::Bytes(bytes) => {
                assert!(bytes.len() <= 65_536);
                file.extend(bytes);
            }
            Segment::Zero { length } => file.resize(file.len() + usize::try_from(length).unwrap(), 0),
            Segment::Disk { offset, length } => {
                let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
                file.extend_from_slice(&disk[range]);
            }
        }
    }
    file
}

/// A layout of each format that has one.
fn layouts(bytes: u64, ranges: &[Range<u64>]) -> Vec<(Format, Layout)> {
    let all = || ranges.iter().cloned();
    let id = *b"0123456789abcdef";
    vec![
        (Format::Qcow2, Layout::qcow2(bytes, all()).unwrap()),
        (Format::Vdi, Layout::vdi(bytes, all(), id).unwrap()),
        (Format::Vhd, Layout::vhd(bytes, all(), id).unwrap()),
        (Format::Vhdx, Layout::vhdx(bytes, all(), id).unwrap()),
    ]
}

/// A disk whose bytes in `ranges` are not zero.
fn disk_of(sectors: usize, ranges: &[Range<u64>]) -> Vec<u8> {
    let mut disk = vec![0; sectors * 512];
    for range in ranges {
        for at in range.clone() {
            disk[usize::try_from(at).unwrap()] = u8::try_from(at % 255).unwrap() + 1;
        }
    }
    disk
}

fn disks() -> impl Strategy<Value = (usize, Vec<Range<u64>>)> {
    (1..4000_usize).prop_flat_map(|sectors| {
        let bytes = sectors as u64 * 512;
        let range =
            (0..bytes, 1..40_000_u64).prop_map(move |(start, length)| start..(start + length).min(bytes));
        (Just(sectors), prop::collection::vec(range, 0..8))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_allocation_reads_back_equal_and_any_range_is_a_slice_of_the_whole(
        (sectors, ranges) in disks(),
        cuts in prop::collection::vec((0.0..1.0_f64, 0..200_000_u64), 12),
    ) {
        let disk = disk_of(sectors, &ranges);
        for (format, layout) in layouts(disk.len() as u64, &ranges) {
            let file = render(&layout, &disk, 0..layout.len());
            prop_assert_eq!(file.len() as u64, layout.len());
            prop_assert!(whole(format, &file).unwrap().1 == disk, "{}", format);
            for (place, length) in &cuts {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
                let start = (place * file.len() as f64) as u64;
                let end = (start + length).min(layout.len());
                let slice = &file[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                prop_assert!(render(&layout, &disk, start..start + length) == slice, "{}", format);
            }
        }
    }
}

#[test]
fn a_raw_layout_is_the_disk() {
    let layout = Layout::raw(1000);
    assert_eq!(layout.len(), 1000);
    assert_eq!(
        layout.segments(10..5000).collect::<Vec<_>>(),
        [Segment::Disk {
            offset: 10,
            length: 990
        }]
    );
    assert_eq!(layout.segments(1000..2000).count(), 0);
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not loop")]
    let backwards = layout.segments(7..3).count();
    assert_eq!(backwards, 0);
}

#[test]
fn neighbouring_clusters_are_one_segment() {
    let layout = Layout::qcow2(
        1 << 30,
        [0..(1 << 29) + 1, 1 << 29..(1 << 29) + 70_000].into_iter(),
    )
    .unwrap();
    let data: Vec<Segment> = layout
        .segments(0..layout.len())
        .filter(|segment| !matches!(segment, Segment::Bytes(_)))
        .collect();
    assert_eq!(
        data,
        [Segment::Disk {
            offset: 0,
            length: (1 << 29) + 131_072
        }]
    );
}

#[test]
fn sizes_and_ranges_that_cannot_be_are_refused() {
    type Plan = fn(u64, std::vec::IntoIter<Range<u64>>) -> Result<Layout, Error>;
    let plans: [(Plan, u64); 4] = [
        (|bytes, ranges| Layout::qcow2(bytes, ranges), 16 << 40),
        (|bytes, ranges| Layout::vdi(bytes, ranges, [7; 16]), 16 << 40),
        (|bytes, ranges| Layout::vhd(bytes, ranges, [7; 16]), 2040 << 30),
        (|bytes, ranges| Layout::vhdx(bytes, ranges, [7; 16]), 64 << 40),
    ];
    for (plan, most) in plans {
        let kind = |bytes: u64, ranges: Vec<Range<u64>>| plan(bytes, ranges.into_iter()).unwrap_err().kind();
        assert_eq!(kind(0, Vec::new()), ErrorKind::Refused);
        assert_eq!(kind(1000, Vec::new()), ErrorKind::Refused);
        assert_eq!(kind(most + 512, Vec::new()), ErrorKind::Limit);
        assert_eq!(kind(512, std::iter::once(0..513).collect()), ErrorKind::Refused);
        assert_eq!(
            kind(512, std::iter::once(u64::MAX - 1..u64::MAX).collect()),
            ErrorKind::Refused
        );
    }
}

/// The largest disks, with nothing and with everything in them: any place can be asked for, and costs little.
#[test]
fn the_largest_disks_can_be_written() {
    let id = [7; 16];
    let all = |bytes: u64| std::iter::once(0..bytes);
    let sizes = [16 << 40, 2040 << 30, 64 << 40];
    let full = [
        Layout::vdi(sizes[0], all(sizes[0]), id).unwrap(),
        Layout::vhd(sizes[1], all(sizes[1]), id).unwrap(),
        Layout::vhdx(sizes[2], all(sizes[2]), id).unwrap(),
    ];
    for (layout, bytes) in full.iter().zip(sizes) {
        assert!(layout.len() > bytes);
        let tail = layout.segments(layout.len() - 612..layout.len() - 512).next();
        let is_disk = matches!(tail, Some(Segment::Disk { length: 100, .. }));
        assert!(is_disk, "{tail:?}");
        assert_eq!(layout.segments(1_000_000..1_000_001).count(), 1);
    }
}

/// The largest disk with every cluster in use: the refcounts cover themselves, and any place can be asked for.
#[test]
fn the_largest_disk_has_room_for_its_refcounts() {
    let virtual_bytes = 16 << 40;
    let layout = Layout::qcow2(virtual_bytes, std::iter::once(0..virtual_bytes)).unwrap();
    let clusters = layout.len() / 65_536;
    let blocks_needed = clusters.div_ceil(32_768);
    let data = (1 << 28) + (1 << 15);
    let metadata = clusters - data;
    assert!(
        metadata >= 1 + 4 + blocks_needed + blocks_needed.div_ceil(8192),
        "{metadata}"
    );
    let last: Vec<Segment> = layout.segments(layout.len() - 100..u64::MAX).collect();
    assert_eq!(
        last,
        [Segment::Disk {
            offset: virtual_bytes - 100,
            length: 100
        }]
    );
}
