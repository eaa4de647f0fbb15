//! The server's end of the socket.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::SOCKET;
use super::file::check_kind;
use super::wire::{Answer, Lines, Request};
use crate::app::App;
use crate::config::Secret;
use crate::images::model::{ImportSource, NewImport, Status};
use crate::images::{api, service};
use crate::platform::accounts::{Caller, service as accounts};
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::{Event, Who, reason_shown, record_refusal};

/// How long a client may take to say what it wants.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How often the import is looked at, besides when a job ends.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Clients at once.
const MAX_CLIENTS: usize = 64;

/// Listens at `DATA/cistern.sock` until `stop`. The caller holds the folder's lock, so a socket that is there already
/// is a leftover. Where it cannot listen (the path of a socket has at most 107 bytes) files come by upload only.
pub async fn serve(app: App, stop: CancellationToken) {
    let path = app.data.join(SOCKET);
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot take files at a local socket; uploads still work");
            return;
        }
    };
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => accepted,
            Some(_) = clients.join_next() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                clients.spawn(client(app.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "could not take a connection at the local socket");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
    // Dropping the clients closes their connections; imports go on or end by the engine's rules.
    let _ = fs::remove_file(&path);
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The folder is 0700, so nobody else could connect before this.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn client(app: App, stream: UnixStream) {
    let mut lines = Lines::new(stream);
    if let Err(error) = import(&app, &mut lines).await {
        if let Error::Internal { .. } = error {
            tracing::error!(error = error.chain(), "could not take a file at the local socket");
        }
        // A client that has gone hears nothing.
        let _ = lines.send(&Answer::Error(error.to_string())).await;
    }
}

async fn import(app: &App, lines: &mut Lines) -> Result<()> {
    check_peer(lines.stream())?;
    let line = tokio::time::timeout(REQUEST_TIME, lines.next())
        .await
        .map_err(|_| Error::BadRequest("no request came".into()))?
        .map_err(|e| Error::BadRequest(format!("the request cannot be read: {e}")))?;
    let Some(line) = line else { return Ok(()) };
    let request: Request = serde_json::from_slice(&line)
        .map_err(|e| Error::BadRequest(format!("the request is not understood: {e}")))?;
    let mut descriptors = lines.take_descriptors();
    let (Some(descriptor), true) = (descriptors.pop(), descriptors.is_empty()) else {
        return Err(Error::BadRequest("a request comes with one open file".into()));
    };
    let token = request.token.clone();
    let caller = accounts::authenticate(app, token.expose(), Who::default()).await?;
    let file = File::from(descriptor);
    let image = match image_create(app, &caller, request, file).await {
        Ok(id) => id,
        Err(error) => {
            refusal_record(app, &caller, &error).await;
            return Err(error);
        }
    };
    watch(app, &token, image, lines).await
}

/// The caller as the token is now: it may end while the import runs.
async fn caller_still(app: &App, token: &Secret, image: i64) -> Result<Caller> {
    match accounts::authenticate(app, token.expose(), Who::default()).await {
        Err(Error::Unauthenticated) => Err(Error::Precondition(format!(
            "the token was revoked, or has expired, while the import ran; the import goes on, and another token can \
             look at image {image}"
        ))),
        other => other,
    }
}

/// Begins the import of a file that was handed over; returns the image's id.
async fn image_create(app: &App, caller: &Caller, request: Request, file: File) -> Result<i64> {
    caller.require("image:create")?;
    // To watch it.
    caller.require("image:read")?;
    check_kind(&file)?;
    let id = app.handed.put(file);
    let new = NewImport {
        name: request.name,
        distribution: request.distribution,
        description: request.description,
        region: request.region,
        tags: request.tags,
        source: ImportSource::Local { id },
        expected_sha256: request.expected_sha256,
    };
    match service::image_import(app, caller, &new).await {
        Ok((row, _)) => Ok(row.id),
        Err(error) => {
            app.handed.remove(id);
            Err(error)
        }
    }
}

/// An event as the API's refusals are.
async fn refusal_record(app: &App, caller: &Caller, error: &Error) {
    if matches!(
        error,
        Error::Internal { .. } | Error::Unavailable(_) | Error::Damaged(_) | Error::Away(_)
    ) {
        return;
    }
    let detail = json!({ "route": SOCKET, "reason": reason_shown(&error.to_string()) });
    let event = Event::refused("request.refuse").with(detail);
    record_refusal(app, &caller.who, event).await;
}

/// Tells the client how the import is until it has ended, the client has gone, or it cancels.
async fn watch(app: &App, token: &Secret, image: i64, lines: &mut Lines) -> Result<()> {
    let mut told = Value::Null;
    loop {
        let next_end = app.queue.next_end();
        let seen = async {
            let caller = caller_still(app, token, image).await?;
            look(app, &caller, image).await
        };
        let (value, is_over) = match seen.await {
            // The import waits for it as well.
            Err(Error::Away(_)) => (told.clone(), false),
            seen => seen?,
        };
        if value != told {
            let answer = Answer::Image(value.clone());
            if lines.send(&answer).await.is_err() {
                return Ok(());
            }
            told = value;
        }
        if is_over {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = next_end => {}
            said = lines.next() => match said {
                Ok(Some(_)) => {
                    let caller = caller_still(app, token, image).await?;
                    service::image_import_cancel(app, &caller, image).await?;
                }
                Ok(None) | Err(_) => return Ok(()),
            },
        }
    }
}

async fn look(app: &App, caller: &Caller, image: i64) -> Result<(Value, bool)> {
    let row = service::image_get(app, caller, &image.to_string()).await?;
    let is_over = [Status::Available, Status::Deleted]
        .iter()
        .any(|s| s.as_str() == row.status);
    let answer = api::answer(app, caller, row).await?;
    let mut value = serde_json::to_value(&answer.0).context("could not write an image")?;
    let value = value["image"].take();
    Ok((value, is_over))
}

/// Only this server's user, and root, may hand files over.
fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = stream
        .peer_cred()
        .context("could not ask who is at the local socket")?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() == own || peer.uid() == 0 {
        return Ok(());
    }
    Err(Error::forbidden(
        "Only the user that the server runs as, and root, may hand files over; send the file by HTTP.",
    ))
}
