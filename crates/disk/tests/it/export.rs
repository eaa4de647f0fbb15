//! What we write as qcow2 is clean for `qemu-img check` and holds the disk for `qemu-img compare`.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use disk::Format;
use disk::layout::{Layout, Segment};
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

fn export(dir: &TempDir, name: &str, disk: &[u8], allocated: Vec<Range<u64>>) {
    let layout = Layout::qcow2(disk.len() as u64, allocated.into_iter()).unwrap();
    let image = dir.path().join(format!("{name}.qcow2"));
    write(&image, &layout, disk);
    let (info, read_back) = import(&image, Format::Qcow2);
    assert!(read_back == disk, "{name} reads back as it was written");
    assert_eq!((info.variant.as_str(), info.warnings.len()), ("qcow2 v3", 0));
    if !qemu::available("checking an export") {
        return;
    }
    let report = img(&["check", "-f", "qcow2", text(&image)]);
    assert!(report.contains("No errors were found"), "{report}");
    let raw = dir.path().join(format!("{name}.raw"));
    std::fs::write(&raw, disk).unwrap();
    img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&image)]);
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
        export(&dir, &format!("random-{round}"), &disk, allocated);
        export(&dir, &format!("full-{round}"), &disk, vec![0..bytes as u64, 0..1]);
        export(&dir, &format!("empty-{round}"), &vec![0; bytes], Vec::new());
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
