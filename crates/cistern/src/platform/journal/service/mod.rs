//! Writing the journal.

mod dump;
mod misfit;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use sea_orm::ConnectionTrait;
use serde_json::Value;
use store::room::Space;
use store::{JournalHead, JournalLink, JournalPart, JournalPlace, JournalSealed};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub(super) use self::misfit::{Misfit, database_misfit};
use self::misfit::{OTHER, refuse};
pub use self::misfit::{guard, is_recovered, misfit, newest_fault, open};
use super::model::{Document, Key};
use super::rows::{self, state};
use super::tables::JOURNALED;
use crate::app::App;
use crate::platform::db::{Snapshot, Tx, migrate};
use crate::platform::error::{Context, Error, Result};
use crate::platform::random;
use crate::platform::storage::mend::headers_lost_mend;
use crate::platform::storage::space;

/// How often it is looked whether there is something to journal.
const EVERY: Duration = Duration::from_secs(1);
/// Lost headers make it fail as well: they are written anew at the first failure, and at each so many after it.
const HEADERS_EVERY: u32 = 10;
/// How long a writer that does not answer holds up the others.
const LEASE: TimeDelta = TimeDelta::seconds(15);
/// How often whoever waits for another server's writer looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// More changes than that at once begin a new generation, which is written in parts.
const CHANGES_AT_ONCE: usize = 20_000;
/// Notes that are read at once.
const PAGE: u64 = 1_000;
/// Objects of a generation at most.
const OBJECTS: i64 = 4_096;
/// What follows a dump may always have so many bytes.
const CHANGE_BYTES: i64 = 8 << 20;

/// Another took the lease.
const LOST: &str = "another server writes the journal now; this one lets it";
/// A dump would be cut off.
const NO_ROOM: &str = "there is too little room on the disk for a whole dump of the catalogue, which the journal needs \
                       now: free or add space";

/// What the writer of this process holds.
#[derive(Debug, Default)]
pub struct Writer {
    /// One at a time.
    turn: Mutex<()>,
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// What changed, if anything did.
    Changes,
    /// An object in any case.
    Advance,
    /// A dump.
    Dump,
}

/// What came of a try to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    /// There was nothing to be written.
    Nothing,
    /// All that was noted then is in the store.
    All,
    /// Another server writes now.
    Busy,
}

/// Makes the triggers that note changes, in the transaction of a migration.
pub async fn triggers_make_in_tx(tx: &Tx) -> Result<()> {
    rows::triggers_make(&**tx, JOURNALED)
        .await
        .context("could not make the journal's triggers")
}

/// Writes what changes, until `stop`, and then once more.
pub async fn run(app: App, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures: u32 = 0;
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let mut wrote = write(&app, Wish::Changes).await;
        match &wrote {
            Err(error) if failures == 0 => tracing::error!(
                error = error.chain(),
                "could not write the journal; trying again each second"
            ),
            Ok(_) if failures > 0 => tracing::info!("the journal is written again"),
            _ => {}
        }
        // This process may be the last that knows what they said.
        if is_last || wrote.is_err() && failures.is_multiple_of(HEADERS_EVERY) {
            headers_lost_mend(&app).await;
        }
        if is_last {
            if wrote.is_err() {
                wrote = write(&app, Wish::Changes).await;
            }
            if let Err(error) = wrote {
                tracing::error!(
                    error = error.chain(),
                    "what changed last is not in the journal: a next start writes it"
                );
            }
            return;
        }
        failures = if wrote.is_err() {
            failures.saturating_add(1)
        } else {
            0
        };
    }
}

