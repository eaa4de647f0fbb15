//! Downloads a file that a user named into a working file, resuming after every kind of cut.
//!
//! What is needed to resume (the server's validators) stands beside the file, so that it is never used with another
//! file. Nothing is synced: after a crash of the process the file's length is what was written, and after a crash
//! of the machine, which changes the boot id, the download begins anew.

mod response;
mod state;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use reqwest::Response;
use store::room::Room;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::workfile::{SpoolKey, WorkFile};
use crate::platform::net::{Guard, NetError};
use response::{Answer, Body};
use state::State;

/// How much is collected before it is written.
const WRITE_BYTES: usize = 1 << 20;

/// Bounds of a download.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes at most.
    pub max_bytes: u64,
    /// Time in all.
    pub total: Duration,
    /// Time without a byte.
    pub stall: Duration,
    /// Attempts in a row that bring nothing new, before any byte came and after.
    pub attempts: (u32, u32),
    /// The first wait between attempts; each further one is twice as long, up to half a minute.
    pub wait: Duration,
}

impl Limits {
    /// Usual waits around what the settings bound.
    pub fn new(max_bytes: u64, total: Duration) -> Self {
        Self {
            max_bytes,
            total,
            stall: Duration::from_mins(1),
            attempts: (4, 10),
            wait: Duration::from_secs(1),
        }
    }
}

/// Why a download did not end well.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchError {
    /// Final; a sentence for the user.
    Refused(String),
    /// A fault of this server's; a sentence for the user.
    Local(String),
    /// `stop` fired.
    Stopped,
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes on disk.
    pub done: u64,
    /// Bytes in all, where the server says so.
    pub total: Option<u64>,
}

/// What to download, and where to.
pub struct Fetch<'a> {
    /// Who may be asked.
    pub guard: &'a Guard,
    /// The address, with its credentials.
    pub url: &'a Url,
    /// The working file.
    pub path: &'a Path,
    /// Encrypts it, where the store is encrypted.
    pub key: Option<&'a SpoolKey>,
    /// Bounds.
    pub limits: Limits,
    /// Ends the download early.
    pub stop: &'a CancellationToken,
    /// Is told how far it is, at each write.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// The working file while it is written.
struct Output {
    file: WorkFile,
    room: Room,
}

/// Why an attempt ended before the file was complete.
enum Cut {
    /// Try again from where it is.
    Passing(String),
    /// The file on the server is another one now.
    Changed,
    /// Give up.
    Error(FetchError),
}

impl From<FetchError> for Cut {
    fn from(error: FetchError) -> Self {
        Self::Error(error)
    }
}

impl From<NetError> for Cut {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Refused(reason) => Self::Error(FetchError::Refused(reason)),
            NetError::Passing(reason) => Self::Passing(reason),
        }
    }
}

/// Downloads, or goes on where an earlier call stopped. Returns the file's length in bytes.
pub async fn fetch(fetch: &Fetch<'_>) -> Result<u64, FetchError> {
    tokio::select! {
        done = timeout(fetch.limits.total, fetch.run()) => done.unwrap_or_else(|_| {
            let hours = fetch.limits.total.as_secs().div_ceil(3600);
            Err(FetchError::Refused(format!(
                "The download took longer than {hours} h. Serve the image from a faster place, or upload it."
            )))
        }),
        () = fetch.stop.cancelled() => Err(FetchError::Stopped),
    }
}

