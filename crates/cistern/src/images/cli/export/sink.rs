//! Where an export goes.
//!
//! A regular file is written beside its place as `NAME.part-TAG`, sparse, and renamed when it is complete, checked and
//! synced. `TAG` is of the entity tag, so a part is only ever continued with the same bytes. Whoever writes a part
//! holds its lock: the digest is of what arrived, so nothing would tell that another command had cut the file under it.
//! What is not a regular file (stdout, a device, a pipe) is written straight through, once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::Head;

/// Bytes are handed to the writing thread in batches of this.
const BATCH_BYTES: usize = 1 << 20;
/// Zeros of this length and alignment become holes.
const BLOCK_BYTES: usize = 4096;
/// The file is synced this often.
const SYNC_BYTES: u64 = 64 << 20;

/// A file that is being filled from its start.
pub struct Sink {
    writer: Option<Writer>,
    part: Option<PathBuf>,
    parts: Vec<Bytes>,
    held: usize,
    at: u64,
    /// Where that is known before.
    length: Option<u64>,
}

/// What the writing thread has.
struct Writer {
    place: Place,
    hasher: Sha256,
    at: u64,
    synced: u64,
}

enum Place {
    /// Written from front to end, once.
    Stream(Box<dyn io::Write + Send>),
    /// A sparse file that becomes `target`.
    Part {
        file: File,
        part: PathBuf,
        target: PathBuf,
    },
}

impl Sink {
    /// Opens the place; `None` is stdout. Goes on with a part that an earlier command left.
    pub fn open(target: Option<&Path>, head: &Head) -> io::Result<Self> {
        let (place, hasher, at) = match target {
            None => (Place::Stream(Box::new(io::stdout())), Sha256::new(), 0),
            Some(path) if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) => {
                let file = OpenOptions::new().write(true).open(path)?;
                (Place::Stream(Box::new(file)), Sha256::new(), 0)
            }
            Some(path) => part_open(path, head)?,
        };
        let part = match &place {
            Place::Part { part, .. } => Some(part.clone()),
            Place::Stream(_) => None,
        };
        Ok(Self {
            part,
            writer: Some(Writer {
                place,
                hasher,
                at,
                synced: at,
            }),
            parts: Vec::new(),
            held: 0,
            at,
            length: head.length,
        })
    }

    /// The file that is kept where this is not finished, for the same command to go on with.
    pub fn part(&self) -> Option<&Path> {
        self.part.as_deref()
    }

    /// How many bytes it has.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.held += bytes.len();
        self.parts.push(bytes);
        if self.held < BATCH_BYTES && self.length != Some(self.at) {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let parts = std::mem::take(&mut self.parts);
        self.held = 0;
        let mut writer = self
            .writer
            .take()
            .ok_or_else(|| io::Error::other("an earlier write failed"))?;
        let work = move || {
            for part in parts {
                writer.write(&part)?;
            }
            Ok::<_, io::Error>(writer)
        };
        self.writer = Some(
            tokio::task::spawn_blocking(work)
                .await
                .map_err(io::Error::other)??,
        );
        Ok(())
    }

    /// Checks the digest, where there is one to compare, makes the file durable and gives it its name. Returns its
    /// SHA-256.
    pub async fn finish(mut self, wanted: Option<Vec<u8>>) -> io::Result<Vec<u8>> {
        self.flush().await?;
        let writer = self
            .writer
            .take()
            .ok_or_else(|| io::Error::other("an earlier write failed"))?;
        let length = self.length.unwrap_or(self.at);
        let work = move || writer.finish(length, wanted.as_deref());
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        match &mut self.place {
            Place::Stream(out) => out.write_all(bytes)?,
            Place::Part { file, .. } => write_sparse(file, bytes, self.at)?,
        }
        self.at += bytes.len() as u64;
        if let Place::Part { file, .. } = &self.place
            && self.at - self.synced >= SYNC_BYTES
        {
            file.set_len(self.at)?;
            file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }

    fn finish(self, length: u64, wanted: Option<&[u8]>) -> io::Result<Vec<u8>> {
        let sha256 = self.hasher.finalize().to_vec();
        let is_right = wanted.is_none_or(|wanted| wanted == sha256);
        match self.place {
            Place::Stream(mut out) => {
                out.flush()?;
                if !is_right {
                    return Err(wrong());
                }
            }
            Place::Part { file, part, target } => {
                if !is_at(&file, &part)? {
                    return Err(io::Error::other(format!(
                        "`{}` was replaced or removed meanwhile; run the command again",
                        part.display()
                    )));
                }
                if !is_right {
                    fs::remove_file(&part)?;
                    return Err(wrong());
                }
                file.set_len(length)?;
                file.sync_all()?;
                fs::rename(&part, &target)?;
                File::open(folder(&target))?.sync_all()?;
            }
        }
        Ok(sha256)
    }
}

