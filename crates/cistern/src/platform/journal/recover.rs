//! `cistern recover`: a new database from the store alone.
//!
//! The newest whole generation of the journal is brought back with everything after it; what can be derived is derived,
//! and the index of chunks is read from the packs. All of it happens beside the database that is there (SQLite), or in
//! an empty one (PostgreSQL): only at the end does the new one take its place, and the old one is moved aside, never
//! deleted. A run that was cut off has changed nothing, and is begun again.
//!
//! What cannot be read is told, with the stretch of time whose changes are missing; what was journaled after it is brought
//! back all the same, because a row that names an image is worth more than an order that is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use store::{Journal, JournalListed, JournalObject, JournalPart, Kind, RebuildProgress, Store, WrappingKey};

use super::model::{Chain, Document, Entry, Gap, Overlay, Recovered};
use super::rows::{self, TableColumns};
use super::service::{begin_anew_in_tx, dump, shown};
use super::tables::{JOURNALED, position};
use crate::app::{self, App};
use crate::config::{self, Config, Secret};
use crate::platform::clock::Clock;
use crate::platform::db::{Db, Place, Tx, migrate};
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::keys::service::key_load;

/// Objects of the journal that are read at once.
const AT_ONCE: usize = 8;
/// Numbers that are left out after the last one known: what was given out in the last seconds, and not journaled any
/// more, is not given out again.
const NUMBERS_LEFT_OUT: i64 = 1_000;

/// How a recovery is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What opens an encrypted store, where not the key that the settings name.
    pub key: Option<WrappingKey>,
    /// A PostgreSQL database that holds something already: its tables are moved into a schema of their own.
    pub replace_database: bool,
    /// The database that is there is taken as it is, however old, and what the store knows beyond it is forgotten.
    pub keep_database: bool,
}

/// What a room does with its rows after they were brought back, in the transaction that ends the recovery. Gives how many
/// imports it had to end.
pub type Settle = for<'a> fn(&'a App, &'a Tx) -> BoxFuture<'a, Result<u64>>;

/// One generation, as far as it can be read.
struct Generation {
    number: u32,
    chain: Chain,
    /// What follows its dump.
    overlay: Overlay,
    /// The parts of its dump that are whole.
    parts: Vec<JournalListed>,
    schema: Vec<String>,
    damaged: Vec<String>,
}

/// What is brought back.
struct Plan {
    base: Generation,
    /// Newer generations that are not whole: what can be read of their dumps, and their changes.
    newer: Vec<Generation>,
    newest_us: i64,
    /// The newest generation that anything in the store is of.
    last_generation: u32,
}

/// Makes a new database from the store. The data folder is held by the caller. `tell` hears what is being done.
pub async fn recover(config: &Config, options: Options, tell: &(dyn Fn(&str) + Sync)) -> Result<Recovered> {
    tell("reading the journal");
    let backend = app::backend_open(config)?;
    let key = match &options.key {
        Some(key) => Some(key.clone()),
        None => key_load(config).await?,
    };
    let with_key = store::Options {
        key,
        ..store::Options::default()
    };
    let opened = Journal::open(Arc::clone(&backend), &with_key).await;
    let journal = opened.map_err(|error| no_store(config, error))?;
    if options.keep_database {
        return keep(config, &journal, backend, with_key, tell).await;
    }
    let plan = plan_make(&journal).await?;
    let (last_generation, mut report) = (plan.last_generation, report_new(&plan));

    let target = Target::open(config, &options).await?;
    tell("bringing the catalogue back");
    let counters = replay(&journal, &target.db, plan, &mut report).await?;
    tell("reading the index of every pack");
    index_make(&target.db, backend, with_key.clone(), &mut report).await?;

    tell("putting things in order");
    settle(&target, with_key.key, (&counters, last_generation), &mut report).await?;
    report.aside = target.take_place().await?;
    Ok(report)
}

