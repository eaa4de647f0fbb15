//! The server's side: starts a child, reads what it says, watches that it moves, and names its death.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use disk::record::{Failure, ReadLimits, Reader, Record};
use disk::{Content, ErrorKind, Format, Info, Probe};
use store::room::Room;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::child::Task;
use super::start::{self, Running};
use crate::images::workfile::{SpoolKey, WorkFile};

/// How long a child is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a word of it.
    stall: Duration,
    /// In all; only the time that we wait for it counts, not that in which the store is busy. The child's own limit of
    /// processor time does not count a child that sleeps.
    total: Duration,
    /// How often it is looked at.
    look_every: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_mins(2),
            total: Duration::from_hours(12),
            look_every: Duration::from_millis(500),
        }
    }
}

/// Blocks of zeros of this size become holes.
const HOLE_BYTES: usize = 64 << 10;

/// Why parsing did not end well; sentences are for the user.
#[derive(Debug, PartialEq, Eq)]
pub enum SandboxError {
    /// The image is to blame.
    Image(String),
    /// This server is; it may work later.
    Local(String),
    /// `stop` fired.
    Stopped,
}

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// A disk of this format.
    Disk(Format),
    /// It was compressed; so many bytes came out of it.
    Unwrapped(u64),
}

/// A piece of a disk, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Comes first.
    Info(Info),
    /// So many zeros.
    Zero(u64),
    /// These bytes of the file: offset and length.
    Source(u64, u64),
    /// These bytes.
    Data(Bytes),
    /// Comes last, with every warning.
    Done(Info),
}

/// Starts children for one import.
#[derive(Debug)]
pub struct Sandbox<'a> {
    /// Ends what runs.
    pub stop: &'a CancellationToken,
    /// Encrypts what is unwrapped, where the store is encrypted.
    pub key: Option<&'a SpoolKey>,
    /// The largest disk, in bytes.
    pub max_virtual_bytes: u64,
    /// How long each child is waited for.
    pub patience: Patience,
}

/// Why a conversation ended early.
enum Broken {
    /// The child says why.
    Said(Failure),
    /// It broke the rules or died.
    Off(disk::Error),
    /// What came could not be passed on.
    Local(io::Error),
}

impl From<disk::Error> for Broken {
    fn from(error: disk::Error) -> Self {
        Self::Off(error)
    }
}

/// Odd while the child is being waited for; changes with every record.
type Moves = Arc<AtomicU64>;