fn wrong() -> io::Error {
    io::Error::other("what arrived is not what the server has (the SHA-256 differs); run the command again")
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Opens the part of a target, and hashes what it has. Everything but the last stretch was synced: after a power loss
/// that stretch may be anything, so it is fetched again.
fn part_open(target: &Path, head: &Head) -> io::Result<(Place, Sha256, u64)> {
    let mut name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".part-{}", hex::encode(&Sha256::digest(head.tag())[..8])));
    let part = target.with_file_name(name);
    let file = part_lock(&part)?;
    // Of a file whose length is not known no part can be had: it begins anew.
    let most = head.length.unwrap_or(0);
    let kept = file.metadata()?.len().min(most).saturating_sub(SYNC_BYTES);
    file.set_len(kept)?;
    let mut hasher = Sha256::new();
    let mut reader = io::BufReader::with_capacity(BATCH_BYTES, &file).take(kept);
    io::copy(&mut reader, &mut HashWrite(&mut hasher))?;
    let place = Place::Part {
        file,
        part,
        target: target.to_owned(),
    };
    Ok((place, hasher, kept))
}

/// Opens a part, or makes it, and locks it against other commands until it is closed.
fn part_lock(part: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(error) => return Err(error.into()),
        }
        // Between opening and locking, the command that had it may have given it its name: it is the target by now.
        if is_at(&file, part)? {
            return Ok(file);
        }
    }
}

/// Whether this open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn busy() -> io::Error {
    io::Error::other(
        "another export of the same image is writing it; wait until that has ended, or name another file with `-o`",
    )
}

/// A hash as a place to write to.
struct HashWrite<'a>(&'a mut Sha256);

