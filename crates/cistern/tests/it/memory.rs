//! What imports take in memory: at most so much at any size, and a bounded amount when there are several.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::harness::process::{command, find_or_skip, parsers_of, peak_kib, run_ok};
use crate::harness::{Server, until};

/// The server and its parsers together, in KiB.
const LIMIT_KIB: u64 = 256 << 10;
/// The same while it works on as many imports as it may.
const LIMIT_AT_ONCE_KIB: u64 = 320 << 10;
/// Far more than what is kept of a disk at one time.
const DISK_MIB: usize = 512;
/// As many as there are workers by default (`jobs.workers`).
const AT_ONCE: usize = 4;

#[tokio::test]
async fn an_import_takes_bounded_memory_at_any_size() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = noise(dir.path(), DISK_MIB, 1);
    let peak = peak_of(&server, vec![import(&server, &disk)]).await;
    assert!(peak.in_all() <= LIMIT_KIB, "{peak:?}");
}

#[tokio::test]
async fn several_imports_at_once_take_far_less_than_each_alone() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disks: Vec<_> = (1..=AT_ONCE)
        .map(|seed| noise(dir.path(), DISK_MIB / 2, seed as u64))
        .collect();
    let children = disks.iter().map(|disk| import(&server, disk)).collect();
    let peak = peak_of(&server, children).await;
    assert!(peak.in_all() <= LIMIT_AT_ONCE_KIB, "{peak:?}");
}

/// Compressed clusters do not lie in the file as the disk has them: they come through the parser's pipe.
#[tokio::test]
async fn what_comes_through_the_pipe_is_bounded_too() {
    let Some(qemu) = find_or_skip("qemu-img") else {
        return;
    };
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (disk, packed) = (
        halved_noise(dir.path(), DISK_MIB, 7),
        dir.path().join("packed.qcow2"),
    );
    let mut convert = command(qemu.to_str().expect("UTF-8"));
    convert.args([
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-c",
        "-o",
        "compression_type=zstd",
    ]);
    run_ok(convert.arg(&disk).arg(&packed));
    let peak = peak_of(&server, vec![import(&server, &packed)]).await;
    assert!(peak.in_all() <= LIMIT_KIB, "{peak:?}");
    let length = packed.metadata().expect("is there").len();
    assert!(
        length < (DISK_MIB as u64) << 19 | 1 << 26,
        "it is not compressed: {length}"
    );
    // That of a raw disk is too short-lived to be sure of.
    assert!(!peak.children.is_empty(), "the parser was not seen");
}

/// The most that was seen, in KiB.
#[derive(Debug, Default)]
struct Peak {
    server: u64,
    children: HashMap<PathBuf, u64>,
}

impl Peak {
    /// As if all had been at their highest at the same time, up to as many parsers as there are imports.
    fn in_all(&self) -> u64 {
        let mut children: Vec<_> = self.children.values().copied().collect();
        children.sort_unstable();
        self.server + children.iter().rev().take(AT_ONCE).sum::<u64>()
    }
}

/// Waits until all these imports have succeeded, and watches the server.
async fn peak_of(server: &Server, mut imports: Vec<Child>) -> Peak {
    let (mut peak, pid) = (Peak::default(), server.pid());
    until("the imports to end", 300, || {
        for folder in parsers_of(pid) {
            let now = peak_kib(&folder).unwrap_or_default();
            let seen = peak.children.entry(folder).or_default();
            *seen = now.max(*seen);
        }
        imports.retain_mut(|import| match import.try_wait().expect("is ours") {
            Some(status) => {
                assert!(status.success(), "an import failed");
                false
            }
            None => true,
        });
        let is_done = imports.is_empty();
        async move { is_done.then_some(()) }
    })
    .await;
    peak.server = peak_kib(Path::new(&format!("/proc/{pid}"))).expect("it runs");
    peak
}

fn import(server: &Server, disk: &Path) -> Child {
    let data = server.data();
    let mut command = server.remote(&["image", "import"]);
    command
        .arg(disk)
        .args(["--name", "large", "--json", "--data"])
        .arg(data);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}

/// A partitioned disk of random data, which no stage can make smaller.
fn noise(dir: &Path, mib: usize, seed: u64) -> PathBuf {
    masked_noise(dir, mib, seed, 0xff)
}

/// The same of half the bits, which compress to half: QEMU keeps a cluster that does not compress as it is.
fn halved_noise(dir: &Path, mib: usize, seed: u64) -> PathBuf {
    masked_noise(dir, mib, seed, 0x0f)
}

fn masked_noise(dir: &Path, mib: usize, seed: u64, mask: u8) -> PathBuf {
    let path = dir.join(format!("noise-{seed}.img"));
    let mut file = File::create(&path).expect("creates");
    let mut disk = crate::harness::disks::partition_table(mib << 20);
    disk.resize(1 << 20, 0);
    file.write_all(&disk).expect("writes");
    for n in 1..mib {
        crate::harness::disks::noise(&mut disk, seed << 32 | n as u64);
        for byte in &mut disk {
            *byte &= mask;
        }
        file.write_all(&disk).expect("writes");
    }
    path
}