impl Sandbox<'_> {
    /// Says what `input` is. Where it is compressed, what comes out is written to `output`, a new file with holes
    /// for zeros; `done` counts its bytes.
    pub async fn open(
        &self,
        input: WorkFile,
        output: &Path,
        done: Arc<AtomicU64>,
    ) -> Result<Opened, SandboxError> {
        // Formats add a little around the disk: headers and tables.
        let max_bytes = self.max_virtual_bytes.saturating_add(1 << 30);
        let (output, key) = (output.to_owned(), self.key.cloned());
        self.run(Task::Open { max_bytes }, input, move |conversation| {
            match conversation.next()? {
                Some(Record::Probe(Probe::Disk(format))) => return Ok(Opened::Disk(format)),
                Some(Record::Probe(Probe::Wrapped(_))) => {}
                other => return Err(unexpected(other.as_ref())),
            }
            let mut file = SparseFile::create(&output, key.as_ref()).map_err(Broken::Local)?;
            loop {
                match conversation.next()? {
                    Some(Record::Bytes(bytes)) => {
                        file.write(bytes).map_err(Broken::Local)?;
                        done.store(file.length(), Ordering::Relaxed);
                    }
                    Some(Record::Unwrapped(bytes)) => {
                        file.finish().map_err(Broken::Local)?;
                        return Ok(Opened::Unwrapped(bytes));
                    }
                    other => return Err(unexpected(other.as_ref())),
                }
            }
        })
        .await
    }

    /// Reads the disk in `input`, handing pieces to `sender`. Only when this returns well do they make a disk.
    pub async fn read(
        &self,
        format: Format,
        input: WorkFile,
        sender: mpsc::Sender<Piece>,
    ) -> Result<(), SandboxError> {
        let task = Task::Read {
            format,
            max_virtual_bytes: self.max_virtual_bytes,
        };
        self.run(task, input, move |conversation| {
            loop {
                let piece = match conversation.next()? {
                    Some(Record::Info(info)) => Piece::Info(info),
                    Some(Record::Extent(extent)) => match extent.content {
                        Content::Zero => Piece::Zero(extent.length),
                        Content::Source(at) => Piece::Source(at, extent.length),
                        Content::Data(bytes) => Piece::Data(Bytes::copy_from_slice(bytes)),
                    },
                    Some(Record::Done(info)) => Piece::Done(info),
                    other => return Err(unexpected(other.as_ref())),
                };
                let is_last = matches!(piece, Piece::Done(_));
                if sender.blocking_send(piece).is_err() {
                    return Err(Broken::Local(io::ErrorKind::BrokenPipe.into()));
                }
                if is_last {
                    return Ok(());
                }
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        task: Task,
        input: WorkFile,
        work: impl FnOnce(&mut Conversation) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let limits = ReadLimits {
            max_virtual_bytes: self.max_virtual_bytes,
            source_bytes: input.length().map_err(|e| not_started(&e))?,
            max_unwrapped_bytes: self.max_virtual_bytes.saturating_add(1 << 30),
        };
        let (asked, input) = super::served::input_of(&input).map_err(|e| not_started(&e))?;
        let (running, output) = start::start(task, asked, input).map_err(|e| not_started(&e))?;
        let moves = Moves::default();
        let mut conversation = Conversation {
            reader: Reader::new(output, limits),
            moves: Arc::clone(&moves),
        };
        let job = tokio::task::spawn_blocking(move || work(&mut conversation));
        let ended = self.watch(job, &running, &moves).await?;
        match ended {
            Ok(value) => Ok(value),
            Err(Broken::Said(failure)) if failure.kind != ErrorKind::Io => {
                Err(SandboxError::Image(failure.message))
            }
            Err(Broken::Said(failure)) => Err(SandboxError::Local(failure.message)),
            Err(Broken::Off(error)) => Err(running.death(&error)),
            Err(Broken::Local(error)) => Err(SandboxError::Local(local(&error))),
        }
    }

    /// Waits for the conversation's end; ends the child where it stands still or is no longer wanted.
    async fn watch<T>(
        &self,
        mut job: tokio::task::JoinHandle<Result<T, Broken>>,
        running: &Running,
        moves: &Moves,
    ) -> Result<Result<T, Broken>, SandboxError> {
        let Patience {
            stall,
            total,
            look_every,
        } = self.patience;
        let mut ticks = interval(look_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut since, mut last) = (0, Instant::now(), Instant::now());
        let mut waited = Duration::ZERO;
        loop {
            tokio::select! {
                ended = &mut job => {
                    return ended.map_err(|e| {
                        tracing::error!(error = %e, "reading from a parser panicked");
                        SandboxError::Local("Something went wrong on our side; the server's log has the details.".into())
                    });
                }
                () = self.stop.cancelled() => {
                    running.kill();
                    return Err(SandboxError::Stopped);
                }
                _ = ticks.tick() => {}
            }
            let (now, step) = (Instant::now(), moves.load(Ordering::Relaxed));
            // Even: the store is slow, not the child.
            let is_waiting = !step.is_multiple_of(2);
            if is_waiting {
                waited += now - last;
            }
            last = now;
            if step != seen || !is_waiting {
                (seen, since) = (step, now);
            }
            if now - since > stall {
                running.kill();
                return Err(SandboxError::Image(format!(
                    "Reading the image made no progress for {} s. It is probably damaged: make it anew.",
                    stall.as_secs()
                )));
            }
            if waited > total {
                running.kill();
                return Err(SandboxError::Image(format!(
                    "Reading the image takes longer than {} h. Make it with lower compression, or smaller.",
                    total.as_secs() / 3600
                )));
            }
        }
    }
}

/// What a child says, record by record.
struct Conversation {
    reader: Reader<start::Pipe>,
    moves: Moves,
}

impl Conversation {
    fn next(&mut self) -> Result<Option<Record<'_>>, Broken> {
        self.moves.fetch_add(1, Ordering::Relaxed);
        let record = self.reader.next();
        self.moves.fetch_add(1, Ordering::Relaxed);
        match record? {
            Some(Record::Failure(failure)) => Err(Broken::Said(failure)),
            other => Ok(other),
        }
    }
}

/// The order of records is checked before; this is what is left.
fn unexpected(record: Option<&Record<'_>>) -> Broken {
    tracing::warn!(?record, "a parser said something out of turn");
    // Nothing at all: it was cut off between two records, and how it died says why.
    let kind = record.map_or(ErrorKind::Io, |_| ErrorKind::Damaged);
    Broken::Off(disk::Error::new(
        kind,
        "The image could not be read: its parser broke off. The image is probably damaged: make it anew.",
    ))
}

fn not_started(error: &io::Error) -> SandboxError {
    tracing::error!(%error, "could not start a parser");
    SandboxError::Local("The server could not start the image's parser; its log has the details.".into())
}

fn local(error: &io::Error) -> String {
    tracing::error!(%error, "could not write what a parser gave");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "The server's disk is full. Ask its operator to make room, then import again.".into()
        }
        _ => "The server could not write the image to its disk; its log has the details.".into(),
    }
}

