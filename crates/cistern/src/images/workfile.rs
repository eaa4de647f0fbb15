//! A working file: what was uploaded, fetched or unwrapped, until its import has ended. In an installation whose store
//! is encrypted, so are these, under a key of their own ([`SpoolKey`]).
//!
//! An encrypted one begins with a page of 4096 bytes that says what it is encrypted with, sealed with the spool's key;
//! its bytes follow in their places, so that it can grow, be cut and read anywhere as a file in clear can:
//! AES-256-CTR. A key stream must not meet two contents in one place. Hence each file has a key of its own, drawn when
//! it is begun, and where bytes that nobody was promised are written anew (a client goes on after a crash), another one
//! from there on. Whole blocks of 4096 zeros on the disk are holes and read as zeros: no other block looks like that.
//!
//! The spool's key is sealed with the store's in `DIR/spool/key`, so that uploads and downloads go on after a restart.
//! It is removed when a server starts and finds no working file: what may still lie on the disk of removed ones is then
//! readable to nobody, whoever has the store's keys.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use store::owner;
use store::seal::{self, Purpose, StreamKey};

use crate::platform::error::{Context, Error, Result};
use crate::platform::random;

/// The first page of an encrypted file.
const HEADER_BYTES: usize = 4096;
/// A hole has whole blocks of this size.
const BLOCK_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"CISTWORK";
/// How often bytes may be written anew at another place.
const KEYS_LIMIT: usize = 64;
/// Of one key in the first page: from where on, and what it is made of.
const ENTRY_BYTES: usize = 8 + 16;

/// What working files are encrypted with. Never printed.
#[derive(Clone)]
pub struct SpoolKey([u8; 32]);

impl std::fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpoolKey")
    }
}

impl SpoolKey {
    /// The key in `folder`, which is made where there is none; `None` where the store is in clear.
    pub fn open(folder: &Path, store: &store::Store) -> Result<Option<Self>> {
        let Some(key) = store.key() else { return Ok(None) };
        let seals = key
            .derive(Purpose::Spool, &[])
            .context("could not make the key of the working files")?;
        let path = folder.join("key");
        if let Some(key) = Self::read(&path, &seals)? {
            return Ok(Some(key));
        }
        let drawn: [u8; 32] = random::bytes();
        let sealed = seal::text_seal(&seals, random::bytes(), MAGIC, &drawn)
            .context("could not seal the key of the working files")?;
        match key_write(folder, &path, &sealed) {
            Ok(()) => Ok(Some(Self(drawn))),
            // A command beside a server that starts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(&path, &seals),
            Err(error) => Err(error).context("could not write the key of the working files"),
        }
    }

    fn read(path: &Path, seals: &[u8; 32]) -> Result<Option<Self>> {
        let sealed = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("could not read the key of the working files")?,
        };
        let key = seal::text_open(seals, MAGIC, &sealed).and_then(|key| key.try_into().ok());
        key.map(|key| Some(Self(key))).ok_or_else(|| {
            Error::Precondition(format!(
                "{} is not of this installation's store, or damaged: remove the folder it is in; uploads that are under \
                 way have to begin anew",
                path.display()
            ))
        })
    }
}

fn key_write(folder: &Path, path: &Path, sealed: &[u8]) -> io::Result<()> {
    owner::folder_make(folder)?;
    // Whole under its name, or not there.
    let new = folder.join(format!("key.{}", random::uuid()));
    let mut file = owner::file_new(&new)?;
    file.write_all(sealed)?;
    file.sync_all()?;
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    linked?;
    File::open(folder)?.sync_all()
}

/// An open working file; clones share it.
#[derive(Clone, Debug)]
pub struct WorkFile {
    file: Arc<File>,
    seal: Option<Arc<Seal>>,
}

#[derive(Debug)]
struct Seal {
    key: SpoolKey,
    parts: Vec<Part>,
}

/// From where on a key is used.
#[derive(Debug)]
struct Part {
    from: u64,
    salt: [u8; 16],
    stream: StreamKey,
}

impl Part {
    fn new(key: &SpoolKey, from: u64, salt: [u8; 16]) -> io::Result<Self> {
        let stream = seal::key_derive(&key.0, &salt, b"cistern working file")
            .and_then(|key| StreamKey::new(&key))
            .map_err(io::Error::other)?;
        Ok(Self { from, salt, stream })
    }
}

