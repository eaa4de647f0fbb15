//! Memory for the bytes of disks. All but single chunks comes from the system and goes back to it, not to the
//! allocator, which keeps what is allocated on one thread and freed on another for as long as the first thread is idle.
//!
//! What the ingests of one store take is shared, so that several at once hardly take more than one. It is used
//! again, because new pages cost as much as a twentieth of an ingest. When the last ingest ends, all of it goes.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};
use crate::reader::TOGETHER;
use crate::reader::decoded::{Decoded, MemoryStats};
use crate::{CHUNK_BYTES, ingest, pack};

/// Batches between being read and being packed: one is hashed, one looked up, one compressed, and one waits
/// before each of the last two; one more keeps the processors busy where two ingests meet.
const BATCHES: usize = 6;
/// Packs being checked, written and published.
const PUTS: usize = 4;
/// Chunks that are read together.
const PIECE_BYTES: usize = TOGETHER * CHUNK_BYTES as usize;
/// Pieces kept for the next chunks: 8 MiB, half of what a fast download has under way.
const PIECES_SPARE: usize = 32;
/// Chunks kept for the next that are read one at a time, so that none has to be filled with zeros first: 2 MiB.
const CHUNKS_SPARE: usize = 32;
/// Smaller ones the allocator serves well.
const SYSTEM_BYTES: usize = 256 << 10;
/// What is as large as this is asked for in huge pages.
const HUGE_BYTES: usize = 2 << 20;

/// Bytes that `fill` makes out of so many zeros.
pub(crate) fn filled(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Bytes> {
    if length < SYSTEM_BYTES {
        let mut bytes = vec![0; length];
        fill(&mut bytes)?;
        return Ok(bytes.into());
    }
    let mut map = map_of(None, length)?;
    fill(&mut map)?;
    Ok(Bytes::from_owner(map))
}

/// Shared by all ingests, and all open disks, of a store.
#[derive(Debug)]
pub(crate) struct Memory {
    batches: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    spare: Mutex<Spare>,
    decoded: Decoded,
}

#[derive(Debug, Default)]
struct Spare {
    users: usize,
    readers: usize,
    pieces: Vec<MmapMut>,
    chunks: Vec<Vec<u8>>,
    batches: Vec<MmapMut>,
    packs: Vec<MmapMut>,
}

impl Memory {
    /// Nothing is taken yet; of what small reads decode, `decoded_bytes` are kept at most.
    pub(crate) fn new(decoded_bytes: u64) -> Self {
        Self {
            batches: Arc::new(Semaphore::new(BATCHES)),
            puts: Arc::new(Semaphore::new(PUTS)),
            spare: Mutex::default(),
            decoded: Decoded::new(decoded_bytes),
        }
    }

    /// Counts an ingest. What is spare is kept until the last one's guard is dropped.
    pub(crate) fn user(self: &Arc<Self>) -> User {
        self.spare().users += 1;
        User(Arc::clone(self))
    }

    /// The right to write one pack. Whoever waits for it holds nothing that another's write needs.
    pub(crate) async fn put(&self) -> Result<OwnedSemaphorePermit> {
        permit(&self.puts).await
    }

    /// An empty pack.
    pub(crate) fn pack(self: &Arc<Self>) -> Result<PackBytes> {
        let spare = self.spare().packs.pop();
        Ok(PackBytes {
            map: Some(map_of(spare, pack::CAPACITY_BYTES)?),
            length: 0,
            again: Some(Arc::clone(self)),
        })
    }

    /// Counts an open disk. What its pieces took is used again until the last one is closed.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        self.spare().readers += 1;
        Reader(Arc::clone(self))
    }

    /// Gives back what small reads have left decoded, where none came for a while.
    pub(crate) fn tidy(&self) {
        self.decoded.tidy();
    }

    /// What small reads have found decoded.
    pub(crate) fn decoded_stats(&self) -> MemoryStats {
        self.decoded.stats()
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let permit = Arc::clone(of).acquire_owned().await;
    permit.map_err(|error| Error::new(Kind::Io, "the store was closed").with_source(error))
}

fn map_of(spare: Option<MmapMut>, bytes: usize) -> Result<MmapMut> {
    if let Some(map) = spare {
        return Ok(map);
    }
    let map = map_new(bytes)?;
    if bytes >= HUGE_BYTES {
        // Fewer faults at the first touch; a kernel without huge pages gives small ones.
        let _ = map.advise(Advice::HugePage);
    }
    Ok(map)
}

fn map_new(bytes: usize) -> Result<MmapMut> {
    MmapMut::map_anon(bytes)
        .map_err(|error| Error::io(format!("the system has no {bytes} bytes of memory left"), error))
}

/// An ingest that may take from the memory.
#[derive(Debug)]
pub(crate) struct User(Arc<Memory>);

impl User {
    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0
    }

    /// A buffer for a batch with anything in it, when one is free. Whoever holds one never waits for another, so
    /// all of them come back.
    pub(crate) async fn batch(&self) -> Result<Buffer> {
        let permit = permit(&self.0.batches).await?;
        let spare = self.0.spare().batches.pop();
        Ok(Buffer {
            map: Some(map_of(spare, ingest::BATCH_BYTES)?),
            memory: Arc::clone(&self.0),
            _permit: permit,
        })
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut spare = self.0.spare();
        spare.users -= 1;
        if spare.users == 0 {
            spare.batches.clear();
            spare.packs.clear();
        }
    }
}