/// A file in which blocks of zeros are holes.
struct SparseFile {
    file: WorkFile,
    /// Bytes before the block that is being filled.
    written: u64,
    block: Vec<u8>,
    room: Room,
}

impl SparseFile {
    fn create(path: &Path, key: Option<&SpoolKey>) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(path);
        Ok(Self {
            file: WorkFile::create(path, key)?,
            written: 0,
            block: Vec::with_capacity(HOLE_BYTES),
            room: Room::new(folder),
        })
    }

    fn length(&self) -> u64 {
        self.written + self.block.len() as u64
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(HOLE_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == HOLE_BYTES {
                self.block_end()?;
            }
        }
        Ok(())
    }

    /// Writes the block, but a whole one of zeros, which becomes a hole.
    fn block_end(&mut self) -> io::Result<()> {
        static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];
        if *self.block != ZEROS {
            self.room.take(self.block.len() as u64)?;
            self.file.write_all_at(&self.block, self.written)?;
        }
        self.written += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Zeros at the end count too.
    fn finish(&mut self) -> io::Result<()> {
        self.block_end()?;
        self.file.length_set(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches a child that does what `talk` makes of its counter, and says how that ended.
    async fn watched(patience: Patience, talk: impl Fn(&Moves) + Send + 'static) -> String {
        let stop = CancellationToken::new();
        let sandbox = Sandbox {
            stop: &stop,
            key: None,
            max_virtual_bytes: 0,
            patience,
        };
        let moves = Moves::default();
        let said = Arc::clone(&moves);
        let job = tokio::spawn(async move {
            let mut pace = interval(Duration::from_millis(1));
            loop {
                talk(&said);
                pace.tick().await;
            }
        });
        let end = job.abort_handle();
        let watch = sandbox.watch::<()>(job, &Running, &moves);
        let ended = tokio::time::timeout(Duration::from_secs(10), watch).await;
        end.abort();
        match ended {
            Ok(Err(SandboxError::Image(reason))) => reason,
            Ok(_) => panic!("not ended for the image's sake"),
            Err(_) => "goes on".into(),
        }
    }

    fn patience(stall: u64, total: u64) -> Patience {
        Patience {
            stall: Duration::from_millis(stall),
            total: Duration::from_millis(total),
            look_every: Duration::from_millis(5),
        }
    }

    #[test]
    fn what_ends_between_two_records_was_cut_off() {
        let kind = |record: Option<Record<'_>>| match unexpected(record.as_ref()) {
            Broken::Off(error) => error.kind(),
            Broken::Said(_) | Broken::Local(_) => panic!("it broke off"),
        };
        assert_eq!(kind(None), ErrorKind::Io);
        assert_eq!(kind(Some(Record::Unwrapped(1))), ErrorKind::Damaged);
    }

    #[tokio::test]
    async fn a_child_that_says_nothing_is_ended() {
        let silent = |moves: &Moves| moves.store(1, Ordering::Relaxed);
        let reason = watched(patience(50, 600_000), silent).await;
        assert!(reason.contains("no progress"), "{reason}");
    }

    #[tokio::test]
    async fn a_child_that_never_comes_to_an_end_is_ended() {
        let chatty = |moves: &Moves| {
            moves.fetch_add(
                if moves.load(Ordering::Relaxed) == 0 { 1 } else { 2 },
                Ordering::Relaxed,
            );
        };
        let reason = watched(patience(9000, 100), chatty).await;
        assert!(reason.contains("takes longer"), "{reason}");
    }

    #[tokio::test]
    async fn a_slow_store_is_not_the_childs_fault() {
        let stop = CancellationToken::new();
        let sandbox = Sandbox {
            stop: &stop,
            key: None,
            max_virtual_bytes: 0,
            patience: patience(20, 20),
        };
        let moves: Moves = Arc::new(AtomicU64::new(2));
        // Ten times as long as a child would be given.
        let job = tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        });
        assert!(matches!(sandbox.watch(job, &Running, &moves).await, Ok(Ok(()))));
    }
}