/// Makes the database that is there the store's again. Its index of chunks may be as old as itself, so that is read anew.
async fn keep(
    config: &Config,
    journal: &Journal,
    backend: Arc<dyn store::Backend>,
    with_key: store::Options,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Recovered> {
    let db = app::existing_open(config).await?;
    let newest = journal
        .list()
        .await?
        .last()
        .map_or(0, |item| item.place.generation);
    let mut report = Recovered {
        newest_us: Clock::default().now().timestamp_micros(),
        ..Recovered::default()
    };
    tell("reading the index of every pack");
    index_make(&db, backend, with_key.clone(), &mut report).await?;
    let tx = db.write().await?;
    begin_anew_in_tx(&tx, &BTreeMap::new(), newest).await?;
    tx.commit().await?;
    db.close().await?;
    let app = App::open_existing_with(config.clone(), with_key.key).await?;
    dump(&app).await?;
    Ok(report)
}

async fn index_make(
    db: &Db,
    backend: Arc<dyn store::Backend>,
    with_key: store::Options,
    report: &mut Recovered,
) -> Result<()> {
    let store = Store::open_to_rebuild(backend, db.conn(), with_key).await?;
    let found = store.rebuild_index(&RebuildProgress::default()).await?;
    (report.packs, report.chunks) = (found.packs, found.chunks);
    (report.salvaged, report.unreadable) = (found.salvaged, found.unreadable);
    Ok(())
}

fn no_store(config: &Config, error: store::Error) -> Error {
    if error.kind() != Kind::NotFound {
        return error.into();
    }
    let place = match config.objects() {
        config::Objects::Folder(path) => format!("in `{}`", path.display()),
        config::Objects::S3(_) => "in the bucket that `objects` names".to_owned(),
    };
    Error::Precondition(format!(
        "there is no store {place}: name the place of the objects that the installation used with `--objects` (or give \
         its data folder with `--data`)"
    ))
}

/// Reads the journal, newest generation first, until one is whole.
async fn plan_make(journal: &Journal) -> Result<Plan> {
    let mut generations: BTreeMap<u32, Vec<JournalListed>> = BTreeMap::new();
    for item in journal.list().await? {
        generations.entry(item.place.generation).or_default().push(item);
    }
    let last_generation = generations.keys().next_back().copied().unwrap_or(0);
    let (mut base, mut newer) = (None, Vec::new());
    for (number, items) in generations.into_iter().rev() {
        let generation = generation_read(journal, number, items).await?;
        if generation.chain.is_whole() {
            base = Some(generation);
            break;
        }
        // What was begun and cut off holds nothing that the one before does not lead to.
        if !generation.chain.is_unfinished() {
            newer.push(generation);
        }
    }
    // Better a part of the oldest dump than nothing.
    let base = base.or_else(|| newer.pop().filter(|oldest| !oldest.parts.is_empty()));
    let base = base.ok_or_else(|| {
        Error::Precondition(
            "the store has no journal that can be read, so there is nothing to make a database from; put the newest copy \
             of the database back"
                .into(),
        )
    })?;
    newer.reverse();
    let newest_us = newer.iter().chain([&base]).filter_map(|g| g.chain.last_us).max();
    Ok(Plan {
        base,
        newer,
        newest_us: newest_us.unwrap_or_default(),
        last_generation,
    })
}

/// Reads a whole generation; keeps what follows the dump.
async fn generation_read(journal: &Journal, number: u32, items: Vec<JournalListed>) -> Result<Generation> {
    let mut generation = Generation {
        number,
        chain: Chain::default(),
        overlay: Overlay::default(),
        parts: Vec::new(),
        schema: Vec::new(),
        damaged: Vec::new(),
    };
    let mut objects = objects(journal, items);
    while let Some((item, read)) = objects.next().await {
        let read = read.and_then(|object| Ok((document(&object)?, object)));
        let (mut document, object) = match read {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                generation.chain.damaged();
                generation.damaged.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        generation.chain.read(&object.head, object.code);
        if object.head.part != JournalPart::Changes {
            generation.schema.clone_from(&document.schema);
            generation.parts.push(item);
            document.rows.clear();
        }
        generation.overlay.lay(document);
    }
    generation.chain.end();
    Ok(generation)
}

/// Reads objects ahead, and gives them in their order.
fn objects(
    journal: &Journal,
    items: Vec<JournalListed>,
) -> futures::stream::BoxStream<'_, (JournalListed, store::Result<JournalObject>)> {
    futures::stream::iter(items)
        .map(move |item| async move { (item, journal.get(item.place).await) })
        .buffered(AT_ONCE)
        .boxed()
}

fn document(object: &JournalObject) -> store::Result<Document> {
    serde_json::from_slice(&object.document).map_err(|error| {
        let text = "a journal object holds no document that this version knows";
        store::Error::new(Kind::Damaged, text).with_source(error)
    })
}

fn report_new(plan: &Plan) -> Recovered {
    let mut report = Recovered {
        generation: plan.base.number,
        newest_us: plan.newest_us,
        ..Recovered::default()
    };
    if !plan.base.chain.is_whole() {
        report.gaps.push(Gap {
            after_us: None,
            before_us: plan.base.chain.first_us,
        });
    }
    let mut after_us = plan.base.chain.last_us;
    report.gaps.extend(&plan.base.chain.gaps);
    report.damaged.extend_from_slice(&plan.base.damaged);
    for generation in &plan.newer {
        report.gaps.push(Gap {
            after_us,
            before_us: generation.chain.first_us,
        });
        report.gaps.extend(&generation.chain.gaps);
        report.damaged.extend_from_slice(&generation.damaged);
        after_us = generation.chain.last_us.or(after_us);
    }
    report
}

/// Where the new database is made.
struct Target {
    db: Db,
    /// The settings of an installation that has it.
    config: Config,
    /// SQLite's file, and the one that it is to replace.
    files: Option<(PathBuf, PathBuf)>,
}

impl Target {
    async fn open(config: &Config, options: &Options) -> Result<Self> {
        match app::place(config) {
            Place::Sqlite(path) => Self::beside(config, &path).await,
            place @ Place::Postgres(_) => Self::empty(config, &place, options).await,
        }
    }

    /// A file beside SQLite's. What an earlier run left there goes.
    async fn beside(config: &Config, path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).context("the database's path is none")?;
        let new = suffixed(&path, ".recovering");
        for suffix in SUFFIXES {
            match std::fs::remove_file(suffixed(&new, suffix)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::internal(
                        "could not remove what an earlier recovery left",
                        error,
                    ));
                }
                _ => {}
            }
        }
        let mut config = config.clone();
        config.database = Some(Secret::new(format!("sqlite://{}", new.display())));
        let db = Db::open(&app::place(&config), config.database_max_connections).await?;
        Ok(Self {
            db,
            config,
            files: Some((new, path)),
        })
    }

    /// A PostgreSQL database that holds nothing.
    async fn empty(config: &Config, place: &Place, options: &Options) -> Result<Self> {
        let db = Db::open(place, config.database_max_connections).await?;
        if !rows::tables_of(db.conn()).await?.is_empty() {
            if !options.replace_database {
                return Err(Error::Precondition(
                    "the database is not empty: name an empty one in `--database`, or give `--replace-database`, which \
                     moves the tables that are there into a schema of their own"
                        .into(),
                ));
            }
            let schema = db.move_aside(Clock::default().now()).await?;
            tracing::info!(schema, "the tables that were there were moved aside");
        }
        Ok(Self {
            db,
            config: config.clone(),
            files: None,
        })
    }

    /// Puts a new file into the old one's place, which is moved aside; says where to.
    async fn take_place(self) -> Result<Option<String>> {
        self.db.fold().await;
        self.db.close().await?;
        let Some((new, path)) = self.files else {
            return Ok(None);
        };
        let what = "could not put the new database into its place";
        let mut aside = None;
        if path.try_exists().context(what)? {
            // No two in one second share a name: the second would replace the first.
            let name = format!(
                ".before_recovery_{}",
                Clock::default().now().format("%Y%m%dT%H%M%S_%6f")
            );
            let to = suffixed(&path, &name);
            for suffix in SUFFIXES {
                match std::fs::rename(suffixed(&path, suffix), suffixed(&to, suffix)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::internal(what, error));
                    }
                    _ => {}
                }
            }
            aside = Some(to.display().to_string());
        }
        std::fs::rename(&new, &path).context(what)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let folder = std::fs::File::open(folder).context(what)?;
        folder.sync_all().context(what)?;
        Ok(aside)
    }
}

