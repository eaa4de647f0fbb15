//! Whatever `qemu-img` can write as VMDK, VHDX, VHD and VDI is read to the byte as QEMU reads it, alone and in an OVA.

use std::path::{Path, PathBuf};

use disk::{Format, Info};
use tempfile::TempDir;

use crate::qemu::{self, img, text};
use crate::support::{import, raw};

const MIB: usize = 1 << 20;

/// One way to write a disk: QEMU's name of the format, ours, the options, and what we say of the result.
struct Way {
    name: &'static str,
    format: Format,
    options: &'static str,
    variant: &'static str,
}

const fn way(name: &'static str, format: Format, options: &'static str, variant: &'static str) -> Way {
    Way {
        name,
        format,
        options,
        variant,
    }
}

/// Every option that changes what is written, alone and where two of them meet.
const WAYS: &[Way] = &[
    way(
        "vmdk",
        Format::Vmdk,
        "subformat=monolithicSparse",
        "vmdk, monolithicSparse",
    ),
    way(
        "vmdk",
        Format::Vmdk,
        "subformat=monolithicSparse,zeroed_grain=on",
        "vmdk, monolithicSparse",
    ),
    way(
        "vmdk",
        Format::Vmdk,
        "adapter_type=lsilogic",
        "vmdk, monolithicSparse",
    ),
    way("vmdk", Format::Vmdk, "compat6=on", "vmdk, monolithicSparse"),
    way(
        "vmdk",
        Format::Vmdk,
        "hwversion=14,toolsversion=2147483647",
        "vmdk, monolithicSparse",
    ),
    way(
        "vmdk",
        Format::Vmdk,
        "subformat=streamOptimized",
        "vmdk, streamOptimized",
    ),
    way(
        "vmdk",
        Format::Vmdk,
        "subformat=streamOptimized,adapter_type=buslogic,compat6=on",
        "vmdk, streamOptimized",
    ),
    way("vhdx", Format::Vhdx, "subformat=dynamic", "vhdx, dynamic"),
    way(
        "vhdx",
        Format::Vhdx,
        "subformat=dynamic,block_size=1M",
        "vhdx, dynamic",
    ),
    way(
        "vhdx",
        Format::Vhdx,
        "subformat=dynamic,block_size=256M",
        "vhdx, dynamic",
    ),
    way("vhdx", Format::Vhdx, "block_state_zero=off", "vhdx, dynamic"),
    way("vhdx", Format::Vhdx, "log_size=4M,block_size=2M", "vhdx, dynamic"),
    way(
        "vhdx",
        Format::Vhdx,
        "subformat=fixed,block_size=1M",
        "vhdx, fixed",
    ),
    way("vpc", Format::Vhd, "subformat=dynamic", "vhd, dynamic"),
    way(
        "vpc",
        Format::Vhd,
        "subformat=dynamic,force_size=on",
        "vhd, dynamic",
    ),
    way("vpc", Format::Vhd, "subformat=fixed", "vhd, fixed"),
    way("vpc", Format::Vhd, "subformat=fixed,force_size=on", "vhd, fixed"),
    way("vdi", Format::Vdi, "static=off", "vdi, dynamic"),
    way("vdi", Format::Vdi, "static=on", "vdi, fixed"),
];

/// Where the image made in this way of that disk is.
fn image_at(dir: &TempDir, way: &Way, disk: &str) -> PathBuf {
    let options = way.options.replace([',', '='], "-");
    dir.path().join(format!("{disk}-{}-{options}", way.name))
}

fn convert(dir: &TempDir, source: &Path, way: &Way) -> PathBuf {
    let disk = source.file_stem().and_then(|name| name.to_str()).unwrap();
    let image = image_at(dir, way, disk);
    let words = [
        "convert",
        "-t",
        "unsafe",
        "-f",
        "raw",
        "-O",
        way.name,
        "-o",
        way.options,
    ];
    img(&[&words[..], &[text(source), text(&image)]].concat());
    image
}

fn agrees(image: &Path, way: &Way) -> Info {
    let info = qemu::agrees(image, way.name, way.format);
    assert_eq!(info.variant, way.variant, "{}", way.options);
    assert_eq!(info.warnings, Vec::<String>::new(), "{}", way.options);
    info
}

