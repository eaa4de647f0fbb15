//! Sorts more records than memory should hold: what is full is sorted and written to a file without a name, and in the
//! end all of it is read merged, each record once.
//!
//! gc is what frees a full disk, so it has to get on where there is no room for such a file: what was sorted stays in
//! memory then, up to [`KEPT_BYTES`] for all that a run sorts. Beyond that it ends with what would help.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::{Error, Kind, Result};

/// Memory of the records that wait to be sorted.
const BUFFER_BYTES: usize = 16 << 20;
/// Memory of what was sorted and found no room on the disk: 16 million marks, 1 TiB of different data.
const KEPT_BYTES: usize = 256 << 20;
/// Bytes of a block of a file: so much is read at once, and has a checksum.
const BLOCK_BYTES: usize = 64 << 10;

/// Where the sorters of a run of gc put what they sort.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    /// Bytes that may be kept in memory besides what is kept already.
    left: AtomicUsize,
    /// Opens a file without a name.
    open: fn(&Path) -> io::Result<File>,
}

impl Shelf {
    /// Files go to `folder`, if any are needed.
    pub(crate) fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            left: AtomicUsize::new(KEPT_BYTES),
            open: |folder| tempfile::tempfile_in(folder),
        })
    }
}

/// Records of `N` bytes, in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Sorter<const N: usize> {
    shelf: Arc<Shelf>,
    capacity: usize,
    buffer: Vec<[u8; N]>,
    runs: Vec<Run<N>>,
}

impl<const N: usize> Sorter<N> {
    pub(crate) fn new(shelf: &Arc<Shelf>) -> Self {
        Self::with_capacity(shelf, BUFFER_BYTES / N)
    }

    fn with_capacity(shelf: &Arc<Shelf>, capacity: usize) -> Self {
        Self {
            shelf: Arc::clone(shelf),
            capacity,
            buffer: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, record: [u8; N]) -> Result<()> {
        if self.buffer.len() >= self.capacity {
            self.sort();
            // Where most of it was there several times it stays in memory.
            if self.buffer.len() > self.capacity / 2 {
                self.runs.push(Run::of(&self.shelf, &mut self.buffer)?);
            }
        }
        self.buffer.push(record);
        Ok(())
    }

    fn sort(&mut self) {
        self.buffer.sort_unstable();
        self.buffer.dedup();
    }

    /// Every record once, in order.
    pub(crate) fn finish(mut self) -> Result<Sorted<N>> {
        self.sort();
        let mut sorted = Sorted {
            memory: self.buffer.into_iter(),
            runs: self.runs,
            heap: BinaryHeap::new(),
            last: None,
        };
        for run in 0..=sorted.runs.len() {
            if let Some(record) = sorted.read(run)? {
                sorted.heap.push(Reverse((record, run)));
            }
        }
        Ok(sorted)
    }
}

/// Sorted records.
#[derive(Debug)]
enum Run<const N: usize> {
    Filed(Filed<N>),
    Kept(Kept<N>),
}

impl<const N: usize> Run<N> {
    /// Of all that is in `buffer`, which is empty then.
    fn of(shelf: &Arc<Shelf>, buffer: &mut Vec<[u8; N]>) -> Result<Self> {
        match Filed::write(shelf, buffer) {
            Err(error) if error.kind() == Kind::NoSpace => Kept::take(shelf, buffer)
                .map(Self::Kept)
                .ok_or_else(|| no_room(shelf, error)),
            written => {
                buffer.clear();
                written.map(Self::Filed)
            }
        }
    }

