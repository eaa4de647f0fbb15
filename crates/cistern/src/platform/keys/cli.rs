//! `cistern key`: on a data folder, beside a running server or without one. A running server needs no key any more.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use store::{KeyKind, RecoveryKey, World, WrappedKey, WrappingKey};

use super::service;
use crate::app::App;
use crate::cli::output::{self, is_closed};
use crate::cli::table::table;
use crate::cli::{Context, Failure, Outcome, PlaceFlags, block_on};
use crate::platform::clock::{Time, wire};
use crate::platform::error::{Error, chain_of};

/// `cistern key …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the keys that open the store
    List(ListArgs),
    /// Add a key: from then on it opens the store as well
    Add(AddArgs),
    /// Remove a key: it opens the store no more
    Remove(RemoveArgs),
    /// Go on without the lost key to the secrets in the database
    ResetSecrets(ResetArgs),
}

/// How the store is opened, where not with the settings' key.
#[derive(Debug, clap::Args)]
struct Unlock {
    /// Open the store with the key in this file [default: the settings' key]
    #[arg(long, value_name = "FILE")]
    unlock_key_file: Option<PathBuf>,
    /// Open the store with the recovery key, which is asked for, or read from standard input
    #[arg(long, conflicts_with = "unlock_key_file")]
    recovery_key: bool,
}

/// For commands that add no key, where `--key-file` can only mean the key that opens the store.
fn key_file_alias(flag: clap::Arg) -> clap::Arg {
    flag.visible_alias("key-file")
}

/// Flags of `list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern key list --data /var/lib/cistern\n  cistern key list --recovery-key        with \
                  nothing but the printed key",
    mut_arg("unlock_key_file", key_file_alias)
)]
pub struct ListArgs {
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    unlock: Unlock,
}

/// Flags of `add`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern key add --key-file /etc/cistern/new.key     makes the file where there is none\n  \
                  cistern key add --recovery                          prints a new recovery key\n  cistern key add \
                  --key-file new.key --recovery-key   when the old key is lost"
)]
pub struct AddArgs {
    /// The new key is in this file; where there is none, it is made
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The new key is what this command prints
    #[arg(long, value_name = "COMMAND", conflicts_with = "key_file")]
    key_command: Option<String>,
    /// The new key is a recovery key, printed once
    #[arg(long, conflicts_with_all = ["key_file", "key_command"])]
    recovery: bool,
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    unlock: Unlock,
}

/// Flags of `remove`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cistern key remove 5f0c2d11",
    mut_arg("unlock_key_file", key_file_alias)
)]
pub struct RemoveArgs {
    /// The key, as `cistern key list` names it
    id: String,
    /// Also where it is the only recovery key
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    unlock: Unlock,
}

/// Flags of `reset-secrets`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cistern key reset-secrets --data /var/lib/cistern")]
pub struct ResetArgs {
    #[command(flatten)]
    place: PlaceFlags,
}

/// Runs a command.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::List(args) => list(args, context).await,
            Command::Add(args) => add(args, context).await,
            Command::Remove(args) => remove(args, context).await,
            Command::ResetSecrets(args) => reset_secrets(args, context).await,
        }
    })
}

async fn open(place: &PlaceFlags, unlock: &Unlock, context: &Context) -> Outcome<App> {
    let config = place.config(context)?;
    let key = match &unlock.unlock_key_file {
        Some(path) => Some(service::key_from_file(path)?),
        None if unlock.recovery_key => Some(recovery_ask()?),
        None => service::key_load(&config).await?,
    };
    App::open_existing_with(config, key).await.map_err(unopened)
}

/// Here `--key-file` is the key to add: the one that opens the store has flags of its own.
fn unopened(error: Error) -> Failure {
    match error {
        Error::Precondition(text) if text.contains("`key_file`") => Failure::Failed(format!(
            "{text}; or name such a key here with --unlock-key-file FILE, or --recovery-key"
        )),
        other => other.into(),
    }
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let app = open(&args.place, &args.unlock, context).await?;
    let keys = app.store.key_list().await.map_err(told)?;
    let own = app.store.key_own(&keys).map(|key| key.id.as_str());
    let views: Vec<_> = keys
        .iter()
        .map(|key| {
            let mut view = view(key);
            view["opened_with"] = json!(own == Some(key.id.as_str()));
            view
        })
        .collect();
    context.output.document(&json!({ "keys": views }), || {
        let rows = keys.iter().map(|key| {
            let is_own = own == Some(key.id.as_str());
            let note = if is_own { "used by this command" } else { "" };
            [
                key.id.clone(),
                key.kind.name().to_owned(),
                added_at(key),
                note.to_owned(),
            ]
        });
        table(["ID", "KIND", "ADDED", "NOTE"], rows)
    });
    Ok(())
}