/// SQLite's file, its log of changes, and the memory that its processes share.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Brings the rows back, in a schema as they had it, and then brings that up to date. Nobody else uses the database, so
/// one transaction can be open while the store is read. Gives what the counters are to be at least.
async fn replay(
    journal: &Journal,
    db: &Db,
    plan: Plan,
    report: &mut Recovered,
) -> Result<BTreeMap<String, i64>> {
    let newest = plan.newer.last().unwrap_or(&plan.base);
    migrate::run_only(db, &newest.schema_or(&plan.base)).await?;
    let mut overlay = plan.base.overlay;
    for generation in plan.newer {
        let mut parts = objects(journal, generation.parts);
        while let Some((_, object)) = parts.next().await {
            overlay.lay(document(&object?)?);
        }
        overlay.lay_all(generation.overlay);
    }
    let mut counters = std::mem::take(&mut overlay.counters);
    for last in counters.values_mut() {
        *last += NUMBERS_LEFT_OUT;
    }
    // Objects of the store are read meanwhile.
    let tx = db.write_slowly().await?;
    let mut loader = Loader {
        tx: &tx,
        overlay,
        leniently: !report.gaps.is_empty(),
        next: 0,
        columns: BTreeMap::new(),
        report,
    };
    let mut parts = objects(journal, plan.base.parts);
    while let Some((_, object)) = parts.next().await {
        loader.document(document(&object?)?).await?;
    }
    loader.overlay_up_to(JOURNALED.len()).await?;
    tx.commit().await?;
    migrate::run(db, None).await?;
    Ok(counters)
}