    fn next(&mut self) -> Result<Option<[u8; N]>> {
        match self {
            Self::Filed(run) => run.next(),
            Self::Kept(run) => Ok(run.records.next()),
        }
    }
}

fn no_room(shelf: &Shelf, error: Error) -> Error {
    let text = format!(
        "there is no room in {} for gc's working files, and {} MiB of what they would hold are in memory already: free about 16 bytes there \
         for each chunk that images name (256 MiB for each TiB of different data)",
        shelf.folder.display(),
        KEPT_BYTES >> 20,
    );
    Error::new(Kind::NoSpace, text).with_source(error)
}

/// Sorted records in memory, for want of room for a file.
#[derive(Debug)]
struct Kept<const N: usize> {
    records: std::vec::IntoIter<[u8; N]>,
    bytes: usize,
    shelf: Arc<Shelf>,
}

impl<const N: usize> Kept<N> {
    /// None where as much is kept as may be.
    fn take(shelf: &Arc<Shelf>, buffer: &mut Vec<[u8; N]>) -> Option<Self> {
        let bytes = buffer.as_flattened().len();
        let less = |left: usize| left.checked_sub(bytes);
        shelf.left.fetch_update(Relaxed, Relaxed, less).ok()?;
        let mut records = std::mem::take(buffer);
        records.shrink_to_fit();
        Some(Self {
            records: records.into_iter(),
            bytes,
            shelf: Arc::clone(shelf),
        })
    }
}

impl<const N: usize> Drop for Kept<N> {
    fn drop(&mut self) {
        self.shelf.left.fetch_add(self.bytes, Relaxed);
    }
}

/// Sorted records in a file without a name. A record that is lost here would be a chunk that is lost, so each block is
/// followed by its checksum.
#[derive(Debug)]
struct Filed<const N: usize> {
    file: File,
    /// Records that were not read yet.
    left: usize,
    block: Vec<[u8; N]>,
    at: usize,
}

impl<const N: usize> Filed<N> {
    const RECORDS: usize = if BLOCK_BYTES > N { BLOCK_BYTES / N } else { 1 };

    fn write(shelf: &Shelf, records: &[[u8; N]]) -> Result<Self> {
        let context = |error| Error::io("cannot write what gc has marked to its working folder", error);
        let mut file = (shelf.open)(&shelf.folder).map_err(context)?;
        for block in records.chunks(Self::RECORDS) {
            let bytes = block.as_flattened();
            file.write_all(bytes).map_err(context)?;
            let sum = crc32fast::hash(bytes).to_le_bytes();
            file.write_all(&sum).map_err(context)?;
        }
        file.seek(SeekFrom::Start(0)).map_err(context)?;
        Ok(Self {
            file,
            left: records.len(),
            block: Vec::new(),
            at: 0,
        })
    }

    fn next(&mut self) -> Result<Option<[u8; N]>> {
        if self.at == self.block.len() {
            if self.left == 0 {
                return Ok(None);
            }
            self.block_read()?;
        }
        self.at += 1;
        Ok(self.block.get(self.at - 1).copied())
    }