/// Returns when everything that was committed before this call is in the store.
pub async fn flush(app: &App) -> Result<()> {
    let Some(newest) = rows::change_newest(app.db.conn()).await? else {
        return Ok(());
    };
    while rows::change_any(app.db.conn(), newest).await? {
        if write(app, Wish::Changes).await? == Wrote::Busy {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Begins a new generation.
pub async fn dump(app: &App) -> Result<()> {
    write_own(app, Wish::Dump).await
}

/// Returns when the store has an object of the journal that was begun after this call, also where nothing changed that
/// is journaled: a copy of the database, or of the store, from before is told from the newest by it.
pub async fn advance(app: &App) -> Result<()> {
    write_own(app, Wish::Advance).await
}

async fn write_own(app: &App, wish: Wish) -> Result<()> {
    while write(app, wish).await? == Wrote::Busy {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Writes one object, or a dump. Where that fails on a disk that is nearly full, and may have for that, it is tried
/// once more with the room of the reserves: without the journal nothing that frees room can be done.
async fn write(app: &App, wish: Wish) -> Result<Wrote> {
    let _turn = app.journal.turn.lock().await;
    match write_once(app, wish).await {
        Err(error) if may_lack_room(&error) && app.reserves_release() => {
            tracing::warn!(
                error = error.chain(),
                "could not write the journal; trying again with the reserve's room"
            );
            write_once(app, wish).await
        }
        done => done,
    }
}

/// Not where room is not what was missing: the reserves are to be there when it is.
fn may_lack_room(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::Internal { .. })
}

async fn write_once(app: &App, wish: Wish) -> Result<Wrote> {
    if wish == Wish::Changes && rows::change_newest(app.db.conn()).await?.is_none() {
        return Ok(Wrote::Nothing);
    }
    let Some((claimed, is_dump)) = claim(app, wish == Wish::Dump).await? else {
        return Ok(Wrote::Busy);
    };
    let fence = claimed.fence.unwrap_or_default();
    let done = match previous_is_lost(app, &claimed).await {
        Err(error) => Err(error),
        Ok(_) if is_dump => dump::write_dump(app, &claimed).await.map(|()| true),
        // What was in it no recovery would know, nor what follows on it.
        Ok(true) if has_room(app, claimed.dump_bytes) => Ok(false),
        Ok(is_dump_owed) => {
            let owing = state::Model {
                is_dump_owed: is_dump_owed || claimed.is_dump_owed,
                ..claimed
            };
            write_changes(app, &owing).await
        }
    };
    match done {
        Ok(true) => Ok(Wrote::All),
        // Too many at once, or behind a gap.
        Ok(false) => {
            let Some((claimed, _)) = claim(app, true).await? else {
                return Ok(Wrote::Busy);
            };
            dump::write_dump(app, &claimed).await.map(|()| Wrote::All)
        }
        Err(Error::Unavailable(text)) if text == LOST => Ok(Wrote::Busy),
        Err(error) => {
            if let Err(error) = rows::lease_end(app.db.conn(), fence).await {
                tracing::debug!(%error, "could not let go of the journal's lease");
            }
            Err(error)
        }
    }
}

/// Whether the object that was completed last is missing. Fails where the store is an older copy therefore: what is
/// written there would hide it.
async fn previous_is_lost(app: &App, claimed: &state::Model) -> Result<bool> {
    let previous = place(claimed.generation, claimed.sequence);
    if claimed.generation == 0 || app.store.journal().has(previous).await? {
        return Ok(false);
    }
    guard(app).await?;
    tracing::error!(key = previous.key(), "the newest object of the journal is lost");
    Ok(true)
}

/// Takes the lease and commits the intent to write the next object: its number, under a fence of its own. Says whether
/// it has to be a dump. `None` where another server writes.
pub(super) async fn claim(app: &App, with_dump: bool) -> Result<Option<(state::Model, bool)>> {
    let schema = schema_text();
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let Some(mut row) = rows::state_lock(&*tx).await? else {
        return Err(Error::bug("the journal has no state"));
    };
    // What an earlier process of this node left behind is over.
    let is_free = row.lease_until.is_none_or(|until| until < now) || row.writer.as_ref() == Some(&app.node);
    if !is_free {
        return Ok(None);
    }
    // The first, or one was cut off: numbers of an earlier generation would be lower than what was intended.
    let is_forced = row.generation == 0 || row.intended_generation != row.generation;
    // A look at each disk: only where it matters.
    let has_room = || has_room(app, row.dump_bytes);
    if with_dump && !is_forced && !has_room() {
        return Err(Error::Unavailable(NO_ROOM.to_owned()));
    }
    let is_dump =
        is_forced || with_dump || row.schema != schema || (row.is_dump_owed || is_long(&row)) && has_room();
    if is_dump {
        row.intended_generation += 1;
        row.intended_sequence = 0;
    } else {
        row.intended_sequence += 1;
    }
    row.writer = Some(app.node.clone());
    row.fence = Some(random::uuid());
    row.lease_until = Some(now + LEASE);
    rows::state_set(&*tx, row.clone()).await?;
    tx.commit().await?;
    Ok(Some((row, is_dump)))
}

fn place(generation: i64, sequence: i64) -> JournalPlace {
    JournalPlace {
        generation: u32::try_from(generation).unwrap_or(u32::MAX),
        sequence: sequence.cast_unsigned(),
    }
}

/// Whether a generation is long enough for a new one to be worth it.
fn is_long(row: &state::Model) -> bool {
    row.intended_sequence >= OBJECTS || row.change_bytes > CHANGE_BYTES.max(row.dump_bytes / 2)
}

/// Whether there is room for a dump: its working file, its objects, and as much again. One that is cut off for want of
/// room has to be begun again before anything else is written, so that none begins where a change would do.
fn has_room(app: &App, dump_bytes: i64) -> bool {
    let needed = dump_bytes.cast_unsigned().saturating_mul(4);
    // A file system that does not tell its size tells nothing of what is free either.
    let is_enough = |space: Space| space.total == 0 || space.free > needed;
    space::file_disks(app).iter().all(|disk| is_enough(disk.space))
}

fn schema_text() -> String {
    migrate::known().join(" ")
}

/// What a snapshot of the database gave.
struct Taken {
    /// The notes in it.
    notes: Vec<i64>,
    /// Tables and keys, each once.
    keys: BTreeMap<usize, Vec<Key>>,
}

/// Opens a snapshot in which the fence still holds.
async fn snapshot(app: &App, claimed: &state::Model) -> Result<Snapshot> {
    let tx = app.db.snapshot().await?;
    let row = rows::state_get(&*tx).await?;
    if row.is_some_and(|row| row.fence == claimed.fence) {
        return Ok(tx);
    }
    Err(lost())
}

fn lost() -> Error {
    Error::Unavailable(LOST.to_owned())
}

/// Writes what changed; false where that is too much for one object.
pub(super) async fn write_changes(app: &App, claimed: &state::Model) -> Result<bool> {
    let tx = snapshot(app, claimed).await?;
    let now = app.clock.now();
    let taken = notes_take(&tx, Some(CHANGES_AT_ONCE)).await?;
    let Some(taken) = taken else {
        return Ok(false);
    };
    let mut document = document_new(&*tx).await?;
    for (at, keys) in taken.keys {
        let table = &JOURNALED[at];
        let columns = rows::columns(&*tx, table.name).await?;
        document
            .rows
            .extend(rows::rows_get(&*tx, table, &columns, keys).await?);
    }
    tx.end().await?;
    let head = JournalHead {
        lineage: claimed.lineage,
        place: place(claimed.intended_generation, claimed.intended_sequence),
        part: JournalPart::Changes,
        previous: Some(JournalLink {
            sequence: claimed.sequence.cast_unsigned(),
            code: code_of(claimed),
        }),
        at_us: now.timestamp_micros(),
    };
    let text = serde_json::to_vec(&document).context("could not write a journal document")?;
    if text.len() > store::JOURNAL_DOCUMENT_LIMIT / 2 {
        return Ok(false);
    }
    let sealed = app.store.journal().seal(&head, &text)?;
    put(app, &sealed).await?;
    let done = state::Model {
        sequence: claimed.intended_sequence,
        before_sequence: Some(claimed.sequence),
        code: Some(sealed.code.to_vec()),
        change_bytes: claimed.change_bytes + bytes_of(&sealed),
        ..claimed.clone()
    };
    finish(app, done, &taken.notes).await?;
    Ok(true)
}

fn code_of(state: &state::Model) -> [u8; 32] {
    let code = state.code.as_deref().and_then(|code| code.try_into().ok());
    code.unwrap_or_default()
}

fn bytes_of(sealed: &JournalSealed) -> i64 {
    i64::try_from(sealed.bytes().len()).unwrap_or(i64::MAX)
}

/// Writes an object under its number, into the store that it is of: under a mount that went away there may be none, or
/// another. One that is there already was written by whoever is ahead of us.
async fn put(app: &App, sealed: &JournalSealed) -> Result<()> {
    match app.store.journal_put(sealed).await {
        Err(error) if error.kind() == store::Kind::Exists => {
            guard(app).await?;
            refuse(app, OTHER)
        }
        other => Ok(other?),
    }
}

/// Notes that an object was written, if the fence still holds, and lets go of the lease. Fails where another database
/// has begun a generation meanwhile: nobody would read ours any more. Who recovers from a store that is still written
/// begins one first, and then looks whether anything came in between; so one of the two notices.
pub(super) async fn finish(app: &App, done: state::Model, notes: &[i64]) -> Result<()> {
    let own = place(done.intended_generation, 0).generation;
    if app.store.journal().has_later(own).await? {
        guard(app).await?;
    }
    let tx = app.db.write().await?;
    let row = rows::state_lock(&*tx).await?;
    if row.is_none_or(|row| row.fence != done.fence) {
        return Err(lost());
    }
    let done = state::Model {
        lease_until: None,
        ..done
    };
    rows::state_set(&*tx, done).await?;
    rows::change_delete(&*tx, notes).await?;
    tx.commit().await
}

/// All notes of a snapshot; none where they are more than `limit` rows.
async fn notes_take(tx: &Snapshot, limit: Option<usize>) -> Result<Option<Taken>> {
    let (mut notes, mut seen, mut after) = (Vec::new(), BTreeMap::<usize, BTreeMap<String, Key>>::new(), 0);
    loop {
        let page = rows::change_page(&**tx, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for note in page {
            notes.push(note.id);
            // A dump has them all, whatever they are.
            if let (Some(_), Some(at)) = (limit, super::tables::position(&note.table_name)) {
                let key: Vec<Value> =
                    serde_json::from_str(&note.row_key).context("could not read a note of a change")?;
                seen.entry(at).or_default().insert(note.row_key, key);
            }
        }
        if limit.is_some_and(|limit| notes.len() > limit) {
            return Ok(None);
        }
    }
    let keys = seen
        .into_iter()
        .map(|(at, keys)| (at, keys.into_values().collect()));
    Ok(Some(Taken {
        notes,
        keys: keys.collect(),
    }))
}

async fn document_new(conn: &impl ConnectionTrait) -> Result<Document> {
    Ok(Document {
        schema: migrate::known(),
        counters: rows::counters(conn).await?,
        rows: Vec::new(),
    })
}

/// The time of microseconds since 1970, for people.
pub fn shown(us: i64) -> String {
    DateTime::from_timestamp_micros(us).map_or_else(
        || us.to_string(),
        |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// Puts what a recovery brought back in order: the counters, no notes, and a lineage of its own.
pub(super) async fn begin_anew_in_tx(
    tx: &Tx,
    counters: &BTreeMap<String, i64>,
    foreign_generation: u32,
) -> Result<()> {
    rows::counters_raise(&**tx, counters).await?;
    rows::changes_forget(&**tx).await?;
    rows::state_forget(&**tx).await?;
    rows::state_insert(&**tx, rows::state_new(random::uuid(), foreign_generation)).await?;
    Ok(())
}