impl WorkFile {
    /// A file in clear: one that its owner handed over.
    pub fn clear(file: File) -> Self {
        Self {
            file: Arc::new(file),
            seal: None,
        }
    }

    /// Begins a file, which is open for reading and writing and empty. Not durable yet.
    pub fn begin(file: File, key: Option<&SpoolKey>) -> io::Result<Self> {
        let mut begun = Self::clear(file);
        if let Some(key) = key {
            begun.seal_set(key, vec![Part::new(key, 0, random::bytes())?])?;
        }
        Ok(begun)
    }

    /// Makes a file, or empties the one that is there.
    pub fn create(path: &Path, key: Option<&SpoolKey>) -> io::Result<Self> {
        let file = owner::file_open(path)?;
        file.set_len(0)?;
        Self::begin(file, key)
    }

    /// A file that was begun with this key; another is [`io::ErrorKind::InvalidData`].
    pub fn open(file: File, key: Option<&SpoolKey>) -> io::Result<Self> {
        let mut opened = Self::clear(file);
        if let Some(key) = key {
            let parts = header_read(&opened.file, key)?.ok_or(io::ErrorKind::InvalidData)?;
            opened.seal = Some(Arc::new(Seal {
                key: key.clone(),
                parts,
            }));
        }
        Ok(opened)
    }

    /// The file itself where it is in clear: what others may read as it is.
    pub fn as_clear(&self) -> Option<&Arc<File>> {
        self.seal.is_none().then_some(&self.file)
    }

    /// How many bytes it has.
    pub fn length(&self) -> io::Result<u64> {
        let bytes = self.file.metadata()?.len();
        Ok(bytes.saturating_sub(self.start()))
    }

    /// Cuts it, or lengthens it by a hole, which begins and ends with a block.
    pub fn length_set(&self, length: u64) -> io::Result<()> {
        self.file.set_len(self.start() + length)
    }

    /// To be called before bytes are written from `at` on that may have been written before: cuts them off.
    pub fn go_on_at(&mut self, at: u64) -> io::Result<()> {
        let had = self.length()?;
        if had <= at {
            return Ok(());
        }
        self.length_set(at)?;
        let Some(seal) = self.seal.clone() else {
            return Ok(());
        };
        let mut parts = Vec::new();
        for part in seal.parts.iter().filter(|part| part.from < at) {
            parts.push(Part::new(&seal.key, part.from, part.salt)?);
        }
        if parts.len() == KEYS_LIMIT {
            return Err(io::Error::other("the file was gone on with too often"));
        }
        parts.push(Part::new(&seal.key, at, random::bytes())?);
        self.seal_set(&seal.key, parts)
    }

    /// Makes its bytes durable; `whole` its length too.
    pub fn sync(&self, whole: bool) -> io::Result<()> {
        if whole {
            self.file.sync_all()
        } else {
            self.file.sync_data()
        }
    }

    /// Writes all of `bytes` at `at`.
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let Some(seal) = &self.seal else {
            return self.file.write_all_at(bytes, at);
        };
        let mut bytes = bytes.to_vec();
        seal.apply(at, &mut bytes)?;
        self.file.write_all_at(&bytes, self.start() + at)
    }

    /// Reads at `at`; fewer bytes than there is room for only at the file's end.
    pub fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(seal) = &self.seal else {
            return read_full_at(&self.file, to, at);
        };
        let before = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or_default();
        let wanted = (before + to.len()).next_multiple_of(BLOCK_BYTES);
        let mut blocks = vec![0; wanted];
        let first = at - before as u64;
        let got = read_full_at(&self.file, &mut blocks, self.start() + first)?;
        blocks.truncate(got);
        seal.blocks_open(first, &mut blocks)?;
        let found = blocks.get(before..).unwrap_or_default();
        let count = found.len().min(to.len());
        to[..count].copy_from_slice(&found[..count]);
        Ok(count)
    }

    fn start(&self) -> u64 {
        self.seal.as_ref().map_or(0, |_| HEADER_BYTES as u64)
    }

    fn seal_set(&mut self, key: &SpoolKey, parts: Vec<Part>) -> io::Result<()> {
        header_write(&self.file, key, &parts)?;
        self.seal = Some(Arc::new(Seal {
            key: key.clone(),
            parts,
        }));
        Ok(())
    }
}

