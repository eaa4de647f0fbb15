//! Whether database and store go together: each may be an older copy, put back beside the other. The journal tells,
//! whose objects both know, and where it cannot, the newest objects that the database knows.

use store::{Damage, Journal, Kind, Store};

use super::{code_of, place};
use crate::app::App;
use crate::platform::db::Db;
use crate::platform::error::{Error, Result};
use crate::platform::journal::model::{self, Known};
use crate::platform::journal::rows::{self, state};
use crate::platform::random;

/// The refusal where the database is an older one.
const OLDER: &str = "this database is older than the store, whose journal holds changes that it does not know: nothing is \
                     changed or deleted. Put the newest database back, or stop the server and run `cistern recover`, which \
                     makes a new one from the store";
/// The refusal where the store is written by another.
pub(super) const OTHER: &str = "the store's journal is written with another database than this one, as after a `cistern recover` \
                     elsewhere: nothing is changed or deleted. Start the server with the other; or, to go on with this one, \
                     stop both and run `cistern recover --keep-database`, which forgets what the other has";
/// The refusal where the store is an older one.
const OLDER_STORE: &str = "has neither the newest objects that this database knows nor the newest of the journal: it is an older copy \
                           of the store, or `objects` names another place than before. Nothing is changed or deleted. Name the \
                           place that was used last; or, where what is newer is lost, stop the server and run `cistern recover \
                           --keep-database`, which goes on with what is there";
/// Objects that are looked for before a store is taken for an older one.
const NEWEST: u64 = 64;

/// Looks whether this database belongs to the store's journal, and begins a lineage where there is no journal yet. What
/// does not belong is opened all the same, for reading.
pub async fn open(app: &App) -> Result<()> {
    if rows::state_get(app.db.conn()).await?.is_none() && app.store.journal().list().await?.is_empty() {
        let tx = app.db.write().await?;
        rows::state_insert(&*tx, rows::state_new(random::uuid(), 0)).await?;
        tx.commit().await?;
    }
    match misfit(&app.db, &app.store).await? {
        Some(misfit) => refuse(app, &misfit.sentence()).or(Ok(())),
        None => Ok(()),
    }
}

/// Why store and database do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The database is an older copy.
    OlderDatabase,
    /// The journal was written last with another database.
    OtherDatabase,
    /// The store is an older copy: its place, and an object that it lacks.
    OlderStore {
        /// Where the store is.
        place: String,
        /// The object's key.
        lacks: String,
    },
}

impl Misfit {
    /// The refusal of every change, with the ways out.
    pub fn sentence(&self) -> String {
        match self {
            Self::OlderDatabase => OLDER.to_owned(),
            Self::OtherDatabase => OTHER.to_owned(),
            Self::OlderStore { place, lacks } => format!("`{place}`, which lacks `{lacks}`, {OLDER_STORE}"),
        }
    }

    /// The flag with which `cistern recover` goes on without losing what only one of the two knows, where it is the
    /// newer one that stays.
    pub fn recover_flag(&self) -> Option<&'static str> {
        match self {
            Self::OlderDatabase => None,
            Self::OtherDatabase | Self::OlderStore { .. } => Some("--keep-database"),
        }
    }
}

/// Why store and database do not go together, if so: one of them is an older copy, or the journal is of another
/// database. Changes nothing.
pub async fn misfit(db: &Db, store: &Store) -> Result<Option<Misfit>> {
    match database_misfit(db, &store.journal()).await? {
        Some(misfit) => Ok(Some(misfit)),
        None => store_misfit(db, store).await,
    }
}

/// A store that lacks what its database has written last. One journal object alone that is missing is mended; a store
/// that lacks two of them, or data as well, was written on elsewhere. Data alone that is missing is damage, unless
/// something was cut off that had not told the journal yet.
async fn store_misfit(db: &Db, store: &Store) -> Result<Option<Misfit>> {
    if lacking(db, store).await?.is_none() {
        return Ok(None);
    }
    // Under a disk that went away everything is missing, and when it is back nothing is.
    store.there_check().await?;
    let lacks = lacking(db, store).await?;
    Ok(lacks.map(|lacks| Misfit::OlderStore {
        place: store.describe(),
        lacks,
    }))
}

