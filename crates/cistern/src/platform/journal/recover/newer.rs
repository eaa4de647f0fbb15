//! The database that is in place. A recovery moves it aside and makes one from the journal: where it is whole and knows
//! what the journal does not, that would be lost, so it is done only where it is asked for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use store::Journal;
use uuid::Uuid;

use crate::app;
use crate::config::{Config, Database};
use crate::platform::command::quoted;
use crate::platform::db::Db;
use crate::platform::error::{Error, Result};
use crate::platform::journal::model::Key;
use crate::platform::journal::rows;
use crate::platform::journal::service::{Misfit, database_misfit, newest_fault};
use crate::platform::journal::tables::JOURNALED;

/// Rows that are read at once.
const PAGE: u64 = 1_000;

/// A whole database that knows what the store's journal does not.
pub(super) struct Newer {
    path: PathBuf,
    db: Db,
    why: Why,
}

enum Why {
    /// It is of another store than the journal.
    OtherStore { own: Uuid, here: Uuid },
    /// The journal lacks what it has written, or something was not journaled yet.
    Ahead,
}

impl Newer {
    /// Looks at the database that is in place. None where there is none, where it is damaged, and where the journal
    /// knows all of it. PostgreSQL's has to be empty in any case.
    pub(super) async fn look(config: &Config, journal: &Journal) -> Result<Option<Self>> {
        let Database::Sqlite(path) = config.database() else {
            return Ok(None);
        };
        if !path.exists() {
            return Ok(None);
        }
        match Self::look_into(config, journal, path.clone()).await {
            Err(Error::Damaged(_)) => Ok(None),
            Err(error) => Err(Error::Precondition(format!(
                "whether the database {} knows what the store does not cannot be seen ({}): nothing was changed. Where nothing in it is \
                 needed, `{}` moves it aside",
                path.display(),
                error.chain(),
                command(config, "--replace-database")
            ))),
            found => found,
        }
    }

    async fn look_into(config: &Config, journal: &Journal, path: PathBuf) -> Result<Option<Self>> {
        let db = Db::open_to_look(&app::place(config)).await?;
        match why(&db, journal).await? {
            Some(why) => Ok(Some(Self { path, db, why })),
            None => db.close().await.map(|()| None),
        }
    }

    /// Why nothing is recovered in this one's place; `journaled` is what the journal leads to.
    pub(super) async fn refusal(self, config: &Config, journaled: &Db) -> Result<Error> {
        let mut lost = images(&self.db, true).await?;
        if matches!(self.why, Why::Ahead) {
            // What was being imported may have all of its data, and is available then.
            let known = images(journaled, false).await?;
            lost.retain(|key| !known.contains(key));
        }
        self.db.close().await?;
        let path = self.path.display();
        let images = match lost.len() {
            0 => "no image, but other changes".to_owned(),
            1 => "1 image, and maybe other changes".to_owned(),
            many => format!("{many} images, and maybe other changes"),
        };
        let replace = command(config, "--replace-database");
        Ok(Error::Precondition(match self.why {
            Why::OtherStore { own, here } => format!(
                "the database {path} is whole and of another store ({own}) than the one that is there ({here}): what only it knows \
                 ({images}) would be lost, so nothing was changed. Name the place of its own store with `--objects`; where it is not \
                 needed any more, `{replace}` moves it aside and makes one from the store that is there"
            ),
            Why::Ahead => format!(
                "the database {path} is whole and knows what the store's journal does not ({images}), which would be lost, so nothing \
                 was changed. Start the server with it; where that says that the store is an older copy and a newer one is nowhere, \
                 `{}` goes on with this database and what the store has. `{replace}` moves it aside and makes an older one from the store",
                command(config, "--keep-database")
            ),
        }))
    }
}

fn command(config: &Config, flag: &str) -> String {
    let data = quoted(&config.data.display().to_string());
    format!("cistern recover --data {data} {flag}")
}

async fn why(db: &Db, journal: &Journal) -> Result<Option<Why>> {
    if !db.faults().await?.is_empty() {
        return Ok(None);
    }
    let here = journal.store_id();
    match db.store_id().await? {
        // Nothing was stored by it.
        None => return Ok(None),
        Some(own) if own != here => return Ok(Some(Why::OtherStore { own, here })),
        Some(_) => {}
    }
    if !rows::tables_of(db.conn())
        .await?
        .contains(&"journal_state".to_owned())
    {
        return Ok(None);
    }
    // Of an older copy the journal knows what is noted in it, too.
    if database_misfit(db, journal).await? == Some(Misfit::OlderDatabase) {
        return Ok(None);
    }
    let is_ahead =
        newest_fault(db, journal).await?.is_some() || rows::change_newest(db.conn()).await?.is_some();
    Ok(is_ahead.then_some(Why::Ahead))
}

/// The keys of all images, or of those that are available.
async fn images(db: &Db, only_available: bool) -> Result<BTreeSet<String>> {
    let Some(table) = JOURNALED.iter().find(|table| table.name == "image") else {
        return Ok(BTreeSet::new());
    };
    let columns = rows::columns(db.conn(), table.name).await?;
    let (mut found, mut after) = (BTreeSet::new(), None::<Key>);
    loop {
        let page = rows::rows_page(db.conn(), table, &columns, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = Some(last.key.clone());
        let usable = page.into_iter().filter(|entry| {
            let row = entry.row.as_ref();
            !only_available || row.is_some_and(|row| row.get("status") == Some(&Value::from("available")))
        });
        found.extend(usable.map(|entry| Value::Array(entry.key).to_string()));
    }
}