impl Generation {
    /// Which migrations its rows had seen; those of `other` where none of its own is known.
    fn schema_or(&self, other: &Self) -> Vec<String> {
        let own = Some(&self.schema).filter(|schema| !schema.is_empty());
        own.unwrap_or(&other.schema).clone()
    }
}

/// Writes rows in the order of tables, each in its last state: nothing is written that would have to be changed again, so
/// no constraint is broken on the way.
struct Loader<'a> {
    tx: &'a Tx,
    overlay: Overlay,
    leniently: bool,
    /// The table that comes next.
    next: usize,
    columns: BTreeMap<String, TableColumns>,
    report: &'a mut Recovered,
}

impl Loader<'_> {
    /// Writes a part of a dump, whose tables come in their order.
    async fn document(&mut self, document: Document) -> Result<()> {
        let mut of_table: Vec<Entry> = Vec::new();
        for entry in document.rows {
            if of_table.last().is_some_and(|last| last.table != entry.table) {
                self.table(std::mem::take(&mut of_table)).await?;
            }
            of_table.push(entry);
        }
        self.table(of_table).await
    }

    /// Writes rows of one table, but for those of which a later state is known.
    async fn table(&mut self, mut entries: Vec<Entry>) -> Result<()> {
        let Some(name) = entries.first().map(|entry| entry.table.clone()) else {
            return Ok(());
        };
        let Some(at) = position(&name) else {
            tracing::warn!(table = name, "this version journals no such table");
            self.report.contradicting += entries.len() as u64;
            return Ok(());
        };
        self.overlay_up_to(at).await?;
        entries.retain(|entry| !self.overlay.covers(entry));
        self.insert(&name, &entries).await
    }

    /// Writes later states of the rows of all tables before one.
    async fn overlay_up_to(&mut self, at: usize) -> Result<()> {
        while self.next < at {
            let name = JOURNALED[self.next].name;
            let entries = self.overlay.take(name);
            self.insert(name, &entries).await?;
            self.next += 1;
        }
        Ok(())
    }

    async fn insert(&mut self, table: &str, entries: &[Entry]) -> Result<()> {
        if !self.columns.contains_key(table) {
            let columns = rows::columns(&**self.tx, table).await?;
            self.columns.insert(table.to_owned(), columns);
        }
        let columns = &self.columns[table];
        let (written, left_out) = rows::rows_insert(self.tx, table, columns, entries, self.leniently).await?;
        *self.report.rows.entry(table.to_owned()).or_default() += written;
        self.report.contradicting += left_out;
        Ok(())
    }
}

/// Ends what cannot go on, counts what is counted, tells of it in an event, and begins a journal of its own: in one
/// transaction, before which the database is not the store's, so that a recovery that was cut off serves nobody.
async fn settle(
    target: &Target,
    key: Option<WrappingKey>,
    (counters, last_generation): (&BTreeMap<String, i64>, u32),
    report: &mut Recovered,
) -> Result<()> {
    let app = App::open_unguarded(target.config.clone(), key).await?;
    let tx = app.db.write().await?;
    for settle in app::settles() {
        report.imports_ended += settle(&app, &tx).await?;
    }
    let detail = json!({
        "newest_change": shown(report.newest_us),
        "rows": report.rows,
        "changes_are_missing": !report.gaps.is_empty(),
    });
    let event = Event::done("store.recover", "store", app.store.id()).with(detail);
    events::record_in_tx(&*tx, app.clock.now(), &Who::default(), event).await?;
    begin_anew_in_tx(&tx, counters, last_generation).await?;
    tx.commit().await?;
    dump(&app).await?;
    app.db.fold().await;
    app.db.clone().close().await
}