/// An object that an older copy of the store would lack, and that is missing.
async fn lacking(db: &Db, store: &Store) -> Result<Option<String>> {
    let journal = store.journal();
    let since_us = match newest_fault(db, &journal).await? {
        Some(_) => match journal_lacking(db, &journal).await? {
            Some(key) => return Ok(Some(key)),
            None => 0,
        },
        None => match store.untold_since().await? {
            Some(since_us) => since_us,
            None => return Ok(None),
        },
    };
    Ok(store.newest_missing(NEWEST, since_us).await?)
}

/// The newest object of the journal, where it is missing, and the one that was completed before it as well: nothing
/// that gets lost is so choosy. Where there is none at all, it is the journal that is lost.
async fn journal_lacking(db: &Db, journal: &Journal) -> Result<Option<String>> {
    let Some(state) = rows::state_get(db.conn()).await? else {
        return Ok(None);
    };
    let Some(before) = state.before_sequence else {
        return Ok(None);
    };
    let [newest, before] = [state.sequence, before].map(|sequence| place(state.generation, sequence));
    let listed = journal.list().await?;
    let is_lost = listed.iter().all(|item| item.place < before);
    Ok((is_lost && !listed.is_empty()).then(|| newest.key()))
}

/// A database that is older than the store, or another than wrote its journal last.
pub(in crate::platform::journal) async fn database_misfit(
    db: &Db,
    journal: &Journal,
) -> Result<Option<Misfit>> {
    let listed = journal.list().await?;
    let Some(newest) = listed.last() else {
        return Ok(None);
    };
    // After the listing: what is listed was intended before.
    let state = rows::state_get(db.conn()).await?;
    let known = state.as_ref().map(known);
    let is_ahead = model::is_ahead(newest.place, known);
    let (Some(state), Some(known)) = (state, known) else {
        return Ok(is_ahead.then_some(Misfit::OlderDatabase));
    };
    if !is_ahead && !model::must_be_own(newest.place, known) {
        return Ok(None);
    }
    match journal.get(newest.place).await {
        Ok(object) if object.head.lineage != state.lineage => Ok(Some(Misfit::OtherDatabase)),
        _ if is_ahead => Ok(Some(Misfit::OlderDatabase)),
        // Removed since by another server, or damaged, which whoever reads the journal tells.
        Err(error) if !matches!(error.kind(), Kind::NotFound | Kind::Damaged) => Err(error.into()),
        _ => Ok(None),
    }
}

/// Fails, from now on for every writing transaction of this process, where store and database do not go together (any
/// more). To be called before anything is deleted for good.
pub async fn guard(app: &App) -> Result<()> {
    if let Some(sentence) = app.db.refusal() {
        return Err(Error::Precondition(sentence.to_owned()));
    }
    match misfit(&app.db, &app.store).await? {
        Some(misfit) => refuse(app, &misfit.sentence()),
        None => Ok(()),
    }
}

pub(super) fn refuse(app: &App, sentence: &str) -> Result<()> {
    tracing::error!("{sentence}");
    app.db.refuse(sentence.to_owned());
    Err(Error::Precondition(sentence.to_owned()))
}

fn known(state: &state::Model) -> Known {
    Known {
        intended: place(state.intended_generation, state.intended_sequence),
        foreign_generation: u32::try_from(state.foreign_generation).unwrap_or(u32::MAX),
    }
}

/// Whether a recovery made this database. What it does not bring back, as when something was used last, says nothing
/// then.
pub async fn is_recovered(db: &Db) -> Result<bool> {
    let state = rows::state_get(db.conn()).await?;
    Ok(state.is_some_and(|state| state.foreign_generation > 0))
}

/// What is wrong with the object that the database completed last, which nothing in the store names.
pub async fn newest_fault(db: &Db, journal: &Journal) -> Result<Option<Damage>> {
    let state = rows::state_get(db.conn()).await?;
    let Some(state) = state.filter(|state| state.generation > 0) else {
        return Ok(None);
    };
    let place = place(state.generation, state.sequence);
    let key = place.key();
    let reason = match journal.get(place).await {
        Ok(object) if object.code == code_of(&state) => return Ok(None),
        Ok(_) => format!("journal object `{key}` is not the one that was written"),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged | Kind::Io) => {
            format!("journal object `{key}`, the newest, cannot be read ({error})")
        }
        Err(error) => return Err(error.into()),
    };
    // It may have been removed since, after two more dumps.
    let now = rows::state_get(db.conn()).await?;
    if now.is_none_or(|now| (now.generation, now.sequence) != (state.generation, state.sequence)) {
        return Ok(None);
    }
    Ok(Some(Damage {
        kind: "store".into(),
        owner: key,
        range: 0..0,
        reason,
    }))
}
