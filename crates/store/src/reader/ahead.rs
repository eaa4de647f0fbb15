//! Reading a disk ahead of whoever takes its bytes.
//!
//! A client that stops reading stops polling its stream, for as long as it likes. So nothing that the stream itself
//! polls ever holds, or waits in line for, a connection of the database or of the backend: every window is loaded by a
//! task of its own, which goes on whoever reads, and is aborted with its stream.
//!
//! What is read ahead is bounded for the whole store: a window takes its chunks from one budget until its bytes were
//! taken. A stream begins with small windows, and the larger ones have to be earned by reading. Where the budget is
//! used up each stream still gets one small window at a time, and what nobody takes for a while is given back, and
//! read again should it be wanted after all.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::packs::Caching;
use super::{CHUNK, Inner, Piece, pieces};
use crate::error::{Error, Kind, Result};
use crate::world::World;

/// Chunks of the smallest window, which needs nothing of the budget: 256 KiB.
const PACE_MIN: u64 = 4;
/// Chunks of the largest: 4 MiB.
const PACE_MAX: u64 = 64;
/// Windows of a stream that are there or on their way: one is sent, one decoded, two read.
const WINDOWS: usize = 4;
/// Chunks that all streams of a store read ahead together: 64 MiB.
const BUDGET: usize = 1024;
/// Leaves of trees that are looked up in the database at once, for all streams: far fewer than it has connections.
const LOOKUPS: usize = 6;
/// A longer read goes by the cache of packs without filling it: 64 MiB.
const KEPT_LIMIT: u64 = 64 << 20;
/// Chunks of a small read: 64 KiB anywhere.
const SMALL: u64 = 2;
/// What was not asked for this long, up to twice, is given back.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shared by all streams of a store.
#[derive(Debug)]
pub(crate) struct Budget {
    chunks: Arc<Semaphore>,
    lookups: Semaphore,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            chunks: Arc::new(Semaphore::new(BUDGET)),
            lookups: Semaphore::new(LOOKUPS),
        }
    }
}

impl Budget {
    /// A turn at the database; the semaphore is never closed.
    pub(crate) async fn lookup(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.lookups.acquire().await.ok()
    }

    fn take(&self, chunks: u64) -> Option<OwnedSemaphorePermit> {
        let chunks = u32::try_from(chunks).ok()?;
        Arc::clone(&self.chunks).try_acquire_many_owned(chunks).ok()
    }

    /// Chunks that nobody has taken.
    #[cfg(test)]
    fn left(&self) -> usize {
        self.chunks.available_permits()
    }
}

/// The bytes of a range of a disk, in order.
pub(super) struct Ahead {
    disk: Arc<Inner>,
    queue: Arc<Mutex<Queue>>,
    _idle: AbortOnDropHandle<()>,
}

/// What was read, or is being read, and not taken yet.
#[derive(Debug)]
struct Queue {
    windows: VecDeque<Window>,
    /// Bytes of the disk that nobody has taken yet.
    rest: Range<u64>,
    /// Where the window behind the last one begins.
    begun: u64,
    /// Chunks of that window.
    pace: u64,
    caching: Caching,
    /// Whether it is a small read, whose chunks are kept decoded for the next.
    is_small: bool,
    /// Whether somebody asked since this was last looked at.
    is_wanted: bool,
}

