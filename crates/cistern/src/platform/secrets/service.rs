//! Where the key comes from, and that it is the right one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use futures::future::BoxFuture;

use super::{Secrets, rows};
use crate::platform::data_files::key_file_new;
use crate::platform::db::{Db, Tx};
use crate::platform::error::{Context, Error, Result};
use crate::platform::random;

/// Reads the key, which the first start of an installation makes, and compares it with what the database knows. The
/// first time, `first` is called in the transaction that remembers the key: to seal what was in clear before.
pub async fn open(
    (data, path): (&Path, &Path),
    db: &Db,
    first: impl for<'a> FnOnce(&'a Secrets, &'a Tx) -> BoxFuture<'a, Result<()>>,
) -> Result<Secrets> {
    let known = rows::fingerprint_get(db.conn()).await?;
    let key = match (key_read(path)?, &known) {
        (Some(key), _) => key,
        (None, None) => key_make(data, path)?,
        (None, Some(_)) => return Err(lost(path)),
    };
    let secrets = Secrets::new(key);
    let fingerprint = secrets.fingerprint()?;
    match known {
        Some(known) if known == fingerprint => Ok(secrets),
        Some(_) => Err(other(path)),
        None => {
            let tx = db.write().await?;
            rows::fingerprint_insert(&*tx, &fingerprint).await?;
            first(&secrets, &tx).await?;
            tx.commit().await?;
            Ok(secrets)
        }
    }
}

/// Whether a start would find the key that the database knows; makes nothing.
pub async fn look(path: &Path, db: &Db) -> Result<()> {
    let Some(known) = rows::fingerprint_get(db.conn()).await? else {
        return Ok(());
    };
    let key = key_read(path)?.ok_or_else(|| lost(path))?;
    if Secrets::new(key).fingerprint()? != known {
        return Err(other(path));
    }
    Ok(())
}

fn lost(path: &Path) -> Error {
    Error::Precondition(format!(
        "the key to the secrets in the database is not at {}: copy it there from another server of this installation or from a \
         backup, or name its place in `secrets_key_file`. If it is lost, `cistern key reset-secrets` goes on without it, and \
         imports by URL that are under way have to be started again",
        path.display()
    ))
}

fn other(path: &Path) -> Error {
    Error::Precondition(format!(
        "the key at {} is not the one that the secrets in this database are sealed with: all servers of an installation need the \
         same file; copy it from one that works, or name its place in `secrets_key_file`",
        path.display()
    ))
}

/// Forgets which key there was: the next start takes the one it finds, or makes one. False where there was none.
pub async fn reset(db: &Db) -> Result<bool> {
    let tx = db.write().await?;
    let was_there = rows::fingerprint_delete(&*tx).await?;
    tx.commit().await?;
    Ok(was_there)
}

fn key_read(path: &Path) -> Result<Option<[u8; 32]>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::Precondition(format!(
                "cannot read the key to the secrets at {}: {error}; run this as the user that the server runs as, or as \
                 root",
                path.display()
            )));
        }
    };
    let key = hex::decode(text.trim()).ok().and_then(|key| key.try_into().ok());
    key.map(Some).ok_or_else(|| {
        Error::Precondition(format!(
            "{} is not a key to secrets, which has 64 hexadecimal digits: put back the file that was there",
            path.display()
        ))
    })
}

fn leads_nowhere(path: &Path) -> Error {
    Error::Precondition(format!(
        "{} is a link, and where it leads there is no key to the secrets: put the file there, or remove the link, and a key is \
         made in its place",
        path.display()
    ))
}

/// Makes the file, durably: what is sealed with it must not outlive it.
fn key_make(data: &Path, path: &Path) -> Result<[u8; 32]> {
    let key: [u8; 32] = random::bytes();
    let write = || -> io::Result<()> {
        let mut file = key_file_new(data, path)?;
        writeln!(file, "{}", hex::encode(key))?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    match write() {
        Ok(()) => Ok(key),
        // Another server has the same file, and was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            key_read(path)?.ok_or_else(|| leads_nowhere(path))
        }
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(Error::Precondition(format!(
            "the disk of {} is full; free or add space, then start again",
            path.display()
        ))),
        Err(error) => Err(error).context(&format!("could not write {}", path.display())),
    }
}
