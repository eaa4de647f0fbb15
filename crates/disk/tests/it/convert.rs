//! Whatever `qemu-img` can write as qcow2 is read to the byte as QEMU reads it.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use disk::{Format, Info};
use tempfile::TempDir;

use crate::qemu::{self, img, text};
use crate::support::raw;

const MIB: usize = 1 << 20;

fn agrees(image: &Path) -> Info {
    qemu::agrees(image, "qcow2", Format::Qcow2)
}

fn converted(dir: &TempDir, source: &Path, name: &str, options: &[&str]) -> Info {
    let image = dir
        .path()
        .join(format!("{}.qcow2", name.replace([' ', ',', '='], "-")));
    let mut arguments = vec!["convert", "-t", "unsafe", "-f", "raw", "-O", "qcow2"];
    arguments.extend(options);
    arguments.extend([text(source), text(&image)]);
    img(&arguments);
    agrees(&image)
}

#[test]
fn every_cluster_size_version_and_compression_reads_as_qemu_reads_it() {
    if !qemu::available("qcow2 options") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 3 * MIB + 512, 1);
    for size in [
        "512", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M", "2M",
    ] {
        for compat in ["0.10", "1.1"] {
            let options = format!("compat={compat},cluster_size={size}");
            let info = converted(&dir, &source, &options, &["-o", &options]);
            assert_eq!(
                info.variant,
                if compat == "1.1" { "qcow2 v3" } else { "qcow2 v2" }
            );
            converted(&dir, &source, &format!("{options} zlib"), &["-c", "-o", &options]);
        }
        let options = format!("compression_type=zstd,cluster_size={size}");
        let info = converted(&dir, &source, &format!("{size} zstd"), &["-c", "-o", &options]);
        assert_eq!(info.variant, "qcow2 v3, zstd");
        assert_eq!(info.warnings, Vec::<String>::new());
    }
}

#[test]
fn extended_l2_tables_and_their_subclusters_read_as_qemu_reads_them() {
    if !qemu::available("extended L2") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 5 * MIB, 2);
    for size in ["16k", "64k", "128k", "2M"] {
        for compression in ["zlib", "zstd"] {
            let options = format!("extended_l2=on,compression_type={compression},cluster_size={size}");
            converted(&dir, &source, &format!("{options} plain"), &["-o", &options]);
            converted(
                &dir,
                &source,
                &format!("{options} packed"),
                &["-c", "-o", &options],
            );
        }
        let image = dir.path().join(format!("sub-{size}.qcow2"));
        let options = format!("extended_l2=on,cluster_size={size}");
        img(&["create", "-q", "-f", "qcow2", "-o", &options, text(&image), "5M"]);
        let writes = [
            "write -P 1 1k 1k",
            "write -P 2 70k 3k",
            "write -z 71k 1k",
            "write -P 3 2M 200k",
            "discard 2M 16k",
        ];
        qemu::io("qcow2", &image, &writes);
        qemu::io(
            "qcow2",
            &image,
            &[
                "write -z 2100k 4k",
                "write -P 4 5119k 1k",
                "write -z -u 2064k 512",
                "write -P 9 3M 512",
            ],
        );
        let info = agrees(&image);
        assert_eq!(info.variant, "qcow2 v3, extended L2");
    }
}

#[test]
fn preallocation_lazy_refcounts_and_refcount_widths_read_as_qemu_reads_them() {
    if !qemu::available("preallocation") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 3 * MIB, 3);
    for mode in ["off", "metadata", "falloc", "full"] {
        for extra in [
            "",
            ",lazy_refcounts=on",
            ",refcount_bits=1",
            ",refcount_bits=2",
            ",refcount_bits=4",
            ",refcount_bits=8",
            ",refcount_bits=32",
            ",refcount_bits=64",
            ",extended_l2=on",
            ",cluster_size=512",
        ] {
            let options = format!("preallocation={mode}{extra}");
            converted(&dir, &source, &options, &["-o", &options]);
            let image = dir
                .path()
                .join(format!("empty-{mode}{}.qcow2", extra.replace([',', '='], "-")));
            img(&["create", "-q", "-f", "qcow2", "-o", &options, text(&image), "3M"]);
            agrees(&image);
            qemu::io(
                "qcow2",
                &image,
                &["write -P 7 1000k 100k", "discard 1040k 128k", "write -z 2M 64k"],
            );
            agrees(&image);
        }
    }
}

/// Which test has which option. One that a newer QEMU brings is to be looked at.
#[test]
fn every_option_that_qemu_img_has_is_in_one_of_these_tests() {
    if !qemu::available("options") {
        return;
    }
    let known = [
        "cluster_size",
        "compat",
        "compression_type",
        "extended_l2",
        "lazy_refcounts",
        "preallocation",
        "refcount_bits",
        "size",
        // Refused.
        "backing_file",
        "backing_fmt",
        "data_file",
        "data_file_raw",
        "encryption",
        // How and with what it is encrypted: all refused alike.
        "encrypt.cipher-alg",
        "encrypt.cipher-mode",
        "encrypt.format",
        "encrypt.hash-alg",
        "encrypt.iter-time",
        "encrypt.ivgen-alg",
        "encrypt.ivgen-hash-alg",
        "encrypt.key-secret",
    ];
    let help = img(&["create", "-f", "qcow2", "-o", "help"]);
    let options: Vec<&str> = help
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim())
        .collect();
    assert!(options.len() > 10, "{help}");
    for option in options {
        assert!(known.contains(&option), "`{option}` is in no test");
    }
}

