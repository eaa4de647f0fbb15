//! `cistern recover`: a new database from the store alone.

use serde_json::json;

use super::flags::LocalFlags;
use super::output::counted as count;
use super::progress::Progress;
use super::{Context, Failure, Outcome, block_on};
use crate::platform::journal::{self, Recovered, shown};
use crate::platform::keys::cli::recovery_ask;
use crate::platform::storage::service;
use crate::serve;

const EXAMPLES: &str = "Examples:
  cistern recover --data /var/lib/cistern
  cistern recover --data /var/lib/cistern --objects 's3://images?endpoint=https://s3.example.com'
  cistern recover --data /var/lib/cistern --key-file /etc/cistern/store.key     an encrypted store
  cistern recover --data /var/lib/cistern --recovery-key                        with nothing but the printed key
  cistern recover --data DIR --database postgres://cistern@db/empty --objects /mnt/images

Stop every server of the installation first. A database that is there is moved aside, not deleted; one that is
newer than the store, or another store's, only with --replace-database.
Afterwards users, tokens and passwords are as they were; `cistern token create --data DIR` makes a new token.";

/// Flags of `recover`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Move the database aside also where it knows what the store does not; with PostgreSQL the tables of one that is
    /// not empty
    #[arg(long)]
    replace_database: bool,
    /// Take the database that is there as it is, although it is older than the store, and forget what is newer
    #[arg(long, conflicts_with = "replace_database")]
    keep_database: bool,
    /// Open an encrypted store with the recovery key, which is asked for, or read from standard input
    #[arg(long)]
    recovery_key: bool,
    #[command(flatten)]
    flags: LocalFlags,
}

/// Recovers, and says what came back and what did not.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let config = args.flags.config(context)?;
    let has_key = config.key_file.is_some() || config.key_command.is_some();
    let needs_key = args.recovery_key && !has_key;
    let place = args.flags.shown(&config.data);
    let key = args.recovery_key.then(recovery_ask).transpose()?;
    let kept = args.keep_database;
    let options = journal::Options {
        key: key.clone(),
        replace_database: args.replace_database,
        keep_database: args.keep_database,
    };
    block_on(async move {
        let _lock = serve::data_take(&config)?;
        let progress = Progress::new();
        let recovered = journal::recover(&config, options, &|step| progress.step(step, None)).await;
        progress.clear();
        let recovered = recovered?;
        if kept {
            service::database_kept(&config, key, &recovered).await?;
        }
        context.output.document(&json!({ "recovered": recovered }), || {
            if kept {
                return kept_text(&recovered, &place);
            }
            text(&recovered, &place, needs_key)
        });
        if let Some(reason) = &recovered.journal_owed {
            return Err(Failure::Failed(format!(
                "the database is in its place, but its journal could not be begun: {reason} See to that, then start the server, which \
                 does it, or run this again"
            )));
        }
        if recovered.gaps.is_empty() && recovered.damaged_roots == 0 {
            return Ok(());
        }
        Err(Failure::Failed(NOT_ALL.to_owned()))
    })
}

/// Of a recovery that has done what could be done.
const NOT_ALL: &str = "the database is there, and can be served, but not everything came back: see above what is MISSING or DAMAGED";

/// `place` are the flags that say where the installation is.
fn kept_text(found: &Recovered, place: &str) -> String {
    let mut lines = vec![format!(
        "The database is the store's again; {} chunks in {} are in the index.",
        found.chunks,
        count(found.packs, "pack"),
    )];
    lines.extend(missing_text(found.damaged_roots));
    lines.push(format!("Next: cistern store verify {place}"));
    lines.join("\n")
}

/// Says that some images are not whole.
pub fn missing_text(damaged: u64) -> Option<String> {
    (damaged > 0).then(|| {
        format!(
            "DAMAGED: {} that no pack in the store has; `cistern store verify` names what is missing. Where there is a copy of the store, \
             `cistern store heal COPY` brings it back, also while a server runs; otherwise import the same content again.",
            match damaged {
                1 => "1 image needs data".to_owned(),
                many => format!("{many} images need data"),
            }
        )
    })
}

/// With `needs_key` the store was opened with the printed key, which no server can be given.
fn text(found: &Recovered, place: &str, needs_key: bool) -> String {
    let rows = |table: &str| found.rows.get(table).copied().unwrap_or(0);
    let mut lines = vec![format!(
        "Brought back as of {}: {}, {}, {}, {}; {} chunks in {}.",
        shown(found.newest_us),
        count(rows("image"), "image"),
        count(rows("user_account"), "user"),
        count(rows("api_token"), "token"),
        count(rows("team"), "team"),
        found.chunks,
        count(found.packs, "pack"),
    )];
    for gap in &found.gaps {
        let after = gap.after_us.map_or_else(|| "the beginning".to_owned(), shown);
        let before = gap.before_us.map_or_else(|| "the end".to_owned(), shown);
        lines.push(format!(
            "MISSING: changes between {after} and {before} may be missing: a part of the journal is lost or damaged. Look \
             through images, users, tokens and teams: what was deleted or revoked then is here again."
        ));
    }
    lines.extend(found.damaged.iter().map(|what| format!("damaged: {what}")));
    if found.contradicting > 0 {
        lines.push(format!(
            "{} left out, because they contradict others.",
            count(found.contradicting, "row")
        ));
    }
    if found.imports_ended > 0 {
        lines.push(format!(
            "{} had not ended; begin again what is still wanted.",
            count(found.imports_ended, "import")
        ));
    }
    lines.extend(found.salvaged.iter().map(|what| format!("damaged pack {what}")));
    lines.extend(
        found
            .unreadable
            .iter()
            .map(|what| format!("unreadable pack {what}")),
    );
    let key = if needs_key { " --key-file NEW.key" } else { "" };
    if needs_key {
        lines.push(format!(
            "Next: cistern key add --key-file NEW.key --recovery-key {place}"
        ));
    }
    lines.extend(missing_text(found.damaged_roots));
    if !found.salvaged.is_empty() || !found.unreadable.is_empty() || found.damaged_roots > 0 {
        lines.push(format!("Next: cistern store verify --read-data {place}{key}"));
    }
    if let Some(aside) = &found.aside {
        lines.push(format!(
            "The database from before is {aside}. Events and jobs from before are in it alone."
        ));
    }
    lines.push(format!("Next: cistern serve {place}{key}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_has_the_flags_that_were_given() {
        let found = Recovered {
            salvaged: vec!["p/1".into()],
            ..Recovered::default()
        };
        let place = "--data d --objects o --key-file k";
        let told = text(&found, place, false);
        for line in [
            format!("Next: cistern store verify --read-data {place}"),
            format!("Next: cistern serve {place}"),
        ] {
            assert!(told.lines().any(|l| l == line), "{line}: {told}");
        }
        let missing = Recovered {
            damaged_roots: 2,
            ..Recovered::default()
        };
        for told in [text(&missing, place, false), kept_text(&missing, place)] {
            assert!(told.contains("2 images need data"), "{told}");
            assert!(
                told.contains("`cistern store heal COPY` brings it back"),
                "{told}"
            );
        }
        assert!(kept_text(&found, place).ends_with(&format!("verify {place}")));
        // Nothing has the printed key's flag but commands that ask for it.
        let told = text(&found, "--data d", true);
        let add = told
            .find("Next: cistern key add --key-file NEW.key --recovery-key --data d\n")
            .unwrap_or_else(|| panic!("{told}"));
        let serve = told.find("Next: cistern serve --data d --key-file NEW.key");
        assert!(serve.is_some_and(|serve| add < serve), "{told}");
    }
}