#[test]
fn every_option_of_every_format_reads_as_qemu_reads_it() {
    if !qemu::available("formats") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 9 * MIB, 50);
    for way in WAYS {
        let image = convert(&dir, &source, way);
        agrees(&image, way);
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn what_was_written_here_and_there_reads_as_qemu_reads_it() {
    if !qemu::available("formats written to") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for way in WAYS {
        // A stream is written once, in order.
        if way.options.contains("streamOptimized") {
            continue;
        }
        let image = image_at(&dir, way, "empty");
        let words = ["create", "-q", "-f", way.name, "-o", way.options];
        img(&[&words[..], &[text(&image), "40M"]].concat());
        agrees(&image, way);
        let writes = [
            "write -P 1 30M 70k",
            "write -P 2 1k 512",
            "write -z 31M 2M",
            "write -P 3 39M 1M",
            "write -z 30M 4k",
        ];
        qemu::io(way.name, &image, &writes);
        agrees(&image, way);
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn odd_sizes_of_every_format_read_as_qemu_reads_them() {
    if !qemu::available("odd sizes of formats") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (seed, bytes) in (60..).zip([512, 65_024, 66_048, MIB - 512, MIB + 512, 33 * MIB + 1024]) {
        let source = raw(&dir, bytes, seed);
        for way in WAYS {
            // Blocks of 256 MiB for a few bytes: a file of that size.
            if !way.options.contains("256M") {
                let image = convert(&dir, &source, way);
                agrees(&image, way);
                std::fs::remove_file(image).unwrap();
            }
        }
    }
}

/// Which test has which option. One that a newer QEMU brings is to be looked at.
#[test]
fn every_option_that_qemu_img_has_is_in_one_of_these_tests() {
    if !qemu::available("options of formats") {
        return;
    }
    let refused = ["backing_file", "backing_fmt"];
    for name in ["vmdk", "vhdx", "vpc", "vdi"] {
        let help = img(&["create", "-f", name, "-o", "help"]);
        let options = help.lines().filter_map(|line| line.split_once('='));
        let options: Vec<&str> = options.map(|(option, _)| option.trim()).collect();
        assert!(options.contains(&"size"), "{help}");
        for option in options {
            let ways = WAYS.iter().filter(|way| way.name == name);
            let is_known = option == "size" || refused.contains(&option) || option == "preallocation";
            let is_tried = ways
                .flat_map(|way| way.options.split(','))
                .any(|one| one.split('=').next() == Some(option));
            assert!(is_known || is_tried, "`{option}` of {name} is in no test");
        }
    }
}

#[test]
fn what_needs_another_file_is_refused() {
    if !qemu::available("VMDK of several files") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let refusal = |image: &Path| {
        let error = disk::probe(&mut std::fs::File::open(image).unwrap()).err();
        let error = error.or_else(|| {
            let mut file = std::fs::File::open(image).unwrap();
            disk::info(Format::Vmdk, &mut file, &disk::Limits::default()).err()
        });
        let error = error.expect("it is refused");
        assert_eq!(
            error.kind(),
            disk::ErrorKind::Refused,
            "{}: {error}",
            image.display()
        );
        error.to_string()
    };
    for kind in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = dir.path().join(format!("{kind}.vmdk"));
        let options = format!("subformat={kind}");
        img(&["create", "-q", "-f", "vmdk", "-o", &options, text(&image), "8M"]);
        assert!(refusal(&image).contains("VMDK descriptor"), "{kind}");
        let part = dir.path().join(format!("{kind}-s001.vmdk"));
        if kind == "twoGbMaxExtentSparse" {
            assert!(refusal(&part).contains("one part of a VMDK"), "{kind}");
        }
    }
    let base = dir.path().join("base.vmdk");
    img(&["create", "-q", "-f", "vmdk", text(&base), "8M"]);
    let overlay = dir.path().join("overlay.vmdk");
    let words = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b"];
    img(&[&words[..], &[text(&base), text(&overlay)]].concat());
    assert!(refusal(&overlay).contains("needs its parent"));
}

#[test]
fn an_ova_made_by_tar_is_the_disk_in_it() {
    if !qemu::available("an OVA") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 5 * MIB, 70);
    std::fs::write(dir.path().join("machine.ovf"), "<Envelope/>").unwrap();
    for way in WAYS.iter().filter(|way| !way.options.contains("256M")) {
        let image = convert(&dir, &source, way);
        let expected = import(&image, way.format).1;
        for kind in ["ustar", "gnu", "posix"] {
            let archive = dir.path().join("machine.ova");
            qemu::tar(
                kind,
                &archive,
                dir.path(),
                &["machine.ovf", image.file_name().unwrap().to_str().unwrap()],
            );
            let (info, disk) = import(&archive, Format::Ova);
            assert_eq!(info.variant, format!("ova, {}", way.variant));
            assert!(disk == expected, "{kind}, {}", way.options);
        }
        std::fs::remove_file(image).unwrap();
    }
}
