//! The working files of imports: `DIR/spool/<job>.in` as it was fetched, `DIR/spool/<job>.disk` as it was unwrapped.
//!
//! Names are made of the job's number alone, never of anything a user wrote. What belongs to no open job is removed
//! at start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use store::owner;

/// As fetched, as unwrapped, what is known of the download, and its successor while it is written.
const EXTENSIONS: [&str; 4] = ["in", "disk", "meta", "new"];

/// The working files of one job.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
    job: i64,
}

impl Spool {
    /// The files of `job` in the data folder `data`; makes their folder.
    pub fn open(data: &Path, job: i64) -> io::Result<Self> {
        let folder = folder(data);
        owner::folder_make(&folder)?;
        Ok(Self { folder, job })
    }

    /// As it was fetched.
    pub fn input(&self) -> PathBuf {
        self.folder.join(format!("{}.in", self.job))
    }

    /// As it was unwrapped.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(format!("{}.disk", self.job))
    }

    /// Removes them all; none being there is fine.
    pub fn remove(&self) {
        for extension in EXTENSIONS {
            file_remove(&self.folder.join(format!("{}.{extension}", self.job)));
        }
    }
}

/// Removes a file; none being there is fine, and what cannot be removed is tried again at the next start.
pub fn file_remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "could not remove a working file");
        }
        _ => {}
    }
}

/// The jobs that have working files.
pub fn jobs(data: &Path) -> Vec<i64> {
    let Ok(entries) = fs::read_dir(folder(data)) else {
        return Vec::new();
    };
    let mut jobs: Vec<i64> = entries.filter_map(|entry| job_of(&entry.ok()?.path())).collect();
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

fn job_of(path: &Path) -> Option<i64> {
    let is_ours = path
        .extension()
        .is_some_and(|e| EXTENSIONS.iter().any(|ours| e == *ours));
    is_ours
        .then(|| path.file_stem()?.to_str()?.parse().ok())
        .flatten()
}

/// The folder of all working files.
pub fn folder(data: &Path) -> PathBuf {
    data.join("spool")
}
