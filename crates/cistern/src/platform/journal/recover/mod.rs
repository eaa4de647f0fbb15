//! `cistern recover`: a new database from the store alone.
//!
//! The newest whole generation of the journal is brought back with everything after it; what can be derived is derived,
//! and the index of chunks is read from the packs. All of it happens beside the database that is there (SQLite), or in
//! an empty one (PostgreSQL): only at the end does the new one take its place, and the old one is moved aside, never
//! deleted; nor is that done unasked to one that knows more than the journal ([`newer`]). A run that was cut off before
//! that has changed nothing, and is begun again. The store is written last of all, when the new database is in its
//! place: a generation of its own in the journal would make the old one a stranger, and hide from the next run which
//! changes are missing. Where that is cut off the server does it, or the next run begins anew from the same journal.
//!
//! What cannot be read is told, with the stretch of time whose changes are missing; what was journaled after it is
//! brought back all the same, because a row that names an image is worth more than an order that is whole.

mod newer;
mod plan;
mod replay;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;
use store::{Journal, JournalListed, JournalPlace, Kind, RebuildProgress, Store, WrappingKey};

use self::newer::Newer;
use self::plan::{plan_make, report_new};
use self::replay::replay;
use self::target::Target;
use super::model::Recovered;
use super::rows;
use super::service::{begin_anew_in_tx, dump, shown};
use crate::app::{self, App};
use crate::config::{self, Config};
use crate::platform::clock::Clock;
use crate::platform::db::{Db, Tx};
use crate::platform::error::{DATABASE_DAMAGED, Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::keys::service::key_load;

/// The refusal where a server still works with the store.
const WRITTEN: &str = "a server wrote into the store's journal meanwhile, and the recovered database would not know of that: \
                       stop every server of the installation, or make a copy with `cistern store copy` and recover from \
                       that, and run this again";

/// How a recovery is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What opens an encrypted store, where not the key that the settings name.
    pub key: Option<WrappingKey>,
    /// A PostgreSQL database that holds something already: its tables are moved into a schema of their own. SQLite's is
    /// moved aside also where it knows what the store's journal does not.
    pub replace_database: bool,
    /// The database that is there is taken as it is, however old, and what the store knows beyond it is forgotten.
    pub keep_database: bool,
}

/// What a room does with its rows after they were brought back, in the transaction that ends the recovery. Gives how
/// many imports it had to end.
pub type Settle = for<'a> fn(&'a App, &'a Tx) -> BoxFuture<'a, Result<u64>>;

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
    let (last, mut report) = (plan.last, report_new(&plan));
    let newer = if options.replace_database {
        None
    } else {
        Newer::look(config, &journal).await?
    };

    let target = Target::open(config, &options).await?;
    let key = with_key.key.clone();
    let made = async {
        tell("bringing the catalogue back");
        let counters = replay(&journal, &target.db, plan, &mut report).await?;
        if let Some(newer) = newer {
            return Err(newer.refusal(config, &target.db).await?);
        }
        tell("reading the index of every pack");
        index_make(&target.db, backend, with_key, &mut report).await?;
        tell("putting things in order");
        settle(&target, key.clone(), (&counters, last), &mut report).await
    };
    if let Err(error) = made.await {
        if let Err(error) = target.give_up().await {
            tracing::warn!(
                error = error.chain(),
                "a database that was begun was not taken away"
            );
        }
        return Err(error);
    }
    let placed = target.take_place().await?;
    report.aside = placed.aside();
    match journal_begin(config, key, last).await {
        Err(Error::Precondition(text)) if text == WRITTEN => {
            placed.put_back()?;
            return Err(Error::Precondition(text));
        }
        begun => report.journal_owed = begun.err().map(|error| told(&error)),
    }
    Ok(report)
}

/// A failure that is not the end of it, in a word for the user.
fn told(error: &Error) -> String {
    tracing::error!(error = error.chain(), "the journal was not begun");
    error.to_string()
}

/// Makes the database that is there the store's again. Its index of chunks may be as old as itself, so that is read
/// anew.
async fn keep(
    config: &Config,
    journal: &Journal,
    backend: Arc<dyn store::Backend>,
    with_key: store::Options,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Recovered> {
    let db = app::existing_open(config).await?;
    // What a damaged one lacks would be forgotten for good.
    if let Some(fault) = db.faults().await?.into_iter().next() {
        tracing::error!(fault, "the database that is to be kept is damaged");
        return Err(Error::Damaged(DATABASE_DAMAGED.into()));
    }
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
    report.damaged_roots = found.damaged_roots;
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
    if config.data.join("h").is_dir() {
        return app::store_in_place(config);
    }
    Error::Precondition(format!(
        "there is no store {place}: bring it there from a copy (`cistern store copy BACKUP PLACE`), or name the place of the objects \
         that the installation used with `--objects` (or give its data folder with `--data`)"
    ))
}

/// Ends what cannot go on, counts what is counted, tells of it in an event, and makes the database the store's: in one
/// transaction, so that a recovery that was cut off before serves nobody.
async fn settle(
    target: &Target,
    key: Option<WrappingKey>,
    (counters, last): (&BTreeMap<String, i64>, JournalPlace),
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
    begin_anew_in_tx(&tx, counters, last.generation).await?;
    tx.commit().await?;
    let is_written = is_written_after(&app.store.journal(), last).await?;
    app.db.fold().await;
    app.db.clone().close().await?;
    if is_written {
        return Err(Error::Precondition(WRITTEN.into()));
    }
    Ok(())
}

/// Begins the journal of the database that is in its place now: with a dump, after which the one from before is not the
/// store's any more.
async fn journal_begin(config: &Config, key: Option<WrappingKey>, last: JournalPlace) -> Result<()> {
    let app = App::open_unguarded(config.clone(), key).await?;
    let dumped = dump(&app).await;
    // Its first key was taken.
    if matches!(dumped, Err(Error::Precondition(_))) {
        return Err(Error::Precondition(WRITTEN.into()));
    }
    dumped?;
    if is_written_after(&app.store.journal(), last).await? {
        give_up(&app, last.generation).await?;
        return Err(Error::Precondition(WRITTEN.into()));
    }
    app.db.fold().await;
    app.db.clone().close().await
}

/// Whether somebody else has written on, after the object that was the newest.
async fn is_written_after(journal: &Journal, last: JournalPlace) -> Result<bool> {
    let listed = journal.list().await?;
    let is_later = |item: &JournalListed| item.place > last && item.place.generation == last.generation;
    Ok(listed.iter().any(is_later))
}

/// Takes back what would make the servers that still run stop: the generation begun here. The database is not the
/// store's any more.
async fn give_up(app: &App, last_generation: u32) -> Result<()> {
    let tx = app.db.write().await?;
    rows::state_forget(&*tx).await?;
    tx.commit().await?;
    let journal = app.store.journal();
    // The end of its dump goes first: what is not whole is nobody's.
    for item in journal.list().await?.iter().rev() {
        if item.place.generation > last_generation {
            journal.delete(item.place).await?;
        }
    }
    Ok(())
}