    fn block_read(&mut self) -> Result<()> {
        let context = |error| Error::io("cannot read what gc has marked", error);
        let count = self.left.min(Self::RECORDS);
        self.block.resize(count, [0; N]);
        let bytes = self.block.as_flattened_mut();
        self.file.read_exact(bytes).map_err(context)?;
        let mut sum = [0; 4];
        self.file.read_exact(&mut sum).map_err(context)?;
        if sum != crc32fast::hash(bytes).to_le_bytes() {
            return Err(Error::new(
                Kind::Io,
                "what gc has marked was changed in its working folder",
            ));
        }
        self.left -= count;
        self.at = 0;
        Ok(())
    }
}

/// What a [`Sorter`] has sorted.
#[derive(Debug)]
pub(crate) struct Sorted<const N: usize> {
    memory: std::vec::IntoIter<[u8; N]>,
    runs: Vec<Run<N>>,
    heap: BinaryHeap<Reverse<([u8; N], usize)>>,
    last: Option<[u8; N]>,
}

impl<const N: usize> Sorted<N> {
    /// The next record of a run; the one behind the last run is the memory.
    fn read(&mut self, run: usize) -> Result<Option<[u8; N]>> {
        match self.runs.get_mut(run) {
            Some(run) => run.next(),
            None => Ok(self.memory.next()),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<[u8; N]>> {
        if self.runs.is_empty() {
            // The heap holds the first.
            let first = self.heap.pop().map(|Reverse((record, _))| record);
            return Ok(first.or_else(|| self.memory.next()));
        }
        loop {
            let Some(Reverse((record, run))) = self.heap.peek().copied() else {
                return Ok(None);
            };
            let following = self.read(run)?;
            if let Some(mut top) = self.heap.peek_mut() {
                match following {
                    Some(following) => *top = Reverse((following, run)),
                    None => drop(PeekMut::pop(top)),
                }
            }
            if self.last.replace(record) != Some(record) {
                return Ok(Some(record));
            }
        }
    }

    /// At most `count` records more.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<[u8; N]>> {
        let mut out = Vec::new();
        while out.len() < count {
            match self.next()? {
                Some(record) => out.push(record),
                None => break,
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// On a disk where what is written finds no room; so many bytes may be kept in memory.
    fn full_shelf(left: usize) -> Arc<Shelf> {
        Arc::new(Shelf {
            folder: PathBuf::from("/the/folder"),
            left: AtomicUsize::new(left),
            open: |_| File::options().write(true).open("/dev/full"),
        })
    }

    fn pushed(shelf: &Arc<Shelf>, records: &[u16], capacity: usize) -> Result<Sorter<2>> {
        let mut sorter = Sorter::<2>::with_capacity(shelf, capacity);
        for record in records {
            sorter.push(record.to_be_bytes())?;
        }
        Ok(sorter)
    }

    fn sorted(records: &[u16], capacity: usize) -> (Vec<[u8; 2]>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let sorter = pushed(&Shelf::new(dir.path()), records, capacity).unwrap();
        let runs = sorter.runs.len();
        (sorter.finish().unwrap().take(usize::MAX).unwrap(), runs)
    }

    proptest! {
        #[test]
        fn each_record_comes_once_and_in_order(records: Vec<u16>, capacity in 1_usize..50) {
            let expected: BTreeSet<_> = records.iter().map(|record| record.to_be_bytes()).collect();
            let (found, _) = sorted(&records, capacity);
            let expected: Vec<_> = expected.into_iter().collect();
            prop_assert_eq!(&found, &expected);
            let in_memory = pushed(&full_shelf(KEPT_BYTES), &records, capacity).unwrap();
            prop_assert_eq!(in_memory.finish().unwrap().take(usize::MAX).unwrap(), expected);
        }
    }

    #[test]
    fn what_comes_again_and_again_takes_no_file() {
        let records: Vec<u16> = (0..1000).map(|n| n % 20).collect();
        assert_eq!(sorted(&records, 100).1, 0);
        let records: Vec<u16> = (0..1000).collect();
        assert_eq!(sorted(&records, 100).1, 9);
    }

    #[test]
    fn what_was_changed_or_cut_on_the_disk_is_an_error_and_not_a_chunk_less() {
        let dir = tempfile::tempdir().unwrap();
        let records: Vec<u16> = (0..300).collect();
        let spoiled = |spoil: fn(&File)| {
            let sorter = pushed(&Shelf::new(dir.path()), &records, 100).unwrap();
            let Run::Filed(run) = &sorter.runs[0] else {
                panic!("there was room for a file");
            };
            spoil(&run.file);
            sorter.finish().and_then(|mut sorted| sorted.take(usize::MAX))
        };
        assert_eq!(spoiled(|_| ()).unwrap().len(), 300);
        let flip = |file: &File| std::os::unix::fs::FileExt::write_all_at(file, &[9], 100).unwrap();
        assert!(spoiled(flip).is_err());
        assert!(spoiled(|file| file.set_len(100).unwrap()).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = pushed(&Shelf::new(Path::new("/nonexistent")), &[1, 2], 1).unwrap_err();
        assert!(error.to_string().contains("working folder"), "{error}");
    }

    #[test]
    fn without_room_for_files_so_much_is_kept_in_memory_and_no_more() {
        let shelf = full_shelf(400);
        let records: Vec<u16> = (0..301).rev().collect();
        // Three runs of 50 records, and two of another sorter with the same memory.
        let one = pushed(&shelf, &records[..200], 50).unwrap();
        assert_eq!((one.runs.len(), shelf.left.load(Relaxed)), (3, 100));
        let error = pushed(&shelf, &records[..101], 50).and_then(|_| pushed(&shelf, &records[..151], 50));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        for part in ["/the/folder", "256 MiB", "16 bytes there for each chunk"] {
            assert!(error.to_string().contains(part), "{error}");
        }

        // What was read is free for others.
        assert_eq!(one.finish().unwrap().take(usize::MAX).unwrap().len(), 200);
        assert_eq!(shelf.left.load(Relaxed), 400);
        assert_eq!(pushed(&shelf, &records[..250], 50).unwrap().runs.len(), 4);
    }
}
