//! The database: whether it is there where its store is, whole, as new as the store, and whether its secrets can be
//! read.

use std::path::Path;

use store::Store;

use super::{Check, PATIENCE, failed, ok};
use crate::app;

use crate::config::{Config, Database};
use crate::platform::db::{Db, migrate, sqlite};
use crate::platform::error::{DATABASE_DAMAGED, Error, Result};
use crate::platform::journal;
use crate::platform::secrets;

const NAME: &str = "database";
const JOURNAL: &str = "journal";

/// The database, and the key to the secrets in it.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    if let Database::Sqlite(path) = config.database()
        && !path.exists()
    {
        return vec![missing(config, &path).await];
    }
    let db = match Db::open_to_look(&app::place(config)).await {
        Ok(db) => db,
        Err(error) => return vec![cannot("it cannot be opened", &error)],
    };
    match look(&db).await {
        Ok((check, true)) => vec![check, secrets_key(config, &db).await],
        Ok((check, false)) => vec![check],
        Err(error) => vec![cannot("it cannot be read", &error)],
    }
}

fn cannot(what: &str, error: &Error) -> Check {
    failed(NAME, format!("{what}: {}", error.chain()))
}

/// A start makes the file, but not beside a store that another one belongs to.
async fn missing(config: &Config, path: &Path) -> Check {
    if let Err(error) = sqlite::link_refuse(path) {
        return failed(NAME, error.chain());
    }
    let shown = path.display();
    match tokio::time::timeout(PATIENCE, app::store_is_there(config)).await {
        Ok(Ok(true)) => failed(NAME, app::database_lost(config, path)),
        Ok(Ok(false)) => ok(
            NAME,
            format!("{shown} is not there yet; the first start makes it"),
        ),
        Ok(Err(_)) | Err(_) => failed(
            NAME,
            format!("{shown} is not there, and whether there is a store that it belongs to cannot be seen"),
        ),
    }
}

/// What is to be said of an open database, and whether its tables are those of this program.
async fn look(db: &Db) -> Result<(Check, bool)> {
    let faults = db.faults().await?;
    if !faults.is_empty() {
        let text = format!("{DATABASE_DAMAGED} ({})", faults.join("; "));
        return Ok((failed(NAME, text), false));
    }
    let is_current = migrate::is_current(db).await?;
    let text = if is_current {
        "it answers, is whole, and its schema is that of this program"
    } else {
        "it answers and is whole; the next start copies it aside and brings its schema up to date"
    };
    Ok((ok(NAME, text), is_current))
}

async fn secrets_key(config: &Config, db: &Db) -> Check {
    const NAME: &str = "secrets key";
    let path = config.secrets_key_file();
    match secrets::service::look(&path, db).await {
        Ok(()) => ok(
            NAME,
            "it is that of the secrets in the database, or the first start makes it",
        ),
        Err(error) => failed(NAME, error.chain()),
    }
}

/// Whether database and store go together: where one is an older copy, a server only reads.
/// `place` are the flags that say where the installation is.
pub(super) async fn age(place: &str, db: &Db, store: &Store) -> Check {
    match tokio::time::timeout(PATIENCE, journal::misfit(db, store)).await {
        Ok(Ok(None)) => journal_whole(db, store).await,
        Ok(Ok(Some(misfit))) => {
            let flag = misfit
                .recover_flag()
                .map_or(String::new(), |flag| format!("{flag} "));
            let command = format!("cistern recover {flag}{place}");
            failed(JOURNAL, format!("{} (`{command}`)", misfit.sentence()))
        }
        Ok(Err(error)) => failed(JOURNAL, error.chain()),
        Err(_) => failed(
            JOURNAL,
            format!("no answer within {} seconds", PATIENCE.as_secs()),
        ),
    }
}

/// Whether what the database has written last is in the store's journal.
async fn journal_whole(db: &Db, store: &Store) -> Check {
    let journal = store.journal();
    let looked = async {
        let fault = journal::newest_fault(db, &journal).await?;
        Ok::<_, Error>((fault, journal.list().await?.is_empty()))
    };
    let (fault, is_gone) = match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok((Some(fault), is_gone))) => (fault, is_gone),
        Ok(Ok((None, _))) => return ok(JOURNAL, "database and store know the same"),
        Ok(Err(error)) => return failed(JOURNAL, error.chain()),
        Err(_) => {
            return failed(
                JOURNAL,
                format!("no answer within {} seconds", PATIENCE.as_secs()),
            );
        }
    };
    let what = if is_gone {
        "the store's journal (`j/`) is gone, all of it".to_owned()
    } else {
        fault.reason
    };
    failed(
        JOURNAL,
        format!(
            "{what}: were the database lost now, what is missing there would be lost with it. A server writes it anew from the database \
             when it starts, and once a day; where `scrub.every_days` is 0, `cistern store verify` at a server has it written"
        ),
    )
}