impl Seal {
    /// Decrypts whole blocks from `first` on, and what is left of the last; holes stay zeros.
    fn blocks_open(&self, first: u64, blocks: &mut [u8]) -> io::Result<()> {
        static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        let mut at = 0;
        while at < blocks.len() {
            let is_hole = |block: &[u8]| *block == ZEROS;
            let mut rest = blocks[at..].chunks(BLOCK_BYTES);
            let holes = rest.by_ref().take_while(|block| is_hole(block)).count() * BLOCK_BYTES;
            at += holes;
            let data = blocks[at..]
                .chunks(BLOCK_BYTES)
                .take_while(|block| !is_hole(block));
            let length: usize = data.map(<[u8]>::len).sum();
            self.apply(first + at as u64, &mut blocks[at..at + length])?;
            at += length;
        }
        Ok(())
    }

    fn apply(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        let ends = self.parts.iter().skip(1).map(|part| part.from).chain([u64::MAX]);
        for (part, until) in self.parts.iter().zip(ends) {
            let (from, to) = (part.from.max(at), until.min(end));
            if from < to {
                let place = |offset: u64| usize::try_from(offset - at).unwrap_or_default();
                let bytes = &mut bytes[place(from)..place(to)];
                part.stream.apply(from, bytes).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

fn header_write(file: &File, key: &SpoolKey, parts: &[Part]) -> io::Result<()> {
    let mut entries = Vec::with_capacity(parts.len() * ENTRY_BYTES);
    for part in parts {
        entries.extend_from_slice(&part.from.to_le_bytes());
        entries.extend_from_slice(&part.salt);
    }
    let sealed = seal::text_seal(&key.0, random::bytes(), MAGIC, &entries).map_err(io::Error::other)?;
    let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
    let mut page = [&MAGIC[..], &length.to_le_bytes(), &sealed].concat();
    page.resize(HEADER_BYTES, 0);
    file.write_all_at(&page, 0)?;
    // The bytes that follow are worth nothing without it.
    file.sync_all()
}

/// The keys of a file; `None` where it was begun with another spool key, or never whole.
fn header_read(file: &File, key: &SpoolKey) -> io::Result<Option<Vec<Part>>> {
    let mut page = vec![0; HEADER_BYTES];
    if read_full_at(file, &mut page, 0)? < HEADER_BYTES || &page[..8] != MAGIC {
        return Ok(None);
    }
    let length = u32::from_le_bytes([page[8], page[9], page[10], page[11]]) as usize;
    let sealed = page.get(12..12 + length.min(HEADER_BYTES)).unwrap_or_default();
    let Some(entries) = seal::text_open(&key.0, MAGIC, sealed) else {
        return Ok(None);
    };
    let part = |entry: &[u8]| {
        let (from, salt) = entry.split_at(8);
        let from = u64::from_le_bytes(from.try_into().unwrap_or_default());
        Part::new(key, from, salt.try_into().unwrap_or_default())
    };
    entries
        .chunks_exact(ENTRY_BYTES)
        .map(part)
        .collect::<io::Result<_>>()
        .map(Some)
}

/// Fills the buffer, but at the file's end.
fn read_full_at(file: &File, to: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < to.len() {
        match file.read_at(&mut to[done..], at + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Removes the key of `folder` where there is no working file: the next is another. For a server that starts, which is
/// alone in its data folder.
pub fn key_renew(folder: &Path) -> io::Result<()> {
    if files(folder)? > 0 {
        return Ok(());
    }
    match fs::remove_file(folder.join("key")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Working files in a folder and those below it.
fn files(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            files(&entry.path())?
        } else {
            usize::from(!entry.file_name().to_string_lossy().starts_with("key"))
        };
    }
    Ok(count)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn key(seed: u8) -> SpoolKey {
        SpoolKey([seed; 32])
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i % 251).expect("fits"))
            .collect()
    }

    fn all(file: &WorkFile) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(file.length().expect("has one")).expect("fits")];
        assert_eq!(file.read_at(&mut out, 0).expect("reads"), out.len());
        out
    }

    #[test]
    fn bytes_come_back_from_any_place_and_are_not_on_the_disk() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        let plain = bytes(3 * BLOCK_BYTES + 77);
        for key in [None, Some(key(1))] {
            let file = WorkFile::create(&path, key.as_ref()).expect("is made");
            for (n, part) in plain.chunks(1000).enumerate() {
                file.write_all_at(part, n as u64 * 1000).expect("writes");
            }
            drop(file);
            let file = WorkFile::open(File::open(&path).expect("opens"), key.as_ref()).expect("opens");
            assert_eq!(all(&file), plain);
            for (at, length) in [
                (0, 1),
                (5, 100),
                (4095, 2),
                (4096, 4096),
                (8191, 5000),
                (12_300, 65),
            ] {
                let mut part = vec![0; length];
                let got = file.read_at(&mut part, at as u64).expect("reads");
                assert_eq!(part[..got], plain[at..plain.len().min(at + length)], "{at}");
            }
            assert_eq!(file.read_at(&mut [0; 8], 90_000).expect("reads"), 0);
            let raw = fs::read(&path).expect("reads");
            let is_clear = raw.windows(32).any(|part| part == &plain[40..72]);
            assert_eq!(
                (is_clear, file.as_clear().is_some()),
                (key.is_none(), key.is_none())
            );
        }
        let other = WorkFile::open(File::open(&path).expect("opens"), Some(&key(2)));
        assert_eq!(other.expect_err("another key").kind(), io::ErrorKind::InvalidData);
        File::options()
            .write(true)
            .open(&path)
            .expect("opens")
            .set_len(100)
            .expect("cuts");
        let cut = WorkFile::open(File::open(&path).expect("opens"), Some(&key(1)));
        assert_eq!(cut.expect_err("no page").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn holes_read_as_zeros() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = WorkFile::create(&dir.path().join("f"), Some(&key(1))).expect("is made");
        let mut plain = vec![0; 8 * BLOCK_BYTES];
        plain[2 * BLOCK_BYTES..3 * BLOCK_BYTES].copy_from_slice(&bytes(BLOCK_BYTES));
        plain.extend([0; 9]);
        file.write_all_at(&plain[2 * BLOCK_BYTES..3 * BLOCK_BYTES], 2 * BLOCK_BYTES as u64)
            .expect("writes");
        // The last block is no whole one: it is written.
        file.write_all_at(&[0; 9], 8 * BLOCK_BYTES as u64)
            .expect("writes");
        assert_eq!(all(&file), plain);
    }

    /// What two contents of one place would give away under one key stream is their difference.
    #[test]
    fn what_is_written_anew_has_another_key() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        let key = key(1);
        let raw = || fs::read(&path).expect("reads")[HEADER_BYTES..].to_vec();
        let mut file = WorkFile::create(&path, Some(&key)).expect("is made");
        file.write_all_at(&[7; 10_000], 0).expect("writes");
        let before = raw();
        for at in [9000, 5000, 6000] {
            file.go_on_at(at).expect("is cut");
            let rest = 10_000 - usize::try_from(at).expect("fits");
            file.write_all_at(&vec![7; rest], at).expect("writes");
        }
        file.go_on_at(10_000).expect("nothing to cut");
        let after = raw();
        assert_eq!(before[..5000], after[..5000]);
        for from in [5000, 6000] {
            assert_ne!(before[from..from + 16], after[from..from + 16]);
        }
        let opened = WorkFile::open(File::open(&path).expect("opens"), Some(&key)).expect("opens");
        assert_eq!(all(&opened), [7; 10_000]);
        assert_eq!(opened.seal.expect("sealed").parts.len(), 3);
        for at in (6001..).take(KEYS_LIMIT - 3) {
            file.go_on_at(at).expect("is cut");
            file.write_all_at(&[7; 10], at).expect("writes");
        }
        assert!(file.go_on_at(6065).is_err(), "the page is full");
    }

    #[test]
    fn the_key_goes_with_the_last_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("spool");
        key_renew(&folder).expect("no folder is fine");
        fs::create_dir_all(folder.join("uploads")).expect("makes");
        fs::write(folder.join("key"), "k").expect("writes");
        fs::write(folder.join("uploads/u"), "u").expect("writes");
        key_renew(&folder).expect("looks");
        assert!(folder.join("key").exists(), "an upload needs it");
        fs::remove_file(folder.join("uploads/u")).expect("removes");
        key_renew(&folder).expect("looks");
        assert!(!folder.join("key").exists());
    }
}
