//! What VHD, VHDX and VDI have in common: headers, one table with an entry for each block of the disk, the blocks
//! that are in use in disk order, perhaps with something in front of each, perhaps with something behind the last.

use super::Segment;
use super::clusters::Clusters;

/// Tables are computed in pieces of this.
const PIECE_BYTES: u64 = 64 << 10;

/// What an entry of the table says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its number among the blocks of the file.
    Vdi,
    /// The sector it begins at.
    Vhd,
    /// The byte it begins at and its state. After so many blocks stands an entry for their sector bitmap.
    Vhdx { blocks_a_bitmap: u64 },
}

impl Entry {
    const fn width(self) -> u64 {
        match self {
            Self::Vdi | Self::Vhd => 4,
            Self::Vhdx { .. } => 8,
        }
    }

    /// The block of the disk that entry `index` is about; a sector bitmap's is about none.
    const fn block(self, index: u64) -> Option<u64> {
        match self {
            Self::Vdi | Self::Vhd => Some(index),
            Self::Vhdx { blocks_a_bitmap } => {
                let (chunk, place) = (index / (blocks_a_bitmap + 1), index % (blocks_a_bitmap + 1));
                if place == blocks_a_bitmap {
                    None
                } else {
                    Some(chunk * blocks_a_bitmap + place)
                }
            }
        }
    }
}

/// The plan of such a file.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub(super) virtual_bytes: u64,
    pub(super) block_bytes: u64,
    /// Which blocks of the disk are in the file.
    pub(super) used: Clusters,
    /// Headers and the like, in file order; between them are zeros.
    pub(super) parts: Vec<(u64, Vec<u8>)>,
    pub(super) table_at: u64,
    /// How many entries the table has. Those behind the disk's last block are of no block.
    pub(super) entries: u64,
    pub(super) entry: Entry,
    pub(super) data_at: u64,
    /// What stands in front of each block.
    pub(super) prefix: Vec<u8>,
    /// What stands behind the last one.
    pub(super) tail: Vec<u8>,
}

impl Blocks {
    pub(super) fn len(&self) -> u64 {
        self.tail_at() + self.tail.len() as u64
    }

    fn tail_at(&self) -> u64 {
        self.data_at + self.used.total() * self.stride()
    }

    /// What one block takes in the file.
    fn stride(&self) -> u64 {
        self.block_bytes + self.prefix.len() as u64
    }

    fn table_end(&self) -> u64 {
        self.table_at + self.entries * self.entry.width()
    }

    /// The piece that starts at byte `at` of the file and ends at `end` or before; `at` must be below both.
    pub(super) fn segment(&self, at: u64, end: u64) -> Segment {
        if at >= self.tail_at() {
            return part(&self.tail, at - self.tail_at(), end - at);
        }
        if at >= self.data_at {
            return self.data(at - self.data_at, end.min(self.tail_at()) - at);
        }
        let end = end.min(self.data_at);
        if (self.table_at..self.table_end()).contains(&at) {
            return self.table(at - self.table_at, end.min(self.table_end()) - at);
        }
        let mut next = end;
        if at < self.table_at {
            next = next.min(self.table_at);
        }
        for (start, bytes) in &self.parts {
            if (*start..*start + bytes.len() as u64).contains(&at) {
                return part(bytes, at - start, end - at);
            }
            if *start > at {
                next = next.min(*start);
            }
        }
        Segment::Zero { length: next - at }
    }

    /// A piece of the table, from byte `at` of it on.
    fn table(&self, at: u64, most: u64) -> Segment {
        let width = self.entry.width();
        let (first, skip) = (at / width, at % width);
        let count = (skip + most.min(PIECE_BYTES - width)).div_ceil(width);
        let mut bytes = Vec::new();
        let mut rank = self.used.rank(
            self.entry
                .block(first)
                .or_else(|| self.entry.block(first + 1))
                .unwrap_or(0),
        );
        for index in first..(first + count).min(self.entries) {
            let block = self.entry.block(index).filter(|block| self.used.contains(*block));
            let used = block.map(|_| {
                rank += 1;
                rank - 1
            });
            self.entry_write(used, &mut bytes);
        }
        part(&bytes, skip, most)
    }

    /// Writes the entry of a block that is the `rank`-th in the file, or not in it.
    fn entry_write(&self, rank: Option<u64>, out: &mut Vec<u8>) {
        let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let at = rank.map(|rank| self.data_at + rank * self.stride());
        match self.entry {
            Entry::Vdi => out.extend_from_slice(&rank.map_or(u32::MAX, low).to_le_bytes()),
            Entry::Vhd => out.extend_from_slice(&at.map_or(u32::MAX, |at| low(at / 512)).to_be_bytes()),
            Entry::Vhdx { .. } => out.extend_from_slice(&at.map_or(0, |at| at | FULLY_PRESENT).to_le_bytes()),
        }
    }

    /// A piece of the blocks, from byte `at` of them on, at most `most` long.
    fn data(&self, at: u64, most: u64) -> Segment {
        let (rank, inside) = (at / self.stride(), at % self.stride());
        let prefix = self.prefix.len() as u64;
        if inside < prefix {
            return part(&self.prefix, inside, most);
        }
        let skip = inside - prefix;
        let block = self.used.nth(rank);
        // Blocks without a prefix that follow one another on the disk are one piece.
        let run = if prefix == 0 {
            self.used.run(block, (skip + most).div_ceil(self.block_bytes))
        } else {
            1
        };
        let offset = block * self.block_bytes + skip;
        let length = (run * self.block_bytes - skip).min(most);
        // The last block of the file is whole even where the disk ends inside it.
        match self.virtual_bytes.saturating_sub(offset) {
            0 => Segment::Zero { length },
            left => Segment::Disk {
                offset,
                length: length.min(left),
            },
        }
    }
}

/// The state of a VHDX block that is in the file.
const FULLY_PRESENT: u64 = 6;

fn part(bytes: &[u8], at: u64, most: u64) -> Segment {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let range = place(at)..place(at.saturating_add(most));
    Segment::Bytes(bytes.get(range).unwrap_or_default().to_vec())
}