async fn add(args: AddArgs, context: &Context) -> Outcome {
    let recovery = args.recovery.then(|| RecoveryKey::draw(&World::system()));
    if args.key_file.is_none() && args.key_command.is_none() && recovery.is_none() {
        let text = "say which key to add: --key-file FILE, --key-command COMMAND or --recovery";
        return Err(Failure::Usage(text.into()));
    }
    // Before a file is made: a mistyped key must leave none.
    let app = open(&args.place, &args.unlock, context).await?;
    app.store.encrypted_check().map_err(told)?;
    let _alone = app.keys_alone().await?;
    let keys = app.store.key_list().await.map_err(told)?;
    let wrapping = match (&args.key_file, &args.key_command, &recovery) {
        (_, Some(line), _) => service::key_from_command(line).await?,
        (_, _, Some(recovery)) => recovery.wrapping(),
        (Some(path), ..) => service::key_from_or_into_file(&app.data, path)?.0,
        (None, None, None) => return Ok(()),
    };
    let before = app
        .store
        .key_own(&keys)
        .filter(|key| key.kind != KeyKind::Recovery);
    let change = app.store.key_add(&wrapping).await.map_err(told)?;
    let added = change.key;
    service::key_note(&app, "key.add", &added.id).await;
    rest_tell(change.rest.as_ref());
    let text = recovery.as_ref().map(RecoveryKey::text);
    let document = json!({ "key": view(&added), "recovery_key": text });
    let shown = context.output.document_once(&document, || match &text {
        Some(text) => format!("{}\n\nIt is the key {}.", recovery_text(text), added.id),
        None => format!(
            "Added the key {}: it opens the store from now on. Next: put it into the settings{}, and take the old one, or the lost one, away \
             with `cistern key remove ID`{}.",
            added.id,
            args.key_file.as_ref().map(|path| format!(" (`key_file = \"{}\"`)", path.display())).unwrap_or_default(),
            before.map(|key| format!(" (the one that is used so far is {})", key.id)).unwrap_or_default()
        ),
    });
    match shown {
        Err(error) if args.recovery || !is_closed(&error) => {
            Err(Failure::Failed(lost(&added.id, &error, args.recovery)))
        }
        _ => Ok(()),
    }
}

/// What to do where it could not be shown that a key was added.
fn lost(id: &str, error: &std::io::Error, is_recovery: bool) -> String {
    let next = if is_recovery {
        format!(
            "nobody has it: take it away with `cistern key remove {id}`, and make another with `cistern key add --recovery`"
        )
    } else {
        format!("it opens the store from now on; `cistern key remove {id}` takes it away")
    };
    format!(
        "the key {id} was made, but what was to be shown could not be written to standard output: {error}; {next}"
    )
}

async fn remove(args: RemoveArgs, context: &Context) -> Outcome {
    let app = open(&args.place, &args.unlock, context).await?;
    let _alone = app.keys_alone().await?;
    let keys = app.store.key_list().await.map_err(told)?;
    if !args.force {
        recovery_keep(&keys, &args.id)?;
    }
    let change = app.store.key_remove(&args.id).await.map_err(told)?;
    service::key_note(&app, "key.remove", &args.id).await;
    rest_tell(change.rest.as_ref());
    let was_cut_off = keys.iter().all(|key| key.id != args.id);
    context.output.document(&json!({ "removed": args.id }), || {
        let what = if was_cut_off {
            " before, and now also deleted the older headers that still held it"
        } else {
            ""
        };
        format!(
            "Removed the key {}{what}. Copies of the store open with it until `cistern store copy` has brought them up to date, and other old \
             ones always: keep the key itself secret.",
            args.id
        )
    });
    Ok(())
}

/// Says what a change of keys that is made has left to be done.
fn rest_tell(rest: Option<&store::Error>) {
    let Some(rest) = rest else { return };
    output::warning(&format!(
        "the change is made, but so far the store has one new header of it instead of two, or older headers lie there still: {}. \
         A running server mends that within five minutes of it being possible; where none runs, start one",
        chain_of(rest)
    ));
}

/// Refuses to take away the only recovery key: from then on the store would be lost with its key file.
fn recovery_keep(keys: &[WrappedKey], id: &str) -> Outcome {
    let (taken, kept): (Vec<_>, Vec<_>) = keys
        .iter()
        .filter(|key| key.kind == KeyKind::Recovery)
        .partition(|key| key.id == id);
    if taken.is_empty() || !kept.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "the key {id} is the only recovery key, and without one the store is lost when its other keys are: make a new one first \
         with `cistern key add --recovery`, or say --force"
    )))
}

async fn reset_secrets(args: ResetArgs, context: &Context) -> Outcome {
    let was_there = App::secrets_reset(args.place.config(context)?).await?;
    context.output.document(&json!({ "reset": was_there }), || {
        "The next start takes the key to secrets that it finds, or makes one. Imports by URL that were under way have to \
         be started again."
            .to_owned()
    });
    Ok(())
}

/// What is printed of a new recovery key.
pub fn recovery_text(key: &str) -> String {
    format!(
        "The recovery key, which is shown this once. It opens the store when every other key is lost: write it down, and \
         keep it away from this machine.\n\n  {key}"
    )
}

/// Gives a store that has no recovery key one, and returns it as it is to be printed.
pub async fn recovery_make(app: &App) -> Outcome<Option<String>> {
    let keys = app.store.key_list().await.map_err(told)?;
    if keys.iter().any(|key| key.kind == KeyKind::Recovery) {
        return Ok(None);
    }
    let key = RecoveryKey::draw(&World::system());
    let change = app.store.key_add(&key.wrapping()).await.map_err(told)?;
    rest_tell(change.rest.as_ref());
    Ok(Some(key.text()))
}

/// The recovery key, as somebody types it or a script gives it.
pub fn recovery_ask() -> Outcome<WrappingKey> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let _ = write!(std::io::stderr(), "Recovery key: ");
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|e| {
        Failure::Failed(format!(
            "could not read the recovery key from standard input: {e}"
        ))
    })?;
    let key = RecoveryKey::parse(&line).map_err(told)?;
    Ok(key.wrapping())
}

fn view(key: &WrappedKey) -> serde_json::Value {
    json!({ "id": key.id, "kind": key.kind, "created_at": added_at(key) })
}

fn added_at(key: &WrappedKey) -> String {
    wire(Time::from_timestamp_micros(key.created_us).unwrap_or_default())
}

/// What the store says of keys is for whoever gave the command.
fn told(error: store::Error) -> Failure {
    match error.kind() {
        store::Kind::Invalid | store::Kind::Exists | store::Kind::NotFound => {
            Failure::Failed(error.to_string())
        }
        _ => Error::from(error).into(),
    }
}
