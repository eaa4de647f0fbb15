//! The memory that the ingests of one store share, so that several at once hardly take more than one.
//!
//! Buffers and packs are used again instead of given back to the allocator: it keeps what is allocated on one
//! thread and freed on another far longer than an ingest can afford. When the last ingest ends, all of it goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::batch::BATCH_BYTES;
use crate::pack;

/// Batches between being read and being packed: one is hashed, one looked up, one compressed, and one waits
/// before each of the last two; one more keeps the processors busy where two ingests meet.
const BATCHES: usize = 6;
/// Packs being checked, written and published.
const PUTS: usize = 3;

/// Shared by all ingests of a store.
#[derive(Debug)]
pub(crate) struct Memory {
    batches: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    users: usize,
    batches: Vec<Vec<u8>>,
    packs: Vec<Vec<u8>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            batches: Arc::new(Semaphore::new(BATCHES)),
            puts: Arc::new(Semaphore::new(PUTS)),
            spare: Mutex::default(),
        }
    }
}

impl Memory {
    /// Counts an ingest. The memory is kept until the last one's guard is dropped.
    pub(crate) fn user(self: &Arc<Self>) -> User {
        self.spare().users += 1;
        User(Arc::clone(self))
    }

    /// The right to write one pack.
    pub(crate) async fn put(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.puts).acquire_owned().await.ok()
    }

    /// An empty vector with room for a pack.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let spare = self.spare().packs.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(pack::CAPACITY_BYTES))
    }

    /// Takes the bytes of a pack that was written, unless someone still reads them.
    pub(crate) fn pack_return(&self, bytes: bytes::Bytes) {
        let Ok(mut bytes) = bytes.try_into_mut() else {
            return;
        };
        bytes.clear();
        let bytes = Vec::from(bytes);
        let mut spare = self.spare();
        if spare.users > 0 && spare.packs.len() < PUTS && bytes.capacity() >= pack::CAPACITY_BYTES {
            spare.packs.push(bytes);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An ingest that may take from the memory.
#[derive(Debug)]
pub(crate) struct User(Arc<Memory>);

impl User {
    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0
    }

    /// A buffer of [`BATCH_BYTES`] with anything in it, when one is free. Whoever holds one never waits for
    /// another, so all of them come back.
    pub(crate) async fn batch(&self) -> Option<Buffer> {
        let permit = Arc::clone(&self.0.batches).acquire_owned().await.ok()?;
        let spare = self.0.spare().batches.pop();
        Some(Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; BATCH_BYTES]),
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
            *spare = Spare::default();
        }
    }
}

/// A batch's bytes; they go back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    memory: Arc<Memory>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.memory.spare();
        if spare.users > 0 {
            spare.batches.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_all_ingests_take_is_bounded_used_again_and_given_up_with_the_last() {
        let memory = Arc::new(Memory::default());
        let (one, two) = (memory.user(), memory.user());
        let mut held = Vec::new();
        for user in [&one, &two].into_iter().cycle().take(BATCHES) {
            held.push(user.batch().await.expect("is free"));
        }
        assert!(memory.batches.try_acquire().is_err(), "one more has to wait");
        let place = held.pop().expect("some are held").bytes.as_ptr();
        let again = two.batch().await.expect("is free again");
        assert_eq!(again.bytes.as_ptr(), place);
        drop((held, again));
        assert_eq!(memory.spare().batches.len(), BATCHES);

        let (kept, read) = (bytes::Bytes::from(memory.pack()), bytes::Bytes::from(vec![1; 100]));
        let reader = read.clone();
        memory.pack_return(read);
        memory.pack_return(kept);
        assert_eq!(memory.spare().packs.len(), 1, "what is still read is not used again");
        assert_eq!(reader[0], 1);

        drop(one);
        assert_eq!(memory.spare().batches.len(), BATCHES);
        drop(two);
        assert!(memory.spare().batches.is_empty() && memory.spare().packs.is_empty());
    }
}
