//! What can be done with uploads: begin, fill, ask, end, hand to an image, sweep.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use store::room::Room;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::model::{Checksum, Hasher, Refusal, metadata_check, true_offset};
use super::rows::{self, Model};
use super::spool::{self, Locked};
use super::turns::Turn;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event};
use crate::platform::random;

/// What a caller needs.
const SCOPE: &str = "image:create";
/// Uploads that a team may have without an image made of them.
pub const MAX_OPEN: u64 = 100;
/// A request's bytes are written in pieces of this size; a request holds no more than about this in memory.
const WRITE_BYTES: u64 = 1 << 20;
/// A long request's bytes are made durable, and its offset promised, this often.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// What a request sent is made durable, and its offset promised, when nothing more has come for this long: a client whose
/// connection hangs asks for the offset on another.
const STALL: Duration = Duration::from_secs(1);
/// How long a client that was refused may go on sending.
const LINGER: Duration = Duration::from_secs(5);
/// How long an image's job may need the file.
const USE_LIFE: TimeDelta = TimeDelta::days(7);
/// A file without a row is removed when it is older than this: its row may be about to be written.
const ORPHAN_AGE: Duration = Duration::from_hours(1);
/// How often uploads that are over are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// A request's body.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// An upload to be.
#[derive(Clone, Debug, Default)]
pub struct NewUpload {
    /// Its bytes; `None` to say it later.
    pub length: Option<u64>,
    /// `Upload-Metadata` as it came.
    pub metadata: Option<String>,
}

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

/// An upload that an image was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The file, on the node named below.
    pub path: PathBuf,
    /// Its bytes.
    pub length: u64,
    /// Only this node can read the file: the job must run there.
    pub node: String,
}

/// Begins an upload.
pub async fn upload_create(app: &App, caller: &Caller, new: NewUpload) -> Result<Model> {
    caller.require(SCOPE)?;
    if let Some(metadata) = &new.metadata {
        metadata_check(metadata)?;
    }
    if let Some(length) = new.length {
        check_size(app, length)?;
        let spare = spool::space(&app.data).await?.usable();
        if length > spare {
            return Err(Error::Unavailable(format!(
                "the server has room for {spare} bytes, too few for an upload of {length}; make room, or try a smaller file"
            )));
        }
    }
    let now = app.clock.now();
    let row = Model {
        id: random::uuid().to_string(),
        team_id: caller.team_id,
        length_bytes: new.length.map(signed).transpose()?,
        offset_bytes: 0,
        metadata: new.metadata,
        node: app.node.clone(),
        used_by: None,
        created_at: now,
        expires_at: now + expiry(app),
        completed_at: (new.length == Some(0)).then_some(now),
    };
    // The file first: a row without one would be an upload that cannot go on.
    let path = spool::path(&app.data, &row.id);
    spool::create(path.clone()).await?;
    let inserted = upload_insert(app, caller, &row).await;
    if inserted.is_err() {
        spool::remove(path).await?;
    }
    inserted.map(|()| row)
}

async fn upload_insert(app: &App, caller: &Caller, row: &Model) -> Result<()> {
    let tx = app.db.write().await?;
    if rows::upload_count(&*tx, row.created_at, row.team_id).await? >= MAX_OPEN {
        return Err(Error::Invalid(format!(
            "your team has {MAX_OPEN} uploads that no image was made of; use or delete one, or wait until they expire"
        )));
    }
    rows::upload_insert(&*tx, row.clone()).await?;
    let event = Event::done("upload.create", "upload", &row.id);
    let event = event.with(serde_json::json!({ "length": row.length_bytes }));
    events::record_in_tx(&*tx, row.created_at, &caller.who, event).await?;
    tx.commit().await
}

/// How far an upload is, and what it is.
pub async fn upload_get(app: &App, caller: &Caller, id: &str) -> Result<Model> {
    caller.require(SCOPE)?;
    let mut row = upload_load(app, caller, id).await?;
    if row.completed_at.is_none() {
        let file = spool::length(spool::path(&app.data, &row.id)).await?;
        row.offset_bytes = signed(true_offset(unsigned(row.offset_bytes), file))?;
    }
    Ok(row)
}

