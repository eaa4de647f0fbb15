//! The log: changes that were promised and perhaps not made yet when the file was last used ([MS-VHDX] 2.3). They are
//! replayed into memory, as patches that lie over the file.
//!
//! The log is a ring of entries. What counts is the newest unbroken run of them whose last entry says that it begins in
//! that run. Everything about it is bounded: the log's length, how often a byte of it is summed, the number of patches.

use std::collections::BTreeMap;
use std::ops::Range;

use super::crc::crc32c;
use super::guid::Guid;
use super::header::{Header, Region, damaged};
use crate::bytes::{has, human, le_u32, le_u64};
use crate::error::{AGAIN, Error, Result};
use crate::extents::Extents;
use crate::format::Limits;
use crate::source::Source;

/// What an entry is made of.
const SECTOR: usize = 4096;
const ENTRY_HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;
/// Of an honest log every byte is summed twice at most: once where it stands, once behind a torn entry.
const SUMS: usize = 8;
const MAX_PATCHES: usize = 1 << 18;

/// What lies over the file.
#[derive(Debug)]
enum Patch {
    Zero,
    /// The bytes of its range.
    Page(Box<[u8]>),
}

#[derive(Debug)]
pub(super) struct Log {
    region: Region,
    /// By where they begin: where they end, and what they are. They do not overlap.
    patches: BTreeMap<u64, (u64, Patch)>,
    /// How long the file is once the log was applied.
    file_bytes: u64,
}

