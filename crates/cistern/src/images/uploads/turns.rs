//! Whose turn it is to write an upload, among the requests of this process. The newest has it: a client whose
//! connection hangs connects again, and must not wait for the old one to be given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::model::Refusal;

/// How long the one before may take to make durable what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// The newest request of each upload; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    newest: Arc<Mutex<HashMap<String, Arc<Holder>>>>,
}

#[derive(Debug, Default)]
struct Holder {
    /// A newer request wants its turn.
    lost: CancellationToken,
    /// It has let go of the file, or never got it.
    gone: CancellationToken,
    /// Whom it waits for, while it waits.
    before: Mutex<Option<Arc<Holder>>>,
}

impl Holder {
    fn before(&self) -> MutexGuard<'_, Option<Arc<Self>>> {
        self.before.lock().expect("never held over a panic")
    }

    /// The one that is still there, of this one and those it waits for.
    fn still_there(self: Arc<Self>) -> Option<Arc<Self>> {
        let mut holder = self;
        while holder.gone.is_cancelled() {
            let before = holder.before().clone()?;
            holder = before;
        }
        Some(holder)
    }
}

/// A request's turn, until it is dropped. Whatever it has open must be dropped before.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    id: String,
    holder: Arc<Holder>,
}

impl Turns {
    /// Asks the upload's writer to come to an end, if there is one, and waits for that. [`Refusal::TakenOver`] where a
    /// still newer request came meanwhile, [`Refusal::Locked`] where the writer cannot be stopped.
    pub async fn take(&self, id: &str) -> Result<Turn, Refusal> {
        self.take_within(id, PATIENCE).await
    }

    async fn take_within(&self, id: &str, patience: Duration) -> Result<Turn, Refusal> {
        let holder = Arc::<Holder>::default();
        let before = self.lock().insert(id.to_owned(), Arc::clone(&holder));
        holder.before().clone_from(&before);
        let turn = Turn {
            turns: self.clone(),
            id: id.to_owned(),
            holder,
        };
        let Some(before) = before else { return Ok(turn) };
        before.lost.cancel();
        let gone = timeout(patience, gone(before)).await;
        gone.map_err(|_| Refusal::Locked)?;
        *turn.holder.before() = None;
        // Only now: whoever came after this one waits for the writer too, by waiting for this one.
        if turn.holder.lost.is_cancelled() {
            return Err(Refusal::TakenOver);
        }
        Ok(turn)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Holder>>> {
        self.newest.lock().expect("never held over a panic")
    }
}

/// Waits until neither this one nor anyone it waited for is there. One that was given up while it waited is gone, but
/// the writer before it need not be.
async fn gone(holder: Arc<Holder>) {
    let mut next = Some(holder);
    while let Some(holder) = next {
        holder.gone.cancelled().await;
        next = holder.still_there();
    }
}

impl Turn {
    /// Ends when a newer request wants its turn.
    pub async fn lost(&self) {
        self.holder.lost.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut newest = self.turns.lock();
        // Under the lock, so that nobody is made the newest who is gone.
        self.holder.gone.cancel();
        if newest
            .get(&self.id)
            .is_some_and(|now| Arc::ptr_eq(now, &self.holder))
        {
            match Arc::clone(&self.holder).still_there() {
                // It was waiting still: whoever comes next waits for the writer.
                Some(writer) => newest.insert(self.id.clone(), writer),
                None => newest.remove(&self.id),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_many_gets_the_turn_and_the_others_hear_it() {
        let turns = Turns::default();
        let first = turns.take("a").await.expect("nobody has it");
        turns.take("b").await.expect("another upload is no matter");
        let end = async {
            first.lost().await;
            drop(first);
        };
        // They begin in this order.
        let (second, third, ()) = tokio::join!(turns.take("a"), turns.take("a"), end);
        assert!(matches!(second, Err(Refusal::TakenOver)), "{second:?}");
        let third = third.expect("is the newest");
        drop(third);
        assert!(
            turns.lock().is_empty(),
            "nothing is kept of uploads that are idle"
        );
    }

    #[tokio::test]
    async fn a_writer_that_cannot_be_stopped_keeps_its_turn() {
        let turns = Turns::default();
        let _first = turns.take("a").await.expect("nobody has it");
        let second = turns.take_within("a", Duration::from_millis(20)).await;
        assert!(matches!(second, Err(Refusal::Locked)), "{second:?}");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_does_not_let_the_next_one_in() {
        let turns = Turns::default();
        let first = turns.take("a").await.expect("nobody has it");
        // Each waits, and is dropped as a request is whose client has gone.
        for _ in 0..3 {
            let waits = timeout(Duration::from_millis(5), turns.take("a")).await;
            assert!(waits.is_err(), "the first has the file: {waits:?}");
        }
        let refused = turns.take_within("a", Duration::from_millis(5)).await;
        assert!(matches!(refused, Err(Refusal::Locked)), "{refused:?}");
        let end = async {
            first.lost().await;
            drop(first);
        };
        let (next, ()) = tokio::join!(turns.take("a"), end);
        drop(next.expect("the file is free"));
        assert!(turns.lock().is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn who_waits_for_one_that_gave_up_waits_for_the_writer() {
        let turns = Turns::default();
        let first = turns.take("a").await.expect("nobody has it");
        let mut second = Box::pin(turns.take("a"));
        assert!(futures::poll!(&mut second).is_pending());
        let mut third = Box::pin(turns.take("a"));
        assert!(futures::poll!(&mut third).is_pending());
        drop(second);
        assert!(futures::poll!(&mut third).is_pending(), "the first has the file");
        drop(first);
        drop(third.await.expect("the file is free"));
        assert!(turns.lock().is_empty(), "nothing is kept");
    }
}
