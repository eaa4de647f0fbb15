//! Every format goes in and comes out, by the real executable and its sandbox, and `qemu-img` agrees.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::process::{command, find_or_skip, run, run_ok};
use crate::harness::{Server, disks};

/// What a disk can come out as: the name here, and `qemu-img`'s.
const OUT: [(&str, &str); 6] = [
    ("raw", "raw"),
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhdx", "vhdx"),
    ("vhd", "vpc"),
    ("vdi", "vdi"),
];

/// What it can come in as, beside raw: `qemu-img`'s name and options, and the variant that is shown.
const IN: [(&str, &str, &str); 9] = [
    ("qcow2", "cluster_size=64k", "qcow2 v3"),
    ("vmdk", "subformat=monolithicSparse", "vmdk, monolithicSparse"),
    ("vmdk", "subformat=streamOptimized", "vmdk, streamOptimized"),
    ("vhdx", "subformat=dynamic", "vhdx, dynamic"),
    ("vhdx", "subformat=fixed,block_size=1M", "vhdx, fixed"),
    ("vpc", "subformat=dynamic,force_size=on", "vhd, dynamic"),
    ("vpc", "subformat=fixed,force_size=on", "vhd, fixed"),
    ("vdi", "static=off", "vdi, dynamic"),
    ("vdi", "static=on", "vdi, fixed"),
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The image that an import gave, with what the command printed.
fn imported(server: &Server, file: &Path, name: &str) -> Value {
    let words = ["image", "import", text(file), "--name", name, "--json"];
    let output = run(&mut server.remote(&words));
    assert!(output.status.success(), "{name}: {output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    document["image"].clone()
}

fn exported(server: &Server, name: &str, format: &str, folder: &Path) -> PathBuf {
    // The format is told by the file's ending.
    let file = folder.join(format!("out.{format}"));
    run_ok(&mut server.remote(&["image", "export", name, "-o", text(&file)]));
    file
}

fn convert(qemu_img: &Path, (from, source): (&str, &Path), (to, options): (&str, &str), target: &Path) {
    let mut command = command(text(qemu_img));
    command.args(["convert", "-t", "unsafe", "-f", from, "-O", to]);
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    run_ok(command.arg(source).arg(target));
}

#[tokio::test]
async fn every_format_goes_in_as_the_same_disk() {
    let Some(qemu_img) = find_or_skip("qemu-img") else {
        return;
    };
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (disk, raw) = (disks::raw(9, 3), dir.path().join("disk.raw"));
    std::fs::write(&raw, &disk).expect("writes");
    std::fs::write(dir.path().join("machine.ovf"), "<Envelope/>").expect("writes");
    for (number, (format, options, variant)) in IN.into_iter().enumerate() {
        let image = dir.path().join(format!("in-{number}"));
        convert(&qemu_img, ("raw", &raw), (format, options), &image);
        let archive = dir.path().join("machine.ova");
        let mut tar = command("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(dir.path());
        run_ok(tar.args(["machine.ovf", &format!("in-{number}")]));
        let ova = format!("ova, {variant}");
        for (file, kind, shown) in [(&image, "plain", variant), (&archive, "ova", ova.as_str())] {
            let name = format!("{kind}-{number}");
            let shown_by = imported(&server, file, &name);
            assert_eq!(shown_by["variant"], shown, "{options}");
            let out = exported(&server, &name, "raw", dir.path());
            assert!(
                std::fs::read(&out).expect("was written") == disk,
                "{kind} {options}"
            );
        }
    }
}

#[tokio::test]
async fn a_disk_comes_out_in_every_format_and_goes_in_again() {
    let Some(qemu_img) = find_or_skip("qemu-img") else {
        return;
    };
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (disk, raw) = (disks::raw(9, 4), dir.path().join("disk.raw"));
    std::fs::write(&raw, &disk).expect("writes");
    imported(&server, &raw, "disk");
    for (format, known_as) in OUT {
        let file = exported(&server, "disk", format, dir.path());
        let back = dir.path().join("back.raw");
        convert(&qemu_img, (known_as, &file), ("raw", ""), &back);
        assert!(std::fs::read(&back).expect("was written") == disk, "{format}");
        let again = imported(&server, &file, &format!("again-{format}"));
        assert_eq!(again["new_bytes"], 0, "{format}: it is the same disk");
        let words = ["image", "export", "disk", "--json", "-o", text(&file)];
        let output = run_ok(&mut server.remote(&words));
        let document: Value = serde_json::from_str(&output).expect("a document");
        // Of raw and qcow2 a job of low priority finds the digest.
        let is_checked = document["export"]["checked"] == true;
        assert!(
            is_checked || ["raw", "qcow2"].contains(&format),
            "{format}: {document}"
        );
    }
}