/// A batch's bytes; they go back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    map: Option<MmapMut>,
    memory: Arc<Memory>,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.memory.spare();
        if spare.users > 0 {
            spare.batches.extend(self.map.take());
        }
    }
}

/// A pack's bytes, at most [`pack::CAPACITY_BYTES`].
#[derive(Debug)]
pub(crate) struct PackBytes {
    map: Option<MmapMut>,
    length: usize,
    /// Where its memory goes back to when it is dropped, to be used again.
    again: Option<Arc<Memory>>,
}

impl PackBytes {
    /// An empty pack for tree nodes, which seldom fills: in small pages, so that it takes no more than it holds, and
    /// not used again, so that those of a large disk do not add up.
    pub(crate) fn of_nodes() -> Result<Self> {
        Ok(Self {
            map: Some(map_new(pack::CAPACITY_BYTES)?),
            length: 0,
            again: None,
        })
    }

    /// Adds bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.length + bytes.len();
        let map = self.map.as_deref_mut().unwrap_or_default();
        let Some(place) = map.get_mut(self.length..end) else {
            return Err(Error::new(Kind::Invalid, "the pack is full"));
        };
        place.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// What is in it, to be changed.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map.as_deref_mut().unwrap_or_default()[..self.length]
    }
}

impl Deref for PackBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map.as_deref().unwrap_or_default()[..self.length]
    }
}

impl AsRef<[u8]> for PackBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PackBytes {
    fn drop(&mut self) {
        let Some(memory) = &self.again else {
            return;
        };
        let mut spare = memory.spare();
        if spare.users > 0 && spare.packs.len() < PUTS {
            spare.packs.extend(self.map.take());
        }
    }
}

/// An open disk, whose chunks are decoded into pieces of the memory.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Memory>);