#[derive(Debug)]
struct Window {
    load: Load,
    _budget: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Load {
    Running(AbortOnDropHandle<Result<Vec<Piece>>>),
    Done(VecDeque<Piece>),
}

impl Ahead {
    pub(super) fn new(disk: Arc<Inner>, range: Range<u64>) -> Self {
        let queue = Arc::new(Mutex::new(Queue::new(range)));
        let idle = tokio::spawn(idle(
            disk.tree.store.inner.options.world.clone(),
            Arc::downgrade(&queue),
        ));
        Self {
            disk,
            queue,
            _idle: AbortOnDropHandle::new(idle),
        }
    }
}

impl Stream for Ahead {
    type Item = Result<Piece>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = lock(&self.queue);
        queue.is_wanted = true;
        loop {
            queue.fill(&self.disk);
            let Some(front) = queue.windows.front_mut() else {
                return Poll::Ready(None);
            };
            match &mut front.load {
                Load::Running(task) => match loaded(ready!(Pin::new(task).poll(cx))) {
                    Ok(pieces) => front.load = Load::Done(pieces.into()),
                    Err(error) => {
                        queue.end();
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Load::Done(pieces) => match pieces.pop_front() {
                    Some(piece) => {
                        queue.rest.start += piece.length();
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    None => drop(queue.windows.pop_front()),
                },
            }
        }
    }
}

impl Queue {
    fn new(range: Range<u64>) -> Self {
        Self {
            windows: VecDeque::new(),
            begun: range.start,
            caching: if range.end - range.start > KEPT_LIMIT {
                Caching::Look
            } else {
                Caching::Fill
            },
            is_small: range.end.div_ceil(CHUNK) - range.start / CHUNK <= SMALL,
            rest: range,
            pace: PACE_MIN,
            is_wanted: true,
        }
    }

    /// Begins to load as much as may be ahead now.
    fn fill(&mut self, disk: &Arc<Inner>) {
        while self.begun < self.rest.end && self.windows.len() < WINDOWS {
            let Some((chunks, budget)) = self.room(&disk.tree.store.inner.read_ahead) else {
                return;
            };
            let window = self.begun / CHUNK..chunks;
            let bytes = self.begun..(chunks * CHUNK).min(self.rest.end);
            self.begun = bytes.end;
            let (disk, caching, is_small) = (Arc::clone(disk), self.caching, self.is_small);
            let load = tokio::spawn(async move {
                let chunks = if is_small {
                    disk.chunks_get(window.clone()).await?
                } else {
                    disk.chunks_load(window.clone(), caching).await?
                };
                Ok(pieces(window, chunks, &bytes))
            });
            self.windows.push_back(Window {
                load: Load::Running(AbortOnDropHandle::new(load)),
                _budget: budget,
            });
        }
    }

    /// The chunk before which the next window ends, and its part of the budget. `None` where there has to be none.
    fn room(&mut self, budget: &Budget) -> Option<(u64, Option<OwnedSemaphorePermit>)> {
        let first = self.begun / CHUNK;
        let last = self.rest.end.div_ceil(CHUNK);
        loop {
            // Large windows end where a large one could begin, so that the same chunks make the same requests.
            let end = (first / self.pace * self.pace + self.pace).min(last);
            if let Some(permit) = budget.take(end - first) {
                self.pace = (self.pace * 2).min(PACE_MAX);
                return Some((end, Some(permit)));
            }
            if self.pace == PACE_MIN {
                return self.windows.is_empty().then_some((end, None));
            }
            self.pace /= 2;
        }
    }

    /// Gives back what nobody took. A window that is being loaded may have somebody waiting for it.
    fn tidy(&mut self) {
        let is_loading = |window: &Window| matches!(&window.load, Load::Running(task) if !task.is_finished());
        if std::mem::take(&mut self.is_wanted) || self.windows.front().is_some_and(is_loading) {
            return;
        }
        self.windows.clear();
        self.begun = self.rest.start;
        self.pace = PACE_MIN;
    }

    /// Nothing comes any more.
    fn end(&mut self) {
        self.windows.clear();
        self.begun = self.rest.end;
    }
}

fn loaded(done: std::result::Result<Result<Vec<Piece>>, JoinError>) -> Result<Vec<Piece>> {
    done.map_err(|error| Error::new(Kind::Unavailable, "reading was stopped").with_source(error))?
}

/// Looks after a queue for as long as there is one.
async fn idle(world: World, queue: Weak<Mutex<Queue>>) {
    loop {
        world.sleep(PATIENCE).await;
        let Some(queue) = queue.upgrade() else { return };
        lock(&queue).tidy();
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Begins windows of a queue as long as there is room, each with a piece of data.
    fn fill(queue: &mut Queue, budget: &Budget) -> Vec<u64> {
        let mut chunks = Vec::new();
        while queue.begun < queue.rest.end && queue.windows.len() < WINDOWS {
            let Some((end, permit)) = queue.room(budget) else {
                break;
            };
            chunks.push(end - queue.begun / CHUNK);
            queue.begun = end * CHUNK;
            let pieces = VecDeque::from([Piece::Data(Bytes::from_static(b"x"))]);
            queue.windows.push_back(Window {
                load: Load::Done(pieces),
                _budget: permit,
            });
        }
        chunks
    }

    fn queue() -> Queue {
        Queue::new(0..1 << 40)
    }

    #[test]
    fn windows_grow_with_what_is_read() {
        let (budget, mut queue) = (Budget::default(), queue());
        assert_eq!(fill(&mut queue, &budget), [4, 4, 8, 16]);
        let mut grown = Vec::new();
        for _ in 0..4 {
            queue.windows.pop_front();
            grown.extend(fill(&mut queue, &budget));
        }
        assert_eq!(grown, [32, 64, 64, 64], "and end where the next size begins");
        drop(queue);
        assert_eq!(budget.left(), BUDGET);
    }

    #[test]
    fn all_streams_together_are_bounded_and_each_gets_something() {
        let budget = Budget::default();
        let mut queues: Vec<Queue> = (0..500).map(|_| queue()).collect();
        let begun: Vec<u64> = (0..500)
            .map(|n| fill(&mut queues[n], &budget).iter().sum())
            .collect();
        assert!(begun.iter().all(|chunks| *chunks >= PACE_MIN), "{begun:?}");
        assert!(begun.iter().sum::<u64>() <= BUDGET as u64 + 500 * PACE_MIN);
        assert_eq!(begun[499], PACE_MIN, "one small window where nothing is left");
        assert!(fill(&mut queues[499], &budget).is_empty(), "and no second one");
    }

    #[test]
    fn what_nobody_takes_is_given_back_and_begun_again_where_it_was() {
        let (budget, mut queue) = (Budget::default(), queue());
        fill(&mut queue, &budget);
        queue.rest.start = 70_000;
        queue.tidy();
        assert_eq!(queue.windows.len(), WINDOWS, "somebody asked lately");
        queue.tidy();
        assert_eq!((queue.windows.len(), budget.left()), (0, BUDGET));
        assert_eq!((queue.begun, queue.pace), (70_000, PACE_MIN));
    }

    #[tokio::test]
    async fn a_window_that_somebody_waits_for_is_not_given_back() {
        let (budget, mut queue) = (Budget::default(), queue());
        fill(&mut queue, &budget);
        let never = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        queue.windows[0].load = Load::Running(never);
        queue.tidy();
        queue.tidy();
        assert_eq!(queue.windows.len(), WINDOWS);
    }
}