impl Log {
    pub(super) fn read(source: &mut Source<'_>, header: &Header, limits: &Limits) -> Result<Self> {
        let region = header.log_region;
        let mut log = Self {
            region,
            patches: BTreeMap::new(),
            file_bytes: source.len(),
        };
        let Some(id) = header.log else {
            return Ok(log);
        };
        if region.length > limits.max_table_bytes {
            return Err(Error::limit(format!(
                "The VHDX image was not closed properly and has a log of {}, more than is taken. Attach and detach it once \
                 (`Mount-VHD`, `Dismount-VHD`), which applies the log, and import the result.",
                human(region.length)
            )));
        }
        let mut bytes = vec![0; usize::try_from(region.length).unwrap_or(0)];
        source.read_at(region.at, &mut bytes)?;
        let mut ring = Ring {
            sums_left: bytes.len().saturating_mul(SUMS),
            bytes,
            id,
        };
        for entry in ring.newest_run()? {
            log.replay(&entry, source.len())?;
        }
        Ok(log)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    pub(super) const fn region(&self) -> Region {
        self.region
    }

    /// How long the file is with what the log adds to it.
    pub(super) const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    fn replay(&mut self, entry: &Entry, file_bytes: u64) -> Result<()> {
        if entry.flushed_bytes > file_bytes {
            return Err(Error::damaged(format!(
                "The VHDX image is cut off: its log was written when the file had {}, it has {} now. {AGAIN}",
                human(entry.flushed_bytes),
                human(file_bytes)
            )));
        }
        self.file_bytes = self.file_bytes.max(entry.last_bytes);
        for change in entry.changes() {
            let (range, patch) = change?;
            if !range.is_empty() {
                self.put(range, patch)?;
            }
        }
        Ok(())
    }

    /// Lays a patch over those that are there.
    fn put(&mut self, range: Range<u64>, patch: Patch) -> Result<()> {
        let mut under: Vec<u64> = self
            .patches
            .range(range.start..range.end)
            .map(|(at, _)| *at)
            .collect();
        let before = self.patches.range(..range.start).next_back();
        under.extend(
            before
                .filter(|(_, (end, _))| *end > range.start)
                .map(|(at, _)| *at),
        );
        for at in under {
            let Some((end, old)) = self.patches.remove(&at) else {
                continue;
            };
            // Pages have one size and one alignment, so that only zeros can reach beyond a patch.
            if matches!(old, Patch::Zero) {
                if at < range.start {
                    self.patches.insert(at, (range.start, Patch::Zero));
                }
                if end > range.end {
                    self.patches.insert(range.end, (end, Patch::Zero));
                }
            }
        }
        self.patches.insert(range.start, (range.end, patch));
        if self.patches.len() > MAX_PATCHES {
            return Err(damaged("has a log with more changes than any tool writes"));
        }
        Ok(())
    }

    /// The patches that touch `range`, in order, each cut to it.
    fn over(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, u64, &Patch)> {
        let before = self.patches.range(..range.start).next_back();
        let all = before.into_iter().chain(self.patches.range(range.clone()));
        all.filter_map(move |(at, (end, patch))| {
            let cut = (*at).max(range.start)..(*end).min(range.end);
            (!cut.is_empty()).then_some((cut, *at, patch))
        })
    }

    /// Fills `buffer` from `offset` of the file as it is with the log applied.
    pub(super) fn read_at(&self, source: &mut Source<'_>, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let there = source.len().saturating_sub(offset).min(buffer.len() as u64);
        let end = offset.saturating_add(buffer.len() as u64);
        let behind = usize::try_from(there).unwrap_or(usize::MAX);
        match buffer.get_mut(..behind) {
            // What lies behind the end is the log's, or is missing.
            Some(part) if end <= self.file_bytes => source.read_at(offset, part)?,
            _ => source.read_at(offset, buffer)?,
        }
        for (range, at, patch) in self.over(offset..end) {
            let place = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
            let target = buffer.get_mut(place(offset, range.start)..place(offset, range.end));
            let Some(target) = target else {
                continue;
            };
            match patch {
                Patch::Zero => target.fill(0),
                Patch::Page(page) => {
                    let part = page.get(place(at, range.start)..place(at, range.end));
                    target.copy_from_slice(part.unwrap_or(&vec![0; target.len()]));
                }
            }
        }
        Ok(())
    }

    /// Gives `length` bytes of the file from `at` on, which lie inside it, as it is with the log applied.
    pub(super) fn extents(
        &self,
        source: &Source<'_>,
        at: u64,
        length: u64,
        extents: &mut Extents<'_>,
    ) -> Result<()> {
        let mut done = at;
        for (range, begins, patch) in self.over(at..at + length) {
            plain(source, done..range.start, extents)?;
            match patch {
                Patch::Zero => extents.zero(range.end - range.start)?,
                Patch::Page(page) => {
                    let place = |to: u64| usize::try_from(to - begins).unwrap_or(usize::MAX);
                    extents.data(page.get(place(range.start)..place(range.end)).unwrap_or_default())?;
                }
            }
            done = range.end;
        }
        plain(source, done..at + length, extents)
    }
}

/// Gives a part of the file that no patch touches; behind its end are zeros.
fn plain(source: &Source<'_>, range: Range<u64>, extents: &mut Extents<'_>) -> Result<()> {
    let end = range.end.min(source.len()).max(range.start);
    extents.source(range.start, end - range.start)?;
    extents.zero(range.end.saturating_sub(end))
}

/// The log as it stands in the file.
struct Ring {
    bytes: Vec<u8>,
    /// Entries with another identifier are from another life of the file.
    id: Guid,
    /// How many bytes may still be summed.
    sums_left: usize,
}

impl Ring {
    /// The entries that count, oldest first ([MS-VHDX] 2.3.3).
    fn newest_run(&mut self) -> Result<Vec<Entry>> {
        let mut newest: Option<Vec<Entry>> = None;
        let mut at = 0;
        while at < self.bytes.len() {
            let run = self.run(at)?;
            let length: usize = run.iter().map(|entry| entry.bytes.len()).sum();
            let Some(run) = whole(run) else {
                at += SECTOR;
                continue;
            };
            let sequence = |run: &[Entry]| run.last().map_or(0, |entry| entry.sequence);
            if newest
                .as_deref()
                .is_none_or(|newest| sequence(&run) > sequence(newest))
            {
                newest = Some(run);
            }
            at += length;
        }
        newest.ok_or_else(|| {
            damaged("was not closed properly, and its log, without which it is not complete, cannot be read")
        })
    }

    /// The unbroken run of entries from `at` on.
    fn run(&mut self, at: usize) -> Result<Vec<Entry>> {
        let (mut run, mut length): (Vec<Entry>, usize) = (Vec::new(), 0);
        while let Some(entry) = self.entry((at + length) % self.bytes.len())? {
            let follows = run
                .last()
                .is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            if !follows || length + entry.bytes.len() > self.bytes.len() {
                break;
            }
            length += entry.bytes.len();
            run.push(entry);
        }
        Ok(run)
    }