/// The caller's upload, where it is on this server.
async fn upload_load(app: &App, caller: &Caller, id: &str) -> Result<Model> {
    let row = rows::upload_get(app.db.conn(), app.clock.now(), caller.team_id, id)
        .await?
        .ok_or(Error::NotFound)?;
    if row.node != app.node {
        return Err(Error::Unavailable(
            "this upload was begun on another server of this installation; go on there, or begin anew".into(),
        ));
    }
    Ok(row)
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

/// Takes the rest of a body for a while and forgets it: a client that still sends when the connection ends does not hear
/// why (RFC 9112 §9.6).
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
    let file = Locked::open(spool::path(&app.data, id)).await?;
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

/// Ends an upload and frees its room.
pub async fn upload_delete(app: &App, caller: &Caller, id: &str) -> Result<(), Refusal> {
    caller.require(SCOPE)?;
    upload_load(app, caller, id).await?;
    // Whoever deletes it does not want the rest of it.
    let _turn = app.turns.take(id).await?;
    let path = spool::path(&app.data, id);
    let _lock = Locked::open(path.clone()).await?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let row = rows::upload_get(&*tx, now, caller.team_id, id)
        .await?
        .ok_or(Error::NotFound)?;
    if row.used_by.is_some() {
        return Err(used().into());
    }
    rows::upload_delete(&*tx, id).await?;
    let event = Event::done("upload.delete", "upload", id);
    events::record_in_tx(&*tx, now, &caller.who, event).await?;
    tx.commit().await?;
    spool::remove(path).await?;
    Ok(())
}

/// Gives a complete upload to the image `image_id`, in the transaction that makes the image. Call
/// [`upload_done`] when the image's job has ended, well or not.
pub async fn upload_take_in_tx(
    app: &App,
    tx: &Tx,
    caller: &Caller,
    id: &str,
    image_id: i64,
) -> Result<Taken> {
    caller.require(SCOPE)?;
    let now = app.clock.now();
    let row = rows::upload_get(&**tx, now, caller.team_id, id)
        .await?
        .ok_or_else(|| {
            Error::invalid(format!(
                "there is no upload `{}`; it may have expired. Upload the file again",
                shown(id)
            ))
        })?;
    if row.completed_at.is_none() {
        let length = row.length_bytes.map_or_else(|| "?".to_owned(), |n| n.to_string());
        return Err(Error::invalid(format!(
            "upload `{id}` is not complete: it has {} of {length} bytes. Send the rest, then try again",
            row.offset_bytes
        )));
    }
    if row.length_bytes == Some(0) {
        return Err(Error::invalid(format!("upload `{id}` is empty")));
    }
    if !rows::upload_use(&**tx, id, image_id, now + USE_LIFE).await? {
        return Err(used());
    }
    Ok(Taken {
        path: spool::path(&app.data, &row.id),
        length: unsigned(row.offset_bytes),
        node: row.node,
    })
}

/// Forgets an upload whose image's job has ended, and frees its room. Harmless when repeated.
pub async fn upload_done(app: &App, id: &str) -> Result<()> {
    let tx = app.db.write().await?;
    rows::upload_delete(&*tx, id).await?;
    tx.commit().await?;
    spool::remove(spool::path(&app.data, id)).await
}

/// Removes what is over, and files that belong to no upload; returns how many files went.
pub async fn upload_sweep(app: &App) -> Result<usize> {
    let tx = app.db.write().await?;
    rows::upload_forget(&*tx, app.clock.now(), &app.node).await?;
    tx.commit().await?;
    let old = spool::old_names(&app.data, ORPHAN_AGE).await?;
    let known = rows::upload_ids(app.db.conn(), &app.node).await?;
    let mut gone = 0;
    for name in old.into_iter().filter(|name| !known.contains(name)) {
        let path = spool::path(&app.data, &name);
        // Locked means that a request is still writing; the next sweep finds it.
        let Ok(_lock) = Locked::try_open(path.clone()).await else {
            continue;
        };
        spool::remove(path).await?;
        gone += 1;
    }
    Ok(gone)
}

/// Sweeps now and then until `stop`.
pub async fn upload_sweeper(app: App, stop: CancellationToken) {
    loop {
        match upload_sweep(&app).await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "removed uploads that are over"),
            Err(error) => tracing::warn!(error = error.chain(), "could not sweep the uploads"),
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stop.cancelled() => return,
        }
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

fn check_size(app: &App, length: u64) -> Result<()> {
    let max = app.config.upload.max_bytes;
    if length > max {
        return Err(Error::TooLarge(format!(
            "an upload has at most {max} bytes here, this one would have {length}; compress the file, or ask the \
             operator to raise `upload.max_bytes`"
        )));
    }
    Ok(())
}

fn too_long(limit: u64) -> Error {
    Error::TooLarge(format!(
        "the request has more bytes than the upload, which ends at {limit}"
    ))
}

fn used() -> Error {
    Error::Conflict("an image is being made of this upload already".into())
}

fn expiry(app: &App) -> TimeDelta {
    TimeDelta::hours(i64::try_from(app.config.upload.expiry_hours).unwrap_or(24))
}

/// An id as it may be repeated in a message.
fn shown(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn signed(bytes: u64) -> Result<i64> {
    i64::try_from(bytes).map_err(|_| Error::BadRequest("a number of bytes is too large".into()))
}

/// The rows hold nothing negative.
fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
