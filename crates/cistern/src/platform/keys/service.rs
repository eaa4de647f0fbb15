//! Reading keys and making them.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::{KeyKind, WrappingKey};

use crate::app::App;
use crate::config::Config;
use crate::platform::data_files::key_file_new;
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::Event;
use crate::platform::events::service::event_record_local;
use crate::platform::{command, random};

/// The key that the settings name, if they name one.
pub async fn key_load(config: &Config) -> Result<Option<WrappingKey>> {
    match (&config.key_file, &config.key_command) {
        (Some(path), _) => key_from_file(path).map(Some),
        (None, Some(line)) => key_from_command(line).await.map(Some),
        (None, None) => Ok(None),
    }
}

/// Keeps that a key was added or removed among the events. It was, whether this can be written or not.
pub async fn key_note(app: &App, what: &'static str, id: &str) {
    if let Err(error) = event_record_local(app, Event::done(what, "key", id)).await {
        tracing::warn!(error = %error.chain(), what, "no event could be written");
    }
}

/// The key in a file, which nobody but its owner (and a group, as some systems hand secrets out) may be able to read.
pub fn key_from_file(path: &Path) -> Result<WrappingKey> {
    let shown = path.display();
    let refused = |error: io::Error| {
        let next = if error.kind() == io::ErrorKind::NotFound {
            "look at `key_file`, or at the flag that names it, and at whether what should be mounted there is"
        } else {
            "run this as the user that the server runs as, or as root"
        };
        Error::Precondition(format!("cannot read the key file {shown}: {error}; {next}"))
    };
    let mode = fs::metadata(path).map_err(refused)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(Error::Precondition(format!(
            "the key file {shown} can be read by everybody on this machine; `chmod 600 {shown}` keeps it to its owner"
        )));
    }
    if mode & 0o070 != 0 {
        tracing::warn!(file = %shown, "the key file can be read by its group too");
    }
    let bytes = fs::read(path).map_err(refused)?;
    key_new(KeyKind::KeyFile, &bytes, &format!("the key file {shown}"))
}

/// The key that a command prints. It has the server's environment, and is waited for.
pub async fn key_from_command(line: &str) -> Result<WrappingKey> {
    let words = line.to_owned();
    let ran = tokio::task::spawn_blocking(move || command::shell(&words)).await;
    let printed = ran.context("the key command was not waited for")?;
    let printed = printed.map_err(|error| {
        Error::Precondition(format!(
            "`key_command` printed no key ({error}): run it by hand, as the server's user, and see what it says"
        ))
    })?;
    key_new(KeyKind::KeyCommand, &printed, "what `key_command` printed")
}

/// The key in a file; where there is no such file, a new key in a new one, and true. In the data folder `data` it is
/// for the server that runs on it.
pub fn key_from_or_into_file(data: &Path, path: &Path) -> Result<(WrappingKey, bool)> {
    let text = format!("{}\n", STANDARD.encode(random::bytes::<32>()));
    let write = || -> io::Result<()> {
        let mut file = key_file_new(data, path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    match write() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::Precondition(format!(
            "cannot make the key file {}: {error}",
            path.display()
        ))),
        written => Ok((key_from_file(path)?, written.is_ok())),
    }
}

fn key_new(kind: KeyKind, bytes: &[u8], what: &str) -> Result<WrappingKey> {
    WrappingKey::new(kind, bytes).map_err(|error| Error::Precondition(format!("{what} is no key: {error}")))
}
