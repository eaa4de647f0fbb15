//! Whole dumps: all journaled rows from one snapshot, in parts, by way of a working file.

use serde_json::Value;
use store::{JournalHead, JournalLink, JournalPart, JournalPlace, JournalSealed};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::{LEASE, PAGE, document_new, finish, lost, notes_take, place, put, schema_text, snapshot};
use crate::app::App;
use crate::platform::clock::Time;
use crate::platform::db::Snapshot;
use crate::platform::error::{Context, Result};
use crate::platform::journal::model::{Document, Entry};
use crate::platform::journal::rows::{self, state};
use crate::platform::journal::tables::{JOURNALED, Table};
use crate::platform::storage::space;

/// Text of a part of a dump.
const PART_BYTES: usize = 4 << 20;
/// With less than that on a disk it may be room that a dump lacked.
const SHORT_BYTES: u64 = 64 << 20;

/// Parts of a dump that wait to be written: sealed, one behind the other in a file without a name.
struct Spool {
    file: tokio::fs::File,
    lengths: Vec<usize>,
    previous: Option<JournalLink>,
    head: JournalHead,
}

impl Spool {
    fn new(app: &App, claimed: &state::Model, now: Time) -> Result<Self> {
        let file =
            tempfile::tempfile_in(&app.data).context("could not make a working file for the journal")?;
        let head = JournalHead {
            lineage: claimed.lineage,
            place: place(claimed.intended_generation, 0),
            part: JournalPart::Dump,
            previous: None,
            at_us: now.timestamp_micros(),
        };
        Ok(Self {
            file: tokio::fs::File::from_std(file),
            lengths: Vec::new(),
            previous: None,
            head,
        })
    }

    async fn push(&mut self, app: &App, document: &Document, part: JournalPart) -> Result<()> {
        let text = serde_json::to_vec(document).context("could not write a journal document")?;
        let sequence = self.lengths.len() as u64;
        let mut head = JournalHead {
            part,
            previous: self.previous,
            ..self.head
        };
        head.place.sequence = sequence;
        let sealed = app.store.journal().seal(&head, &text)?;
        self.previous = Some(JournalLink {
            sequence,
            code: sealed.code,
        });
        self.lengths.push(sealed.bytes().len());
        let written = self.file.write_all(sealed.bytes()).await;
        written.context("could not write the journal's working file")
    }

    /// The last number.
    fn last(&self) -> i64 {
        i64::try_from(self.lengths.len()).unwrap_or(i64::MAX) - 1
    }
}

/// Begins a generation: all rows from one snapshot, by way of a working file, because no transaction is open while the
/// store is waited for. Older generations but one are removed.
pub(super) async fn write_dump(app: &App, claimed: &state::Model) -> Result<()> {
    let tx = snapshot(app, claimed).await?;
    let mut spool = Spool::new(app, claimed, app.clock.now())?;
    let notes = notes_take(&tx, None)
        .await?
        .map_or_else(Vec::new, |taken| taken.notes);
    let mut document = document_new(&*tx).await?;
    for table in JOURNALED {
        table_dump(app, &tx, table, &mut document, &mut spool).await?;
    }
    tx.end().await?;
    spool.push(app, &document, JournalPart::DumpEnd).await?;

    let claimed = extend(app, claimed, spool.last()).await?;
    let mut written = Vec::new();
    let bytes = match spool_put(app, &claimed, &mut spool, &mut written).await {
        Err(error) => {
            half_remove(app, written).await;
            return Err(error);
        }
        put => put?,
    };
    let done = state::Model {
        generation: claimed.intended_generation,
        sequence: spool.last(),
        code: spool.previous.map(|link| link.code.to_vec()),
        schema: schema_text(),
        dump_bytes: bytes,
        change_bytes: 0,
        before_sequence: spool.last().checked_sub(1).filter(|before| *before >= 0),
        is_dump_owed: false,
        ..claimed.clone()
    };
    finish(app, done, &notes).await?;
    if let Err(error) = older_remove(app, claimed.generation, claimed.intended_generation).await {
        tracing::warn!(
            error = error.chain(),
            "could not remove older generations of the journal"
        );
    }
    tracing::info!(
        generation = claimed.intended_generation,
        bytes,
        "a whole dump of the catalogue is in the journal"
    );
    Ok(())
}