#[test]
fn clusters_that_were_written_out_of_order_read_as_qemu_reads_them() {
    if !qemu::available("out of order") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = raw(&dir, 20 * MIB, 30);
    for kind in ["zlib", "zstd"] {
        let options = format!("compression_type={kind}");
        let words = ["-c", "-m", "8", "-W", "-o", options.as_str()];
        converted(&dir, &source, &format!("{kind} out of order"), &words);
    }
    converted(&dir, &source, "plain out of order", &["-m", "8", "-W"]);
}

#[test]
fn odd_sizes_read_as_qemu_reads_them() {
    if !qemu::available("odd sizes") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (seed, bytes) in (10..).zip([512, 1024, 65_024, 65_536, 66_048, 1_049_088, 3 * MIB + 512]) {
        let source = raw(&dir, bytes, seed);
        for size in ["512", "64k", "2M"] {
            let options = format!("cluster_size={size}");
            converted(&dir, &source, &format!("{bytes} {size}"), &["-o", &options]);
            converted(
                &dir,
                &source,
                &format!("{bytes} {size} packed"),
                &["-c", "-o", &options],
            );
        }
    }
}

#[test]
fn internal_snapshots_are_left_out_with_a_warning() {
    if !qemu::available("internal snapshots") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for compat in ["0.10", "1.1"] {
        let image = dir.path().join(format!("snapshots-{compat}.qcow2"));
        img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &format!("compat={compat}"),
            text(&image),
            "8M",
        ]);
        qemu::io("qcow2", &image, &["write -P 1 0 3M"]);
        img(&["snapshot", "-c", "first", text(&image)]);
        qemu::io("qcow2", &image, &["write -P 2 1M 3M"]);
        img(&["snapshot", "-c", "second", text(&image)]);
        qemu::io("qcow2", &image, &["write -P 3 2M 100k"]);
        let info = agrees(&image);
        assert_eq!(info.warnings.len(), 1);
        assert!(
            info.warnings[0].contains("2 internal snapshot(s)"),
            "{:?}",
            info.warnings
        );
    }
}

#[test]
fn resized_images_and_bitmaps_read_as_qemu_reads_them() {
    if !qemu::available("resized") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("resized.qcow2");
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        text(&image),
        "2M",
    ]);
    qemu::io("qcow2", &image, &["write -P 1 1M 1M"]);
    img(&["resize", "-q", text(&image), "40M"]);
    img(&["bitmap", "--add", text(&image), "changes"]);
    qemu::io("qcow2", &image, &["write -P 2 39M 1M"]);
    let info = agrees(&image);
    assert!(
        info.warnings.iter().any(|warning| warning.contains("bitmaps")),
        "{:?}",
        info.warnings
    );
    img(&["resize", "-q", "--shrink", text(&image), "1536k"]);
    agrees(&image);
}

#[test]
fn what_needs_another_file_or_a_key_is_refused() {
    if !qemu::available("backing and data files") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let base = dir.path().join("base.qcow2");
    img(&["create", "-q", "-f", "qcow2", text(&base), "1M"]);
    let refusal = |image: &Path| {
        let mut file = std::fs::File::open(image).unwrap();
        let error = disk::info(Format::Qcow2, &mut file, &disk::Limits::default()).unwrap_err();
        assert_eq!(error.kind(), disk::ErrorKind::Refused);
        error.to_string()
    };
    let image = dir.path().join("overlay.qcow2");
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        text(&base),
        "-F",
        "qcow2",
        text(&image),
    ]);
    assert!(refusal(&image).contains("backing file"));
    let raw_base = raw(&dir, MIB, 40);
    let image = dir.path().join("overlay-of-raw.qcow2");
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        "-F",
        "raw",
        "-b",
    ];
    img(&[&words[..], &[text(&raw_base), text(&image)]].concat());
    assert!(refusal(&image).contains("backing file"));
    for raw in ["off", "on"] {
        let image = dir.path().join(format!("with-data-{raw}.qcow2"));
        let data = dir.path().join(format!("data-{raw}.raw"));
        let options = format!("data_file={},data_file_raw={raw}", text(&data));
        img(&["create", "-q", "-f", "qcow2", "-o", &options, text(&image), "1M"]);
        assert!(refusal(&image).contains("another file"));
    }
    let image = dir.path().join("encrypted.qcow2");
    let secret = "secret,id=key,data=abc";
    let options = "encrypt.format=aes,encrypt.key-secret=key";
    let words = ["create", "-q", "--object", secret, "-f", "qcow2", "-o", options];
    img(&[&words[..], &[text(&image), "1M"]].concat());
    assert!(refusal(&image).contains("encrypted"));
    // LUKS, by its number: to make such an image QEMU measures the processor, which fails now and then on a busy one.
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&2_u32.to_be_bytes(), 32).unwrap();
    assert!(refusal(&image).contains("encrypted"));
}

#[test]
fn other_formats_that_qemu_writes_are_named() {
    if !qemu::available("other formats") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let cases = [("qed", "QED"), ("qcow", "version 1"), ("parallels", "Parallels")];
    for (format, name) in cases {
        let image = dir.path().join(format);
        img(&["create", "-q", "-f", format, text(&image), "8M"]);
        let error = disk::probe(&mut std::fs::File::open(&image).unwrap()).unwrap_err();
        assert!(error.to_string().contains(name), "{format}: {error}");
        assert!(
            error.to_string().contains("qemu-img convert"),
            "{format}: {error}"
        );
    }
}