impl Fetch<'_> {
    async fn run(&self) -> Result<u64, FetchError> {
        let mut state = State::load(self.path, self.key).await;
        let (mut failures, mut changes) = (0, 0);
        loop {
            if let Some(length) = state.complete {
                return Ok(length);
            }
            let before = state.length;
            match self.attempt(&mut state).await {
                Ok(()) => {
                    state.complete = Some(state.length);
                    state.save(self.path).await?;
                }
                Err(Cut::Error(error)) => return Err(error),
                Err(Cut::Changed) => {
                    changes += 1;
                    if changes > 1 {
                        return Err(FetchError::Refused(
                            "The file changes while it is downloaded. Try again when it is final.".into(),
                        ));
                    }
                    state.reset();
                }
                Err(Cut::Passing(reason)) => {
                    failures = if state.length > before { 1 } else { failures + 1 };
                    let (fresh, begun) = self.limits.attempts;
                    if failures >= if state.length == 0 { fresh } else { begun } {
                        return Err(FetchError::Refused(reason));
                    }
                    tracing::info!(
                        reason,
                        failures,
                        bytes = state.length,
                        "a download is tried again"
                    );
                    let wait = self.limits.wait * (1 << (failures - 1).min(5));
                    tokio::time::sleep(wait.min(Duration::from_secs(30))).await;
                }
            }
        }
    }

    /// One request, from where the file is.
    async fn attempt(&self, state: &mut State) -> Result<(), Cut> {
        if !state.is_resumable() {
            state.reset();
        }
        let response = self.guard.get(self.url, state.request_headers()).await?;
        match response::read(&response, state, self.limits.max_bytes)? {
            Answer::Complete => Ok(()),
            Answer::Begin(body) => {
                state.begin(&body);
                state.save(self.path).await?;
                self.receive(state, body, response).await
            }
            Answer::Continue(body) => self.receive(state, body, response).await,
        }
    }

    /// Writes a body to the file, at the state's length.
    async fn receive(&self, state: &mut State, body: Body, mut response: Response) -> Result<(), Cut> {
        let mut file = Output {
            file: self.file_open(state.length).await?,
            room: Room::new(self.path.parent().unwrap_or(self.path)),
        };
        let mut buffer = Vec::with_capacity(WRITE_BYTES * 2);
        let ended = loop {
            let chunk = match timeout(self.limits.stall, response.chunk()).await {
                Err(_) => {
                    break Err(Cut::Passing(
                        "The download stalled: no data came any more.".into(),
                    ));
                }
                Ok(Err(error)) => {
                    let reason = crate::platform::net::innermost(&error);
                    break Err(Cut::Passing(format!("The download was cut off ({reason}).")));
                }
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            if state.length + buffer.len() as u64 + chunk.len() as u64 > self.limits.max_bytes {
                return Err(response::too_large(self.limits.max_bytes).into());
            }
            buffer.extend_from_slice(&chunk);
            if buffer.len() >= WRITE_BYTES {
                self.write(&mut file, &mut buffer, state, body.total).await?;
            }
        };
        self.write(&mut file, &mut buffer, state, body.total).await?;
        ended?;
        match body.total {
            Some(total) if state.length < total => {
                Err(Cut::Passing("The download was cut off before its end.".into()))
            }
            Some(total) if state.length > total => Err(Cut::Changed),
            _ => Ok(()),
        }
    }

    async fn write(
        &self,
        Output { file, room }: &mut Output,
        buffer: &mut Vec<u8>,
        state: &mut State,
        total: Option<u64>,
    ) -> Result<(), FetchError> {
        room.take(buffer.len() as u64).map_err(|e| local(&e))?;
        let (file, bytes, at) = (file.clone(), std::mem::take(buffer), state.length);
        let written = blocking(move || file.write_all_at(&bytes, at).map(|()| bytes)).await;
        *buffer = written.map_err(|e| local(&e))?;
        // The length in `state` counts what the file has, for the next attempt of this process.
        state.length += buffer.len() as u64;
        buffer.clear();
        (self.progress)(Progress {
            done: state.length,
            total,
        });
        Ok(())
    }

    /// The working file, cut to `length` and ready to write there.
    async fn file_open(&self, length: u64) -> Result<WorkFile, FetchError> {
        let (path, key) = (self.path.to_owned(), self.key.cloned());
        let open = blocking(move || {
            if length == 0 {
                return WorkFile::create(&path, key.as_ref());
            }
            let file = File::options().read(true).write(true).open(&path)?;
            let mut file = WorkFile::open(file, key.as_ref())?;
            file.go_on_at(length)?;
            Ok(file)
        });
        open.await.map_err(|e| local(&e))
    }
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)?
}

/// A failure to write.
fn local(error: &std::io::Error) -> FetchError {
    tracing::error!(%error, "could not write a download");
    FetchError::Local(match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "The server's disk is full. Ask its operator to make room, then import again.".into()
        }
        _ => "The server could not write the download to its disk; its log has the details.".into(),
    })
}
