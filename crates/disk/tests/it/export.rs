//! What we write, in whatever format, is clean for `qemu-img check` and holds the disk for `qemu-img compare`.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use disk::Format;
use disk::layout::{Layout, Segment};
use disk::stream_vmdk::{GRAIN_BYTES, Writer, pack};
use tempfile::TempDir;

use crate::qemu::{self, img, text};
use crate::support::{Numbers, import, scribble};

fn write(path: &Path, layout: &Layout, disk: &[u8]) {
    let mut file = File::create(path).unwrap();
    let mut length = 0;
    for segment in layout.segments(0..layout.len()) {
        length += segment.length();
        match segment {
            Segment::Bytes(bytes) => file.write_all(&bytes).unwrap(),
            Segment::Zero { length } => file
                .write_all(&vec![0; usize::try_from(length).unwrap()])
                .unwrap(),
            Segment::Disk { offset, length } => {
                let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
                file.write_all(&disk[range]).unwrap();
            }
        }
    }
    assert_eq!(length, layout.len());
}

/// QEMU's name of a format, and whether `qemu-img check` knows it.
fn at_qemu(format: Format) -> (&'static str, bool) {
    match format {
        Format::Vhd => ("vpc", false),
        other => (other.name(), true),
    }
}

/// The file of this disk in this format.
fn file_write(path: &Path, format: Format, disk: &[u8], allocated: &[Range<u64>]) {
    let (bytes, all) = (disk.len() as u64, || allocated.iter().cloned());
    let id = *b"0123456789abcdef";
    let layout = match format {
        Format::Qcow2 => Layout::qcow2(bytes, all()),
        Format::Vdi => Layout::vdi(bytes, all(), id),
        Format::Vhd => Layout::vhd(bytes, all(), id),
        Format::Vhdx => Layout::vhdx(bytes, all(), id),
        Format::Vmdk => return stream_write(path, disk),
        Format::Raw | Format::Ova => unreachable!("not written by a layout"),
    };
    write(path, &layout.unwrap(), disk);
}

fn stream_write(path: &Path, disk: &[u8]) {
    let mut writer = Writer::new(disk.len() as u64, *b"0123456789abcdef").unwrap();
    let mut file = writer.begin();
    for (number, grain) in (0..).zip(disk.chunks(GRAIN_BYTES)) {
        if grain.iter().any(|byte| *byte != 0) {
            file.extend(writer.grain(number, &pack(grain)).unwrap());
        }
    }
    file.extend(writer.end().unwrap());
    std::fs::write(path, file).unwrap();
}

fn export(dir: &TempDir, name: &str, disk: &[u8], allocated: &[Range<u64>]) {
    for format in [
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhdx,
        Format::Vhd,
        Format::Vdi,
    ] {
        let image = dir.path().join(format!("{name}.{format}"));
        file_write(&image, format, disk, allocated);
        let (info, read_back) = import(&image, format);
        assert!(read_back == disk, "{name}.{format} reads back as it was written");
        assert_eq!(info.warnings, Vec::<String>::new(), "{name}.{format}");
        if qemu::available("checking an export") {
            let (known_as, is_checked) = at_qemu(format);
            if is_checked {
                let report = img(&["check", "-f", known_as, text(&image)]);
                assert!(
                    report.contains("No errors were found"),
                    "{name}.{format}: {report}"
                );
            }
            qemu::agrees(&image, known_as, format);
        }
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn an_export_is_clean_and_equal_at_any_size() {
    let dir = TempDir::new().unwrap();
    let mut numbers = Numbers(20);
    for (round, bytes) in [512, 65_536, 66_048, 1 << 20, (33 << 20) + 512, 5_000_192]
        .into_iter()
        .enumerate()
    {
        let mut disk = vec![0; bytes];
        let allocated = scribble(&mut disk, &mut numbers, 12);
        export(&dir, &format!("random-{round}"), &disk, &allocated);
        export(&dir, &format!("full-{round}"), &disk, &[0..bytes as u64, 0..1]);
        export(&dir, &format!("empty-{round}"), &vec![0; bytes], &[]);
    }
}

/// Disks that need several L1 clusters, refcount blocks and refcount table clusters: written sparsely, the tables
/// alone hold.
#[test]
fn an_export_of_a_huge_disk_is_clean() {
    if !qemu::available("checking a huge export") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let tib: u64 = 1 << 40;
    let scattered: Vec<Range<u64>> = (0..40)
        .map(|number| number * (tib / 41)..number * (tib / 41) + 1)
        .collect();
    let cases = [
        ("scattered", 5 * tib, scattered),
        ("dense", 20 << 30, std::iter::once(0..18 << 30).collect()),
    ];
    for (name, virtual_bytes, allocated) in cases {
        let layout = Layout::qcow2(virtual_bytes, allocated.into_iter()).unwrap();
        let image = dir.path().join(name);
        let mut file = File::create(&image).unwrap();
        file.set_len(layout.len()).unwrap();
        let mut at = 0;
        for segment in layout.segments(0..layout.len()) {
            if let Segment::Bytes(bytes) = &segment {
                std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
            }
            at += segment.length();
        }
        file.flush().unwrap();
        let report = img(&["check", "-f", "qcow2", text(&image)]);
        assert!(report.contains("No errors were found"), "{report}");
    }
}
