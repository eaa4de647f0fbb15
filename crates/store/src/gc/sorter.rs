//! Sorts more records than memory should hold: what is full is sorted and written to a file without a name, and in the
//! end all of it is read merged, each record once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Memory of the records that wait to be sorted.
const BUFFER_BYTES: usize = 16 << 20;
/// Bytes of a block of a file: so much is read at once, and has a checksum.
const BLOCK_BYTES: usize = 64 << 10;

/// Records of `N` bytes, in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Sorter<const N: usize> {
    folder: PathBuf,
    capacity: usize,
    buffer: Vec<[u8; N]>,
    runs: Vec<Run<N>>,
}

impl<const N: usize> Sorter<N> {
    /// Files go to `folder`, if any are needed.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with_capacity(folder, BUFFER_BYTES / N)
    }

    fn with_capacity(folder: &Path, capacity: usize) -> Self {
        Self {
            folder: folder.to_owned(),
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
                self.runs.push(Run::write(&self.folder, &self.buffer)?);
                self.buffer.clear();
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

/// Sorted records in a file without a name. A record that is lost here would be a chunk that is lost, so each block is
/// followed by its checksum.
#[derive(Debug)]
struct Run<const N: usize> {
    file: File,
    /// Records that were not read yet.
    left: usize,
    block: Vec<[u8; N]>,
    at: usize,
}

impl<const N: usize> Run<N> {
    const RECORDS: usize = if BLOCK_BYTES > N { BLOCK_BYTES / N } else { 1 };

    fn write(folder: &Path, records: &[[u8; N]]) -> Result<Self> {
        let context = |error| Error::io("cannot write what gc has marked to its working folder", error);
        let mut file = tempfile::tempfile_in(folder).map_err(context)?;
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

    fn sorted(records: &[u16], capacity: usize) -> (Vec<[u8; 2]>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::<2>::with_capacity(dir.path(), capacity);
        for record in records {
            sorter.push(record.to_be_bytes()).unwrap();
        }
        let runs = sorter.runs.len();
        (sorter.finish().unwrap().take(usize::MAX).unwrap(), runs)
    }

    proptest! {
        #[test]
        fn each_record_comes_once_and_in_order(records: Vec<u16>, capacity in 1_usize..50) {
            let expected: BTreeSet<_> = records.iter().map(|record| record.to_be_bytes()).collect();
            let (found, _) = sorted(&records, capacity);
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
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
        let spoiled = |spoil: fn(&File)| {
            let mut sorter = Sorter::<2>::with_capacity(dir.path(), 100);
            for record in 0..300_u16 {
                sorter.push(record.to_be_bytes()).unwrap();
            }
            spoil(&sorter.runs[0].file);
            sorter.finish().and_then(|mut sorted| sorted.take(usize::MAX))
        };
        assert_eq!(spoiled(|_| ()).unwrap().len(), 300);
        let flip = |file: &File| std::os::unix::fs::FileExt::write_all_at(file, &[9], 100).unwrap();
        assert!(spoiled(flip).is_err());
        assert!(spoiled(|file| file.set_len(100).unwrap()).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let mut sorter = Sorter::<2>::with_capacity(Path::new("/nonexistent"), 1);
        sorter.push([0, 1]).unwrap();
        let error = sorter.push([0, 2]).unwrap_err();
        assert!(error.to_string().contains("working folder"), "{error}");
    }
}