async fn table_dump(
    app: &App,
    tx: &Snapshot,
    table: &Table,
    document: &mut Document,
    spool: &mut Spool,
) -> Result<()> {
    let columns = rows::columns(&**tx, table.name).await?;
    let (mut after, mut bytes) = (None, 0);
    loop {
        let page: Vec<Entry> = rows::rows_page(&**tx, table, &columns, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.key.clone());
        for entry in page {
            bytes += entry
                .row
                .iter()
                .flatten()
                .map(|(name, value)| name.len() + size_of(value))
                .sum::<usize>();
            document.rows.push(entry);
            if bytes > PART_BYTES {
                spool.push(app, document, JournalPart::Dump).await?;
                document.rows.clear();
                bytes = 0;
            }
        }
    }
}

/// About how long a value's text is.
fn size_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(_) | Value::Object(_) => value.to_string().len(),
        _ => 8,
    }
}

/// Commits the intent to write so many parts, if the fence still holds.
async fn extend(app: &App, claimed: &state::Model, last: i64) -> Result<state::Model> {
    let tx = app.db.write().await?;
    let row = rows::state_lock(&*tx).await?;
    if row.is_none_or(|row| row.fence != claimed.fence) {
        return Err(lost());
    }
    let row = state::Model {
        intended_sequence: last,
        lease_until: Some(app.clock.now() + LEASE),
        ..claimed.clone()
    };
    rows::state_set(&*tx, row.clone()).await?;
    tx.commit().await?;
    Ok(row)
}

/// Writes the parts in their order; gives their bytes, and adds to `written` what is there.
async fn spool_put(
    app: &App,
    claimed: &state::Model,
    spool: &mut Spool,
    written: &mut Vec<JournalPlace>,
) -> Result<i64> {
    const READ: &str = "could not read the journal's working file";
    spool.file.flush().await.context(READ)?;
    spool.file.rewind().await.context(READ)?;
    let mut total = 0;
    for (sequence, length) in spool.lengths.iter().enumerate() {
        let mut bytes = vec![0; *length];
        spool.file.read_exact(&mut bytes).await.context(READ)?;
        let place = JournalPlace {
            generation: spool.head.place.generation,
            sequence: sequence as u64,
        };
        put(app, &JournalSealed::from_bytes(place, bytes.into())?).await?;
        written.push(place);
        total += i64::try_from(*length).unwrap_or(i64::MAX);
        let until = app.clock.now() + LEASE;
        let fence: Uuid = claimed.fence.unwrap_or_default();
        if !rows::lease_extend(app.db.conn(), fence, until).await? {
            return Err(lost());
        }
    }
    Ok(total)
}

/// Where there is no room, half a generation takes what is missing, and is no use to anybody. Only what this one has
/// written goes: under the same numbers there may be another's.
async fn half_remove(app: &App, written: Vec<JournalPlace>) {
    if !space::file_disks(app)
        .iter()
        .any(|disk| disk.space.free < SHORT_BYTES)
    {
        return;
    }
    for place in written {
        if let Err(error) = app.store.journal().delete(place).await {
            tracing::debug!(%error, "could not remove half a generation of the journal");
        }
    }
}

/// Removes every generation before `newest` but `kept`.
async fn older_remove(app: &App, kept: i64, newest: i64) -> Result<()> {
    let journal = app.store.journal();
    for item in journal.list().await? {
        let generation = i64::from(item.place.generation);
        // The first dump after a recovery leaves what it was recovered from.
        if kept > 0 && generation < newest && generation != kept {
            journal.delete(item.place).await?;
        }
    }
    Ok(())
}
