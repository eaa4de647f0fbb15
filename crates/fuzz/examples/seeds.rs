//! Writes the seeds: `cargo run --example seeds` in `crates/fuzz`. They are committed; the same program gives the
//! same files as long as the compressors stay the same.

#[expect(dead_code, unused_imports, reason = "shared with the tests of the crate")]
#[path = "../../disk/src/fixture/mod.rs"]
mod fixture;

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use disk::record::{Failure, Record};
use disk::{Format, Limits, Probe, Wrapper};
use fixture::{Qcow2, Vdi, Vhd, Vmdk};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    qcow2(&root.join("probe_and_read_qcow2"));
    raw(&root.join("read_raw"));
    vmdk(&root.join("read_vmdk"));
    vhdx(&root.join("read_vhdx"));
    vhd(&root.join("read_vhd"));
    vdi(&root.join("read_vdi"));
    ova(&root.join("read_ova"));
    unwrap(&root.join("unwrap"));
    record(&root.join("record_decode"));
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    let path: PathBuf = folder.join(name);
    std::fs::write(path, bytes).expect("the seed can be written");
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// Images with each kind of cluster; those with extended L2 tables have 16 KiB clusters, the least there is.
fn qcow2_images() -> Vec<(&'static str, Vec<u8>)> {
    let v3 = Qcow2::small();
    let v2 = Qcow2 {
        version: 2,
        ..v3.clone()
    };
    let zero = Qcow2 {
        l2: vec![(4 * 512, 0), (1, 0), (4 * 512 | 1, 0), (1 << 63 | 4 * 512, 0)],
        ..v3.clone()
    };
    let several = Qcow2 {
        virtual_bytes: 1 << 20,
        ..v3.clone()
    };
    let packed = deflated(&[7; 512]);
    let mut zlib = Qcow2 {
        data: packed.clone(),
        ..v3.clone()
    };
    zlib.l2 = vec![(zlib.compressed(4 * 512, packed.len()), 0); 3];
    let packed = zstd::bulk::compress(&[7; 512], 3).expect("it fits");
    let mut zstd = Qcow2 {
        zstd: true,
        data: packed.clone(),
        ..v3.clone()
    };
    zstd.l2 = vec![(zstd.compressed(4 * 512, packed.len()), 0); 3];
    let mut extended = Qcow2 {
        cluster_bits: 14,
        extended_l2: true,
        virtual_bytes: 5 << 14,
        ..v3.clone()
    };
    extended.data = vec![3; 600];
    let plain = 4 << 14;
    extended.l2 = vec![
        (plain, 0xffff_ffff),
        (plain, 0b11),
        (0, 0b11 << 32),
        (plain, 0b10 << 32 | 0b101),
    ];
    let mut extensions = v3.build();
    fixture::put_u32(&mut extensions, 112, 0x6803_f857);
    fixture::put_u32(&mut extensions, 116, 48);
    let images = [
        ("v2", v2),
        ("v3", v3),
        ("zero", zero),
        ("several", several),
        ("zlib", zlib),
        ("zstd", zstd),
    ];
    let mut images: Vec<_> = images
        .into_iter()
        .map(|(name, image)| (name, image.build()))
        .collect();
    images.push(("extended", extended.build()));
    images.push(("extensions", extensions));
    images
}

fn qcow2(folder: &Path) {
    for (name, image) in qcow2_images() {
        write(folder, name, &image);
    }
    let mut vhd = fixture::mbr_disk(16);
    vhd.extend_from_slice(b"conectix");
    vhd.resize(17 * 512, 0);
    write(folder, "vhd", &vhd);
    write(folder, "page", b"<!DOCTYPE html><html></html>");
}

fn raw(folder: &Path) {
    let mut hybrid = fixture::gpt_disk(80);
    fixture::mbr_entry(&mut hybrid, 1, 0x83, 34, 8);
    let mut grown = fixture::gpt_disk(80);
    grown.resize(96 * 512, 0);
    for (name, disk) in [
        ("mbr", fixture::mbr_disk(16)),
        ("gpt", fixture::gpt_disk(80)),
        ("hybrid", hybrid),
        ("grown", grown),
    ] {
        write(folder, name, &[&[3], disk.as_slice()].concat());
    }
}