    /// The entry at `at`, if one stands there whole.
    fn entry(&mut self, at: usize) -> Result<Option<Entry>> {
        let header = self.bytes.get(at..at + ENTRY_HEADER_BYTES).unwrap_or_default();
        let length = le_u32(header, 8) as usize;
        let is_entry = has(header, 0, b"loge") && has(header, 32, &self.id);
        if !is_entry || length == 0 || !length.is_multiple_of(SECTOR) || length > self.bytes.len() {
            return Ok(None);
        }
        let Some(left) = self.sums_left.checked_sub(length) else {
            return Err(damaged(
                "has a log that no tool writes: its entries lie over one another",
            ));
        };
        self.sums_left = left;
        let mut bytes: Vec<u8> = self.bytes.iter().skip(at).take(length).copied().collect();
        // An entry that does not end before the ring does goes on at its beginning.
        let rest = length - bytes.len();
        bytes.extend_from_slice(self.bytes.get(..rest).unwrap_or_default());
        Ok(Entry::parse(at, bytes))
    }
}

/// The part of a run that its last entry says is needed; nothing where that begins outside the run.
fn whole(mut run: Vec<Entry>) -> Option<Vec<Entry>> {
    let tail = run.last()?.tail;
    let first = run.iter().position(|entry| entry.at == tail)?;
    run.drain(..first);
    Some(run)
}

#[derive(Debug)]
struct Entry {
    /// Where it begins in the log.
    at: usize,
    bytes: Vec<u8>,
    sequence: u64,
    /// Where in the log the run begins that was needed when this entry was written.
    tail: usize,
    descriptors: usize,
    /// How long the file was at least when this was written, and how long it is to become.
    flushed_bytes: u64,
    last_bytes: u64,
}

impl Entry {
    fn parse(at: usize, bytes: Vec<u8>) -> Option<Self> {
        let entry = Self {
            at,
            sequence: le_u64(&bytes, 16),
            tail: le_u32(&bytes, 12) as usize,
            descriptors: le_u32(&bytes, 24) as usize,
            flushed_bytes: le_u64(&bytes, 48),
            last_bytes: le_u64(&bytes, 56),
            bytes,
        };
        let described = entry
            .descriptors
            .checked_mul(DESCRIPTOR_BYTES)?
            .checked_add(ENTRY_HEADER_BYTES)?;
        let is_sound = described <= entry.bytes.len()
            && crc32c(&entry.bytes, 4) == le_u32(&entry.bytes, 4)
            && entry.is_of_one_piece();
        is_sound.then_some(entry)
    }

    fn descriptors(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.bytes.get(ENTRY_HEADER_BYTES..).unwrap_or_default();
        all.chunks_exact(DESCRIPTOR_BYTES).take(self.descriptors)
    }

    /// The sectors with data, which follow the descriptors.
    fn pages(&self) -> impl Iterator<Item = &[u8]> {
        let described = ENTRY_HEADER_BYTES + self.descriptors * DESCRIPTOR_BYTES;
        let from = described.next_multiple_of(SECTOR);
        self.bytes.get(from..).unwrap_or_default().chunks_exact(SECTOR)
    }

    /// Whether each part carries the number of the whole, and there is a page for each descriptor that needs one.
    fn is_of_one_piece(&self) -> bool {
        let mut pages = self.pages();
        self.descriptors().all(|descriptor| {
            if le_u64(descriptor, 24) != self.sequence {
                return false;
            }
            if has(descriptor, 0, b"zero") {
                return true;
            }
            let is_page = |page: &[u8]| {
                let number = u64::from(le_u32(page, 4)) << 32 | u64::from(le_u32(page, SECTOR - 4));
                has(page, 0, b"data") && number == self.sequence
            };
            has(descriptor, 0, b"desc") && pages.next().is_some_and(is_page)
        })
    }

    /// The changes that this entry makes, in order.
    fn changes(&self) -> impl Iterator<Item = Result<(Range<u64>, Patch)>> {
        let mut pages = self.pages();
        self.descriptors().map(move |descriptor| {
            let at = le_u64(descriptor, 16);
            let is_zero = has(descriptor, 0, b"zero");
            let length = if is_zero {
                le_u64(descriptor, 8)
            } else {
                SECTOR as u64
            };
            let end = at.checked_add(length);
            let (true, true, Some(end)) = (
                at.is_multiple_of(SECTOR as u64),
                length.is_multiple_of(SECTOR as u64),
                end,
            ) else {
                return Err(damaged("has a log that changes an impossible place"));
            };
            if is_zero {
                return Ok((at..end, Patch::Zero));
            }
            // The ends of a page gave way to its signature and numbers; the descriptor has what stood there.
            let page = pages.next().unwrap_or_default();
            let mut whole = Vec::with_capacity(SECTOR);
            whole.extend_from_slice(descriptor.get(8..16).unwrap_or_default());
            whole.extend_from_slice(page.get(8..SECTOR - 4).unwrap_or_default());
            whole.extend_from_slice(descriptor.get(4..8).unwrap_or_default());
            Ok((at..end, Patch::Page(whole.into_boxed_slice())))
        })
    }
}
