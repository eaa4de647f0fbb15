//! How a request's bytes get into an upload: the newest request's turn, then the file, then the promise.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use store::room::Room;
use tokio::time::timeout;

use super::model::{Checksum, Hasher, Refusal, true_offset};
use super::rows::{self, Model};
use super::service::{SCOPE, check_size, expiry, signed, unsigned, upload_get, upload_load};
use super::spool::{self, Locked};
use super::turns::Turn;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};

/// A request's bytes are written in pieces of this size; a request holds no more than about this in memory.
const WRITE_BYTES: u64 = 1 << 20;
/// A long request's bytes are made durable, and its offset promised, this often.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// What a request sent is made durable, and its offset promised, when nothing more has come for this long: a client
/// whose connection hangs asks for the offset on another.
const STALL: Duration = Duration::from_secs(1);
/// How long a client that was refused may go on sending.
const LINGER: Duration = Duration::from_secs(5);
/// A request's body.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What a request wants to add.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// Where its bytes go; must be where the upload is.
    pub offset: u64,
    /// The upload's length, where it was deferred.
    pub length: Option<u64>,
    /// How many bytes the request has, where it says so.
    pub content_length: Option<u64>,
    /// What its bytes must hash to.
    pub checksum: Option<Checksum>,
}

/// Adds a request's bytes, and returns the upload as it is then: every byte below its offset is durable. When the
/// body ends early, what came is kept, unless a checksum was to be met.
///
/// Goes on to its end when the caller is dropped, so that a client that hung up finds as much as possible kept.
pub async fn upload_append(
    app: &App,
    caller: &Caller,
    id: &str,
    append: Append,
    body: BodyStream,
) -> Result<Model, Refusal> {
    caller.require(SCOPE)?;
    let (app, caller, id) = (app.clone(), caller.clone(), id.to_owned());
    tokio::spawn(async move { append_whole(&app, &caller, &id, append, body).await })
        .await
        .map_err(|e| Error::internal("writing an upload broke off", e))?
}

async fn append_whole(
    app: &App,
    caller: &Caller,
    id: &str,
    append: Append,
    mut body: BodyStream,
) -> Result<Model, Refusal> {
    let (turn, writer) = append_begin(app, caller, id, &append).await?;
    let ended = writer.run(&turn, append.checksum.as_ref(), &mut body).await;
    drop(turn);
    if ended.is_err() {
        linger(body).await;
    }
    ended
}

/// Takes the rest of a body for a while and forgets it: a client that still sends when the connection ends does not
/// hear why (RFC 9112 §9.6).
async fn linger(mut body: BodyStream) {
    let _ = timeout(LINGER, async { while let Some(Ok(_)) = body.next().await {} }).await;
}

/// Takes the turn and the file's lock, and checks that the request fits.
async fn append_begin<'a>(
    app: &'a App,
    caller: &'a Caller,
    id: &str,
    append: &Append,
) -> Result<(Turn, Writer<'a>), Refusal> {
    let seen = upload_get(app, caller, id).await?;
    if append.offset < unsigned(seen.offset_bytes) {
        // It is behind what was promised: no reason to stop the one that writes.
        return Err(Refusal::Offset);
    }
    let turn = app.turns.take(id).await?;
    let mut file = Locked::open(spool::path(&app.data, id), app.spool_key.as_ref()).await?;
    // Again, now that nobody else changes it.
    let mut row = upload_load(app, caller, id).await?;
    let offset = true_offset(unsigned(row.offset_bytes), file.length()?);
    row.offset_bytes = signed(offset)?;
    length_settle(app, &mut row, append.length)?;
    if append.offset != offset {
        return Err(Refusal::Offset);
    }
    let limit = row.length_bytes.map_or(app.config.upload.max_bytes, unsigned);
    // `upload.max_bytes` may have been lowered below what is there.
    let left = limit.saturating_sub(offset);
    if append.content_length.is_some_and(|n| n > left) {
        return Err(too_long(limit).into());
    }
    file.go_on_at(offset).await?;
    let writer = Writer {
        app,
        caller,
        file,
        row,
        limit,
        at: offset,
        parts: Vec::new(),
        held: 0,
        room: Room::new(spool::folder(&app.data)),
        hasher: append.checksum.as_ref().map(Checksum::hasher),
    };
    Ok((turn, writer))
}

/// One request's bytes on their way into the file.
struct Writer<'a> {
    app: &'a App,
    caller: &'a Caller,
    file: Locked,
    row: Model,
    /// The upload may not grow beyond this.
    limit: u64,
    /// Where the next byte goes; everything from the row's offset to here is not promised yet.
    at: u64,
    /// What came and is not written yet.
    parts: Vec<Bytes>,
    /// The bytes in `parts`.
    held: u64,
    room: Room,
    hasher: Option<Hasher>,
}

