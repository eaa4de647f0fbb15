//! `cistern config check` and `cistern config list`.

use serde_json::{Value, json};

use super::flags::ServerFlags;
use super::table::table;
use super::{Context, Failure, Outcome, output};
use crate::config::settings::{Kind, SETTINGS, lookup, shown};
use crate::config::{Loaded, Origin};

/// Looks at the settings.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say what is wrong with the settings; exit 1 if anything is
    #[command(after_help = "Example:\n  cistern config check --config /etc/cistern/cistern.toml")]
    Check(Args),
    /// Show every setting, its value and where that came from
    #[command(after_help = "Example:\n  cistern config list --json")]
    List(Args),
}

/// Flags of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: ServerFlags,
}

/// Runs either.
pub fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Check(args) => check(&args, context),
        Command::List(args) => list(&args, context),
    }
}

fn check(args: &Args, context: &Context) -> Outcome {
    match args.flags.load(context) {
        Ok(loaded) => {
            let file = loaded.file.as_ref().map(|f| f.display().to_string());
            let set = loaded.origins.len();
            crate::serve::certificate_check(&loaded.config)?;
            context
                .output
                .document(&json!({ "ok": true, "file": file, "problems": [] }), || {
                    let file = file
                        .clone()
                        .map_or_else(|| "no settings file".to_owned(), |f| format!("the file {f}"));
                    format!(
                        "The settings are fine: {file}, {set} of {} given.",
                        SETTINGS.len()
                    )
                });
            Ok(())
        }
        Err(Failure::Failed(text)) => {
            let problems: Vec<&str> = text.lines().collect();
            if context.output.is_json() {
                context
                    .output
                    .document(&json!({ "ok": false, "problems": problems }), String::new);
            }
            output::error(&text);
            Err(Failure::Told)
        }
        Err(other) => Err(other),
    }
}

fn list(args: &Args, context: &Context) -> Outcome {
    let loaded = args.flags.load(context)?;
    let rows = rows(&loaded);
    context.output.document(&json!({ "settings": rows }), || {
        let cells = rows
            .iter()
            .map(|row| [&row["setting"], &row["value"], &row["from"]].map(shown));
        table(["SETTING", "VALUE", "FROM"], cells)
    });
    Ok(())
}

fn rows(loaded: &Loaded) -> Vec<Value> {
    // Secrets are hidden by their type already, here and in every other listing.
    let values = serde_json::to_value(&loaded.config).unwrap_or_default();
    let row = |s: &crate::config::settings::Setting| {
        let value = lookup(&values, s.key).cloned().unwrap_or_default();
        let origin = loaded.origins.get(s.key).unwrap_or(&Origin::Default).to_string();
        let is_unset = value.is_null();
        let value = if is_unset && s.kind != Kind::Secret {
            Value::from(s.unset)
        } else {
            value
        };
        json!({ "setting": s.key, "value": value, "from": origin.trim_matches('`') })
    };
    SETTINGS.iter().map(row).collect()
}
