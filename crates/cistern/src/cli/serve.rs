//! `cistern serve` and `cistern init`.

use std::fmt::Write as _;

use serde_json::json;

use super::flags::{LocalFlags, ServerFlags};
use super::output::is_closed;
use super::{Context, Failure, Outcome, block_on};
use crate::app::{App, store_is_there};
use crate::config::{Config, Database};
use crate::platform::journal;
use crate::platform::keys::cli::{recovery_make, recovery_text};
use crate::platform::keys::service::key_from_or_into_file;
use crate::{serve, telemetry};

const EXAMPLES: &str = "Examples:
  cistern serve
  cistern serve --data /var/lib/cistern --listen-api 0.0.0.0:8443 --tls-self-signed
  cistern serve --database postgres://cistern@db/cistern --objects 's3://images?endpoint=https://s3.example.com'
  cistern serve --fetch-allow 192.168.10.0/24 --log-format json
  cistern serve --json                            its addresses as one line of JSON, for scripts

Every flag can also be a line of the settings file or an environment variable; see docs/configuration.md.";

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    flags: ServerFlags,
}

/// Flags of `init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern init --data /var/lib/cistern\n  cistern init --encrypt --key-file \
                  /etc/cistern/store.key   makes the key where there is none"
)]
pub struct InitArgs {
    /// Encrypt what is stored, with a key that --key-file or --key-command gives, and print a recovery key
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    flags: LocalFlags,
}

/// Serves until a signal comes.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let loaded = args.flags.load(context)?;
    telemetry::init(&loaded.config.log, context.env.no_color());
    block_on(async move { Ok(serve::run(loaded.config, context.output).await?) })
}

/// Makes what `serve` would make on an empty folder. On one that has been made it says so and changes nothing.
pub fn init(args: &InitArgs, context: &Context) -> Outcome {
    let config = args.flags.config(context)?;
    let encrypt = args.encrypt;
    if encrypt && config.key_file.is_none() && config.key_command.is_none() {
        let text =
            "--encrypt needs a key: give --key-file FILE (made where there is none) or --key-command COMMAND";
        return Err(Failure::Usage(text.into()));
    }
    block_on(async move {
        let _lock = serve::data_take(&config)?;
        let (app, recovery) = if encrypt {
            open_encrypted(config).await?
        } else {
            (App::open(config).await?, None)
        };
        let data = app.data.display().to_string();
        let place = args.flags.shown(&app.data);
        let keys_place = args.flags.shown_for_keys(&app.data);
        let first = app.first_start().await?;
        journal::flush(&app).await?;
        let token = first.as_ref().map(|f| f.token.as_str());
        // Where the console will be, only the server knows.
        let sign_in = first.as_ref().map(|f| format!("/sign-in/{}", f.sign_in));
        let document = json!({ "data": data, "created": first.is_some(), "token": token, "sign_in_path": sign_in,
                "recovery_key": recovery });
        let next = format!("cistern serve {place}");
        let shown = context.output.document_once(&document, || {
            let made = match (token, &sign_in) {
                (Some(token), Some(sign_in)) => format!(
                    "Made {data}. What follows is shown once.\n\n  API token      {token}\n  Sign-in link   {sign_in}  \
                     (below the server's address, once, within 24 hours)"
                ),
                _ => format!("{data} is there already and was not changed."),
            };
            let recovery = recovery.as_deref().map(recovery_text);
            let parts = [Some(made), recovery, Some(format!("Next: {next}"))];
            parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
        });
        match shown {
            Err(error) if token.is_some() || recovery.is_some() || !is_closed(&error) => {
                Err(Failure::Failed(lost(
                    &data,
                    (&place, &keys_place),
                    &error,
                    token.is_some(),
                    recovery.is_some(),
                )))
            }
            _ => Ok(()),
        }
    })
}

/// What to do where what is shown once could not be written; `place` are the flags that say where the installation is,
/// the second for `cistern key`.
fn lost(
    data: &str,
    (place, keys_place): (&str, &str),
    error: &std::io::Error,
    has_token: bool,
    has_recovery: bool,
) -> String {
    let mut text =
        format!("{data} is there, but what was to be shown could not be written to standard output: {error}");
    if has_token {
        let _ = write!(
            text,
            "; make a new token with `cistern token create {place}` and a sign-in link with `cistern user link \
             owner@localhost {place}`"
        );
    }
    if has_recovery {
        let _ = write!(
            text,
            "; nobody has the recovery key: make a new one with `cistern key add --recovery {keys_place}`, and take the lost \
             one away with `cistern key remove ID {keys_place}` (`cistern key list` names it)"
        );
    }
    text
}

/// Makes or opens an encrypted installation, and its recovery key where it has none. A key file that was made for an
/// installation that could not be is taken away again.
async fn open_encrypted(config: Config) -> Outcome<(App, Option<String>)> {
    let Some(path) = config.key_file.clone() else {
        return open_with_key(config).await;
    };
    // Before there is a key: a place that does not answer needs none.
    let was_there = store_is_there(&config).await?;
    let (_, is_new) = key_from_or_into_file(&config.data, &path)?;
    let opened = open_with_key(config.clone()).await;
    if !is_new {
        return opened;
    }
    let Err(failure) = opened else {
        return opened;
    };
    // A new key opens no store that was there before. One that was begun just now needs it, and then its database is
    // there.
    let is_gone = matches!(config.database(), Database::Sqlite(path) if !path.exists());
    let is_useless = was_there || is_gone;
    if is_useless && std::fs::remove_file(&path).is_ok() {
        return Err(failure);
    }
    let file = path.display();
    Err(match failure {
        Failure::Failed(reason) => Failure::Failed(format!(
            "{reason}; the new key file {file} was left where it is: the store that was begun may need it"
        )),
        other => other,
    })
}

async fn open_with_key(config: Config) -> Outcome<(App, Option<String>)> {
    let app = App::open_encrypted(config).await?;
    let _alone = app.keys_alone().await?;
    let recovery = recovery_make(&app).await?;
    Ok((app, recovery))
}