impl Reader {
    /// Bytes that `fill` makes out of anything that was there.
    pub(crate) fn piece(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Bytes> {
        if length == CHUNK_BYTES as usize {
            return self.chunk(fill);
        }
        if length != PIECE_BYTES {
            return filled(length, fill);
        }
        let spare = self.0.spare().pieces.pop();
        let mut piece = Piece {
            map: Some(map_of(spare, PIECE_BYTES)?),
            memory: Arc::clone(&self.0),
        };
        fill(piece.map.as_deref_mut().unwrap_or_default())?;
        Ok(Bytes::from_owner(piece))
    }

    /// Chunks that were read lately, of any disk.
    pub(crate) fn decoded(&self) -> &Decoded {
        &self.0.decoded
    }

    fn chunk(&self, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Bytes> {
        let spare = self.0.spare().chunks.pop();
        let mut chunk = Chunk {
            bytes: spare.unwrap_or_else(|| vec![0; CHUNK_BYTES as usize]),
            memory: Arc::clone(&self.0),
        };
        fill(&mut chunk.bytes)?;
        Ok(Bytes::from_owner(chunk))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut spare = self.0.spare();
        spare.readers -= 1;
        if spare.readers == 0 {
            (spare.pieces, spare.chunks) = (Vec::new(), Vec::new());
        }
    }
}

/// Some chunks' bytes; their memory goes back when nobody has them any more.
struct Piece {
    map: Option<MmapMut>,
    memory: Arc<Memory>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut spare = self.memory.spare();
        if spare.readers > 0 && spare.pieces.len() < PIECES_SPARE {
            spare.pieces.extend(self.map.take());
        }
    }
}

/// One chunk's bytes, likewise.
struct Chunk {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut spare = self.memory.spare();
        if spare.readers > 0 && spare.chunks.len() < CHUNKS_SPARE {
            spare.chunks.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_bounded_used_again_and_given_up_with_the_last_ingest() {
        let memory = Arc::new(Memory::new(0));
        let (one, two) = (memory.user(), memory.user());
        let mut held = Vec::new();
        for user in [&one, &two].into_iter().cycle().take(BATCHES) {
            held.push(user.batch().await.expect("is free"));
        }
        assert!(memory.batches.try_acquire().is_err(), "one more has to wait");
        let place = held.pop().expect("some are held").bytes().as_ptr();
        let again = two.batch().await.expect("is free again");
        assert_eq!(again.bytes().as_ptr(), place);
        drop((held, again));
        assert_eq!(memory.spare().batches.len(), BATCHES);
        drop(one);
        assert_eq!(memory.spare().batches.len(), BATCHES, "the other still works");
        drop(two);
        assert!(memory.spare().batches.is_empty());
    }

    #[test]
    fn pieces_are_used_again_and_given_up_with_the_last_reader() {
        let memory = Arc::new(Memory::new(0));
        let (one, two) = (memory.reader(), memory.reader());
        let fill = |byte: u8| {
            move |bytes: &mut [u8]| {
                bytes.fill(byte);
                Ok(())
            }
        };
        let first = one.piece(PIECE_BYTES, fill(1)).expect("memory");
        let (place, part) = (first.as_ptr(), first.slice(7..9));
        drop(first);
        assert!(memory.spare().pieces.is_empty(), "somebody has a part of it");
        drop(part);
        assert_eq!(memory.spare().pieces.len(), 1);
        let again = two.piece(PIECE_BYTES, fill(2)).expect("memory");
        assert_eq!((again.as_ptr(), again[0], again[PIECE_BYTES - 1]), (place, 2, 2));
        let failed = two.piece(PIECE_BYTES, |_| Err(Error::new(Kind::Damaged, "not this")));
        assert!(failed.is_err());
        assert_eq!(
            memory.spare().pieces.len(),
            1,
            "what was not filled comes back too"
        );
        drop((one, again));
        assert_eq!(memory.spare().pieces.len(), 2, "the other still reads");
        let held: Vec<_> = (0..2 * PIECES_SPARE)
            .map(|_| two.piece(PIECE_BYTES, fill(3)).expect("memory"))
            .collect();
        drop(held);
        assert_eq!(memory.spare().pieces.len(), PIECES_SPARE);
        let chunk = two.piece(CHUNK_BYTES as usize, fill(4)).expect("memory");
        let place = chunk.as_ptr();
        drop(chunk);
        let again = two.piece(CHUNK_BYTES as usize, fill(5)).expect("memory");
        assert_eq!(again.as_ptr(), place);
        assert!(again.iter().all(|byte| *byte == 5));
        drop((two, again));
        assert!(memory.spare().pieces.is_empty() && memory.spare().chunks.is_empty());
    }

    #[test]
    fn a_pack_holds_what_it_may_and_its_memory_comes_back_with_its_last_reader() {
        let memory = Arc::new(Memory::new(0));
        let user = memory.user();
        let mut pack = memory.pack().expect("memory");
        pack.append(b"abc").expect("fits");
        assert_eq!(&*pack, b"abc");
        assert!(pack.append(&vec![0; pack::CAPACITY_BYTES - 2]).is_err());
        pack.append(&vec![0; pack::CAPACITY_BYTES - 3])
            .expect("fits exactly");
        let sealed = Bytes::from_owner(pack);
        let reader = sealed.slice(1..3);
        drop(sealed);
        assert!(memory.spare().packs.is_empty());
        assert_eq!(&*reader, b"bc");
        drop(reader);
        assert_eq!(memory.spare().packs.len(), 1);
        assert!(memory.pack().expect("memory").is_empty(), "it begins anew");
        drop(PackBytes::of_nodes());
        assert_eq!(memory.spare().packs.len(), 1, "small pages are not used again");
        drop(user);
        assert!(memory.spare().packs.is_empty());
    }
}
