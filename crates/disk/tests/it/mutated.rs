//! Images with a few bytes changed: never a panic, never more than the limits, and never another disk than QEMU reads.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::{Content, Error, Extent, Format, Limits};
use tempfile::TempDir;

use crate::qemu::{self, img, text};
use crate::support::{Numbers, raw};

/// Changes a format: each is read by us, and where that works by QEMU too.
const CHANGES: u64 = 120;

type Way = (&'static str, Format, &'static str, &'static [(u64, u64)]);

/// QEMU's name of a format, ours, its options, and the parts of the file that are changed.
const WAYS: [Way; 6] = [
    (
        "qcow2",
        Format::Qcow2,
        "cluster_size=4k",
        &[(0, 512), (4096, 4096 * 5)],
    ),
    (
        "vmdk",
        Format::Vmdk,
        "subformat=monolithicSparse",
        &[(0, 2048), (10752, 8192)],
    ),
    ("vmdk", Format::Vmdk, "subformat=streamOptimized", &[(0, 2048)]),
    (
        "vhdx",
        Format::Vhdx,
        "block_size=1M",
        &[
            (64 << 10, 4096),
            (128 << 10, 4096),
            (192 << 10, 256),
            (2 << 20, 256),
            (3 << 20, 256),
        ],
    ),
    ("vpc", Format::Vhd, "force_size=on", &[(0, 2048)]),
    ("vdi", Format::Vdi, "static=off", &[(0, 1024)]),
];

/// The disk, where it can be read; checks what every reader promises on the way.
fn read(format: Format, image: &Path) -> Result<Vec<u8>, Error> {
    let limits = Limits {
        max_virtual_bytes: 64 << 20,
        ..Limits::default()
    };
    let mut file = File::open(image).unwrap();
    let length = file.metadata().unwrap().len();
    disk::info(format, &mut file, &limits)?;
    let mut other = File::open(image).unwrap();
    let mut bytes = Vec::new();
    disk::read(format, &mut file, &limits, &mut |extent: Extent<'_>| {
        assert_eq!(extent.offset, bytes.len() as u64);
        let begin = bytes.len();
        bytes.resize(begin + usize::try_from(extent.length).unwrap(), 0);
        assert!(bytes.len() as u64 <= limits.max_virtual_bytes);
        match extent.content {
            Content::Zero => {}
            Content::Data(data) => bytes[begin..].copy_from_slice(data),
            Content::Source(at) => {
                assert!(at + extent.length <= length);
                other.seek(SeekFrom::Start(at))?;
                other.read_exact(&mut bytes[begin..])?;
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}

#[test]
fn a_changed_image_is_refused_or_read_as_qemu_reads_it() {
    if !qemu::available("changed images") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 3 << 20, 80);
    let mut numbers = Numbers(81);
    for (name, format, options, parts) in WAYS {
        let image = dir.path().join("image");
        let words = ["convert", "-t", "unsafe", "-f", "raw", "-O", name, "-o", options];
        img(&[&words[..], &[text(&source), text(&image)]].concat());
        let original = std::fs::read(&image).unwrap();
        let (mut refused, mut equal) = (0, 0);
        for change in 0..CHANGES {
            std::fs::write(&image, &original).unwrap();
            let file = File::options().write(true).open(&image).unwrap();
            for _ in 0..=numbers.below(2) {
                let (at, length) = parts[usize::try_from(numbers.below(parts.len() as u64)).unwrap()];
                let at = (at + numbers.below(length)).min(original.len() as u64 - 8);
                let bytes = numbers.next().to_le_bytes();
                let count = 1 + usize::try_from(numbers.below(4)).unwrap();
                file.write_all_at(&bytes[..count], at).unwrap();
            }
            let Ok(disk) = read(format, &image) else {
                refused += 1;
                continue;
            };
            let expected = dir.path().join("expected");
            let words = ["convert", "-t", "unsafe", "-f", name, "-O", "raw"];
            if qemu::img_tries(&[&words[..], &[text(&image), text(&expected)]].concat()) {
                let expected = std::fs::read(&expected).unwrap();
                assert!(
                    expected == disk,
                    "{name} {options}, change {change}: another disk than QEMU's"
                );
                equal += 1;
            }
        }
        println!("{name} {options}: {refused} refused, {equal} as QEMU reads them, of {CHANGES}");
        assert!(
            refused > 0 && equal > 0,
            "{name} {options}: {refused} refused, {equal} equal"
        );
    }
}