impl Writer<'_> {
    /// Writes the body and promises it, and returns the upload as it is then.
    async fn run(
        mut self,
        turn: &Turn,
        checksum: Option<&Checksum>,
        body: &mut BodyStream,
    ) -> Result<Model, Refusal> {
        let received = self.receive(body, turn).await;
        let Some(checksum) = checksum else {
            self.promise().await?;
            received?;
            return Ok(self.row);
        };
        received?;
        let hasher = self.hasher.take().expect("made with the checksum");
        if !checksum.matches(hasher) {
            return Err(Refusal::Checksum);
        }
        self.promise().await?;
        Ok(self.row)
    }

    /// Writes the body; however it ends, what came of it.
    async fn receive(&mut self, body: &mut BodyStream, turn: &Turn) -> Result<(), Refusal> {
        let ended = self.collect(body, turn).await;
        self.write().await?;
        ended
    }

    async fn collect(&mut self, body: &mut BodyStream, turn: &Turn) -> Result<(), Refusal> {
        loop {
            let next = tokio::select! {
                biased;
                () = turn.lost() => return Err(Refusal::TakenOver),
                next = timeout(STALL, body.next()) => next,
            };
            match next {
                Err(_) => self.settle().await?,
                Ok(None) => return Ok(()),
                Ok(Some(Ok(part))) => self.take(part).await?,
                Ok(Some(Err(_))) => {
                    let text =
                        "the connection ended before the request did; ask for the offset and go on there";
                    return Err(Error::BadRequest(text.into()).into());
                }
            }
        }
    }

    async fn take(&mut self, part: Bytes) -> Result<()> {
        let held = self.held + part.len() as u64;
        if held > self.limit.saturating_sub(self.at) {
            return Err(too_long(self.limit));
        }
        self.parts.push(part);
        self.held = held;
        if held >= WRITE_BYTES {
            self.write().await?;
        }
        if self.hasher.is_none() && self.at - unsigned(self.row.offset_bytes) >= CHECKPOINT_BYTES {
            self.promise().await?;
        }
        Ok(())
    }

    /// Nothing more comes at the moment: promises what came. Under a checksum nothing can be promised before its end.
    async fn settle(&mut self) -> Result<()> {
        self.write().await?;
        if self.hasher.is_some() || self.at == unsigned(self.row.offset_bytes) {
            return Ok(());
        }
        self.promise().await
    }

    async fn write(&mut self) -> Result<()> {
        let (parts, length) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.held));
        if length == 0 {
            return Ok(());
        }
        self.room
            .take(length)
            .map_err(|e| spool::storage(e, "could not ask how much room is left"))?;
        let hasher = self.hasher.take();
        self.hasher = self.file.write(parts, self.at, hasher).await?;
        self.at += length;
        Ok(())
    }

    /// Makes what was written durable, then says so in the row.
    async fn promise(&mut self) -> Result<()> {
        let is_complete = self.row.length_bytes == Some(signed(self.at)?);
        let was_complete = self.row.completed_at.is_some();
        if was_complete {
            return Ok(());
        }
        self.file.sync(is_complete.then_some(self.at)).await?;
        let now = self.app.clock.now();
        self.row.offset_bytes = signed(self.at)?;
        self.row.expires_at = now + expiry(self.app);
        self.row.completed_at = is_complete.then_some(now);
        let tx = self.app.db.write().await?;
        if !rows::upload_advance(&*tx, &self.row).await? {
            return Err(Error::NotFound);
        }
        if is_complete {
            let event = Event::done("upload.complete", "upload", &self.row.id);
            let event = event.with(serde_json::json!({ "length": self.at }));
            events::record_in_tx(&*tx, now, &self.caller.who, event).await?;
        }
        tx.commit().await
    }
}

/// Takes the length that a request says, where it was deferred; it can be said once.
fn length_settle(app: &App, row: &mut Model, said: Option<u64>) -> Result<()> {
    let Some(said) = said else { return Ok(()) };
    check_size(app, said)?;
    let said = signed(said)?;
    match row.length_bytes {
        Some(known) if known != said => Err(Error::BadRequest(format!(
            "the upload's length is {known} bytes and cannot be changed"
        ))),
        None if said < row.offset_bytes => Err(Error::BadRequest(format!(
            "the upload already has {} bytes, more than the length says",
            row.offset_bytes
        ))),
        _ => {
            row.length_bytes = Some(said);
            Ok(())
        }
    }
}

fn too_long(limit: u64) -> Error {
    Error::TooLarge(format!(
        "the request has more bytes than the upload, which ends at {limit}"
    ))
}
