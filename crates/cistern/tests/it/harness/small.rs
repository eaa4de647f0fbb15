//! A file system of a test's own, small enough to be filled.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::process::{command, skip};
use super::server::Setup;
use super::world::Place;

/// Mounted in a name space that ends with this; servers and commands enter it.
pub(crate) struct SmallDisk {
    holder: Child,
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    /// In memory. None, with the reason printed, where this machine does not allow it.
    pub(crate) fn tmpfs(mib: u64) -> Option<Self> {
        Self::mount(&format!("mount -t tmpfs -o size={mib}m tmpfs \"$0\""))
    }

    /// In a file. None, with the reason printed, where this machine does not allow it.
    pub(crate) fn ext4(mib: u64) -> Option<Self> {
        Self::mount(&format!(
            "truncate -s {mib}M \"$0-device\" && mkfs.ext4 -q -m 0 \"$0-device\" && mount -o loop \"$0-device\" \"$0\""
        ))
    }

    /// Without root, in a name space of users too.
    fn mount(prepare: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mount = dir.path().join("mount");
        fs::create_dir(&mount).expect("makes it");
        let script = format!("{prepare} && echo mounted && exec cat");
        let flags: &[&str] = if is_root() { &["-m"] } else { &["-Urm"] };
        let mut unshare = command("unshare");
        unshare.args(flags).args(["sh", "-c", &script]).arg(&mount);
        let mut holder = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = String::new();
        let mut stdout = BufReader::new(holder.stdout.take().expect("is piped"));
        stdout.read_line(&mut said).expect("reads");
        if said.trim() != "mounted" {
            let mut why = String::new();
            let mut stderr = holder.stderr.take().expect("is piped");
            stderr.read_to_string(&mut why).expect("reads");
            holder.wait().expect("ends");
            skip(&format!("a file system for a test cannot be mounted here: {why}"));
            return None;
        }
        Some(Self {
            holder,
            mount,
            _dir: dir,
        })
    }

    /// A server with everything on this disk.
    pub(crate) fn setup(&self) -> Setup {
        let words = self.enter();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Setup::default()
            .at(Place::default())
            .data(self.mount.join("data"))
            .wrapped(&words)
    }

    /// The words before a command that make it see the disk.
    pub(crate) fn enter(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        let more: &[&str] = if is_root() {
            &[]
        } else {
            &["-U", "--preserve-credentials"]
        };
        let words: [&[&str]; 3] = [&["nsenter", "-t", &pid, "-m"], more, &["--"]];
        words.concat().into_iter().map(str::to_owned).collect()
    }

    /// Its root, as those who entered see it.
    pub(crate) fn inside(&self) -> &Path {
        &self.mount
    }

    /// Its root, as seen from here.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), self.mount.display()))
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.root()).expect("is there");
        stat.f_bavail * stat.f_frsize
    }

    /// Somebody else fills it, to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = self.ballast();
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Somebody else fills it but for so many MiB.
    pub(crate) fn fill_but(&self, mib: u64) {
        let mut file = self.ballast();
        let block = vec![1; 1 << 16];
        while self.free() > mib << 20 {
            file.write_all(&block).expect("there is room");
        }
    }

    /// What somebody else put there goes.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.root().join("ballast")).expect("is there");
    }

    fn ballast(&self) -> File {
        let path = self.root().join("ballast");
        let opened = File::options().create(true).append(true).open(path);
        opened.expect("opens")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}