impl io::Write for HashWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is not zero; blocks of zeros are left out, so the file must not have had anything there.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        // To the next block of the file.
        let into = usize::try_from((offset + at as u64) % BLOCK_BYTES as u64).unwrap_or(0);
        let end = bytes.len().min(at + BLOCK_BYTES - into);
        if is_zero(&bytes[at..end]) {
            file.write_all_at(&bytes[start..at], offset + start as u64)?;
            start = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[start..], offset + start as u64)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    rest.iter().all(|b| *b == 0) && words.iter().all(|w| *w == [0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8], with_digest: bool) -> Head {
        Head {
            etag: "\"raw-1-x\"".into(),
            length: Some(bytes.len() as u64),
            part: None,
            sha256: with_digest.then(|| Sha256::digest(bytes).to_vec()),
        }
    }

    /// 8 MiB with data at both ends and in the middle.
    fn disk() -> Vec<u8> {
        let mut bytes = vec![0; 8 << 20];
        bytes[..5000].fill(1);
        bytes[(4 << 20) + 3..(4 << 20) + 9].fill(2);
        *bytes.last_mut().expect("not empty") = 3;
        bytes
    }

    fn digest_of(bytes: &[u8]) -> Vec<u8> {
        Sha256::digest(bytes).to_vec()
    }

    async fn fill(sink: &mut Sink, bytes: &[u8], pieces: usize) {
        for piece in bytes.chunks(pieces) {
            sink.write(Bytes::copy_from_slice(piece)).await.expect("writes");
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("lists")
            .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_equal_sparse_and_alone() {
        let (dir, bytes) = (tempfile::tempdir().expect("a folder"), disk());
        let target = dir.path().join("disk.raw");
        for pieces in [1 << 20, 4096, 65_537] {
            let mut sink = Sink::open(Some(&target), &head(&bytes, true)).expect("opens");
            fill(&mut sink, &bytes, pieces).await;
            let digest = sink.finish(Some(digest_of(&bytes))).await.expect("is right");
            assert_eq!(digest, Sha256::digest(&bytes).to_vec());
            assert!(fs::read(&target).expect("is there") == bytes);
            let stored = fs::metadata(&target).expect("is there").blocks() * 512;
            assert!(stored < 1 << 20, "{stored} bytes are stored of {}", bytes.len());
            assert_eq!(names(dir.path()), ["disk.raw"]);
        }
    }

    #[tokio::test]
    async fn a_wrong_digest_leaves_nothing_and_touches_nothing() {
        let (dir, bytes) = (tempfile::tempdir().expect("a folder"), disk());
        let target = dir.path().join("disk.raw");
        fs::write(&target, b"before").expect("writes");
        let mut wrong = head(&bytes, true);
        wrong.sha256 = Some(vec![0; 32]);
        let mut sink = Sink::open(Some(&target), &wrong).expect("opens");
        fill(&mut sink, &bytes, 1 << 20).await;
        let error = sink.finish(wrong.sha256).await.expect_err("differs");
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert_eq!(fs::read(&target).expect("is there"), b"before");
        assert_eq!(names(dir.path()), ["disk.raw"]);
    }

    #[tokio::test]
    async fn a_part_goes_on_before_its_unsynced_end_and_only_with_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("disk.raw");
        let mut bytes = vec![0; 130 << 20];
        bytes[..9].fill(7);
        bytes[(70 << 20)..(70 << 20) + 9].fill(8);
        let head = head(&bytes, true);
        let mut sink = Sink::open(Some(&target), &head).expect("opens");
        let cut = 129 << 20;
        fill(&mut sink, &bytes[..cut], 1 << 20).await;
        drop(sink);
        // The end may be anything after a power loss.
        let part = dir.path().join(&names(dir.path())[0]);
        let file = OpenOptions::new().write(true).open(&part).expect("is there");
        file.write_all_at(&[9; 100], (128 << 20) - 50).expect("writes");

        let mut sink = Sink::open(Some(&target), &head).expect("opens");
        let at = usize::try_from(sink.at()).expect("small");
        assert!(at > 0 && at <= (128 << 20) - (64 << 20) + (1 << 20), "{at}");
        fill(&mut sink, &bytes[at..], 1 << 20).await;
        sink.finish(Some(digest_of(&bytes))).await.expect("is right");
        assert!(fs::read(&target).expect("is there") == bytes);

        let mut other = head.clone();
        other.etag = "\"raw-1-y\"".into();
        assert_eq!(Sink::open(Some(&target), &other).expect("opens").at(), 0);
    }

    #[tokio::test]
    async fn a_second_export_to_one_file_is_refused_and_the_first_is_whole() {
        let (dir, bytes) = (tempfile::tempdir().expect("a folder"), disk());
        let target = dir.path().join("disk.raw");
        let head = head(&bytes, true);
        let mut first = Sink::open(Some(&target), &head).expect("opens");
        let (front, back) = bytes.split_at(5 << 20);
        fill(&mut first, front, 1 << 20).await;
        let Err(error) = Sink::open(Some(&target), &head) else {
            panic!("two commands write one file");
        };
        assert!(error.to_string().contains("another export"), "{error}");
        fill(&mut first, back, 1 << 20).await;
        first.finish(Some(digest_of(&bytes))).await.expect("is right");
        assert!(fs::read(&target).expect("is there") == bytes);

        // The lock went with the command that had it.
        let mut again = Sink::open(Some(&target), &head).expect("nobody writes it");
        assert!(fs::read(&target).expect("is there") == bytes, "untouched so far");
        fill(&mut again, &bytes, 1 << 20).await;
        again.finish(Some(digest_of(&bytes))).await.expect("is right");
        assert!(fs::read(&target).expect("is there") == bytes);
    }

    #[tokio::test]
    async fn a_part_that_was_replaced_does_not_get_the_name() {
        let (dir, bytes) = (tempfile::tempdir().expect("a folder"), disk());
        let target = dir.path().join("disk.raw");
        let mut sink = Sink::open(Some(&target), &head(&bytes, true)).expect("opens");
        fill(&mut sink, &bytes, 1 << 20).await;
        let part = dir.path().join(&names(dir.path())[0]);
        fs::rename(&part, dir.path().join("aside")).expect("renames");
        fs::write(&part, b"another's").expect("writes");
        let error = sink
            .finish(Some(digest_of(&bytes)))
            .await
            .expect_err("it is another file");
        assert!(error.to_string().contains("meanwhile"), "{error}");
        assert!(!target.exists());
        assert_eq!(fs::read(&part).expect("is there"), b"another's");
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_written_straight() {
        let bytes = disk();
        let mut sink = Sink::open(Some(Path::new("/dev/null")), &head(&bytes, true)).expect("opens");
        fill(&mut sink, &bytes, 1 << 20).await;
        sink.finish(Some(digest_of(&bytes))).await.expect("is right");
        assert!(!fs::metadata("/dev/null").expect("is there").is_file());
    }
}