fn vmdk(folder: &Path) {
    write(folder, "sparse", &Vmdk::sparse().build());
    write(folder, "stream", &Vmdk::stream().build());
}

fn vhd(folder: &Path) {
    let images = [("dynamic", Vhd::dynamic()), ("fixed", Vhd::fixed(fixture::mbr_disk(16)))];
    for (name, image) in images {
        write(folder, name, &[&[1], image.build().as_slice()].concat());
    }
}

fn vdi(folder: &Path) {
    let dynamic = Vdi::dynamic();
    let fixed = Vdi {
        is_fixed: true,
        map: vec![0, 1],
        virtual_bytes: 8192,
        ..dynamic.clone()
    };
    write(folder, "dynamic", &dynamic.build());
    write(folder, "fixed", &fixed.build());
}

/// The kind of image, then changes as the target reads them.
fn vhdx(folder: &Path) {
    write(folder, "dynamic", &[0]);
    write(folder, "log", &[1]);
    // The third block as the second; another length of the log's entry.
    write(folder, "table", &[0, 7, 16, 0, 8, 6, 0, 0x40, 0, 0, 0, 0, 0]);
    write(folder, "entry", &[1, 4, 8, 0, 4, 0, 0x10, 0, 0]);
}

fn ova(folder: &Path) {
    let ovf: (&str, &[u8]) = ("machine.ovf", b"<Envelope/>");
    for (name, disk) in [
        ("vmdk", Vmdk::stream().build()),
        ("vdi", Vdi::dynamic().build()),
        ("raw", fixture::mbr_disk(16)),
    ] {
        let archive = fixture::tar(&[ovf, ("disk", &disk)]);
        write(folder, name, &[&[3], archive.as_slice()].concat());
    }
}

fn packed(wrapper: Wrapper, bytes: &[u8]) -> Vec<u8> {
    match wrapper {
        Wrapper::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(1));
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Wrapper::Zstd => zstd::bulk::compress(bytes, 3),
    }
    .expect("memory takes everything")
}

fn unwrap(folder: &Path) {
    let disk = fixture::mbr_disk(16);
    for (number, wrapper) in (0_u8..).zip(Wrapper::ALL) {
        let once = packed(wrapper, &disk);
        let twice = [once.as_slice(), &packed(wrapper, b"and more")].concat();
        let inside = packed(wrapper, &once);
        for (name, bytes) in [("one", once), ("two", twice), ("nested", inside)] {
            write(
                folder,
                &format!("{wrapper}-{name}"),
                &[&[number], bytes.as_slice()].concat(),
            );
        }
    }
    let skippable = [
        &[3, 0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9],
        packed(Wrapper::Zstd, &disk).as_slice(),
    ]
    .concat();
    write(folder, "zstd-skippable", &skippable);
}

fn record(folder: &Path) {
    for (name, image) in qcow2_images() {
        let mut pipe = Vec::new();
        disk::record::encode(&Record::Probe(Probe::Disk(Format::Qcow2)), &mut pipe);
        let limits = Limits::default();
        let mut source = Cursor::new(&image);
        let info = disk::info(Format::Qcow2, &mut source, &limits).expect("a good image");
        disk::record::encode(&Record::Info(info), &mut pipe);
        let info = disk::read(Format::Qcow2, &mut source, &limits, &mut |extent| {
            disk::record::encode(&Record::Extent(extent), &mut pipe);
            Ok(())
        });
        disk::record::encode(&Record::Done(info.expect("a good image")), &mut pipe);
        if pipe.len() < 16 << 10 {
            write(folder, name, &pipe);
        }
    }
    let mut pipe = Vec::new();
    disk::record::encode(&Record::Bytes(b"some bytes"), &mut pipe);
    disk::record::encode(&Record::Unwrapped(10), &mut pipe);
    write(folder, "unwrapped", &pipe);
    let failure = Failure {
        kind: disk::ErrorKind::Limit,
        message: "The disk is too large.".to_owned(),
    };
    let mut pipe = Vec::new();
    disk::record::encode(&Record::Failure(failure), &mut pipe);
    write(folder, "failure", &pipe);
}
